"""Subjects: the policies to measure, found in runs and artifacts."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pops.artifact import Run
from pops.errors import ArtifactError, UsageError
from pops.spec import Array, PolicySpec
from pops_deploy.bench.rows import Role
from pops_deploy.folder import Artifact

Exporter = Callable[[Path, str], "Path | None"]
"""(run, "teacher" or "student") to the folder of its artifact, made where it is missing."""


@dataclass(frozen=True)
class Subject:
    """One policy, with everything that a target needs to measure it."""

    role: Role
    policy: str
    num_parameters: int
    spec: PolicySpec
    observations: Array
    """(N, *observation_shape): observations that the policy's student visited."""
    artifact: Artifact | None
    policy_file: Path | None
    """The .safetensors file of a run; runtimes such as torch read it."""
    evaluation: dict[str, Any] | None
    """Of the policy itself, from the run's manifest."""


def find_subjects(
    paths: tuple[Path, ...], limit: int, export: Exporter | None = None
) -> list[Subject]:
    """The policies in runs and artifacts, teachers first.

    Args:
        paths: folders of runs or artifacts.
        limit: most observations for each policy, spread evenly over those on file.
        export: makes the artifacts of a run; without it, only what `pops export` left.

    Raises:
        UsageError: if there is no path, or one is neither a run nor an artifact.
        ArtifactError: if one is damaged.
    """
    if not paths:
        raise UsageError("Nothing to measure: name at least one run or artifact.")
    found: list[Subject] = []
    for path in paths:
        if (path / "artifact.json").is_file():
            found.append(_of_artifact(Artifact(path), limit))
        elif (path / "manifest.json").is_file():
            found.extend(_of_run(path, limit, export))
        else:
            raise UsageError(
                f"{path} is neither a run nor an artifact: it has neither manifest.json nor "
                "artifact.json. Expected a folder that `pops compress` or `pops export` wrote."
            )
    return sorted(found, key=lambda subject: subject.role != "teacher")


def _of_artifact(artifact: Artifact, limit: int) -> Subject:
    golden = artifact.golden()
    if "observations" not in golden:
        raise ArtifactError(f"{artifact.path}: golden.npz holds no observations. Export again.")
    return Subject(
        role=_role(artifact.role),
        policy=str(artifact.arch),
        num_parameters=artifact.arch.num_parameters,
        spec=artifact.spec,
        observations=_spread(golden["observations"], limit),
        artifact=artifact,
        policy_file=None,
        evaluation=None,
    )


def _of_run(path: Path, limit: int, export: Exporter | None) -> list[Subject]:
    run = Run(path)
    evaluations = run.manifest.get("evaluation") or {}
    states = _spread(run.states(), limit)
    result = []
    for role, policy in (("teacher", run.teacher), ("student", run.student)):
        folder = export(path, role) if export is not None else _exported(path, role)
        result.append(
            Subject(
                role=_role(role),
                policy=str(policy.arch),
                num_parameters=policy.arch.num_parameters,
                spec=policy.spec,
                observations=states,
                artifact=None if folder is None else Artifact(folder),
                policy_file=path / f"{role}.safetensors",
                evaluation=evaluations.get(role),
            )
        )
    return result


def _exported(path: Path, role: str) -> Path | None:
    """Where `pops export` leaves what it made of a run; None where it has not been there."""
    folder = path / ("artifact" if role == "student" else "teacher-artifact")
    return folder if (folder / "artifact.json").is_file() else None


def _role(role: str) -> Role:
    return "teacher" if role == "teacher" else "student"


def _spread(observations: Array, limit: int) -> Array:
    """At most `limit` observations, evenly over the whole, finite ones only."""
    if observations.dtype.kind == "f":
        flat = observations.reshape(len(observations), -1)
        observations = observations[np.isfinite(flat).all(axis=1)]
    if not len(observations):
        raise ArtifactError("There are no observations to measure with; export again.")
    index = np.linspace(0, len(observations) - 1, min(limit, len(observations))).astype(int)
    spread: Array = observations[np.unique(index)]
    return spread
