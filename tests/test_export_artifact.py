from __future__ import annotations

import hashlib
import io
import json
import os
import subprocess
import sys

import numpy as np
import pytest
from export_cases import CARTPOLE_EPISODES as EPISODES
from export_cases import cartpole_policy, cartpole_run, make_run
from rich.console import Console

from pops.artifact import read_json, sha256_file
from pops.errors import ArtifactError
from pops_export.config import ExportConfig, VerifyConfig
from pops_export.export import ExportResult, export
from pops_export.tables import print_result
from pops_export.verify import read_artifact, verify

pytestmark = pytest.mark.slow

FILES = {
    "onnx_fp32": "policy.onnx",
    "onnx_int8": "policy.int8.onnx",
    "tflite_fp32": "policy.tflite",
    "tflite_int8": "policy.int8.tflite",
    "c_f32": "c/policy_f32.c",
    "c_int8": "c/policy.c",
}


@pytest.fixture(scope="session")
def artifact(tmp_path_factory):
    return cartpole_run(tmp_path_factory.getbasetemp()) / "artifact"


@pytest.fixture
def copy(artifact, tmp_path):
    import shutil

    shutil.copytree(artifact, tmp_path / "artifact")
    return tmp_path / "artifact"


def test_the_artifact_holds_every_file_with_its_hash(artifact):
    facts = read_artifact(artifact)
    assert facts["format"] == "pops-artifact-1"
    assert facts["passed"] is True
    assert facts["role"] == "student"
    assert facts["num_parameters"] == 58
    assert {key: entry["path"] for key, entry in facts["files"].items()} == FILES
    for entry in facts["files"].values():
        assert (artifact / entry["path"]).stat().st_size == entry["bytes"]
        assert sha256_file(artifact / entry["path"]) == entry["sha256"]
    listed = {str(p.relative_to(artifact)) for p in artifact.rglob("*") if p.is_file()}
    assert listed == {
        *FILES.values(),
        "c/policy.h",
        "c/policy_f32.h",
        "artifact.json",
        "golden.npz",
        "README.md",
        "export.log",
        "proof/core.tflite",
        "proof/states.npz",
        "proof/student.safetensors",
        "proof/teacher.safetensors",
    }


def test_the_c_carries_the_artifacts_id(artifact):
    facts = read_artifact(artifact)
    assert len(facts["id"]) == 64
    for key in ("c_int8", "c_f32"):
        assert facts["id"] in (artifact / facts["files"][key]["path"]).read_text()


def test_the_proof_at_export(artifact):
    files = read_artifact(artifact)["files"]
    for key in ("onnx_fp32", "tflite_fp32", "c_f32"):
        verified = files[key]["verified"]
        assert verified["observations"] == 10_000
        assert verified["outside_bound"] == verified["unexplained_actions"] == 0
        assert 0 < verified["largest_share_of_bound"] <= 1
        assert verified["changed_actions_share"] < 0.001
    integers = files["c_int8"]["verified"]
    assert integers["oracle"] == "tflite-micro"
    assert integers["oracle_inputs"] == integers["wheel_inputs"] == 100_000
    assert integers["oracle_mismatches"] == integers["wheel_mismatches"] == 0
    assert integers["quantising_inputs"] >= 16_000
    assert integers["quantising_mismatches"] == integers["self_test"] == 0
    assert files["tflite_int8"]["verified"]["oracle_steps_at_most"] <= 2
    for key in ("onnx_int8", "tflite_int8", "c_int8"):
        verified = files[key]["verified"]
        assert 0 < verified["ties"] < 1000
        assert verified["changed_actions_share"] < 0.1


def test_the_closed_loop_of_every_file(artifact):
    facts = read_artifact(artifact)
    assert facts["gate"]["seed"] == 600_000_000
    assert facts["gate"]["episodes"] == EPISODES
    assert facts["gate"]["teacher"]["mean"] == 500.0
    for entry in facts["files"].values():
        assert entry["evaluation"]["mean"] == 500.0
        assert entry["evaluation"]["episodes"] == EPISODES
        assert entry["verdict"]["passed"] is True
    assert facts["quantisation_aware"]["chosen"] == "post-training"


def test_golden_vectors_name_every_file(artifact):
    with np.load(artifact / "golden.npz") as golden:
        names = {f"{key}.{what}" for key in (*FILES, "student") for what in ("outputs", "actions")}
        assert set(golden.files) == {"observations", *names}
        n = len(golden["observations"])
        assert golden["student.outputs"].shape == (n, 2)
        assert np.isfinite(golden["observations"]).all()
        states = np.load(artifact / "proof" / "states.npz")["observations"]
        assert golden["observations"].max() > 3 * states.max()


