"""polish_on(): a student learns on after its run, on a game of 12 by 12 pixels."""

import dataclasses
import functools
import shutil

import numpy as np
import pytest
from core_cases import STEER, run_pops, steer_teacher, tiny
from test_pixels import DRIFT, drift_teacher
from test_pixels import QUICK as QUICK_COMPRESSION
from test_reinforce import QUICK, beginner

from pops import compress
from pops.artifact import Run, save_policy
from pops.errors import GateFailed, UsageError
from pops.evaluate import evaluate
from pops.policy import NumpyPolicy
from pops.polish_on import polish_on

LONGER = dataclasses.replace(DRIFT, kwargs={"falls": 4}, beside={"falls": 6})


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    """A run whose student catches some of what falls."""
    out = tmp_path_factory.mktemp("polish") / "run"
    compress(drift_teacher(), LONGER, out, QUICK_COMPRESSION, workers=2)
    student = beginner()
    spec = dataclasses.replace(drift_teacher().spec, env=LONGER)
    save_policy(out / "student.safetensors", NumpyPolicy(spec, student.arch, student.parameters))
    return out


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


@pytest.fixture
def quick(monkeypatch):
    """Polish at the pace of this game."""
    made = functools.partial(dataclasses.replace, QUICK)
    monkeypatch.setattr("pops.polish_on.ReinforceConfig", lambda steps: made(steps=steps))


@pytest.mark.slow
def test_the_student_gets_better_and_is_gated_on_a_fresh_block(run, quick):
    before = Run(run).manifest
    result = polish_on(run, QUICK.steps, workers=2, command="pops polish")
    assert result.path == run.with_name("run-polished")
    manifest, after = result.manifest, Run(run).manifest
    look = after["gate"]["looks"][-1]
    assert after["gate"]["looks"][:-1] == before["gate"]["looks"]
    assert look["seed"] == before["gate"]["next_seed"]
    assert look["alpha"] == before["gate"]["looks"][-1]["alpha"] / 2
    assert after["gate"]["next_seed"] == look["seed"] + look["episodes"] == look["seed"] + 100
    assert manifest["gate"] == after["gate"]

    seeds = range(look["seed"], look["seed"] + 100)
    student = Run(result.path).student
    assert evaluate(student, LONGER, seeds).mean == look["student_mean"]
    assert look["student_mean"] > evaluate(Run(run).student, LONGER, seeds).mean + 0.5
    assert manifest["verdict"]["passed"] == result.verdict.passed == look["passed"]
    beside = manifest["evaluation"]["beside"]
    first = beside["student"]["seed"]
    played = evaluate(student, LONGER.variant(), range(first, first + 30))
    assert beside["student"]["mean"] == played.mean
    assert beside["teacher"] == before["evaluation"]["beside"]["teacher"]

    assert manifest["student"]["num_parameters"] == student.arch.num_parameters
    assert manifest["polished_from"]["steps"] == QUICK.steps
    assert manifest["polished_from"]["student_sha256"] != manifest["student"]["sha256"]
    assert manifest["command"] == "pops polish"
    games = 2 * 40 * 40 + 2 * 100 * 40 + 30 * 60
    learnt = QUICK.critic_steps + QUICK.steps
    visited = len(Run(result.path).states())
    played = manifest["environment_steps"] - before["environment_steps"]
    assert played == games + learnt + visited


@pytest.mark.slow
def test_it_goes_on_after_a_stop_and_looks_once(run, quick):
    """The gate's look is kept: gone on with after it, no other block of seeds is asked for."""
    whole = polish_on(run, 8192, run.with_name("whole"), workers=2)
    looks = Run(run).manifest["gate"]["looks"]
    (whole.path / "manifest.json").unlink()
    shutil.rmtree(whole.path / "reinforced")
    again = polish_on(run, 8192, whole.path, workers=1, resume=True)
    assert again.manifest["student"] == whole.manifest["student"]
    assert Run(run).manifest["gate"]["looks"] == looks == again.manifest["gate"]["looks"]
    with pytest.raises(UsageError, match="started with another steps"):
        polish_on(run, 4096, whole.path, resume=True)
    # Polished again it meets other games.
    twice = polish_on(whole.path, 8192, workers=2)
    assert twice.manifest["gate"]["next_seed"] == again.manifest["gate"]["next_seed"] + 100
    assert twice.manifest["student"]["name"].endswith("+polish+polish")
    seen = [r / "reinforce" / "00" / "arrays.npz" for r in (whole.path, twice.path)]
    counts = [np.load(path)["returns/mean"] for path in seen]
    assert counts[0] != counts[1]


@pytest.mark.slow
def test_what_does_not_get_better_is_not_gated(run, monkeypatch):
    wild = functools.partial(dataclasses.replace, QUICK, learning_rate=1e30, clip=1e6)
    monkeypatch.setattr("pops.polish_on.ReinforceConfig", lambda steps: wild(steps=steps))
    manifest = (run / "manifest.json").read_bytes()
    with pytest.raises(GateFailed, match="does not get better by 2,048 steps"):
        polish_on(run, 2048, workers=2)
    assert (run / "manifest.json").read_bytes() == manifest
    assert not (run.with_name("run-polished") / "manifest.json").exists()


@pytest.mark.slow
def test_what_cannot_be_polished_is_refused(run, tmp_path):
    with pytest.raises(UsageError, match="expected at least 1"):
        polish_on(run, 0)
    with pytest.raises(UsageError, match="holds the run that is polished"):
        polish_on(run, 2048, run, overwrite=True)
    assert (run / "manifest.json").is_file()
    compress(steer_teacher(), STEER, tmp_path / "dense", tiny(), workers=1)
    done = run_pops("polish", tmp_path / "dense", "--steps", "2048")
    assert done.returncode == 2
    assert "is for convolutional students" in " ".join(done.stderr.split())
    assert not (tmp_path / "dense-polished").exists()
    missing = run_pops("polish", tmp_path / "nothing", "--steps", "2048")
    assert missing.returncode == 1
    assert "is not a finished run" in missing.stderr
