"""Tracker: what the pipeline tells about its progress, and where that goes."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path
from types import TracebackType
from typing import Any, Literal

from pops.tracking.events import ScalarEvents
from pops.tracking.metrics import MetricsFile, plain
from pops.tracking.pace import Pace
from pops.tracking.view import LiveView, duration, facts

Mode = Literal["live", "plain", "quiet"]

STEPS = {"evaluation": "update", "distil": "round"}
"""The value of a record that is TensorBoard's step; the record's index for other kinds."""
PLAIN_SECONDS = 10.0
"""Without a terminal, a line on a stage's progress at most this often."""


def choose_mode(quiet: bool = False, json: bool = False) -> Mode:
    """How to show progress: not at all for scripts, live on a terminal, plain lines elsewhere."""
    if quiet or json:
        return "quiet"
    if sys.stdout.isatty() and os.environ.get("TERM", "dumb") != "dumb":
        return "live"
    return "plain"


class Tracker:
    """Shows progress on standard output; records metrics in `metrics.jsonl` and TensorBoard.

    Use it as a context manager, so that the live view is taken away however a run ends. Files
    are opened with the first record: before that the folder may not exist, or be another run's.
    """

    def __init__(self, out: Path | None, mode: Mode, tensorboard: bool = True) -> None:
        """Track into folder `out`.

        Args:
            out: the run's folder; None records nothing.
            mode: "live" redraws a panel in place, "plain" prints lines, "quiet" prints nothing.
            tensorboard: write scalars to `out/tensorboard` too.
        """
        self.out = out
        self.mode = mode
        self._tensorboard = tensorboard
        self._pace = Pace()
        self._view: LiveView | None = None
        self._metrics: MetricsFile | None = None
        self._events: dict[str, ScalarEvents] = {}
        self._started = time.perf_counter()
        self._before = 0.0
        self._stage: str | None = None
        self._iteration: int | None = None
        self._printed = self._started

    def __enter__(self) -> Tracker:
        if self.mode == "live":
            self._view = LiveView(self._pace)
            self._view.open()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        self.close()

    def close(self) -> None:
        """Take the live view away and close the files."""
        if self._view is not None:
            self._view.close()
            self._view = None
        if self._metrics is not None:
            self._metrics.close()
            self._metrics = None
        for events in self._events.values():
            events.close()
        self._events = {}

    def begin(
        self, stage: str, iteration: int | None = None, *, total: float | None = None
    ) -> None:
        """A stage begins, and the one before has ended.

        Args:
            stage: "load", "rollout", "prune", "shrink", "distil", "search", "polish" or "gate".
            iteration: of pruning and shrinking, counted from 1; None outside of one.
            total: the sum of what `advance` will be given; None if it will not be called.
        """
        self._stage, self._iteration = stage, iteration
        self._pace.begin(stage, iteration, total)
        title = stage if iteration is None else f"{stage}, iteration {iteration}"
        if self._view is not None:
            self._view.begin(title)
        elif self.mode == "plain":
            self._print(f"[{duration(self._elapsed())}] {title}")

    def advance(self, amount: float = 1.0) -> None:
        """Progress within the stage, in the units of its total."""
        self._pace.advance(amount)

    def show(self, **state: Any) -> None:
        """Live facts: `parameters`, `sparsity` (a share), `mean` (a return), and any others.

        Without a terminal they make a line every ten seconds at most.
        """
        if self._view is not None:
            self._view.show(state)
        elif self.mode == "plain" and time.perf_counter() - self._printed >= PLAIN_SECONDS:
            self._print(f"[{duration(self._elapsed())}] {self._stage or ''}: {facts(state)}")

    def say(self, text: str) -> None:
        """A line for the user, in all modes but quiet."""
        if self._view is not None:
            self._view.say(text)
        elif self.mode != "quiet":
            self._print(text)

    def record(self, kind: str, **values: Any) -> None:
        """Append a record to `metrics.jsonl`, and its numbers to TensorBoard.

        Args:
            kind: "evaluation", "distil", "candidate", "polish" or "gate".
            values: JSON scalars by name; numbers that are not finite become null.

        Raises:
            ArtifactError: if the file system refuses (a full disk).
        """
        if self.out is None:
            return
        if self._metrics is None:
            self._metrics = MetricsFile(self.out / "metrics.jsonl")
            self._before = self._metrics.seconds
        index = self._metrics.append(
            kind, self._stage, self._iteration, self._before + self._elapsed(), values
        )
        if index is not None and self._tensorboard:
            self._record_scalars(kind, index, plain(values))

    def _record_scalars(self, kind: str, index: int, values: dict[str, Any]) -> None:
        assert self.out is not None
        name = "run" if self._iteration is None else f"iteration-{self._iteration}"
        if name not in self._events:
            try:
                self._events[name] = ScalarEvents(self.out / "tensorboard" / name)
            except ImportError:
                self._tensorboard = False
                self.say("no TensorBoard events: pip install 'pops-rl[train]' brings the package")
                return
        step = values.get(STEPS.get(kind, ""), index)
        scalars = {
            f"{kind}/{key}": float(value)
            for key, value in values.items()
            if isinstance(value, (int, float)) and key != STEPS.get(kind)
        }
        self._events[name].add(scalars, int(step))

    def _elapsed(self) -> float:
        return time.perf_counter() - self._started

    def _print(self, text: str) -> None:
        self._printed = time.perf_counter()
        encoding = getattr(sys.stdout, "encoding", None) or "utf-8"
        try:
            print(text.encode(encoding, "replace").decode(encoding), flush=True)
        except BrokenPipeError:
            # Whoever read the lines has gone (`pops compress ... | head`); the run goes on.
            self.mode = "quiet"
            sys.stdout = open(os.devnull, "w")  # noqa: SIM115
