"""pick(): another rung of a ladder, gated on seeds that nothing has seen."""

import json
import shutil

import numpy as np
import pytest
from core_cases import STEER, run_pops, steer_teacher, tiny
from core_envs import Steer

import pops
from pops.artifact import Run, write_json
from pops.errors import ArtifactError, UsageError
from pops.evaluate import evaluate
from pops.pick import pick
from pops.pipeline import compress
from pops.seeds import gate_start
from pops.spec import EnvSpec


@pytest.fixture(scope="module")
def finished(tmp_path_factory):
    out = tmp_path_factory.mktemp("pick") / "run"
    compress(steer_teacher(), STEER, out, tiny(stochastic=True), workers=1)
    return out


@pytest.fixture
def run(finished, tmp_path):
    return shutil.copytree(finished, tmp_path / "run")


def test_the_best_rung_within_the_budget_is_gated_on_a_fresh_block(run):
    before = Run(run).manifest
    looks = before["gate"]["looks"]
    rungs = before["ladder"]
    budget = rungs[-1]["num_parameters"] - 1
    result = pick(run, budget, workers=1)
    best = max(r["mean"] for r in rungs if r["num_parameters"] <= budget)
    chosen = result.manifest["student"]["num_parameters"]
    assert chosen <= budget
    assert max(r["mean"] for r in rungs if r["num_parameters"] == chosen) == best
    assert result.path == run.with_name(f"run-{chosen}")

    after = Run(run).manifest
    look = after["gate"]["looks"][-1]
    assert after["gate"]["looks"][:-1] == looks
    assert look["seed"] == gate_start(0) + 20 * len(looks) == before["gate"]["next_seed"]
    assert look["alpha"] == looks[-1]["alpha"] / 2
    assert after["gate"]["next_seed"] == look["seed"] + 20
    assert result.manifest["verdict"]["passed"] == look["passed"]
    assert result.manifest["picked_from"] == {"run": str(run), "max_params": budget}
    played = result.manifest["environment_steps"] - before["environment_steps"]
    assert played == 2 * 20 * Steer.STEPS + 4000
    picked = Run(result.path)
    assert picked.student.arch.num_parameters == chosen
    assert picked.states().shape == (4000, 3)
    assert picked.teacher.arch == steer_teacher().arch
    assert pops.load(result.path).predict(np.float32([1, 1, 0]))[0] in (0, 1, 2)
    # Taught from samples, judged against samples: the deterministic teacher returns more.
    stochastic = result.manifest["evaluation"]["teacher"]["mean"]
    plain = evaluate(steer_teacher(), STEER, range(look["seed"], look["seed"] + 20)).mean
    assert stochastic != plain


def test_what_is_reported_beside_is_the_rungs_own(tmp_path):
    env = EnvSpec("core_envs:Steer-v0", {"gain": 1.0}, beside={"gain": 0.5})
    run = compress(steer_teacher(), env, tmp_path / "run", tiny(), workers=1)
    rungs, known = run.manifest["ladder"], run.manifest["evaluation"]["beside"]
    assert known["student"]["num_parameters"] < rungs[-1]["num_parameters"]
    worst = min(rungs, key=lambda rung: rung["mean"])
    for rung in rungs:  # the worst one is picked
        rung["mean"] = -rung["mean"]
    write_json(run.path / "manifest.json", run.manifest)
    picked = pick(run.path, 10_000, workers=1)
    assert picked.student.arch.num_parameters == worst["num_parameters"]
    beside = picked.manifest["evaluation"]["beside"]
    seeds = range(known["student"]["seed"], known["student"]["seed"] + 30)
    assert beside["student"]["mean"] == evaluate(picked.student, env.variant(), seeds).mean
    assert beside["student"]["mean"] != known["student"]["mean"]
    assert beside["teacher"] == known["teacher"]


def test_what_cannot_be_picked_is_refused_and_nothing_is_lost(run):
    manifest = (run / "manifest.json").read_bytes()
    smallest = Run(run).manifest["ladder"][0]["num_parameters"]
    with pytest.raises(UsageError, match=f"the smallest has {smallest}"):
        pick(run, 1)
    with pytest.raises(UsageError, match="--overwrite to replace"):
        pick(run, 10_000, run)
    with pytest.raises(UsageError, match="holds the run that is picked from"):
        pick(run, 10_000, run, overwrite=True)
    other = run.with_name("thesis")
    other.mkdir()
    (other / "chapter").write_text("x")
    with pytest.raises(UsageError):
        pick(run, 10_000, other, overwrite=True)
    with pytest.raises(ArtifactError, match="not a finished run"):
        pick(other, 10)
    assert (run / "manifest.json").read_bytes() == manifest
    assert (other / "chapter").read_text() == "x"


@pytest.mark.slow
def test_the_command(run):
    done = run_pops("pick", run, "--max-params", "10000", "--json", "--workers", "1")
    assert done.returncode in (0, 3), done.stderr
    manifest = json.loads(done.stdout)
    assert manifest["verdict"]["passed"] == (done.returncode == 0)
    again = run_pops("pick", run, "--max-params", "10000", "--workers", "1")
    assert again.returncode == 2
    assert "--overwrite" in again.stderr
    nested = run_pops("pick", run, "--max-params", "1")
    assert nested.returncode == 2
    assert "Traceback" not in done.stderr + again.stderr + nested.stderr
