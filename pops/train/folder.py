"""The folder of one training: who may write into it, and what lies where."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

from pops.artifact import read_json, write_json
from pops.errors import ArtifactError, UsageError
from pops.train.plan import Plan

TRAIN_FORMAT = "pops-train-1"
_MAY_CHANGE = ("timesteps", "objective")
"""A resumed training may ask for more steps or another objective; nothing else may differ."""


class TrainFolder:
    """`teacher.safetensors`, `model.zip`, `train.json`, `checkpoint/`, `tensorboard/`."""

    def __init__(self, root: Path, plan: Plan, *, resume: bool, overwrite: bool) -> None:
        """Open `root` for a new training, or for one to go on with.

        Raises:
            UsageError: if there is a training and neither flag is given, both are, the plan
                differs, or the folder holds something else.
            ArtifactError: if the folder cannot be written or is of another version.
        """
        self.root = root
        self.teacher = root / "teacher.safetensors"
        self.model = root / "model.zip"
        self.manifest = root / "train.json"
        self.checkpoint = root / "checkpoint" / "state.pt"
        self.tensorboard = root / "tensorboard"
        if resume and overwrite:
            raise UsageError("Found both --resume and --overwrite; give one of them.")
        wanted = json.loads(json.dumps(plan.to_json()))
        if root.exists() and (not root.is_dir() or any(root.iterdir())):
            self._open_existing(wanted, resume, overwrite)
        write_json(self.manifest, {"format": TRAIN_FORMAT, "state": "training", "plan": wanted})

    def _open_existing(self, wanted: dict[str, Any], resume: bool, overwrite: bool) -> None:
        if not self.manifest.is_file():
            raise UsageError(
                f"{self.root} exists and is not a training of pops, so nothing in it is touched. "
                "Give --out a new folder."
            )
        if overwrite:
            shutil.rmtree(self.root)
            return
        if not resume:
            raise UsageError(
                f"{self.root} already holds a training. Add --resume to go on with it, "
                "--overwrite to start anew, or give --out another folder."
            )
        found = read_json(self.manifest)
        if found.get("format") != TRAIN_FORMAT:
            raise ArtifactError(
                f"{self.root} was written in format {found.get('format')!r}, this version goes on "
                f"with {TRAIN_FORMAT!r}. Use the pops version that wrote it, or --overwrite."
            )
        plan = found.get("plan")
        plan = plan if isinstance(plan, dict) else {}
        differing = sorted(
            k for k in {*plan, *wanted} if k not in _MAY_CHANGE and plan.get(k) != wanted.get(k)
        )
        self._refuse(differing)
        for file in (self.teacher, self.model, self.manifest, self.checkpoint):
            for leftover in file.parent.glob(f".{file.name}.*"):  # of a kill while writing
                leftover.unlink(missing_ok=True)

    def _refuse(self, differing: list[str]) -> None:
        if differing:
            raise UsageError(
                f"{self.root} was started with another {', '.join(differing)}; a resumed training "
                "needs the same. Repeat the first command with --resume, or use --overwrite."
            )
