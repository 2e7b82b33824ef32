"""The runtimes that pops supplies: torch, Stable-Baselines3's predict, numpy."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest

from pops.arch import Conv, NetArch
from pops.artifact import save_policy
from pops.errors import PopsError, UsageError
from pops.policy import NumpyPolicy
from pops.spec import ContinuousActions, DiscreteActions, Normaliser, PolicySpec
from pops.torch_runtime import SUPPLIERS
from pops_deploy.runtime import open_runtime

BOX = ContinuousActions((-2.0, -1.0), (2.0, 1.0))
SQUASHED = ContinuousActions((-2.0, -1.0), (2.0, 1.0), "tanh")
NORMAL = Normaliser((1.0, 0.0, -1.0), (2.0, 0.5, 1.0), 10.0)


def policy_of(spec: PolicySpec, arch: NetArch, scale: float = 0.5) -> NumpyPolicy:
    random = np.random.default_rng(3)
    parameters = [
        (
            scale * random.normal(size=layer.weight) / np.sqrt(np.prod(layer.weight[1:])),
            scale * random.normal(size=layer.weight[0]),
        )
        for layer in arch.layers()
    ]
    return NumpyPolicy(spec, arch, parameters)


def dense(spec: PolicySpec, activation: str = "tanh", widths: tuple[int, ...] = (16, 8)):
    arch = NetArch(spec.input_shape, spec.n_outputs, widths, (activation,) * len(widths))
    return policy_of(spec, arch, 2.0)


CASES = {
    "q_values": dense(PolicySpec((3,), DiscreteActions(4, 2), "q_values"), "relu"),
    "logits": dense(PolicySpec((3,), DiscreteActions(4), "logits")),
    "linear": dense(PolicySpec((3,), DiscreteActions(4), "q_values"), widths=()),
    "clipped": dense(PolicySpec((3,), BOX, "mean")),
    "squashed": dense(PolicySpec((3,), SQUASHED, "mean"), "relu"),
    "normalised": dense(PolicySpec((3,), DiscreteActions(4), "logits", normaliser=NORMAL)),
    "one_hot": dense(PolicySpec((), DiscreteActions(4), "logits", "int64", one_hot=6)),
}


def states(policy: NumpyPolicy, n: int = 200) -> np.ndarray:
    random = np.random.default_rng(5)
    if policy.spec.one_hot:
        return random.integers(0, policy.spec.one_hot, n)
    shape = (n, *policy.spec.observation_shape)
    if policy.spec.observation_dtype == "uint8":
        return random.integers(0, 256, shape).astype(np.uint8)
    return random.normal(size=shape).astype(np.float32)


@pytest.mark.parametrize("name", ["torch", "sb3", "numpy"])
@pytest.mark.parametrize("case", CASES)
def test_supplied_runtime_acts_as_numpy_does(tmp_path: Path, name: str, case: str) -> None:
    policy = CASES[case]
    path = tmp_path / "policy.safetensors"
    save_policy(path, policy)
    runtime = open_runtime(path, name, "fp32", SUPPLIERS)
    x = states(policy)
    outputs = policy.outputs(x)
    expected = policy.act(x)
    assert np.abs(runtime.outputs(x) - outputs).max() < 1e-5
    single = np.array([runtime.step(row) for row in x])
    if isinstance(policy.spec.actions, DiscreteActions):
        ordered = np.sort(outputs, axis=1)
        clear = ordered[:, -1] - ordered[:, -2] > 1e-4
        assert clear.mean() > 0.9
        assert np.array_equal(single[clear], expected[clear])
        assert np.array_equal(runtime.act(x)[clear], expected[clear])
    else:
        assert np.abs(single - expected).max() < 1e-5
        assert np.abs(runtime.act(x) - expected).max() < 1e-5


@pytest.mark.parametrize("last", [False, True])
def test_images_in_stable_baselines(last: bool, tmp_path: Path) -> None:
    convs = (Conv(32, 8, 4), Conv(64, 4, 2), Conv(64, 3, 1))
    spec = PolicySpec(
        (84, 84, 4) if last else (4, 84, 84),
        DiscreteActions(6),
        "q_values",
        "uint8",
        channels_last=last,
        normaliser=Normaliser((0.0,), (255.0,)),
    )
    policy = policy_of(spec, NetArch((4, 84, 84), 6, (32,), ("relu",), convs), 3.0)
    path = tmp_path / "policy.safetensors"
    save_policy(path, policy)
    runtime = open_runtime(path, "sb3", "fp32", SUPPLIERS)
    x = states(policy, 20)
    assert [int(runtime.step(row)) for row in x] == policy.act(x).tolist()


def test_shapes_that_stable_baselines_lacks(tmp_path: Path) -> None:
    spec = PolicySpec((3,), DiscreteActions(2), "q_values")
    arch = NetArch((3,), 2, (4, 4), ("relu", "tanh"))
    path = tmp_path / "policy.safetensors"
    save_policy(path, policy_of(spec, arch))
    with pytest.raises(PopsError, match="no policy class for 3-4-4-2"):
        open_runtime(path, "sb3", "fp32", SUPPLIERS)
    with pytest.raises(UsageError, match="int8"):
        open_runtime(path, "torch", "int8", SUPPLIERS)
