"""The journal: what it takes over, what it refuses, what it never touches."""

import json

import numpy as np
import pytest
from core_cases import steer_teacher

from pops.artifact import load_policy
from pops.errors import ArtifactError, UsageError
from pops.journal import Journal, StageResult


def journal(root, config=None, resume=False, overwrite=False):
    return Journal(root, config or {"seed": 1}, resume=resume, overwrite=overwrite)


def result():
    return StageResult({"value": 0.1}, {"policy": steer_teacher()}, {"states": np.arange(6.0)})


def refuse():
    raise AssertionError("a finished stage is read, not made again")


def test_a_finished_stage_is_read_and_not_made_again(tmp_path):
    first = journal(tmp_path / "run").stage("a/b", result)
    assert first.facts["value"] == 0.1
    assert first.facts["seconds"] >= 0
    again = journal(tmp_path / "run", resume=True).stage("a/b", refuse)
    assert again.facts == first.facts
    np.testing.assert_array_equal(again.arrays["states"], np.arange(6.0))
    for (w, b), (x, c) in zip(again.policies["policy"].parameters, steer_teacher().parameters):
        assert w.tobytes() == x.tobytes()
        assert b.tobytes() == c.tobytes()


def test_the_same_result_is_the_same_bytes(tmp_path):
    for name in ("one", "two"):
        journal(tmp_path / name).stage("s", result)
    for file in ("policy.safetensors", "arrays.npz"):
        one, two = ((tmp_path / name / "s" / file).read_bytes() for name in ("one", "two"))
        assert one == two


def test_a_stage_that_raises_leaves_nothing(tmp_path):
    with pytest.raises(ZeroDivisionError):
        journal(tmp_path / "run").stage("s", lambda: StageResult({"x": 1 / 0}))
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["config.json"]
    unwritable = {"x": float("nan")}
    with pytest.raises(ValueError):
        journal(tmp_path / "run", resume=True).stage("s", lambda: StageResult(unwritable))
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["config.json"]


def test_a_run_is_not_touched_without_a_flag(tmp_path):
    journal(tmp_path / "run").stage("s", result)
    with pytest.raises(UsageError, match="--resume to go on with it, --overwrite to start anew"):
        journal(tmp_path / "run")
    with pytest.raises(UsageError, match="both"):
        journal(tmp_path / "run", resume=True, overwrite=True)
    assert (tmp_path / "run/s/facts.json").is_file()


def test_overwrite_starts_anew(tmp_path):
    journal(tmp_path / "run").stage("s", result)
    (tmp_path / "run/more").write_text("x")
    fresh = journal(tmp_path / "run", {"seed": 2}, overwrite=True)
    assert [p.name for p in (tmp_path / "run").iterdir()] == ["config.json"]
    assert fresh.stage("s", lambda: StageResult({"value": 7})).facts["value"] == 7


def test_resume_without_a_run_starts_one(tmp_path):
    journal(tmp_path / "run", resume=True).stage("s", result)
    assert (tmp_path / "run/s/facts.json").is_file()


def test_a_resumed_run_needs_the_same_configuration(tmp_path):
    journal(tmp_path / "run", {"seed": 1, "env": "A"})
    with pytest.raises(UsageError, match="another env, seed"):
        journal(tmp_path / "run", {"seed": 2, "env": "B"}, resume=True)


def test_a_run_of_another_version_is_refused(tmp_path):
    journal(tmp_path / "run")
    path = tmp_path / "run/config.json"
    path.write_text(json.dumps({**json.loads(path.read_text()), "format": "pops-journal-9"}))
    with pytest.raises(ArtifactError, match="'pops-journal-9', this version goes on"):
        journal(tmp_path / "run", resume=True)
    journal(tmp_path / "run", overwrite=True)


@pytest.mark.parametrize("flag", ["resume", "overwrite"])
@pytest.mark.parametrize("content", [None, '{"model_type": "llama"}', "not JSON", "[1]"])
def test_a_folder_of_something_else_is_never_touched(tmp_path, flag, content):
    """Others write a config.json too."""
    (tmp_path / "thesis.tex").write_text("years of work")
    if content is not None:
        (tmp_path / "config.json").write_text(content)
    with pytest.raises(UsageError, match="nothing in it is touched"):
        journal(tmp_path, **{flag: True})
    assert (tmp_path / "thesis.tex").read_text() == "years of work"


def test_a_file_in_the_way_is_refused(tmp_path):
    (tmp_path / "run").write_text("x")
    with pytest.raises(UsageError):
        journal(tmp_path / "run", overwrite=True)
    assert (tmp_path / "run").read_text() == "x"


def test_killed_before_the_first_file_took_its_place(tmp_path):
    run = tmp_path / "run"
    run.mkdir()
    (run / ".config.json.ab12_xyz").write_text("{")
    journal(run, resume=True)
    assert json.loads((run / "config.json").read_text())["seed"] == 1


def test_what_a_kill_left_half_written_is_removed(tmp_path):
    run = tmp_path / "run"
    journal(run).stage("a/s", result)
    (run / "a/.partial-123").mkdir()
    (run / "a/.partial-123/facts.json").write_text("{")
    (run / ".student.safetensors.ab12_xyz").write_text("x")
    (run / ".gitignore").write_text("*")
    journal(run, resume=True)
    hidden = sorted(p.name for p in run.glob("**/.*"))
    assert hidden == [".gitignore"]
    assert load_policy(run / "a/s/policy.safetensors")[0].arch == steer_teacher().arch


def test_a_damaged_stage_is_reported(tmp_path):
    journal(tmp_path / "run").stage("s", result)
    path = tmp_path / "run/s/policy.safetensors"
    path.write_bytes(path.read_bytes()[:100])
    with pytest.raises(ArtifactError, match="truncated"):
        journal(tmp_path / "run", resume=True).stage("s", refuse)
