"""Policies on stacked frames of 84×84 through the whole export: files, proof, closed loop."""

from __future__ import annotations

from pathlib import Path

import gymnasium as gym
import numpy as np
import pytest
from export_cases import make_run, random_policy

from pops.arch import Conv, NetArch
from pops.policy import NumpyPolicy
from pops.spec import DiscreteActions, EnvSpec, Normaliser, PolicySpec
from pops_export import stage, tflite_file, tflite_surgery
from pops_export.chatter import to_log
from pops_export.config import ExportConfig
from pops_export.export import export
from pops_export.int8.read import parse_integer_network

FRAMES = (84, 84, 4)
FIELD, BALL = 87, 236


class Catch(gym.Env):
    """A ball falls over four frames of 84×84; catch it by being left, in the middle or right."""

    observation_space = gym.spaces.Box(0, 255, FRAMES, np.uint8)
    action_space = gym.spaces.Discrete(3)
    STEPS = 12

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        self.at = 0
        return self._drop(), {}

    def _drop(self):
        self.column = int(self.np_random.integers(0, 3))
        image = np.full(FRAMES, FIELD, np.uint8)
        left = 28 * self.column + int(self.np_random.integers(4, 18))
        for frame in range(4):
            image[10 + 15 * frame : 16 + 15 * frame, left : left + 6, frame] = BALL
        return image

    def step(self, action):
        reward = 1.0 if int(action) == self.column else -1.0
        self.at += 1
        return self._drop(), reward, self.at >= self.STEPS, False, {}


if "Catch-v0" not in gym.registry:
    gym.register("Catch-v0", entry_point=Catch)
ENV = EnvSpec("test_export_pixels:Catch-v0")


def spec_of() -> PolicySpec:
    return PolicySpec(
        FRAMES,
        DiscreteActions(3),
        "logits",
        "uint8",
        channels_last=True,
        normaliser=Normaliser((0.0,), (255.0,)),
        env=ENV,
    )


def catching() -> NumpyPolicy:
    """Sees the ball in its columns: brightness of each third of the picture."""
    arch = NetArch((4, 84, 84), 3, (6,), ("relu",), (Conv(4, 8, 4), Conv(4, 4, 2)))
    policy = random_policy(spec_of(), arch)
    parameters = [(w * np.float32(0.02), b * np.float32(0)) for w, b in policy.parameters]
    bright = np.full((4, 8, 8), 1 / 16, np.float32)
    parameters[0][0][0] = bright
    parameters[0][1][0] = -bright.sum() * FIELD / 255 - np.float32(0.1)
    parameters[1][0][0, 0] = 1.0
    thirds = np.zeros((3, 4, 9, 9), np.float32)
    for third in range(3):
        thirds[third, 0, :, 3 * third : 3 * third + 3] = 1.0
    parameters[2][0][:3] = thirds.reshape(3, -1)
    parameters[3][0][:] = np.eye(3, 6, dtype=np.float32)
    return NumpyPolicy(spec_of(), arch, parameters)


@pytest.mark.slow
def test_pixels_through_the_whole_export(tmp_path, monkeypatch) -> None:
    monkeypatch.setattr("pops_export.c_files.ORACLE_MACS", 1_000_000_000)  # a tenth, for time
    monkeypatch.setattr("pops_export.proof.MAC_BUDGET", 200_000_000)
    policy = catching()
    env = gym.make("Catch-v0")
    states = [env.reset(seed=seed)[0] for seed in range(64)]
    run = make_run(tmp_path / "run", policy, states=np.stack(states), env=ENV)
    result = export(ExportConfig(run, episodes=20))
    files = result.artifact["files"]
    assert set(files) == {
        "onnx_fp32", "onnx_int8", "tflite_fp32", "tflite_int8", "c_int8", "c_f32",
    }  # fmt: skip
    assert result.exit_code == 0
    for facts in files.values():
        assert facts["evaluation"]["episodes"] == 20
        assert facts["evaluation"]["mean"] == 12.0
        assert facts["verified"]["passed"]
        assert facts["verified"]["changed_actions"] == 0
    integers = files["c_int8"]["verified"]
    assert integers["oracle_mismatches"] == integers["quantising_mismatches"] == 0
    assert integers["oracle_inputs"] > 2_000
    assert integers["self_test"] == 0
    # Two kernels of 16 channel blocks at most, no image stored, none copied.
    assert files["c_int8"]["bytes"] < 44_000
    assert files["c_int8"]["scratch_bytes"] < 4_000
    for key in ("tflite_fp32", "tflite_int8"):
        names = tflite_surgery.operators((result.path / files[key]["path"]).read_bytes())
        assert "TRANSPOSE" not in names
        assert names.count("CONV_2D") == 2


@pytest.mark.slow
def test_weights_behind_the_flatbuffer_stay_with_it(tmp_path: Path) -> None:
    """Converters move large weights out; files that are written anew take them inside."""
    spec = PolicySpec((1200,), DiscreteActions(3), "logits")
    policy = random_policy(spec, NetArch((1200,), 3, (1000,), ("relu",)))
    states = np.random.default_rng(0).normal(size=(8, 1200)).astype(np.float32)
    network = stage.for_integers(policy, states)
    with to_log(tmp_path / "log"):
        prepared = tflite_file.convert(network)
        quantised = tflite_file.quantise(prepared, network, "static_wi8_ai8", states)
    tidied = tflite_surgery.tidy(quantised)
    assert 1_200_000 < len(tidied) < len(quantised) + 10_000
    assert all(buffer.offset <= 1 for buffer in tflite_surgery.read(tidied).buffers)
    layers = parse_integer_network(tidied).layers
    assert [layer.weight.shape for layer in layers] == [(1000, 1200), (3, 1000)]
    assert tflite_file.float_io(tidied, network)["input_shape"] == [1, 1200]