def test_a_second_export_gives_the_same_bytes_and_says_nothing(artifact, tmp_path):
    out = tmp_path / "again"
    code = (
        "from pathlib import Path; from pops_export.config import ExportConfig; "
        "from pops_export.export import export; "
        f"export(ExportConfig(Path({str(artifact.parent)!r}), out=Path({str(out)!r}), "
        f"episodes={EPISODES}, workers=2))"
    )
    done = subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        timeout=300,
        env={**os.environ, "PYTHONHASHSEED": "7"},
    )
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")
    log = (out / "export.log").read_text()
    assert "LiteRT" in log
    assert "Logging error" not in log
    for path in sorted(artifact.rglob("*")):
        if path.is_file() and path.name != "export.log":
            assert path.read_bytes() == (out / path.relative_to(artifact)).read_bytes(), path


def test_verify_repeats_the_proof(artifact):
    result = verify(VerifyConfig(artifact, episodes=5, workers=2))
    assert (result.exit_code, result.failures) == (0, ())
    stored = read_artifact(artifact)["files"]
    for key, entry in result.artifact["files"].items():
        assert entry["verified"] == stored[key]["verified"]
        assert entry["evaluation"]["episodes"] == 5
    data = json.loads(json.dumps(result.to_json()))
    assert data["passed"] is True
    assert set(data["files"]) == set(FILES)


def test_the_table_names_every_file(artifact):
    console = Console(width=200, record=True, file=io.StringIO())
    print_result(ExportResult(artifact, read_artifact(artifact)), console)
    text = console.export_text()
    for name in FILES.values():
        assert name in text
    assert "0 of 100,000 differ from tflite-micro" in text
    assert "passed: 500.00 on 10" in text


@pytest.mark.parametrize("name", [*FILES.values(), "c/policy.h", "golden.npz", "proof/core.tflite"])
def test_one_changed_byte_is_found(copy, name):
    data = bytearray((copy / name).read_bytes())
    data[len(data) // 2] ^= 1
    (copy / name).write_bytes(data)
    with pytest.raises(ArtifactError, match="does not match its hash"):
        verify(VerifyConfig(copy, episodes=0, workers=1))


def test_a_missing_file_is_named(copy):
    (copy / "policy.onnx").unlink()
    with pytest.raises(ArtifactError, match=r"policy\.onnx.*export again"):
        verify(VerifyConfig(copy))


def test_a_file_that_computes_something_else_fails_the_proof(copy):
    """A file of another student, its hash put right: only the proof can tell."""
    facts = read_json(copy / "artifact.json")
    import onnx
    from onnx import numpy_helper

    model = onnx.load(copy / "policy.onnx")
    for tensor in model.graph.initializer:
        values = numpy_helper.to_array(tensor)
        if values.shape == (8, 4):
            changed = values * np.float32(1.0001)
            tensor.CopyFrom(numpy_helper.from_array(changed, tensor.name))
    data = model.SerializeToString()
    (copy / "policy.onnx").write_bytes(data)
    facts["files"]["onnx_fp32"]["sha256"] = hashlib.sha256(data).hexdigest()
    (copy / "artifact.json").write_text(json.dumps(facts))
    result = verify(VerifyConfig(copy, episodes=0, workers=1))
    assert result.failures == ("onnx_fp32",)
    assert result.exit_code == 3
    assert result.artifact["files"]["onnx_fp32"]["verified"]["outside_bound"] > 5_000


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda f: f.update(format="pops-artifact-9"), "this version reads"),
        (lambda f: f["files"]["c_int8"].pop("sha256"), "is damaged"),
        (lambda f: f["files"]["c_int8"].update(path="../../secret"), "outside of the artifact"),
        (lambda f: f.pop("proof"), "is damaged"),
    ],
)
def test_a_damaged_artifact_json_is_refused(copy, change, message):
    facts = read_json(copy / "artifact.json")
    change(facts)
    (copy / "artifact.json").write_text(json.dumps(facts))
    with pytest.raises(ArtifactError, match=message):
        verify(VerifyConfig(copy))


def test_a_folder_without_artifact_json_is_refused(tmp_path):
    with pytest.raises(ArtifactError, match="no artifact"):
        verify(VerifyConfig(tmp_path))


def test_arduino_libraries_and_the_full_integer_file(tmp_path):
    run = make_run(tmp_path / "run", cartpole_policy())
    result = export(
        ExportConfig(
            run, format="tflite,arduino", io="int8", c_prefix="pole", episodes=2, workers=1
        )
    )
    files = result.artifact["files"]
    assert result.exit_code == 0
    assert files["arduino_int8"]["path"] == "arduino/pole/src/pole.c"
    assert files["arduino_f32"]["path"] == "arduino/pole_f32/src/pole_f32.c"
    assert (run / "artifact" / "arduino" / "pole" / "library.properties").is_file()
    assert files["arduino_int8"]["verified"]["oracle_mismatches"] == 0
    io = files["tflite_int8"]["io"]
    assert io["input_dtype"] == "int8"
    assert io["input_scale"] > 0
    assert io["input_stage"]["scale"] is not None
    assert files["tflite_int8"]["evaluation"]["mean"] == 500.0
    assert "takes and gives int8" in (run / "artifact" / "README.md").read_text()
    assert verify(VerifyConfig(run / "artifact", episodes=0, workers=1)).exit_code == 0
