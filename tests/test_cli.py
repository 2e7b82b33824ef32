"""The command line, from outside: what it prints, and its exit status."""

import json
import time

import numpy as np
import pytest
from core_cases import TINY_OPTIONS, run_pops, steer_teacher

import pops
from pops.artifact import load_policy, save_policy
from pops.cli import COMMANDS, main
from pops.evaluate import evaluate, evaluate_random
from pops.gate import judge, margin
from pops.seeds import random_seeds
from pops.workers import Workers

EVAL_KEYS = {
    *("episodes", "seed", "mean", "std", "min", "max", "mean_length", "num_parameters", "returns")
}


@pytest.fixture(scope="module")
def teacher(tmp_path_factory):
    path = tmp_path_factory.mktemp("teacher") / "steer.safetensors"
    save_policy(path, steer_teacher())
    return path


def test_help_names_every_command(capsys):
    assert main(["--help"]) == 0
    text = capsys.readouterr().out
    assert all(name in text for name in COMMANDS)
    assert main([]) == 2


@pytest.mark.parametrize("command", [c for c in COMMANDS if c != "deploy"])
def test_every_command_has_help(command, capsys):
    assert main([command, "--help"]) == 0
    text = capsys.readouterr().out
    assert f"pops {command}" in text
    assert len(text) > 300


def test_version(capsys):
    assert main(["--version"]) == 0
    assert capsys.readouterr().out == f"pops {pops.__version__}\n"


