"""Random small networks through export, every runtime and C."""

from __future__ import annotations

import tempfile
from pathlib import Path

import numpy as np
import pytest
from export_cases import make_run, random_policy
from hypothesis import HealthCheck, Phase, example, given, settings
from hypothesis import strategies as st

from pops.arch import Conv, NetArch
from pops.policy import NumpyPolicy
from pops.spec import Array, ContinuousActions, DiscreteActions, Normaliser, PolicySpec
from pops_export.config import ExportConfig
from pops_export.export import export

pytestmark = pytest.mark.slow

ACTIVATIONS = st.sampled_from(["relu", "tanh"])


def normaliser(rng: np.random.Generator, features: int) -> Normaliser:
    mean = tuple(float(m) for m in rng.normal(0, 3, features))
    std = tuple(float(s) for s in np.exp(rng.normal(0, 2, features)))
    return Normaliser(mean, std, 10.0)


def actions(rng: np.random.Generator, kind: str, n: int) -> DiscreteActions | ContinuousActions:
    if kind == "discrete":
        return DiscreteActions(n, int(rng.integers(0, 3)))
    low, high = -rng.uniform(0.5, 2, n), rng.uniform(0.5, 2, n)
    return ContinuousActions(tuple(low.tolist()), tuple(high.tolist()), kind)


@st.composite
def dense(draw: st.DrawFn) -> tuple[NumpyPolicy, Array]:
    widths = tuple(draw(st.lists(st.integers(1, 70), max_size=4)))
    seed, features = draw(st.integers(0, 1000)), draw(st.integers(1, 20))
    kind = draw(st.sampled_from(["discrete", "clip", "tanh"]))
    return make_dense(
        widths,
        tuple(draw(ACTIVATIONS) for _ in widths),
        features,
        draw(st.integers(1, 9)),
        kind,
        draw(st.booleans()),
        draw(st.booleans()),
        seed,
    )


def make_dense(widths, activations, features, outputs, kind, normalised, select, seed):
    rng = np.random.default_rng(seed)
    inputs = None
    if select:
        inputs = tuple(int(i) for i in rng.permutation(features)[: max(1, features // 2)])
    spec = PolicySpec(
        (features,),
        actions(rng, kind, outputs),
        "logits" if kind == "discrete" else "mean",
        normaliser=normaliser(rng, features) if normalised else None,
    )
    arch = NetArch((features,), outputs, widths, activations, inputs=inputs)
    states = rng.normal(size=(500, features)) * np.exp(rng.normal(0, 2, features))
    return random_policy(spec, arch, seed), states.astype(np.float32)


@st.composite
def convolutional(draw: st.DrawFn) -> tuple[NumpyPolicy, Array]:
    seed = draw(st.integers(0, 1000))
    rng = np.random.default_rng(seed)
    height, width, channels = (draw(st.integers(9, 13)), draw(st.integers(9, 13)), 3)
    convs = tuple(
        Conv(draw(st.integers(1, 9)), draw(st.integers(1, 4)), draw(st.integers(1, 2)))
        for _ in range(draw(st.integers(1, 2)))
    )
    widths = tuple(draw(st.lists(st.integers(1, 20), max_size=1)))
    last = draw(st.booleans())
    spec = PolicySpec(
        (height, width, channels) if last else (channels, height, width),
        DiscreteActions(draw(st.integers(2, 6))),
        "logits",
        "uint8",
        channels_last=last,
        normaliser=Normaliser((0.0,), (255.0,)),
    )
    arch = NetArch(
        (channels, height, width), spec.n_outputs, widths, tuple("relu" for _ in widths), convs
    )
    states = rng.integers(0, 256, (100, *spec.observation_shape)).astype(np.uint8)
    return random_policy(spec, arch, seed), states


@settings(
    max_examples=1,
    derandomize=True,
    deadline=None,
    database=None,
    phases=(Phase.explicit, Phase.generate),
    suppress_health_check=list(HealthCheck),
)
@example(make_dense((), (), 5, 3, "discrete", True, True, 1))
@example(make_dense((70, 1, 3, 7), ("tanh", "relu", "tanh", "relu"), 3, 2, "tanh", False, False, 2))
@given(dense())
def test_random_networks(case):
    prove_everything(*case)


@settings(
    max_examples=1,
    derandomize=True,
    deadline=None,
    database=None,
    phases=(Phase.generate,),
    suppress_health_check=list(HealthCheck),
)
@given(convolutional())
def test_random_convolutions(case):
    prove_everything(*case)


def prove_everything(policy: NumpyPolicy, states: Array) -> None:
    with tempfile.TemporaryDirectory() as folder:
        run = make_run(Path(folder) / "run", policy, states=states, env=None)
        result = export(ExportConfig(run, episodes=0, workers=1))
        files = result.artifact["files"]
        assert len(files) == 6
        assert result.failures == ()
        for key in ("onnx_fp32", "tflite_fp32", "c_f32"):
            assert files[key]["verified"]["outside_bound"] == 0
            assert files[key]["verified"]["unexplained_actions"] == 0
        integers = files["c_int8"]["verified"]
        assert integers["oracle_inputs"] >= 100_000 or policy.arch.convs
        assert integers["oracle_mismatches"] == integers["wheel_mismatches"] == 0
        assert integers["quantising_mismatches"] == integers["self_test"] == 0
        if len(policy.arch.layers()) == 1:
            # Deeper, one step may grow: a layer of one unit multiplies it.
            assert files["tflite_int8"]["verified"]["oracle_steps_at_most"] <= 1
        with np.load(run / "artifact" / "golden.npz") as golden:
            spread = np.ptp(golden["student.outputs"]) + 1e-6
            reference = golden["student.outputs"][:32]
            if isinstance(policy.spec.actions, DiscreteActions) and policy.spec.n_outputs > 1:
                reference = reference - reference.mean(1, keepdims=True)
            for key in ("onnx_int8", "tflite_int8", "c_int8"):
                difference = np.abs(golden[f"{key}.outputs"][:32] - reference)
                assert difference.mean() < 0.1 * spread, key
