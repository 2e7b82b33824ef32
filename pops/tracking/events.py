"""TensorBoard scalars, written record by record so that a kill loses none that was reported."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

from pops.errors import ArtifactError


class ScalarEvents:
    """One TensorBoard run: scalars appended to an event file of its own.

    TensorBoard's own writer hands records to a thread that writes every two minutes; this one
    uses its protocol buffers and record format, and flushes each.
    """

    def __init__(self, folder: Path) -> None:
        """Start a new event file in `folder`, after those that are there.

        Raises:
            ImportError: if TensorBoard is not installed.
            ArtifactError: if the file system refuses.
        """
        from tensorboard.compat.proto.event_pb2 import Event
        from tensorboard.summary.writer.record_writer import RecordWriter

        self._event = Event
        try:
            folder.mkdir(parents=True, exist_ok=True)
            count = sum(1 for _ in folder.glob("events.out.tfevents.*"))
            # TensorBoard reads the files of a folder in the order of their names.
            self._path = folder / f"events.out.tfevents.{count:010d}.pops"
            self._writer: Any = RecordWriter(self._path.open("wb"))
        except OSError as error:
            raise _refused(folder, error) from error
        self._write(Event(wall_time=time.time(), file_version="brain.Event:2"))

    def add(self, scalars: dict[str, float], step: int) -> None:
        """Write scalars by tag at `step`.

        Raises:
            ArtifactError: if the file system refuses (a full disk).
        """
        event = self._event(wall_time=time.time(), step=step)
        for tag, value in scalars.items():
            event.summary.value.add(tag=tag, simple_value=value)
        self._write(event)

    def _write(self, event: Any) -> None:
        try:
            self._writer.write(event.SerializeToString())
            self._writer.flush()
        except OSError as error:
            raise _refused(self._path, error) from error

    def close(self) -> None:
        """Close the file."""
        try:
            self._writer.close()
        except OSError:
            return


def _refused(path: Path, error: OSError) -> ArtifactError:
    return ArtifactError(
        f"Cannot write {path}: {error.strerror or error}. Free space, then add --resume to the "
        "command; finished stages are kept."
    )