@pytest.mark.parametrize(
    "arguments",
    [
        ["compres"],
        ["eval"],
        ["eval", "x", "--no-such-option"],
        ["compress", "--teacher", "x"],
        ["compress", "--teacher", "x", "--out", "y", "--effort", "heroic"],
        ["eval", "no-such-file", "--env", "CartPole-v1"],
        ["compress", "--teacher", "no-such-file", "--env", "CartPole-v1", "--out", "run"],
    ],
)
def test_wrong_usage_has_status_2_and_no_traceback(arguments, capsys, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    assert main(arguments) == 2
    captured = capsys.readouterr()
    assert captured.err
    assert "Traceback" not in captured.err + captured.out
    assert not list(tmp_path.iterdir())


def test_a_missing_file_is_named(capsys):
    assert main(["eval", "no-such-file.zip", "--env", "CartPole-v1"]) == 2
    assert capsys.readouterr().err == "pops eval: There is nothing at no-such-file.zip.\n"


def test_eval_as_json(teacher, capsys):
    options = ["--episodes", "7", "--seed", "500", "--workers", "1", "--json"]
    assert main(["eval", str(teacher), *options]) == 0
    data = json.loads(capsys.readouterr().out)
    assert set(data) >= EVAL_KEYS
    policy, _ = load_policy(teacher)
    result = evaluate(policy, policy.spec.env, range(500, 507))
    assert data["returns"] == result.returns.tolist()
    assert (data["episodes"], data["seed"], data["num_parameters"]) == (7, 500, 387)
    assert data["mean"] == np.mean(data["returns"])
    assert data["std"] == np.std(data["returns"])
    assert (data["min"], data["max"]) == (min(data["returns"]), max(data["returns"]))
    assert data["mean_length"] == 20.0


def test_eval_in_words(teacher, capsys):
    assert main(["eval", str(teacher), "--episodes", "3", "--workers", "1"]) == 0
    text = capsys.readouterr().out
    assert "over 3 episodes" in text
    assert "387 parameters" in text
    assert main(["eval", str(teacher), "--episodes", "0"]) == 2


def test_eval_against_a_teacher_is_the_gate(teacher, tmp_path, capsys):
    options = ["--episodes", "20", "--seed", "500", "--workers", "1", "--against", str(teacher)]
    assert main(["eval", str(teacher), *options]) == 0
    assert "passed: On 20 paired episodes" in capsys.readouterr().out
    policy, _ = load_policy(teacher)
    worse = type(policy)(
        policy.spec, policy.arch, [(0.0 * weight, bias) for weight, bias in policy.parameters]
    )
    save_policy(tmp_path / "worse.safetensors", worse)
    assert main(["eval", str(tmp_path / "worse.safetensors"), *options, "--json"]) == 3
    data = json.loads(capsys.readouterr().out)
    seeds = range(500, 520)
    student, reference = (evaluate(p, policy.spec.env, seeds) for p in (worse, policy))
    with Workers(1) as pool:
        random = evaluate_random(policy.spec.env, random_seeds(0, 100), pool)
    assert data["against"]["random"]["mean"] == random.mean
    assert data["against"]["teacher"]["returns"] == reference.returns.tolist()
    verdict = judge(student, reference, margin(reference, random))
    assert data["against"]["verdict"] == verdict.to_json()
    assert not verdict.passed


@pytest.mark.parametrize(
    "options",
    [
        ["--against", "nothing"],
        ["--against", "SELF", "--episodes", "19"],
        ["--against", "SELF", "--max-drop", "1"],
        ["--max-drop", "0.1"],
    ],
)
def test_eval_against_nothing_or_too_few_is_wrong_usage(teacher, options, capsys):
    options = [str(teacher) if option == "SELF" else option for option in options]
    assert main(["eval", str(teacher), *options]) == 2
    assert capsys.readouterr().out == ""


def test_env_kwargs_and_wrappers(teacher, capsys):
    common = ["eval", str(teacher), "--env", "core_envs:Steer-v0", "--episodes", "2", "--json"]
    common += ["--workers", "1"]
    means = []
    for more in (
        [],
        ["--wrapper", "core_envs:DoubleReward"],
        ["--env-kwargs", "gain=0.5"],
    ):
        assert main([*common, *more]) == 0
        means.append(json.loads(capsys.readouterr().out)["mean"])
    assert means[1] == pytest.approx(2 * means[0])
    assert means[2] != means[0]


def test_info_as_json(teacher, capsys):
    assert main(["info", str(teacher), "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    assert data["num_parameters"] == 387


@pytest.fixture(scope="module")
def compressed(teacher, tmp_path_factory):
    out = tmp_path_factory.mktemp("cli") / "run"
    options = ["--teacher", teacher, "--out", out, "--workers", "1", *TINY_OPTIONS]
    return out, run_pops("compress", *options)


@pytest.mark.slow
def test_compress_in_plain_lines_and_one_table(compressed):
    out, done = compressed
    assert done.returncode == 0, done.stderr
    assert done.stderr == ""
    assert "prune, iteration 1" in done.stdout
    assert "gate:" in done.stdout
    assert "387" in done.stdout
    assert f"pops export {out}" in done.stdout
    assert "\x1b[" not in done.stdout
    assert json.loads((out / "manifest.json").read_text())["command"].startswith("pops compress")


@pytest.mark.slow
def test_json_and_quiet_are_for_scripts(compressed, teacher):
    """A resumed run is quick: its stages are read."""
    out, _ = compressed
    options = ["--teacher", teacher, "--out", out, "--workers", "1", *TINY_OPTIONS, "--resume"]
    done = run_pops("compress", *options, "--json")
    assert (done.returncode, done.stderr) == (0, "")
    manifest = json.loads(done.stdout)
    assert manifest["verdict"]["passed"] is True
    quiet = run_pops("compress", *options, "--quiet")
    assert (quiet.returncode, quiet.stdout, quiet.stderr) == (0, "", "")


@pytest.mark.slow
def test_a_run_can_be_evaluated_and_be_a_teacher(compressed, capsys, tmp_path):
    out, _ = compressed
    assert main(["eval", str(out), "--episodes", "2", "--workers", "1", "--json"]) == 0
    data = json.loads(capsys.readouterr().out)
    size = json.loads((out / "manifest.json").read_text())["student"]["num_parameters"]
    assert data["num_parameters"] == size
    same = ["compress", "--teacher", str(out), "--out", str(out), "--overwrite", "--quiet"]
    assert main([*same, *TINY_OPTIONS]) == 2
    assert "--overwrite would remove" in capsys.readouterr().err
    assert (out / "student.safetensors").is_file()


@pytest.mark.slow
def test_a_gate_that_does_not_pass_has_status_3(teacher, tmp_path, capsys):
    """A student that may not learn: no rounds of search, one round at next to no rate."""
    options = ["--teacher", str(teacher), "--out", str(tmp_path / "run"), "--workers", "1"]
    options += ["--quiet", *TINY_OPTIONS, "--iterations", "1", "--distill.rounds", "1"]
    options += ["--distill.learning-rate", "1e-9", "--distill.no-race-warm-start"]
    options += ["--search.no-enabled", "--polish.no-enabled"]
    status = main(["compress", *options])
    manifest = json.loads((tmp_path / "run/manifest.json").read_text())
    assert manifest["verdict"]["passed"] is False
    assert status == 3


@pytest.mark.slow
def test_start_up_is_quick():
    """`import pops` and `pops --help` wait for nothing heavy; the best of three runs counts."""
    times = []
    for _ in range(3):
        started = time.perf_counter()
        assert run_pops("--help").returncode == 0
        times.append(time.perf_counter() - started)
    assert min(times) < 0.5
