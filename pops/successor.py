"""A run made from a finished one: where it lies, its look at the gate, what it holds.

The look is at a block of seeds that nothing has seen, at half the last look's error level, so
that all looks that a run and its successors ever take err together no more often than the first
level says. The original's manifest keeps count of them.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pops.arch import NetArch
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
from pops.frames import States
from pops.gate import judge, margin
from pops.policy import NumpyPolicy
from pops.rollout import Sampler, calibration_states, collect, evaluate_sampling
from pops.seeds import random_seeds, training_block
from pops.spec import EnvSpec
from pops.workers import Workers


def playable_env(run: Run) -> EnvSpec:
    """The environment that a run was compressed in.

    Raises:
        ArtifactError: if it was given as a function.
    """
    known = run.manifest.get("env")
    if known is None:
        raise ArtifactError(
            f"{run.path} was compressed with an environment given as a function, so it cannot be "
            "played again from its files. Register the environment and give it by id."
        )
    return EnvSpec(**{**known, "wrappers": tuple(known["wrappers"])})


def keep_original(run: Path, target: Path, what: str) -> None:
    """Refuse a folder that holds the run itself.

    Raises:
        UsageError: with what the run is needed for.
    """
    if target.resolve() in (run.resolve(), *run.resolve().parents):
        raise UsageError(f"{target} holds the run that is {what}; give --out another folder.")


def new_folder(run: Path, target: Path, what: str, overwrite: bool) -> Path:
    """`target`, if there is nothing in it or a run that may be replaced.

    Raises:
        UsageError: otherwise.
    """
    if target.exists() and any(target.iterdir()):
        if not overwrite or not (target / "manifest.json").is_file():
            raise UsageError(
                f"{target} exists. Add --overwrite to replace a run there, or give --out another "
                "folder."
            )
        keep_original(run, target, what)
    return target


@dataclass(frozen=True)
class Look:
    """One look at the gate, as a manifest keeps it, and what the report tells of its episodes."""

    record: dict[str, Any]
    teacher: dict[str, Any]
    student: dict[str, Any]
    beside: dict[str, Any] | None
    """The student under the spec's other keyword arguments, if it names such."""

    @property
    def verdict(self) -> dict[str, Any]:
        """The record's part that is the verdict."""
        keys = ("passed", "mean_drop", "lower_bound", "margin", "reason", "distinct")
        return {key: self.record.get(key) for key in keys}


def look_at_gate(run: Run, policy: NumpyPolicy, env: EnvSpec, pool: Workers) -> Look:
    """Judge a policy against a run's teacher on the run's next block of gate seeds."""
    manifest = run.manifest
    last = manifest["gate"]["looks"][-1]
    start, episodes = int(manifest["gate"]["next_seed"]), int(last["episodes"])
    seeds = range(start, start + episodes)
    teacher = _play_teacher(run, env, seeds, pool)
    student = evaluate(policy, env, seeds, pool)
    allowed = margin(
        teacher, random_level(manifest["evaluation"]["random"]), manifest["config"]["max_drop"]
    )
    alpha = float(last["alpha"]) / 2
    record = {
        "seed": start,
        "episodes": episodes,
        "alpha": alpha,
        "num_parameters": policy.arch.num_parameters,
        "net_arch": str(policy.arch),
        "student_mean": student.mean,
        "teacher_mean": teacher.mean,
        **judge(student, teacher, allowed, alpha).to_json(),
    }
    return Look(
        record,
        teacher.to_json(manifest["teacher"]["num_parameters"]),
        student.to_json(policy.arch.num_parameters),
        _play_beside(manifest, policy, env, pool),
    )


def _play_teacher(run: Run, env: EnvSpec, seeds: range, pool: Workers) -> EvalResult:
    """The teacher's episodes, sampled where the run was taught from samples."""
    policy, facts = load_policy(run.path / "teacher.safetensors")
    if not run.manifest["config"]["stochastic"]:
        return evaluate(policy, env, seeds, pool)
    sampler = Sampler(policy.spec, tuple(facts.get("log_std") or ()))
    return evaluate_sampling(policy, sampler, env, seeds, pool)


def random_level(evaluation: dict[str, Any]) -> EvalResult:
    """The random policy's mean as a manifest keeps it, in the form that `margin` takes."""
    mean = np.asarray([evaluation["mean"]], np.float64)
    return EvalResult(tuple(random_seeds(0, 1)), mean, np.zeros(1, np.int64))


def _play_beside(
    manifest: dict[str, Any], policy: NumpyPolicy, env: EnvSpec, pool: Workers
) -> dict[str, Any] | None:
    """The student on the episodes that the run's teacher has beside its gate."""
    known, variant = manifest["evaluation"].get("beside"), env.variant()
    if known is None or variant is None:
        return None
    first, count = int(known["teacher"]["seed"]), int(known["teacher"]["episodes"])
    played = evaluate(policy, variant, range(first, first + count), pool)
    return {**known, "student": played.to_json(policy.arch.num_parameters)}


def calibration(policy: NumpyPolicy, env: EnvSpec, seed: int, pool: Workers) -> States:
    """States (N, *observation_shape) that a student visits, for `states.npz`."""
    return collect(
        policy,
        None,
        env,
        teacher_share=1.0,
        states=calibration_states(policy.spec),
        first_seed=training_block(seed, "calibration"),
        workers=pool,
    )


def remember_look(run: Run, look: Look) -> None:
    """Add a look to the original's manifest, once."""
    gate = run.manifest["gate"]
    if look.record["seed"] not in [known["seed"] for known in gate["looks"]]:
        gate["looks"].append(look.record)
        gate["next_seed"] = look.record["seed"] + look.record["episodes"]
        write_json(run.path / "manifest.json", run.manifest)


def write_successor(
    run: Run,
    target: Path,
    policy: NumpyPolicy,
    states: States,
    look: Look,
    facts: dict[str, Any],
) -> dict[str, Any]:
    """Write a run's files, the manifest last.

    Args:
        run: the original, which knows of the look already.
        target: the new run's folder.
        policy: its student.
        states: (N, *observation_shape) that the student visits.
        look: its look at the gate.
        facts: what differs in the manifest besides; `student` names it.

    Returns:
        The manifest.
    """
    save_policy(target / "student.safetensors", policy, {"algorithm": "PoPS"})
    write_bytes(target / "teacher.safetensors", (run.path / "teacher.safetensors").read_bytes())
    write_arrays(target / "states.npz", {"observations": np.asarray(states)})
    manifest = {**run.manifest, "ladder": [], "iterations": [], **facts}
    manifest["student"] = {
        **_network(policy.arch),
        **facts["student"],
        "sha256": sha256_file(target / "student.safetensors"),
    }
    manifest["evaluation"] = {
        **run.manifest["evaluation"],
        "teacher": look.teacher,
        "student": look.student,
    }
    if look.beside is not None:
        manifest["evaluation"]["beside"] = look.beside
    manifest["verdict"] = look.verdict
    write_json(target / "manifest.json", manifest)
    return manifest


def _network(arch: NetArch) -> dict[str, Any]:
    return {
        "num_parameters": arch.num_parameters,
        "num_weights": arch.num_weights,
        "net_arch": arch.to_json(),
        "macs": arch.macs,
    }
