"""What is exported: the student of a run, or a teacher file together with its environment."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from pops.artifact import Run, sha256_file
from pops.errors import EnvironmentFailure, GateFailed, PopsError, UsageError
from pops.policy import NumpyPolicy
from pops.spec import Array, EnvSpec
from pops_export.config import ExportConfig
from pops_export.recorder import Recorder

TEACHER_GATE_SEED = 1_900_000_000
"""First gate seed where no run says which seeds are still fresh."""
TEACHER_STATES = 5_000
"""States that a teacher is played for where no run brings any."""
STATES_SEED = 1_700_000_000


@dataclass(frozen=True)
class Source:
    """A policy, the states it visits, and the teacher that it is judged against."""

    policy: NumpyPolicy
    role: Literal["student", "teacher"]
    states: Array
    """(N, *observation_shape) that the policy visits."""
    teacher: NumpyPolicy
    env: EnvSpec | None
    gate_seed: int
    """First seed of a block that nobody has used."""
    facts: dict[str, Any]
    """Where it came from, for artifact.json."""


def load_source(config: ExportConfig) -> Source:
    """Open what `config.source` names.

    Raises:
        GateFailed: if the run's gate failed and --force was not given.
        UsageError: if it is neither a run nor a teacher file, or a teacher lacks --env.
    """
    if config.source.is_dir():
        return _from_run(config)
    if config.source.is_file():
        return _from_teacher(config)
    raise UsageError(
        f"{config.source} does not exist. Expected a run that `pops compress --out` left, or a "
        "teacher file together with --env."
    )


def _from_run(config: ExportConfig) -> Source:
    run = Run(config.source)
    verdict = run.manifest.get("verdict") or {}
    if verdict.get("passed") is not True and not config.force:
        reason = verdict.get("reason", "the run holds no verdict")
        raise GateFailed(
            f"The gate of {config.source} did not pass: {reason} Compress again with a larger "
            "student (--min-params, or another --seed), or export it as it is with --force."
        )
    policy = run.student
    env = policy.spec.env
    if run.manifest.get("env"):
        env = _env_from_json(run.manifest["env"])
    gate = run.manifest.get("gate") or {}
    states = run.states()
    _check_states(policy, states, str(run.path / "states.npz"))
    return Source(
        policy,
        "student",
        states,
        run.teacher,
        env,
        int(gate.get("next_seed", TEACHER_GATE_SEED)),
        {
            "run": run.path.name,
            "student_sha256": sha256_file(run.path / "student.safetensors"),
            "teacher_sha256": sha256_file(run.path / "teacher.safetensors"),
            "gate_passed": verdict.get("passed") is True,
        },
    )


def _from_teacher(config: ExportConfig) -> Source:
    from pops.teacher.load import load_teacher

    env = _given_env(config)
    teacher = load_teacher(config.source, env=env, vecnormalize=config.vecnormalize)
    env = teacher.policy.spec.env or env
    if env is None:
        raise UsageError(
            f"{config.source} is a file, so it is read as a teacher, and a teacher needs its "
            "environment: add --env ID. To export a student, name the run's folder."
        )
    return Source(
        teacher.policy,
        "teacher",
        visited_states(teacher.policy, env, TEACHER_STATES),
        teacher.policy,
        env,
        TEACHER_GATE_SEED,
        {"teacher": config.source.name, "teacher_sha256": teacher.sha256},
    )


def _given_env(config: ExportConfig) -> EnvSpec | None:
    if config.env is None:
        return None
    from pops.train.config import parse_env_kwargs

    return EnvSpec(config.env, parse_env_kwargs(config.env_kwargs))


def visited_states(policy: NumpyPolicy, env: EnvSpec, count: int) -> Array:
    """At least some, at most `count` observations that the policy meets while it plays."""
    from pops.evaluate import play

    recorder = Recorder(policy)
    episodes, seed = 10, STATES_SEED
    while recorder.count < count and seed < STATES_SEED + 1000:
        play(recorder, env, range(seed, seed + episodes))
        seed += episodes
    return recorder.states(count)


def _check_states(policy: NumpyPolicy, states: Array, name: str) -> None:
    shape = policy.spec.observation_shape
    if states.shape[1:] != shape or not len(states):
        raise PopsError(
            f"{name} holds observations of shape {states.shape}, expected (N, *{shape}) with at "
            "least one. Compress again."
        )
    if states.dtype.kind == "f" and not np.isfinite(states).all():
        raise PopsError(f"{name} holds NaN or infinite observations. Compress again.")


def _env_from_json(data: dict[str, Any]) -> EnvSpec:
    try:
        return EnvSpec(**{**data, "wrappers": tuple(data.get("wrappers", ()))})
    except TypeError as error:
        raise EnvironmentFailure(
            f"The run's manifest describes its environment in a way that cannot be read "
            f"({error}). Compress again with this version."
        ) from error
