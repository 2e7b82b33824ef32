"""Generated float32 C against the student, within the stated bound."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from c_networks import float_policy

from pops.arch import Conv, NetArch
from pops.policy import NumpyPolicy
from pops.spec import Array, ContinuousActions, DiscreteActions, Normaliser, PolicySpec
from pops_export.c.compile import CompiledPolicy, compile_shared
from pops_export.c.generate import generate_float
from pops_export.c.golden import takes_bytes
from pops_export.c.images import drawn_images
from pops_export.c.options import COptions, Golden

CONTRACTION = (
    ("-std=c99", "-O2", "-ffp-contract=off"),
    ("-std=gnu99", "-O3", "-ffp-contract=fast", "-march=native"),
)
D = DiscreteActions
WIDE = tuple(float(v) for v in np.random.default_rng(0).normal(0, 30, 8))
BOX = ContinuousActions((-1.0, -2.0, -3.0), (1.0, 2.0, 3.5), "tanh")
CONVS = (Conv(8, 3, 2, 0), Conv(5, 3, 1, 1, "tanh"))
CASES = {
    "relu": (NetArch((8,), 4, (64, 64), ("relu", "relu")), PolicySpec((8,), D(4), "logits")),
    "tanh": (NetArch((8,), 4, (33, 7), ("tanh", "tanh")), PolicySpec((8,), D(4), "logits")),
    "linear": (NetArch((8,), 4), PolicySpec((8,), D(4, 1), "logits")),
    "normaliser": (
        NetArch((8,), 3, (6,), ("relu",)),
        PolicySpec((8,), D(3), "q_values", normaliser=Normaliser(WIDE, (0.7,) * 8, 10.0)),
    ),
    "unused inputs": (
        NetArch((8,), 3, (7,), ("elu",), inputs=(6, 1, 5)),
        PolicySpec((8,), BOX, "mean", normaliser=Normaliser(WIDE, (0.7,) * 8)),
    ),
    "other activations": (
        NetArch((8,), 3, (7, 6, 9), ("silu", "sigmoid", "leaky_relu")),
        PolicySpec((8,), ContinuousActions((-1.0,) * 3, (1.0,) * 3), "mean", output_clip=0.5),
    ),
    "pixels": (
        NetArch((3, 13, 13), 5, (10,), ("relu",), CONVS),
        PolicySpec(
            (13, 13, 3), D(5), "q_values", "uint8", channels_last=True,
            normaliser=Normaliser((0.0,), (255.0,)),
        ),
    ),
    "channels first": (
        NetArch((3, 13, 13), 5, (10,), ("relu",), CONVS),
        PolicySpec((3, 13, 13), D(5), "q_values"),
    ),
    "one hot": (
        NetArch((6,), 2, (5,), ("relu",)),
        PolicySpec((), D(2), "q_values", "int64", one_hot=6),
    ),
}  # fmt: skip


def seen(spec: PolicySpec, count: int) -> Array:
    rng = np.random.default_rng(2)
    shape = (count, *spec.observation_shape)
    if spec.one_hot:
        return rng.integers(0, spec.one_hot, shape)
    if spec.observation_dtype == "uint8":
        return rng.integers(0, 256, shape).astype(np.uint8)
    x = rng.normal(size=shape)
    if spec.normaliser is not None:
        x = x * 0.7 + np.asarray(spec.normaliser.mean)
    return x.astype(np.float32)


def bound(policy: NumpyPolicy, observations: Array) -> Array:
    """8·u·B: B is the forward pass with absolute weights, biases and inputs.

    Activations but ReLU pass an error on with a slope of 1.1 at most and add a few units in the
    last place of their own: 4·u of 1 + B, carried on by the layers behind them.
    """
    absolute = [(np.abs(w), np.abs(b)) for w, b in policy.parameters]
    inputs = np.abs(policy.spec.preprocess(observations))
    arch = policy.arch
    smooth = {layer.activation for layer in arch.layers()} - {"relu", "identity"}
    plain = NetArch(
        arch.input_shape,
        arch.outputs,
        arch.widths,
        ("identity",) * len(arch.widths),
        tuple(Conv(c.channels, c.kernel, c.stride, c.padding, "identity") for c in arch.convs),
        "identity",
        arch.inputs,
    )
    sums = NumpyPolicy(policy.spec, plain, absolute).forward(inputs)
    return (8 + (4 if smooth else 0)) * 2.0**-24 * (sums + (1 if smooth else 0))


def options(policy: NumpyPolicy, observations: Array) -> COptions:
    chosen = observations[:6]
    if takes_bytes(policy.spec):
        chosen = drawn_images(policy.spec, 6)
    golden = Golden(chosen, policy.outputs(chosen))
    spec = policy.spec
    if spec.one_hot or spec.observation_dtype == "uint8":
        return COptions("policy_f32", golden=golden)
    flat = observations.reshape(len(observations), -1)
    low, high = (tuple(float(v) for v in ends) for ends in (flat.min(0), flat.max(0)))
    return COptions("policy_f32", golden=golden, calibration_min=low, calibration_max=high)


@pytest.mark.parametrize("flags", CONTRACTION, ids=["separate", "contracted"])
@pytest.mark.parametrize("name", CASES)
def test_within_the_bound(name: str, flags: tuple[str, ...], tmp_path: Path) -> None:
    arch, spec = CASES[name]
    policy = float_policy(np.random.default_rng(1), arch, spec)
    observations = seen(spec, 2_000 if arch.convs else 10_000)
    sources = generate_float(policy, options(policy, observations))
    library = compile_shared(sources, tmp_path / "p.so", flags=flags, prefix="policy_f32")
    compiled = CompiledPolicy(library, spec)
    ours, student = compiled.outputs(observations), policy.outputs(observations)
    limit = bound(policy, observations)
    assert (np.abs(ours - student) <= limit).all()
    actions, expected = compiled.act(observations), policy.act(observations)
    if isinstance(spec.actions, DiscreteActions):
        top = np.sort(student, axis=1)
        close = top[:, -1] - top[:, -2] <= 2 * limit.max(1)
        assert ((actions == expected) | close).all()
    else:
        span = np.float32(spec.actions.high) - np.float32(spec.actions.low)
        assert (np.abs(actions - expected) <= limit * np.maximum(span, 1) + 1e-6).all()
    assert (compiled.statuses(observations) == 0).all()
    assert compiled.self_test() == 0


def test_observations_that_are_not_finite(tmp_path: Path) -> None:
    arch = NetArch((3,), 2, (5,), ("relu",))
    for clip in (None, 2.0):
        spec = PolicySpec((3,), D(2), "logits", normaliser=Normaliser((1.0,) * 3, (2.0,) * 3, clip))
        policy = float_policy(np.random.default_rng(1), arch, spec)
        given = COptions("policy_f32", calibration_min=(-3.0,) * 3, calibration_max=(4.0,) * 3)
        library = compile_shared(
            generate_float(policy, given), tmp_path / f"{clip}.so", prefix="policy_f32"
        )
        compiled = CompiledPolicy(library, spec)
        x = np.float32(
            [[np.nan, 2, 3], [np.inf, 2, 3], [-np.inf, 2, 3], [4.1, 2, 3], [1, -3.1, 3], [1, 2, 3]]
        )
        assert compiled.statuses(x).tolist() == [2, 2, 2, 1, 1, 0]
        ends = (4.0, -3.0) if clip is None else (5.0, -3.0)
        known = np.float32([[1, 2, 3], [ends[0], 2, 3], [ends[1], 2, 3]])
        np.testing.assert_array_equal(compiled.outputs(x)[:3], compiled.outputs(known))


def test_index_out_of_range(tmp_path: Path) -> None:
    arch, spec = CASES["one hot"]
    policy = float_policy(np.random.default_rng(1), arch, spec)
    library = compile_shared(
        generate_float(policy, COptions("policy_f32")), tmp_path / "p.so", prefix="policy_f32"
    )
    compiled = CompiledPolicy(library, spec)
    x = np.float32([0, 5, 6, -1, 1e9, np.nan, -np.inf])
    assert compiled.statuses(x).tolist() == [0, 0, 1, 1, 1, 2, 2]
