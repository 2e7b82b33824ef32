"""load_teacher(): a trained policy from a file, by what the file holds and not by its name."""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pops.arch import ACTIVATIONS
from pops.artifact import sha256_file
from pops.errors import UsageError
from pops.policy import NumpyPolicy
from pops.spec import EnvSpec
from pops.teacher.contents import Contents
from pops.teacher.fit import fit
from pops.teacher.read import read_contents, teacher_file
from pops.teacher.vecnormalize import Statistics, read_vecnormalize
from pops.teacher.zoo import Zoo, find_vecnormalize, read_zoo

if TYPE_CHECKING:
    from pops.envs import EnvSource

SINGLE_FRAMES = (
    "the statistics are of single frames, stacked afterwards: until the stack is full after a "
    "reset, its empty frames are normalised too, which they were not in training"
)


@dataclass(frozen=True)
class Teacher:
    """A trained policy and where it came from."""

    policy: NumpyPolicy
    source: str
    """The path that was given."""
    sha256: str
    """Of the policy's file."""
    facts: dict[str, Any]
    """JSON-ready: kind, algorithm, library_version, activation, activation_source, log_std, ..."""


def load_teacher(
    path: Path | str,
    *,
    env: EnvSource | None = None,
    vecnormalize: Path | None = None,
    activation: str | None = None,
) -> Teacher:
    """Load a trained policy. Nothing that the file names is imported or called.

    Args:
        path: a Stable-Baselines3 or sb3-contrib zip, a safetensors policy of pops, a torch
            state dict, a `.cleanrl_model`, an ONNX chain, or a folder that pops wrote.
        env: the environment to act in, or a function that makes it; it is made once, action
            bounds are taken from it and the teacher's spaces are checked against it. What it
            leaves open is as a policy of pops has it (`EnvSpec.like`); a zoo `config.yml`
            beside the file may stack frames. The `spec.env` of the result is what was made.
        vecnormalize: VecNormalize statistics; looked for beside the file when None.
        activation: of the hidden layers, where the file does not tell it or tells it wrongly.

    Raises:
        TeacherError: if the file is damaged or holds something that is not supported.
        EnvironmentFailure: if the environment cannot be made or does not fit.
        MissingPackage: if torch or onnx is needed and not installed.
    """
    path = Path(path)
    if activation is not None and activation not in ACTIVATIONS:
        raise UsageError(
            f"Activation {activation!r} is not known; expected one of {', '.join(ACTIVATIONS)}."
        )
    file = teacher_file(path)
    contents = read_contents(file, activation)
    zoo = read_zoo(file)
    if isinstance(env, EnvSpec):
        known = contents.policy.spec.env if contents.policy is not None else None
        if known is not None:
            env = env.like(known)
        elif not env.frame_stack:
            env = dataclasses.replace(env, frame_stack=zoo.frame_stack)
    statistics = observation_statistics(file, contents, vecnormalize)
    policy = fit(contents, env, statistics)
    facts = contents_facts(contents, zoo)
    if statistics is not None:
        facts["vecnormalize"] = statistics_facts(statistics)
        normaliser = policy.spec.normaliser
        if normaliser is not None and statistics.features < len(normaliser.mean):
            facts["notes"] = [*facts.get("notes", []), SINGLE_FRAMES]
    return Teacher(policy, str(path), sha256_file(file), facts)


def observation_statistics(
    file: Path, contents: Contents, vecnormalize: Path | None
) -> Statistics | None:
    """The statistics given, or those found beside the file; None where there are none."""
    if contents.policy is not None and vecnormalize is None:
        return None
    if contents.policy is not None:
        raise UsageError(
            f"{file} holds its own normaliser, so --vecnormalize has nothing to say; leave it away."
        )
    found = vecnormalize if vecnormalize is not None else find_vecnormalize(file)
    return None if found is None else read_vecnormalize(Path(found))


def statistics_facts(statistics: Statistics) -> dict[str, Any]:
    """Where the statistics came from and what they hold, JSON-ready."""
    return {
        "path": str(statistics.path),
        "sha256": sha256_file(statistics.path),
        "norm_obs": statistics.norm_obs,
        "features": statistics.features,
        "epsilon": statistics.epsilon,
        "clip_obs": statistics.clip_obs,
    }


def contents_facts(contents: Contents, zoo: Zoo) -> dict[str, Any]:
    """What the file tells about itself, JSON-ready."""
    facts: dict[str, Any] = {
        "kind": contents.kind,
        "algorithm": contents.algorithm,
        "library_version": contents.library_version,
        "activation": contents.activation,
        "activation_source": contents.activation_source,
    }
    if contents.log_std is not None:
        facts["log_std"] = contents.log_std
    if contents.policy is not None and contents.policy.spec.env is not None:
        facts["env"] = contents.policy.spec.env.id
    if zoo.env_id is not None:
        facts["env"] = zoo.env_id
    if zoo.facts:
        facts["zoo"] = zoo.facts
    if contents.notes:
        facts["notes"] = list(contents.notes)
    return {**facts, **contents.extra}
