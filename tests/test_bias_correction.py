"""Biases that make up for int8: what rounding adds on a background of one brightness."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from export_cases import dense_case, random_policy
from test_export_pixels import FIELD, Catch, spec_of

from pops.arch import Conv, NetArch
from pops.policy import NumpyPolicy
from pops_export import onnx_file, tflite_file, tflite_surgery
from pops_export.bias_correction import bias_corrected
from pops_export.chatter import to_log
from pops_export.fake_quantisation import FakeQuantised
from pops_export.stage import Network, for_integers, image_observations

ARCH = NetArch((4, 84, 84), 3, (20,), ("relu",), (Conv(8, 4, 4), Conv(12, 4, 2), Conv(12, 3, 2)))


def frames(count: int, start: int = 0) -> np.ndarray:
    """Distinct states (count, 84, 84, 4): a ball on a field of brightness `FIELD`."""
    env = Catch()
    states = np.stack([env.reset(seed=start + i)[0] for i in range(count)])
    assert (states == FIELD).mean() > 0.9
    return states


def policy_of(seed: int) -> NumpyPolicy:
    """Outputs that differ from state to state about as much as from action to action."""
    policy = random_policy(spec_of(), ARCH, seed=seed)
    parameters = [(w.copy(), b.copy()) for w, b in policy.parameters]
    outputs = policy.outputs(frames(64))
    spread = float((outputs - outputs.mean(0)).std())
    parameters[-1] = (
        parameters[-1][0] / np.float32(spread),
        (parameters[-1][1] - outputs.mean(0)) / np.float32(spread),
    )
    return NumpyPolicy(policy.spec, policy.arch, parameters)


def simulated(network: Network, states: np.ndarray, seen: np.ndarray) -> np.ndarray:
    import torch

    def tensor(images: np.ndarray) -> torch.Tensor:
        return torch.from_numpy(image_observations(network.spec, images, channels_last=False))

    module = FakeQuantised(network, pixels_are_codes=True)
    module.calibrate(tensor(seen))
    with torch.no_grad():
        return module(tensor(states)).numpy()


def centred(outputs: np.ndarray) -> np.ndarray:
    return outputs - outputs.mean(1, keepdims=True)


def rms(values: np.ndarray) -> float:
    return float(np.sqrt((values.astype(np.float64) ** 2).mean()))


def test_dense_networks_stay_as_they_are() -> None:
    policy, states = dense_case()
    network = for_integers(policy, states)
    assert bias_corrected(network, states) is network


def test_rounding_adds_nothing_on_average() -> None:
    """Over five seeds, on states that were not calibrated on."""
    seen, fresh = frames(256), frames(256, start=10_000)
    before, after = [], []
    for seed in range(5):
        policy = policy_of(seed)
        wanted = centred(policy.outputs(fresh))
        network = for_integers(policy, seen)
        corrected = bias_corrected(network, seen)
        before.append(simulated(network, fresh, seen) - wanted)
        after.append(simulated(corrected, fresh, seen) - wanted)
    assert np.abs(np.stack(before).mean(1)).mean() > 4 * np.abs(np.stack(after).mean(1)).mean()
    assert rms(np.stack(before)) > 1.5 * rms(np.stack(after))


def test_weights_come_back_on_the_grid() -> None:
    seen = frames(64)
    network = bias_corrected(for_integers(policy_of(0), seen), seen)
    for weight, _ in network.parameters:
        rows = weight.reshape(len(weight), -1).astype(np.float64)
        codes = rows / np.abs(rows).max(1, keepdims=True) * 127
        assert np.abs(codes - np.round(codes)).max() < 1e-3


@pytest.mark.slow
def test_onnx_and_tflite_round_on_the_same_grid(tmp_path: Path) -> None:
    """Both files put out the same, nearer to the policy than rounding alone would."""
    import onnx
    import onnxruntime
    from ai_edge_litert.interpreter import Interpreter

    seen, fresh = frames(256), frames(64, start=10_000)
    policy = policy_of(0)
    network = bias_corrected(for_integers(policy, seen), seen)
    with to_log(tmp_path / "log"):
        prepared = tflite_file.convert(network)
        model = tflite_file.quantise(prepared, network, "static_wi8_ai8", seen)
        onnx_file.quantise_onnx(network, tmp_path / "q.onnx", seen, tmp_path)
        interpreter = Interpreter(model_content=tflite_surgery.tidy(model))
        runner = interpreter.get_signature_runner("serving_default")
        images = fresh.astype(np.float32)
        lite = np.concatenate([runner(observation=x[None])["outputs"] for x in images])
    session = onnxruntime.InferenceSession(tmp_path / "q.onnx")
    found = session.run(["outputs"], {"observation": images})[0]
    wanted = centred(policy.outputs(fresh))
    uncorrected = simulated(for_integers(policy, seen), fresh, seen)
    assert rms(lite - wanted) < rms(uncorrected - wanted) / 1.5
    assert np.abs(found - lite).max() < 1e-4
    assert "Relu" not in [node.op_type for node in onnx.load(tmp_path / "q.onnx").graph.node]
