"""Runtimes against the numpy reference, and what happens when one cannot run."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from bench_fixtures import observations, small_artifact, small_policy

from pops.errors import ArtifactError, PopsError, UsageError
from pops_deploy.folder import Artifact
from pops_deploy.runtime import available, open_runtime

TOLERANCE = 1e-5


@pytest.fixture
def artifact(tmp_path: Path) -> Path:
    return small_artifact(tmp_path / "artifact", small_policy())


@pytest.mark.parametrize("continuous", [False, True])
@pytest.mark.parametrize(("name", "binding"), [("onnx", ""), ("c", ""), ("c", "ctypes")])
def test_runtime_computes_what_numpy_computes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str, binding: str, continuous: bool
) -> None:
    monkeypatch.setenv("POPS_C_BINDING", binding)
    policy = small_policy(continuous=continuous)
    runtime = open_runtime(small_artifact(tmp_path / "artifact", policy), name, "fp32")
    x = observations(500, seed=7)
    assert np.abs(runtime.outputs(x) - policy.outputs(x)).max() < TOLERANCE
    actions = policy.act(x)
    batch = runtime.act(x)
    assert batch.shape == actions.shape
    assert batch.dtype == actions.dtype
    single = np.array([runtime.step(row) for row in x])
    parts = np.array([runtime.finish(runtime.run(runtime.prepare(row))) for row in x])
    limit = TOLERANCE if continuous else 0
    for found in (batch, single, parts):
        assert np.abs(found - actions).max() <= limit
    # What came back before must not change when the policy acts again.
    first = runtime.step(x[0])
    kept = np.array(first)
    runtime.step(x[1])
    assert np.array_equal(first, kept)
    assert runtime.name == name
    assert runtime.bytes > 100
    assert len(runtime.sha256) == 64
    assert runtime.versions


def test_extension_takes_every_observation_that_environments_return(artifact: Path) -> None:
    policy = small_policy()
    runtime = open_runtime(artifact, "c", "int8")
    assert runtime.versions["binding"] == "extension"
    for dtype in ("float32", "float64", "int32", "int64", "uint8"):
        x = np.array([[1, 2, 0, 3], [0, 1, 5, 1]]).astype(dtype)
        assert [runtime.step(row) for row in x] == policy.act(x).tolist()
    padded = np.zeros(17, np.uint8)
    padded[1:] = np.frombuffer(observations(1).tobytes(), np.uint8)
    unaligned = padded[1:].view(np.float32)
    assert runtime.step(unaligned) == policy.act(observations(1))[0]


def test_extension_refuses_what_does_not_fit(artifact: Path) -> None:
    runtime = open_runtime(artifact, "c", "int8")
    with pytest.raises(ValueError, match=r"found an observation of 3 numbers, expected 4"):
        runtime.step(np.zeros(3, np.float32))
    with pytest.raises(TypeError, match="format '\\?'"):
        runtime.step(np.zeros(4, bool))
    with pytest.raises((ValueError, BufferError)):
        runtime.step(np.zeros((4, 2), np.float32)[:, 0])
    with pytest.raises(TypeError):
        runtime.step()


def test_extension_counts_statuses(artifact: Path) -> None:
    from pops_deploy.runtime.compiled_c import ExtensionPolicy

    runtime = open_runtime(artifact, "c", "int8")
    assert isinstance(runtime, ExtensionPolicy)
    runtime.step(np.zeros(4, np.float32))
    runtime.step(np.array([1e6, 0, 0, 0], np.float32))
    runtime.step(np.array([np.nan, 0, 0, 0], np.float32))
    assert runtime.statuses() == {
        "ok": 1,
        "out_of_range": 1,
        "not_finite": 1,
        "bad_argument": 0,
        "self_test_failed": 0,
    }
    assert runtime.self_test()


def test_two_policies_do_not_share_code(tmp_path: Path) -> None:
    x = observations(300)
    policies = [small_policy(seed) for seed in (1, 2)]
    runtimes = [
        open_runtime(small_artifact(tmp_path / str(i), policy), "c", "fp32")
        for i, policy in enumerate(policies)
    ]
    for policy, runtime in zip(policies, runtimes):
        assert np.array_equal(runtime.act(x), policy.act(x))
    assert not np.array_equal(policies[0].act(x), policies[1].act(x))


def test_calls_into_c_are_fast(artifact: Path) -> None:
    """Far above what is measured (docs/bench.md), so that a busy machine passes too."""
    from pops_deploy.pyz.timing import time_window

    runtime = open_runtime(artifact, "c", "int8")
    x = list(observations(64))
    best = min(np.median(np.asarray(time_window(runtime.step, x, 2000))) for _ in range(10))
    assert best < 700
    parts = runtime.phases(x)
    assert parts is not None
    assert all(0 <= part < 2000 for part in parts)
    assert parts.inside > 0


def test_unknown_runtime_and_file(artifact: Path) -> None:
    with pytest.raises(UsageError, match=r"Runtime 'tensorrt' is unknown.*c, litert, onnx"):
        open_runtime(artifact, "tensorrt")
    with pytest.raises(UsageError, match="int4"):
        open_runtime(artifact, "c", "int4")
    with pytest.raises(ArtifactError, match=r"holds no int8 onnx file"):
        open_runtime(artifact, "onnx", "int8")


@pytest.mark.parametrize(
    ("name", "module", "package"),
    [("onnx", "onnxruntime", "onnxruntime"), ("tflite-micro", "tflite_micro", "tflite-micro")],
)
def test_missing_library_names_the_package(
    artifact: Path, monkeypatch: pytest.MonkeyPatch, name: str, module: str, package: str
) -> None:
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(PopsError, match=f"pip install {package}$"):
        open_runtime(artifact, name, "fp32")


def test_missing_litert_names_both_packages(
    artifact: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for module in ("ai_edge_litert.interpreter", "tflite_runtime.interpreter"):
        monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(PopsError, match=r"tflite-runtime.*pip install ai-edge-litert"):
        open_runtime(artifact, "litert", "fp32")


def test_missing_compiler_says_what_to_install(
    artifact: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("CC", "no-such-compiler")
    with pytest.raises(PopsError, match=r"no-such-compiler.*apt install gcc"):
        open_runtime(artifact, "c", "int8")
    monkeypatch.delenv("CC")
    monkeypatch.setenv("PATH", str(tmp_path))
    with pytest.raises(PopsError, match=r"cc, gcc and clang.*apt install gcc"):
        open_runtime(artifact, "c", "int8")


def test_compiler_that_fails_is_quoted(artifact: Path) -> None:
    facts = json.loads((artifact / "artifact.json").read_text())
    source = artifact / "c/policy.c"
    source.write_text("this is not C\n")
    from pops.artifact import sha256_file

    facts["files"]["c_int8"]["sha256"] = sha256_file(source)
    (artifact / "artifact.json").write_text(json.dumps(facts))
    with pytest.raises(PopsError, match=r"could not compile .*policy\.c"):
        open_runtime(artifact, "c", "int8")


def test_damaged_artifacts_are_refused(artifact: Path) -> None:
    with (artifact / "policy.onnx").open("ab") as file:
        file.write(b"x")
    with pytest.raises(ArtifactError, match=r"policy\.onnx is damaged: its SHA-256"):
        open_runtime(artifact, "onnx", "fp32")
    (artifact / "policy.onnx").unlink()
    with pytest.raises(ArtifactError, match="incomplete"):
        open_runtime(artifact, "onnx", "fp32")
    (artifact / "golden.npz").write_bytes(b"")
    with pytest.raises(ArtifactError, match="golden"):
        Artifact(artifact).golden()


def test_bytes_that_no_runtime_can_load(artifact: Path) -> None:
    from pops.artifact import sha256_file

    facts = json.loads((artifact / "artifact.json").read_text())
    (artifact / "policy.onnx").write_bytes(b"not a model")
    facts["files"]["onnx_fp32"]["sha256"] = sha256_file(artifact / "policy.onnx")
    (artifact / "artifact.json").write_text(json.dumps(facts))
    with pytest.raises(ArtifactError, match="does not load in onnxruntime"):
        open_runtime(artifact, "onnx", "fp32")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"format": "pops-artifact-9"}, "format 'pops-artifact-9'"),
        ({"files": None}, "damaged"),
        ({"spec": {"actions": 1}}, "cannot be read"),
        ({"golden": {"path": "../../secret", "sha256": ""}}, "outside of the artifact"),
    ],
)
def test_artifacts_of_another_shape(artifact: Path, change: dict, message: str) -> None:
    facts = json.loads((artifact / "artifact.json").read_text())
    (artifact / "artifact.json").write_text(json.dumps({**facts, **change}))
    with pytest.raises(PopsError, match=message):
        Artifact(artifact).golden()


def test_no_artifact(tmp_path: Path) -> None:
    with pytest.raises(ArtifactError, match=r"no artifact\.json"):
        open_runtime(tmp_path, "onnx")


def run_fresh(code: str) -> str:
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, timeout=120
    )
    return done.stdout.strip()


def test_import_is_fast_and_free_of_heavy_packages() -> None:
    timed = (
        "import time; t = time.perf_counter(); import pops_deploy; print(time.perf_counter() - t)"
    )
    assert min(float(run_fresh(timed)) for _ in range(3)) < 0.15
    heavy = (
        "import sys, pops_deploy.bench, pops_deploy.config, pops_deploy.targets.host\n"
        "from pops_deploy.runtime import available; available()\n"
        "print(sorted({'torch', 'gymnasium', 'onnx', 'onnxruntime', 'ai_edge_litert', "
        "'matplotlib', 'stable_baselines3'} & set(sys.modules)))"
    )
    assert run_fresh(heavy) == "[]"


def test_runtimes_are_found_by_their_files() -> None:
    assert list(available()) == ["c", "litert", "onnx", "tflite-micro"]
