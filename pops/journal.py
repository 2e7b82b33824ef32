"""Finished stages on disk, so that a run killed at any moment can go on.

A stage is a function of what came before it and of derived seeds. Its result
is written beside and renamed into place; `--resume` reads it instead of
computing it, and ends with the same bytes.
"""

from __future__ import annotations

import json
import os
import re
import shutil
import tempfile
import time
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Callable

import numpy as np

from pops.artifact import (
    load_policy,
    read_arrays,
    read_json,
    save_policy,
    write_arrays,
    write_json,
)
from pops.errors import ArtifactError, UsageError
from pops.frames import STACKS_FIELDS, Stacks, States, open_stacks, write_stacks
from pops.metered import with_steps
from pops.policy import NumpyPolicy

JOURNAL_FORMAT = "pops-journal-2"
_FAMILY = "pops-journal-"
_UNFINISHED = re.compile(r"\..+\.[a-z0-9_]{8}$")
"""Names that `atomic_path` gives to files on their way."""
_CONFIG = "config.json"


@dataclass(frozen=True)
class StageResult:
    """What a stage leaves: JSON-ready facts, policies by name, arrays by name."""

    facts: dict[str, Any] = field(default_factory=dict)
    policies: Mapping[str, NumpyPolicy] = field(default_factory=dict)
    arrays: Mapping[str, States] = field(default_factory=dict)


class Journal:
    """The stages of one run, each in a folder of its own."""

    def __init__(self, root: Path, config: dict[str, Any], *, resume: bool, overwrite: bool):
        """Open `root` for a new run, or for one to go on with.

        Args:
            root: the run's folder.
            config: everything that decides the result; a resumed run must have the same.
            resume: go on from the stages found there.
            overwrite: remove the run found there first.

        Raises:
            UsageError: if there is a run and neither flag is given, both are, the
                configuration differs, or the folder holds something else.
        """
        self.root = root
        self._steps: dict[str, int] = {}
        config = json.loads(json.dumps({"format": JOURNAL_FORMAT, **config}))
        if resume and overwrite:
            raise UsageError("Found both --resume and --overwrite; give one of them.")
        if root.exists() and (not root.is_dir() or any(map(_is_visible, root.iterdir()))):
            self._open_existing(config, resume, overwrite)
        if not (root / _CONFIG).exists():
            write_json(root / _CONFIG, config)

    def _open_existing(self, config: dict[str, Any], resume: bool, overwrite: bool) -> None:
        found = _read_config(self.root / _CONFIG)
        if found is None:
            raise UsageError(
                f"{self.root} exists and is not a run of pops, so nothing in it is touched. "
                "Give --out a new folder."
            )
        if overwrite:
            _remove_contents(self.root)
            return
        if not resume:
            raise UsageError(
                f"{self.root} already holds a run. Add --resume to go on with it, --overwrite to "
                "start anew, or give --out another folder."
            )
        if found.get("format") != JOURNAL_FORMAT:
            raise ArtifactError(
                f"{self.root} was written in format {found.get('format')!r}, this version goes on "
                f"with {JOURNAL_FORMAT!r}. Use the pops version that wrote it, or --overwrite."
            )
        differing = sorted(k for k in {*found, *config} if found.get(k) != config.get(k))
        if differing:
            raise UsageError(
                f"{self.root} was started with another {', '.join(differing)}; a resumed run needs "
                "the same. Repeat the first command with --resume, or use --overwrite."
            )
        # What a kill left half-written: stages, and files that had not taken their place.
        for leftover in sorted(self.root.glob("**/.*")):
            if leftover.is_dir() and leftover.name.startswith(".partial-"):
                shutil.rmtree(leftover, ignore_errors=True)
            elif leftover.is_file() and _UNFINISHED.match(leftover.name):
                leftover.unlink(missing_ok=True)

    def stage(self, name: str, make: Callable[[], StageResult]) -> StageResult:
        """The result of stage `name`: from disk if it was finished, otherwise made and kept.

        `facts["seconds"]` tells how long it took when it was made, `facts["environment_steps"]`
        how many steps it played.
        """
        folder = self.root / name
        if not folder.is_dir():
            started = time.perf_counter()
            result, steps = with_steps(make)
            seconds = round(time.perf_counter() - started, 3)
            facts = {**result.facts, "seconds": seconds, "environment_steps": steps}
            _write(folder, StageResult(facts, result.policies, result.arrays))
        finished = _read(folder)
        self._steps[name] = finished.facts["environment_steps"]
        return finished

    @property
    def environment_steps(self) -> int:
        """Steps that the stages asked for so far have played, each stage once."""
        return sum(self._steps.values())


def _is_visible(path: Path) -> bool:
    """Whether a file is more than what a kill left while the first one was written."""
    return not path.name.startswith(f".{_CONFIG}.")


def _read_config(path: Path) -> dict[str, Any] | None:
    """What a run was started with; None where the file is not of a run, whatever its name."""
    try:
        found = read_json(path)
    except ArtifactError:
        return None
    return found if str(found.get("format")).startswith(_FAMILY) else None


def _remove_contents(root: Path) -> None:
    """Empty a run; what makes it known as one goes last, so that a kill leaves a run."""
    for path in sorted(root.iterdir(), key=lambda p: p.name == _CONFIG):
        if path.is_dir() and not path.is_symlink():
            shutil.rmtree(path)
        else:
            path.unlink()


def _write(folder: Path, result: StageResult) -> None:
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
        partial = Path(tempfile.mkdtemp(prefix=".partial-", dir=folder.parent))
    except OSError as error:
        raise ArtifactError(f"Cannot write {folder}: {error.strerror}.") from error
    try:
        for name, policy in result.policies.items():
            save_policy(partial / f"{name}.safetensors", policy)
        dense = {k: np.asarray(v) for k, v in result.arrays.items() if not isinstance(v, Stacks)}
        for name, states in result.arrays.items():
            if isinstance(states, Stacks):
                dense.update(write_stacks(partial, name, states))
        if dense:
            write_arrays(partial / "arrays.npz", dense)
        write_json(partial / "facts.json", result.facts)
        os.chmod(partial, 0o755)
        os.rename(partial, folder)
    except (OSError, ArtifactError) as error:
        cause = error if isinstance(error, OSError) else error.__cause__
        reason = getattr(cause, "strerror", None) or cause or error
        raise ArtifactError(
            f"Cannot write {folder}: {reason}. Free space, then add --resume to the command; "
            "finished stages are kept."
        ) from error
    finally:
        shutil.rmtree(partial, ignore_errors=True)


def _read(folder: Path) -> StageResult:
    file = folder / "arrays.npz"
    arrays: dict[str, States] = dict(read_arrays(file)) if file.is_file() else {}
    for path in sorted(folder.glob("*.planes.npy")):
        name = path.name.partition(".")[0]
        try:
            index, last = (np.asarray(arrays.pop(f"{name}.{key}")) for key in STACKS_FIELDS)
            arrays[name] = open_stacks(path, index, last)
        except (KeyError, ValueError, OSError) as error:
            raise ArtifactError(
                f"{path} is damaged ({error}). Start anew with --overwrite."
            ) from error
    return StageResult(
        read_json(folder / "facts.json"),
        {path.stem: load_policy(path)[0] for path in sorted(folder.glob("*.safetensors"))},
        arrays,
    )
