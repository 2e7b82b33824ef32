"""Every runtime on what the exporter really writes, closed under its own golden vectors."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from bench_fixtures import observations, small_policy, small_run

from pops.policy import NumpyPolicy
from pops_deploy.folder import KEYS, Artifact
from pops_deploy.runtime import available, open_runtime

FP32 = 1e-5


def exported(folder: Path, policy: NumpyPolicy, formats: str, io: str) -> Path:
    from pops_export.config import ExportConfig
    from pops_export.export import export

    run = small_run(folder / "run", small_policy(5, 16), policy)
    config = ExportConfig(
        run, formats, io=io, out=folder / "artifact", episodes=0, force=True, workers=1
    )
    return export(config).path


def check(folder: Path, policy: NumpyPolicy, names: tuple[tuple[str, str], ...]) -> None:
    golden = Artifact(folder).golden()
    x, replayed = observations(300, seed=9), golden["observations"]
    expected = policy.act(x)
    for name, file in names:
        runtime = open_runtime(folder, name, file)
        what = f"{name} {file}"
        key = KEYS[available()[name].FORMAT, file]
        batch = runtime.act(x)
        assert batch.dtype == expected.dtype, what
        assert batch.shape == expected.shape, what
        assert np.array_equal(np.array([runtime.step(row) for row in x]), batch), what
        if file == "fp32":
            assert np.abs(runtime.outputs(x) - policy.outputs(x)).max() < FP32, what
        assert (batch != expected).mean() <= (0 if file == "fp32" else 0.05), what
        if name == "litert" and file == "int8":
            continue  # its arithmetic differs from the oracle's by a step; the golden is its own
        same = np.isclose(runtime.outputs(replayed), golden[f"{key}.outputs"], atol=FP32, rtol=1e-6)
        assert same.mean() > 0.99, what
        assert (runtime.act(replayed) == golden[f"{key}.actions"]).mean() > 0.98, what


@pytest.mark.slow
def test_discrete_policy_in_every_runtime(tmp_path: Path) -> None:
    policy = small_policy()
    folder = exported(tmp_path, policy, "onnx,tflite,c", "float32")
    runtimes = [(name, file) for name in available() for file in ("fp32", "int8")]
    assert len(runtimes) == 8
    check(folder, policy, tuple(runtimes))
    compiled = open_runtime(folder, "c", "int8")
    assert compiled.id == Artifact(folder).id
    assert compiled.self_test()


@pytest.mark.slow
def test_full_integer_files_are_fed_as_artifact_json_says(tmp_path: Path) -> None:
    """int8 ends: the observation becomes codes, and codes become outputs, outside of the file."""
    policy = small_policy()
    folder = exported(tmp_path, policy, "tflite", "int8")
    facts = Artifact(folder).file("tflite", "int8").facts["io"]
    assert facts["input_dtype"] == "int8"
    x = observations(300, seed=9)
    prepared = open_runtime(folder, "litert", "int8").prepare(x[0])
    assert prepared.dtype == np.int8
    assert prepared.shape == (1, 4)
    golden = Artifact(folder).golden()
    for name in ("litert", "tflite-micro"):
        runtime = open_runtime(folder, name, "int8")
        actions = runtime.act(x)
        assert np.array_equal(np.array([runtime.step(row) for row in x]), actions)
        assert (actions != policy.act(x)).mean() < 0.05
        outputs = runtime.outputs(golden["observations"])
        step = facts["output_scale"]
        assert np.abs(outputs - golden["tflite_int8.outputs"]).max() <= 2.01 * step
        assert np.abs(outputs - outputs[0]).max() > 10 * step
