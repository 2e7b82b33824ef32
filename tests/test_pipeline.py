"""compress() from a teacher to a gated student, and what the run holds afterwards."""

import dataclasses
import json
import math
import time

import numpy as np
import pytest
from core_cases import CARTPOLE, STEER, cartpole_teacher, glide_teacher, steer_teacher, tiny

import pops
from pops.artifact import Run, load_policy, read_json
from pops.config import CompressConfig, PruneConfig
from pops.envs import make_env
from pops.errors import EnvironmentFailure, GateFailed, PopsError, UsageError
from pops.evaluate import evaluate
from pops.pipeline import compress
from pops.policy import NumpyPolicy
from pops.seeds import gate_start
from pops.spec import EnvSpec
from pops.tracking import Tracker

SHORT = EnvSpec("CartPole-v1", {"max_episode_steps": 100})
"""Of full length it would take minutes of test time."""
EVALUATION = {"episodes", "seed", "mean", "std", "min", "max", "mean_length", "num_parameters"}


@pytest.fixture(scope="module")
def cartpole(tmp_path_factory):
    out = tmp_path_factory.mktemp("cartpole") / "run"
    with Tracker(out, "quiet") as tracker:
        return compress(cartpole_teacher(), SHORT, out, tiny(), workers=1, tracker=tracker)


def test_cartpole_becomes_tiny_and_passes_a_gate_without_margin(cartpole):
    manifest = cartpole.manifest
    assert cartpole.verdict.passed
    assert cartpole.require() is cartpole
    assert manifest["teacher"]["num_parameters"] == 4 * 32 + 32 + 32 * 32 + 32 + 32 * 2 + 2
    assert manifest["student"]["num_parameters"] <= 1282 // 5
    assert manifest["evaluation"]["student"]["min"] == 100.0
    assert manifest["verdict"]["margin"] == 0.0
    assert manifest["verdict"]["lower_bound"] == 0.0
    assert manifest["verdict"]["mean_drop"] == 0.0


def test_the_seconds_of_a_run_hold_the_last_games_too(tmp_path, monkeypatch):
    def slow_evaluate(*arguments):
        time.sleep(2)
        return evaluate(*arguments)

    monkeypatch.setattr("pops.finish.evaluate", slow_evaluate)
    env = EnvSpec("core_envs:Steer-v0", {"gain": 1.0}, beside={"gain": 0.5})
    run = compress(steer_teacher(), env, tmp_path / "run", tiny(), workers=1)
    stages = [read_json(path)["seconds"] for path in run.path.rglob("facts.json")]
    assert run.manifest["seconds"] >= sum(stages) >= 4


def test_the_manifest_holds_what_others_rely_on(cartpole):
    manifest = json.loads((cartpole.path / "manifest.json").read_text())
    assert manifest == cartpole.manifest
    assert manifest["format"] == "pops-run-1"
    assert {"num_parameters", "source", "sha256", "net_arch"} <= set(manifest["teacher"])
    assert {"num_parameters", "net_arch", "macs"} <= set(manifest["student"])
    assert set(manifest["evaluation"]) == {"teacher", "student", "random"}
    for evaluation in manifest["evaluation"].values():
        assert set(evaluation) >= EVALUATION
        assert "returns" not in evaluation
    assert manifest["evaluation"]["teacher"]["num_parameters"] == 1282
    assert {"passed", "mean_drop", "lower_bound", "margin", "reason"} <= set(manifest["verdict"])
    assert manifest["seconds"] > 0
    assert manifest["seed"] == 0
    assert manifest["versions"]["pops-rl"] == pops.__version__
    assert {"numpy", "torch", "gymnasium", "python"} <= set(manifest["versions"])
    assert manifest["env"]["id"] == "CartPole-v1"
    assert manifest["config"]["episodes"] == 20
    assert manifest["environment_steps"] > 0


def test_iterations_tell_size_return_episodes_and_seconds(cartpole):
    iterations = cartpole.manifest["iterations"]
    assert iterations
    for index, entry in enumerate(iterations, 1):
        assert entry["index"] == index
        assert {"num_parameters", "mean", "std", "seconds", "net_arch"} <= set(entry)
        assert len(entry["nonzeros_per_layer"]) == len(entry["redundancy_per_layer"])
        assert all(0 <= share <= 1 for share in entry["redundancy_per_layer"])
        assert (cartpole.path / f"iterations/{index}").is_dir()
    assert iterations[0]["num_parameters"] < 1282


