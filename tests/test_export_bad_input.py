from __future__ import annotations

import dataclasses
import importlib.util
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from export_cases import cartpole_policy, make_run, random_policy

from pops.arch import Conv, NetArch
from pops.artifact import save_policy
from pops.errors import ArtifactError, GateFailed, MissingPackage, PopsError, UsageError
from pops.spec import DiscreteActions, PolicySpec
from pops_export.config import ExportConfig, VerifyConfig
from pops_export.export import export
from pops_export.source import load_source


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    states = np.random.default_rng(0).normal(size=(100, 4)).astype(np.float32)
    return make_run(tmp_path_factory.mktemp("bad") / "run", cartpole_policy(), states=states)


def nothing_was_written(run: Path) -> bool:
    expected = {"manifest.json", "states.npz", "student.safetensors", "teacher.safetensors"}
    return {p.name for p in run.iterdir()} == expected


def refused(run: Path, kind, message: str, **options):
    with pytest.raises(kind, match=message) as found:
        export(ExportConfig(run, **options))
    assert nothing_was_written(run)
    return found.value


def test_a_run_whose_gate_failed_needs_force(tmp_path):
    states = np.zeros((4, 4), np.float32)
    run = make_run(tmp_path / "run", cartpole_policy(), passed=False, states=states)
    error = refused(run, GateFailed, "it lost 12.00.*--force")
    assert error.exit_code == 3
    assert load_source(ExportConfig(run, force=True)).facts["gate_passed"] is False


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"c_prefix": "2fast"}, "'2fast' is not a C identifier"),
        ({"c_prefix": "käse"}, "is not a C identifier"),
        ({"c_prefix": "while"}, "is not a C identifier"),
        ({"c_prefix": "class"}, "is not a C identifier"),
        ({"c_prefix": ""}, "is not a C identifier"),
        ({"format": "onnx,keras"}, "'keras' is unknown, expected one or more of: onnx, tflite"),
        ({"format": ","}, "--format"),
        ({"recipe": "int4"}, "'int4' is unknown"),
        ({"io": "uint8"}, "--io 'uint8'"),
        ({"c_layout": "tiny"}, "--c-layout 'tiny'"),
        ({"episodes": -1}, "--episodes -1"),
        ({"workers": 0}, "--workers 0"),
    ],
)
def test_a_configuration_that_cannot_be_is_a_usage_error(options, message):
    with pytest.raises(UsageError, match=message) as found:
        ExportConfig(Path("run"), **options)
    assert found.value.exit_code == 2


def test_verify_configuration():
    with pytest.raises(UsageError, match="--episodes -1"):
        VerifyConfig(Path("artifact"), episodes=-1)


def test_formats_and_recipes_are_parsed_in_a_fixed_order():
    config = ExportConfig(Path("run"), format=" c, onnx", recipe="static_wi8_ai8,fp32")
    assert config.formats == ("onnx", "c")
    assert config.recipes == ("fp32", "static_wi8_ai8")


@pytest.mark.parametrize("formats", ["tflite", "c", "onnx,c"])
def test_an_activation_that_a_format_lacks(tmp_path, formats):
    spec = PolicySpec((4,), DiscreteActions(2), "logits")
    policy = random_policy(spec, NetArch((4,), 2, (3,), ("silu",)))
    run = make_run(tmp_path / "run", policy, states=np.ones((4, 4), np.float32))
    refused(run, UsageError, "'silu' has no form.*--recipe fp32", format=formats)


def test_a_recipe_that_no_format_has(run):
    refused(run, UsageError, "exists for TFLite only", format="c", recipe="static_wi8_ai16")


def test_discrete_observations_have_no_c(tmp_path):
    spec = PolicySpec((), DiscreteActions(2), "logits", "int64", one_hot=3)
    policy = random_policy(spec, NetArch((3,), 2))
    run = make_run(tmp_path / "run", policy, states=np.arange(3))
    refused(run, UsageError, "--format onnx,tflite", format="c", recipe="fp32")


