"""Generated int8 C on this machine against the reference arithmetic: no mismatch."""

from __future__ import annotations

import ctypes
import dataclasses
import re
import time
from pathlib import Path

import numpy as np
import pytest
from c_networks import (
    codes_of,
    converted,
    observations_of,
    options_of,
    random_network,
    spec_of,
)

from pops.errors import PopsError, UsageError
from pops_export.c.compile import CompiledPolicy, compile_shared
from pops_export.c.generate import generate_int8
from pops_export.c.options import COptions, Golden
from pops_export.c.quantise import find_reciprocal
from pops_export.int8 import reference
from pops_export.int8.network import FloatStage, IntegerNetwork
from pops_export.int8.read import parse_integer_network

RNG = np.random.default_rng


def build(
    network: IntegerNetwork,
    folder: Path,
    layout: str = "size",
    flags: tuple[str, ...] = ("-std=c99", "-O2"),
    count: int = 2000,
    **spec: object,
) -> tuple[CompiledPolicy, np.ndarray]:
    described = spec_of(network, **spec)  # type: ignore[arg-type]
    dtype = described.observation_dtype
    observations = observations_of(RNG(5), network, count, dtype)
    golden = np.nan_to_num(observations[-4:], posinf=1, neginf=-1).astype(observations.dtype)
    sources = generate_int8(network, described, options_of(network, golden, layout))
    library = compile_shared(sources, folder / f"{layout}.so", flags=flags)
    return CompiledPolicy(library, described), observations


def hold(network: IntegerNetwork, policy: CompiledPolicy, observations: np.ndarray) -> None:
    """Codes, quantising step, outputs, actions and the self test equal the reference."""
    codes = codes_of(RNG(6), network, 2000)
    assert (policy.codes(codes) != reference.run(network, codes)).sum() == 0
    entering = reference.quantise(network, observations)
    assert (policy.quantise(observations) != entering).sum() == 0
    outputs = reference.outputs(network, observations)
    np.testing.assert_array_equal(policy.outputs(observations), outputs)
    np.testing.assert_array_equal(policy.act(observations), policy.spec.decode(outputs))
    if observations.dtype != np.uint8:
        finite = np.isfinite(observations.reshape(len(observations), -1)).all(axis=1)
        np.testing.assert_array_equal(policy.statuses(observations) == 2, ~finite)
    assert policy.self_test() == 0


