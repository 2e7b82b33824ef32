"""Which step a short command is at: a line that is redrawn, or plain lines without a terminal."""

from __future__ import annotations

import os
import sys
import time
from types import TracebackType
from typing import TYPE_CHECKING

from pops.tracking.tracker import Mode
from pops.tracking.view import duration

if TYPE_CHECKING:
    from rich.progress import Progress, TaskID


class Steps:
    """Tells the steps of a command on standard output; use it as a context manager.

    It keeps a handle of its own on the terminal, since converters' output is sent elsewhere while
    they run.
    """

    def __init__(self, mode: Mode) -> None:
        self._mode = mode
        self._started = time.perf_counter()
        self._progress: Progress | None = None
        self._task: TaskID | None = None

    def __enter__(self) -> Steps:
        if self._mode == "live":
            from rich.console import Console
            from rich.progress import Progress, SpinnerColumn, TextColumn, TimeElapsedColumn

            terminal = os.fdopen(os.dup(sys.stdout.fileno()), "w", encoding="utf-8")
            self._progress = Progress(
                SpinnerColumn(),
                TimeElapsedColumn(),
                TextColumn("{task.description}"),
                console=Console(file=terminal),
                transient=True,
            )
            self._progress.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._progress is not None:
            self._progress.stop()
            self._progress.console.file.close()
            self._progress = None

    def begin(self, title: str) -> None:
        """A step begins, and the one before has ended."""
        if self._progress is not None:
            if self._task is None:
                self._task = self._progress.add_task(title, total=None)
            self._progress.update(self._task, description=title)
        elif self._mode == "plain":
            print(f"[{duration(time.perf_counter() - self._started)}] {title}", flush=True)