def test_every_rung_of_the_ladder_is_there_and_loads(cartpole):
    ladder = cartpole.manifest["ladder"]
    files = {path.name for path in (cartpole.path / "ladder").iterdir()}
    assert {entry["file"].removeprefix("ladder/") for entry in ladder} == files
    assert len(ladder) == len(files) > 2
    sizes = [entry["num_parameters"] for entry in ladder]
    assert sizes == sorted(sizes)
    for entry in ladder:
        policy, _ = load_policy(cartpole.path / entry["file"])
        assert policy.arch.num_parameters == entry["num_parameters"]
        seeds = range(entry["seed"], entry["seed"] + entry["episodes"])
        if entry["episodes"] <= 48:
            assert evaluate(policy, SHORT, seeds).mean == entry["mean"]


def test_gate_seeds_were_seen_by_nothing_else(cartpole):
    manifest = cartpole.manifest
    looks = manifest["gate"]["looks"]
    assert looks[0]["seed"] == gate_start(0) == manifest["evaluation"]["student"]["seed"]
    assert looks[0]["alpha"] == 0.05
    last = looks[-1]
    assert manifest["gate"]["next_seed"] == last["seed"] + last["episodes"]
    seen = [manifest["evaluation"]["random"]["seed"]]
    seen += [entry["seed"] for entry in manifest["ladder"]]
    assert all(not 750_000_000 <= seed < 1_000_000_000 for seed in seen)


def test_the_run_loads_and_acts_with_numpy(cartpole):
    student = pops.load(cartpole.path)
    assert isinstance(student, NumpyPolicy)
    assert student.spec.env == SHORT
    action, state = student.predict(np.array([0, 0, 0.1, 0.5], np.float32))
    assert (int(action), state) == (1, None)
    assert int(student.predict(np.array([0, 0, -0.1, -0.5]))[0]) == 0
    again = evaluate(pops.load(cartpole.path), SHORT, range(5))
    assert again.returns.tolist() == [100.0] * 5


def test_states_figures_metrics_and_events_are_there(cartpole):
    run = Run(cartpole.path)
    assert run.states().shape == (4000, 4)
    assert run.states().dtype == np.float32
    assert run.teacher.arch.num_parameters == 1282
    figures = {path.name for path in (cartpole.path / "figures").iterdir()}
    assert {f"{n}_vs_return.{s}" for n in ("size", "sparsity") for s in ("png", "svg")} <= figures
    lines = (cartpole.path / "metrics.jsonl").read_text().splitlines()
    kinds = {json.loads(line)["kind"] for line in lines}
    assert {"evaluation", "candidate", "gate"} <= kinds
    assert list(cartpole.path.glob("tensorboard/*/events.out.tfevents.*"))
    assert not list(cartpole.path.glob("**/.*"))


def test_a_continuous_teacher_from_a_function_with_two_workers(tmp_path):
    env = EnvSpec("core_envs:Glide-v0")
    result = compress(glide_teacher(), lambda: make_env(env), tmp_path / "run", tiny(), workers=2)
    assert result.verdict.passed, result.verdict.reason
    assert result.manifest["student"]["num_parameters"] <= 353 // 2
    assert result.manifest["env"] is None
    action = pops.load(tmp_path / "run").predict(np.float32([1, 1, 0]))[0]
    np.testing.assert_allclose(action, [-2], atol=0.2)


def no_search(**changes):
    config = tiny(iterations=1, **changes)
    return dataclasses.replace(
        config,
        search=dataclasses.replace(config.search, enabled=False),
        polish=dataclasses.replace(config.polish, enabled=False),
    )


def test_a_gate_that_does_not_pass_is_a_result_and_the_student_is_kept(tmp_path):
    config = no_search()
    fresh = dataclasses.replace(config.distill, learning_rate=1e-9, race_warm_start=False)
    config = dataclasses.replace(config, distill=fresh)
    result = compress(steer_teacher(), STEER, tmp_path / "run", config, workers=1)
    assert not result.verdict.passed
    assert result.manifest["verdict"]["passed"] is False
    assert result.manifest["verdict"]["lower_bound"] < 0
    assert (tmp_path / "run/student.safetensors").is_file()
    with pytest.raises(GateFailed, match="did not pass"):
        result.require()


