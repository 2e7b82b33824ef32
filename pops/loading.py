"""load(): a run, a policy file or a ladder rung, ready to act with numpy alone."""

from __future__ import annotations

from pathlib import Path

from pops.artifact import Run, load_policy
from pops.policy import NumpyPolicy


def load(path: Path | str) -> NumpyPolicy:
    """Load the student of a run, or one policy file written by pops.

    `load(RUN).predict(observation)` is a drop-in for Stable-Baselines3's `predict`.

    Raises:
        ArtifactError: if nothing readable lies at `path`.
    """
    path = Path(path)
    if path.is_file():
        return load_policy(path)[0]
    return Run(path).student
