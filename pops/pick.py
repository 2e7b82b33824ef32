"""pick(): another rung of a run's ladder, gated on seeds that nothing has seen."""

from __future__ import annotations

import shutil
from pathlib import Path
from typing import Any

import numpy as np

from pops.artifact import (
    Run,
    load_policy,
    save_policy,
    sha256_file,
    write_arrays,
    write_bytes,
    write_json,
)
from pops.errors import ArtifactError, UsageError
from pops.evaluate import EvalResult, evaluate
from pops.gate import Verdict, judge, margin
from pops.metered import metered
from pops.pipeline import CompressResult
from pops.policy import NumpyPolicy
from pops.rollout import Sampler, calibration_states, collect, evaluate_sampling
from pops.seeds import random_seeds, training_block
from pops.spec import EnvSpec
from pops.workers import Workers, available_cores


def pick(
    run: Path | str,
    max_params: int,
    out: Path | str | None = None,
    *,
    overwrite: bool = False,
    workers: int | None = None,
) -> CompressResult:
    """Make a run of the best rung within a budget of parameters.

    The rung with the highest screening return is taken, the smaller of equals.
    It is gated on a fresh block of seeds at half the last look's error level,
    and the look is added to the original run's manifest too.

    Args:
        run: a run that `compress` left.
        max_params: parameters at most.
        out: the new run's folder; RUN-N beside the run if None.
        overwrite: replace a run in `out`.
        workers: processes; as many as cores if None.

    Raises:
        UsageError: if no rung is that small, or `out` exists.
        ArtifactError: if the run is damaged or cannot be evaluated again.
    """
    original = Run(run)
    manifest = original.manifest
    if manifest.get("env") is None:
        raise ArtifactError(
            f"{run} was compressed with an environment given as a function, so it cannot be "
            "played again from its files. Register the environment and give it by id."
        )
    rung = _best_rung(manifest, max_params, original.path)
    policy, _ = load_policy(original.path / rung["file"])
    env = EnvSpec(**{**manifest["env"], "wrappers": tuple(manifest["env"]["wrappers"])})
    target = _destination(original.path, rung["num_parameters"], out, overwrite)
    with Workers(workers or available_cores()) as pool, metered() as played:
        look, verdict, results = _gate(original, policy, env, manifest, pool)
        states = collect(
            policy,
            None,
            env,
            teacher_share=1.0,
            states=calibration_states(policy.spec),
            first_seed=training_block(manifest["seed"], "calibration"),
            workers=pool,
        )
    if target.exists():
        shutil.rmtree(target)
    manifest["gate"]["looks"].append(look)
    manifest["gate"]["next_seed"] = look["seed"] + look["episodes"]
    write_json(original.path / "manifest.json", manifest)

    save_policy(target / "student.safetensors", policy, {"algorithm": "PoPS"})
    teacher_file = original.path / "teacher.safetensors"
    write_bytes(target / "teacher.safetensors", teacher_file.read_bytes())
    write_arrays(target / "states.npz", {"observations": np.asarray(states)})
    picked = _manifest(manifest, rung, verdict, results)
    picked["student"]["sha256"] = sha256_file(target / "student.safetensors")
    picked["environment_steps"] += played.steps
    picked["picked_from"] = {"run": str(run), "max_params": max_params}
    write_json(target / "manifest.json", picked)
    return CompressResult(target, picked, policy, verdict)


def _best_rung(manifest: dict[str, Any], max_params: int, path: Path) -> dict[str, Any]:
    rungs: list[dict[str, Any]] = manifest["ladder"]
    fitting = [r for r in rungs if r["num_parameters"] <= max_params]
    if not fitting:
        smallest = min((r["num_parameters"] for r in rungs), default=None)
        if smallest is None:
            raise UsageError(f"{path} has no ladder; pick from the run that it was picked from.")
        raise UsageError(
            f"No rung of {path} has at most {max_params} parameters; the smallest has {smallest}."
        )
    return max(fitting, key=lambda r: (r["mean"], -r["num_parameters"]))


def _destination(run: Path, size: int, out: Path | str | None, overwrite: bool) -> Path:
    target = Path(out) if out is not None else run.with_name(f"{run.name}-{size}")
    if target.exists() and any(target.iterdir()):
        if not overwrite or not (target / "manifest.json").is_file():
            raise UsageError(
                f"{target} exists. Add --overwrite to replace a run there, or give --out another "
                "folder."
            )
        if target.resolve() in (run.resolve(), *run.resolve().parents):
            raise UsageError(
                f"{target} holds the run that is picked from; give --out another folder."
            )
    return target


def _gate(
    original: Run, policy: NumpyPolicy, env: EnvSpec, manifest: dict[str, Any], pool: Workers
) -> tuple[dict[str, Any], Verdict, tuple[EvalResult, EvalResult]]:
    last = manifest["gate"]["looks"][-1]
    start, episodes = int(manifest["gate"]["next_seed"]), int(last["episodes"])
    seeds = range(start, start + episodes)
    teacher = _play_teacher(original, env, seeds, pool)
    student = evaluate(policy, env, seeds, pool)
    random = manifest["evaluation"]["random"]
    allowed = margin(teacher, random_level(random), float(manifest["config"]["max_drop"]))
    alpha = float(last["alpha"]) / 2
    verdict = judge(student, teacher, allowed, alpha)
    look = {
        "seed": start,
        "episodes": episodes,
        "alpha": alpha,
        "num_parameters": policy.arch.num_parameters,
        "net_arch": str(policy.arch),
        "student_mean": student.mean,
        "teacher_mean": teacher.mean,
        **verdict.to_json(),
    }
    return look, verdict, (teacher, student)


def _play_teacher(run: Run, env: EnvSpec, seeds: range, pool: Workers) -> EvalResult:
    """The teacher's episodes, sampled where the run was taught from samples."""
    policy, facts = load_policy(run.path / "teacher.safetensors")
    if not run.manifest["config"]["stochastic"]:
        return evaluate(policy, env, seeds, pool)
    sampler = Sampler(policy.spec, tuple(facts.get("log_std") or ()))
    return evaluate_sampling(policy, sampler, env, seeds, pool)


def random_level(evaluation: dict[str, Any]) -> EvalResult:
    """The random policy's mean as a manifest keeps it, in the form that `margin` takes."""
    import numpy as np

    mean = np.asarray([evaluation["mean"]], np.float64)
    return EvalResult(tuple(random_seeds(0, 1)), mean, np.zeros(1, np.int64))


def _manifest(
    manifest: dict[str, Any],
    rung: dict[str, Any],
    verdict: Verdict,
    results: tuple[EvalResult, EvalResult],
) -> dict[str, Any]:
    from pops.arch import NetArch

    teacher, student = results
    arch = NetArch.from_json(rung["net_arch"])
    facts = {key: rung[key] for key in ("net_arch", "num_parameters", "num_weights", "name")}
    evaluation = {
        **manifest["evaluation"],
        "teacher": teacher.to_json(manifest["teacher"]["num_parameters"]),
        "student": student.to_json(arch.num_parameters),
    }
    return {
        **manifest,
        "student": {**facts, "macs": arch.macs},
        "evaluation": evaluation,
        "verdict": verdict.to_json(),
        "ladder": [],
        "iterations": [],
    }