def test_a_budget_of_parameters_ends_the_search(tmp_path):
    full = tiny()
    result = compress(
        steer_teacher(), STEER, tmp_path / "run", dataclasses.replace(full, max_params=300)
    )
    assert result.manifest["student"]["num_parameters"] <= 300
    assert len(result.manifest["iterations"]) == 1
    assert not (tmp_path / "run/search").exists()


def test_a_stochastic_teacher_is_sampled(tmp_path):
    """A teacher of probabilities a little apart plays much worse sampled, and is judged so."""
    sharp = steer_teacher()
    weight, bias = sharp.parameters[-1]
    soft = NumpyPolicy(sharp.spec, sharp.arch, [*sharp.parameters[:-1], (weight * 0.5, bias)])
    results = {
        flag: compress(soft, STEER, tmp_path / str(flag), no_search(stochastic=flag), workers=1)
        for flag in (False, True)
    }
    means = {flag: r.manifest["evaluation"]["teacher"]["mean"] for flag, r in results.items()}
    assert means[True] < means[False] - 0.3
    assert results[True].manifest["config"]["stochastic"] is True


def test_a_teacher_no_better_than_random_is_refused(tmp_path):
    teacher = steer_teacher()
    silent = NumpyPolicy(
        teacher.spec, teacher.arch, [(0 * w - 0.0, 0 * b) for w, b in teacher.parameters]
    )
    with pytest.raises(PopsError, match="clearly better than random"):
        compress(silent, STEER, tmp_path / "run", tiny(), workers=1)
    assert not (tmp_path / "run/manifest.json").exists()


def test_the_environment_is_the_one_asked_for_and_has_to_fit(tmp_path):
    for env in (CARTPOLE, lambda: make_env(CARTPOLE), EnvSpec("core_envs:Glide-v0")):
        with pytest.raises(EnvironmentFailure, match=r"shape \(3,\) and puts out 3 values"):
            compress(steer_teacher(), env, tmp_path / "run", tiny())
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"episodes": 19}, "--episodes 19, expected at least 20"),
        ({"seed": -1}, "--seed -1, expected 0 or more"),
        ({"max_drop": -0.1}, "--max-drop"),
        ({"max_drop": math.nan}, "--max-drop nan"),
        ({"budget_scale": 0.0}, "--budget-scale"),
        ({"budget_scale": math.inf}, "--budget-scale"),
        ({"max_params": 0}, "--max-params 0, expected at least 1"),
        ({"prune": PruneConfig(frequency=0)}, "--prune.frequency 0"),
        ({"prune": PruneConfig(target_sparsity=1.5)}, "--prune.target-sparsity 1.5"),
    ],
)
def test_settings_out_of_range_are_refused_before_anything_is_written(tmp_path, changes, words):
    with pytest.raises(UsageError, match=words):
        compress(steer_teacher(), STEER, tmp_path / "run", CompressConfig(**changes))
    assert not (tmp_path / "run").exists()


def test_where_nothing_is_redundant_the_teachers_own_copy_is_the_student(tmp_path):
    """Pruned to the end at once, no student meets the objective and none is smaller."""
    config = no_search()
    prune = dataclasses.replace(config.prune, updates=40, frequency=1, target_sparsity=1.0)
    config = dataclasses.replace(config, prune=prune)
    policy = steer_teacher()  # without its exact zeros, which would count as pruned
    dense = [(w + np.float32(1e-3), b) for w, b in policy.parameters]
    teacher = NumpyPolicy(policy.spec, policy.arch, dense)
    result = compress(teacher, STEER, tmp_path / "run", config, workers=1)
    student = result.manifest["student"]
    assert (student["name"], student["num_parameters"]) == ("teacher's copy", 387)
    assert result.verdict.passed
    assert result.verdict.mean_drop == 0.0
    assert [entry["stage"] for entry in result.manifest["ladder"]] == ["iteration"]