@pytest.mark.parametrize(
    ("package", "formats"), [("onnxscript", "onnx"), ("litert_torch", "tflite"), ("onnx", "onnx")]
)
def test_a_missing_package_names_the_extra(run, monkeypatch, package, formats):
    find = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name: None if name == package else find(name)
    )
    refused(run, MissingPackage, r"pip install 'pops-rl\[export\]'", format=formats)


def test_no_c_compiler(run, monkeypatch, tmp_path):
    monkeypatch.setenv("PATH", str(tmp_path))
    refused(run, PopsError, "No C compiler was found.*--format onnx,tflite")


def test_an_existing_artifact_is_kept_without_overwrite(run, tmp_path):
    out = tmp_path / "out"
    out.mkdir()
    (out / "artifact.json").write_text("{}")
    refused(run, UsageError, "Add --overwrite", out=out)
    assert (out / "artifact.json").read_text() == "{}"


def test_another_folder_is_never_replaced(run, tmp_path):
    (tmp_path / "letter.txt").write_text("dear")
    refused(
        run, UsageError, "is not an artifact, so it is left alone", out=tmp_path, overwrite=True
    )
    assert (tmp_path / "letter.txt").read_text() == "dear"


def test_an_unwritable_place(run, tmp_path):
    (tmp_path / "file").write_text("")
    refused(run, PopsError, "Cannot write", out=tmp_path / "file" / "out", format="onnx")


def test_nothing_is_left_when_a_converter_fails(run, tmp_path, monkeypatch):
    from pops_export import export as module

    def broken(assembly, workers):
        (assembly.folder / "half").write_text("written")
        raise RuntimeError("converter")

    monkeypatch.setattr(module, "write_files", broken)
    with pytest.raises(RuntimeError, match="converter"):
        export(ExportConfig(run, out=tmp_path / "out", workers=1))
    assert list(tmp_path.iterdir()) == []


def test_a_source_that_is_not_there():
    with pytest.raises(UsageError, match="does not exist"):
        load_source(ExportConfig(Path("nowhere")))


def test_a_folder_that_is_not_a_run(tmp_path):
    with pytest.raises(ArtifactError, match=r"no manifest\.json"):
        load_source(ExportConfig(tmp_path))


def test_a_teacher_file_without_an_environment(tmp_path):
    policy = cartpole_policy()
    policy.spec = dataclasses.replace(policy.spec, env=None)
    save_policy(tmp_path / "teacher.safetensors", policy)
    with pytest.raises(UsageError, match="add --env ID"):
        load_source(ExportConfig(tmp_path / "teacher.safetensors"))


@pytest.mark.parametrize("text", ["{", "=1"])
def test_environment_arguments_that_are_no_pairs(tmp_path, text):
    save_policy(tmp_path / "teacher.safetensors", cartpole_policy())
    config = ExportConfig(tmp_path / "teacher.safetensors", env="CartPole-v1", env_kwargs=(text,))
    with pytest.raises(UsageError, match="--env-kwargs"):
        load_source(config)


@pytest.mark.parametrize(
    "states",
    [
        np.zeros((0, 4), np.float32),
        np.zeros((5, 3), np.float32),
        np.full((5, 4), np.nan, np.float32),
    ],
)
def test_calibration_states_that_do_not_fit(tmp_path, states):
    run = make_run(tmp_path / "run", cartpole_policy(), states=states)
    with pytest.raises(PopsError, match=r"states\.npz.*[Cc]ompress again"):
        load_source(ExportConfig(run))


def test_image_statistics_and_conv_activations_are_checked_before_anything_is_written(tmp_path):
    spec = PolicySpec((8, 8, 1), DiscreteActions(2), "logits", "uint8", channels_last=True)
    arch = NetArch((1, 8, 8), 2, convs=(Conv(2, 3, 1, activation="elu"),))
    states = np.zeros((3, 8, 8, 1), np.uint8)
    run = make_run(tmp_path / "run", random_policy(spec, arch), states=states)
    refused(run, UsageError, "'elu' has no form")


def test_the_configuration_imports_neither_numpy_nor_torch():
    code = (
        "import sys, pops_export.config; "
        "sys.exit(len({'torch', 'numpy', 'onnx', 'rich'} & set(sys.modules)))"
    )
    assert subprocess.run([sys.executable, "-c", code], timeout=60).returncode == 0
