"""Bad environments and settings in `pops compress`: one message, the right status, nothing lost."""

import json

import numpy as np
import pytest
from core_cases import TINY_OPTIONS, cartpole_teacher, steer_teacher

from pops.artifact import save_policy
from pops.cli import main
from pops.policy import NumpyPolicy


@pytest.fixture(scope="module")
def teachers(tmp_path_factory):
    folder = tmp_path_factory.mktemp("teachers")
    steer = steer_teacher()
    save_policy(folder / "steer.safetensors", steer)
    save_policy(folder / "cartpole.safetensors", cartpole_teacher())
    silent = [(np.zeros_like(w), np.zeros_like(b)) for w, b in steer.parameters]
    save_policy(folder / "silent.safetensors", NumpyPolicy(steer.spec, steer.arch, silent))
    (folder / "empty.zip").write_bytes(b"")
    return folder


CASES = [
    ("steer", ["--env", "NoSuchThing-v0"], 1, ["NoSuchThing-v0", "not registered"]),
    ("steer", ["--env", "core_envs:NeedsPackage-v0"], 1, ["a_package_that_nobody_has"]),
    ("steer", ["--env", "CartPole-v1"], 1, ["(3,)", "(4,)"]),
    ("steer", ["--env", "core_envs:Glide-v0"], 1, ["Discrete"]),
    ("cartpole", ["--env", "core_envs:Steer-v0"], 1, ["(4,)", "(3,)"]),
    ("steer", ["--env", "core_envs:Raises-v0"], 1, ["ZeroDivisionError", "seed", "step 3"]),
    ("steer", ["--env", "core_envs:NaNReward-v0"], 1, ["reward that is not finite", "step 4"]),
    ("steer", ["--env", "core_envs:NaNObservation-v0"], 1, ["observation that is not finite"]),
    ("steer", ["--env", "core_envs:RaisesAtReset-v0"], 1, ["no simulator"]),
    ("steer", ["--wrapper", "core_envs:Nothing", "--env", "core_envs:Steer-v0"], 1, ["imported"]),
    ("steer", ["--env-kwargs", "gain", "--env", "core_envs:Steer-v0"], 2, ["key=value"]),
    ("silent", [], 1, ["clearly better than random"]),
    ("steer", ["--episodes", "5"], 2, ["--episodes 5", "20"]),
    ("steer", ["--seed", "-3"], 2, ["--seed -3"]),
    ("steer", ["--max-drop", "nan"], 2, ["--max-drop nan"]),
    ("steer", ["--workers", "-2"], 1, ["-2 workers"]),
    ("steer", ["--resume", "--overwrite"], 2, ["--resume", "--overwrite"]),
    ("steer", ["--device", "cuda"], 2, ["no CUDA device"]),
]


@pytest.mark.parametrize(("teacher", "options", "status", "words"), CASES)
def test_one_clear_message_and_no_result(
    teachers, tmp_path, capsys, teacher, options, status, words
):
    import torch

    if "cuda" in options and torch.cuda.is_available():
        options, status, words = ["--device", "tpu"], 2, ["tpu"]
    path, out = teachers / f"{teacher}.safetensors", tmp_path / "run"
    base = ["compress", "--teacher", str(path), "--out", str(out), "--quiet"]
    more = [] if "--workers" in options else ["--workers", "1"]
    found = main([*base, *more, *TINY_OPTIONS, *options])
    captured = capsys.readouterr()
    assert found == status, captured.err
    assert captured.out == ""
    assert captured.err.startswith("pops compress: ")
    assert captured.err.count("\n") == 1, captured.err
    for word in words:
        assert word in captured.err
    assert not (out / "manifest.json").exists()
    assert not list(out.glob("**/.*")) if out.exists() else True


@pytest.mark.slow
def test_an_environment_that_fails_late_keeps_what_was_finished(teachers, tmp_path, capsys):
    out = tmp_path / "run"
    options = ["compress", "--teacher", str(teachers / "steer.safetensors"), "--out", str(out)]
    options += ["--env", "core_envs:RaisesLate-v0", "--workers", "1", "--quiet", *TINY_OPTIONS]
    assert main(options) == 1
    text = capsys.readouterr().err
    assert "RaisesLate-v0 raised ZeroDivisionError" in text
    assert "--resume" in text
    assert (out / "search/candidates/facts.json").is_file()
    assert not (out / "gate").exists()
    before = {p: p.stat().st_mtime_ns for p in out.glob("**/facts.json")}
    assert main([*options, "--resume"]) == 1
    assert {p: p.stat().st_mtime_ns for p in out.glob("**/facts.json")} == before


def test_a_run_of_another_version_is_refused(teachers, tmp_path, capsys):
    run = tmp_path / "run"
    run.mkdir()
    (run / "config.json").write_text('{"format": "pops-journal-0"}')
    (run / "manifest.json").write_text(json.dumps({"format": "pops-run-0"}))
    options = ["--teacher", str(teachers / "steer.safetensors"), "--out", str(run), "--resume"]
    assert main(["compress", *options, *TINY_OPTIONS]) == 1
    assert "pops-journal-0" in capsys.readouterr().err
    assert main(["eval", str(run), "--episodes", "1"]) == 1
    assert "pops-run-0" in capsys.readouterr().err
    assert main(["pick", str(run), "--max-params", "9"]) == 1
    assert "pops-run-0" in capsys.readouterr().err


@pytest.mark.parametrize("flag", [[], ["--overwrite"], ["--resume"]])
def test_a_folder_of_something_else_is_left_alone(teachers, tmp_path, capsys, flag):
    folder = tmp_path / "thesis"
    folder.mkdir()
    (folder / "config.json").write_text('{"mine": true}')
    options = ["--teacher", str(teachers / "steer.safetensors"), "--out", str(folder)]
    assert main(["compress", *options, *TINY_OPTIONS, *flag]) == 2
    assert "nothing in it is touched" in capsys.readouterr().err
    assert (folder / "config.json").read_text() == '{"mine": true}'


def test_a_folder_that_cannot_be_written(teachers, tmp_path, capsys):
    (tmp_path / "file").write_text("x")
    options = ["--teacher", str(teachers / "steer.safetensors"), "--quiet", "--workers", "1"]
    assert main(["compress", *options, "--out", str(tmp_path / "file/run"), *TINY_OPTIONS]) == 1
    assert "Not a directory" in capsys.readouterr().err