@pytest.mark.parametrize("seed", range(20))
def test_random_networks(seed: int, tmp_path: Path) -> None:
    rng = RNG(seed)
    depth = int(rng.integers(0, 5))
    sizes = rng.integers(1, 71, depth + 2).tolist()
    activation = ("relu", "tanh")[seed % 2]
    scale = float(rng.choice([1 / 16, 0.0371, 1.0, 0.7301e-3]))
    network = random_network(
        rng, sizes, activation, input_scale=scale, input_zero_point=int(rng.integers(-128, 128))
    )
    flags = ("-std=c99", "-O2") if seed % 3 else ("-std=c99", "-O1", "-DPOLICY_HALVES")
    hold(network, *build(network, tmp_path, ("size", "speed")[seed // 2 % 2], flags))


@pytest.mark.parametrize("seed", range(8))
def test_random_convolutions(seed: int, tmp_path: Path) -> None:
    rng = RNG(100 + seed)
    image = tuple(int(n) for n in rng.integers((7, 7, 1), (16, 16, 5)))
    convs = [
        (int(rng.integers(1, 10)), int(rng.integers(1, 4)), int(rng.integers(1, 3)), bool(padded))
        for padded in rng.integers(0, 2, int(rng.integers(1, 4)))
    ]
    sizes = rng.integers(1, 20, int(rng.integers(1, 3))).tolist()
    activation = ("relu", "tanh")[seed % 2]
    dtype = ("uint8", "float32")[seed // 2 % 2]
    places = {"input_scale": 1.0, "input_zero_point": -128} if seed < 4 else {}
    network = random_network(rng, sizes, activation, image, convs, **places)  # type: ignore[arg-type]
    policy, observations = build(network, tmp_path, ("size", "speed")[seed // 4], dtype=dtype)
    hold(network, policy, observations)


def test_pixels_are_read_where_they_lie(tmp_path: Path) -> None:
    """An image whose bytes are its codes needs no copy: scratch holds activations only."""
    network = random_network(
        RNG(1), [3], image=(84, 84, 4), convs=[(4, 8, 4, False)], input_scale=1.0,
        input_zero_point=-128,
    )  # fmt: skip
    policy, observations = build(network, tmp_path, dtype="uint8", count=20)
    codes = codes_of(RNG(6), network, 20)
    assert (policy.codes(codes) != reference.run(network, codes)).sum() == 0
    np.testing.assert_array_equal(
        policy.outputs(observations), reference.outputs(network, observations)
    )
    # The output, the widened weights of one block of channels, and one patch.
    assert policy.scratch_bytes == 20 * 20 * 4 + 2 * 4 * 256 + 256


def test_converted_network_over_100_000_inputs(tmp_path: Path) -> None:
    network = parse_integer_network(converted((8,), (64, 64), 4)[0])
    for layout in ("size", "speed"):
        policy, observations = build(network, tmp_path, layout)
        codes = codes_of(RNG(3), network, 100_000)
        start = time.perf_counter()
        ours = policy.codes(codes)
        seconds = time.perf_counter() - start
        assert (ours != reference.run(network, codes)).sum() == 0
        assert seconds < 2.0
        hold(network, policy, observations)


STAGES = {
    "powers": (FloatStage("mul", np.float32([0.25, 2, 8, 1])),),
    "normaliser": (
        FloatStage("sub", np.float32([0.1, -3, 0.25, 7])),
        FloatStage("mul", np.float32([1.7, 0.31, 12.5, 1])),
        FloatStage("maximum", np.float32([-1.5])),
        FloatStage("minimum", np.float32([1.5])),
    ),
    "product and sum": (
        FloatStage("mul", np.float32([1.7, 0.31, 12.5, 1])),
        FloatStage("add", np.float32([0.1, -3, 0.25, 7])),
    ),
    "quotient": (FloatStage("div", np.float32([3.0])),),
}


@pytest.mark.parametrize("name", STAGES)
@pytest.mark.parametrize("scale", [1 / 64, 0.0113])
def test_float_stages(name: str, scale: float, tmp_path: Path) -> None:
    network = random_network(
        RNG(8), [4, 6, 3], stages=STAGES[name], input_scale=scale, input_zero_point=-11
    )
    for contraction in ("off", "fast"):
        # gnu99 lets products and sums contract where the machine can.
        flags = ("-std=gnu99", "-O3", f"-ffp-contract={contraction}", "-march=native")
        policy, observations = build(network, tmp_path / contraction, flags=flags)
        hold(network, policy, observations)


def test_features_that_the_network_reads(tmp_path: Path) -> None:
    network = dataclasses.replace(
        random_network(RNG(9), [3, 5, 2]), gather=(6, 0, 3), input_shape=(7,), int8_io=False
    )
    observations = RNG(4).normal(0, 4, (500, 7)).astype(np.float32)
    described = spec_of(network)
    options = COptions(
        golden=Golden(observations[:2], reference.outputs(network, observations[:2])),
        calibration_min=tuple(range(-14, -7)),
        calibration_max=tuple(range(8, 15)),
    )
    library = compile_shared(generate_int8(network, described, options), tmp_path / "p.so")
    policy = CompiledPolicy(library, described)
    np.testing.assert_array_equal(
        policy.outputs(observations), reference.outputs(network, observations)
    )
    assert policy.quantise(observations).shape == (500, 3)


@pytest.mark.parametrize("squash", ["clip", "tanh"])
def test_continuous_actions(squash: str, tmp_path: Path) -> None:
    network = random_network(RNG(10), [5, 9, 3], "tanh")
    for flags in (("-std=c99", "-O2"), ("-std=gnu99", "-O3", "-march=native")):
        folder = tmp_path / flags[0][5:]
        hold(network, *build(network, folder, continuous=squash, flags=flags))


def test_actions_start_where_the_environment_says(tmp_path: Path) -> None:
    network = random_network(RNG(11), [5, 4])
    policy, observations = build(network, tmp_path, start=-3)
    hold(network, policy, observations)
    assert policy.act(observations).min() >= -3


def test_outputs_of_different_scales_are_compared_as_floats(tmp_path: Path) -> None:
    after = (FloatStage("add", np.float32([100, 99.5, 100.25])),)
    network = dataclasses.replace(random_network(RNG(12), [5, 7, 3]), output_stages=after)
    hold(network, *build(network, tmp_path))


def test_status_tells_what_lies_outside_of_calibration(tmp_path: Path) -> None:
    network = random_network(RNG(13), [3, 4, 2])  # one code is 1/16, calibrated range ±3
    policy, _ = build(network, tmp_path)
    x = np.float32(
        [[0, 0, 0], [3, -3, 3], [3.1, 0, 0], [0, -3.1, 0], [0, 0, 1e30], [np.inf, 0, 0],
         [0, np.nan, 0], [0, 0, -np.inf], [np.nan, 99, 0], [1e-42, -1e-42, 0]]
    )  # fmt: skip
    assert policy.statuses(x).tolist() == [0, 0, 1, 1, 1, 2, 2, 2, 2, 0]
    same = policy.outputs(np.float32([[np.nan, 1, 2], [0, 1, 2]]))
    np.testing.assert_array_equal(same[0], same[1])
    same = policy.outputs(np.float32([[np.inf, 1, -np.inf], [127 / 16, 1, -8]]))
    np.testing.assert_array_equal(same[0], same[1])


def test_bad_arguments_do_nothing(tmp_path: Path) -> None:
    network = random_network(RNG(14), [3, 4, 2])
    described = spec_of(network)
    library = ctypes.CDLL(
        str(compile_shared(generate_int8(network, described, COptions()), tmp_path / "p.so"))
    )
    x = (ctypes.c_float * 3)(1, 2, 3)
    action = ctypes.c_int32(77)
    scratch = (ctypes.c_uint32 * 16)()
    here = ctypes.addressof(scratch)
    act, infer = library.policy_act, library.policy_infer
    outputs = (ctypes.c_float * 2)(7, 7)
    for function, out in ((act, ctypes.byref(action)), (infer, outputs)):
        assert function(None, out, scratch) == 3
        assert function(x, None, scratch) == 3
        assert function(x, out, None) == 3
        assert function(x, out, ctypes.c_void_p(here + 2)) == 3
    assert action.value == 77
    assert list(outputs) == [7, 7]
    assert act(x, ctypes.byref(action), scratch) == 0
    assert action.value in (0, 1)
    text = (ctypes.c_char * 65).in_dll(library, "policy_id").value.decode()
    assert text == "0" * 64


def test_self_test_sees_a_changed_weight(tmp_path: Path) -> None:
    network = random_network(RNG(15), [6, 9, 3])
    described, observations = spec_of(network), RNG(1).normal(0, 1, (8, 6)).astype(np.float32)
    sources = generate_int8(network, described, options_of(network, observations))
    changed = re.sub(
        r"(policy_channels1\[3\] = \{\s*\{)(-?\d+)",
        lambda m: m[1] + str(int(m[2]) + 40_000),
        sources["policy.c"],
    )
    assert changed != sources["policy.c"]
    broken = {**sources, "policy.c": changed}
    policy = CompiledPolicy(compile_shared(broken, tmp_path / "p.so"), described)
    assert policy.self_test() == 4


def test_golden_vectors_replay_on_the_device(tmp_path: Path) -> None:
    network = random_network(RNG(16), [6, 9, 3])
    observations = RNG(1).normal(0, 1, (8, 6)).astype(np.float32)
    wrong = reference.outputs(network, observations)
    wrong[3, 1] += np.float32(0.0371)
    sources = generate_int8(network, spec_of(network), COptions(golden=Golden(observations, wrong)))
    policy = CompiledPolicy(compile_shared(sources, tmp_path / "p.so"), spec_of(network))
    assert policy.self_test() == 4


def test_the_same_bytes_twice() -> None:
    network = random_network(RNG(17), [6, 9, 3])
    x = np.zeros((2, 6), np.float32)
    for layout in ("size", "speed"):
        options = options_of(network, x, layout)
        first, second = (generate_int8(network, spec_of(network), options) for _ in range(2))
        assert first == second


def test_one_product_serves_every_relu_channel() -> None:
    """The proven shortcut, not its fallback, is what networks get."""
    from pops_export.c.layers import plan_layers

    for seed in range(6):
        network = random_network(RNG(200 + seed), [30, 64, 64])
        plan = plan_layers(network, COptions(layout="speed"), image_in_place=False)
        assert "policy_steps0" in plan.tables


def test_division_becomes_multiplication_for_most_scales() -> None:
    rng = RNG(18)
    found = [find_reciprocal(float(np.float32(d)), 200) for d in rng.uniform(0.5, 1, 200)]
    assert sum(f is not None for f in found) > 160


def test_bad_requests_are_refused_in_words(tmp_path: Path) -> None:
    network = random_network(RNG(19), [6, 9, 3])
    for prefix in ("9lives", "a-b", "while", "", "a b"):
        with pytest.raises(UsageError, match="not a C identifier"):
            COptions(prefix=prefix)
    with pytest.raises(UsageError, match="64 hexadecimal"):
        COptions(policy_id="xyz")
    other = spec_of(random_network(RNG(19), [5, 9, 3]))
    with pytest.raises(UsageError, match=r"\(6,\) to 3 outputs"):
        generate_int8(network, other, COptions())
    with pytest.raises(PopsError, match="Cannot run the C compiler"):
        compile_shared(
            generate_int8(network, spec_of(network), COptions()), tmp_path / "p.so", cc="no-such-cc"
        )
    assert not (tmp_path / "p.so").exists()
