"""metrics.jsonl: one JSON object a line, and what a killed run leaves of it."""

from __future__ import annotations

import json
import math
from collections import Counter
from pathlib import Path
from typing import Any, BinaryIO

from pops.errors import ArtifactError

MAX_LINE_BYTES = 1 << 20


class MetricsFile:
    """Appends records to a file; a resumed run ends with the records of one never interrupted.

    A line that a kill cut short is removed when the file is opened. Stages are a function of
    their seeds, so a resumed run repeats the records of the stage that it was killed in: those
    that the file holds already are not written again.
    """

    def __init__(self, path: Path) -> None:
        """Open `path`, which need not exist.

        Raises:
            ArtifactError: if the file system refuses.
        """
        self.path = path
        self.index = 0
        """Index of the next record, counted from 0."""
        self.seconds = 0.0
        """Seconds of work up to the last record found in the file."""
        self._known: Counter[str] = Counter()
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            self._file = path.open("ab+")
            self._file.truncate(self._read_records(self._file))
        except OSError as error:
            raise self._refused(error) from error

    def _read_records(self, file: BinaryIO) -> int:
        """Remember what the file holds; the length of its intact part in bytes."""
        file.seek(0)
        intact = 0
        for line in iter(lambda: file.readline(MAX_LINE_BYTES), b""):
            try:
                record = json.loads(line)
                del record["index"]
                seconds = float(record.pop("seconds"))
            except (ValueError, KeyError, TypeError, AttributeError):
                break
            if not line.endswith(b"\n"):
                break
            self._known[_key(record)] += 1
            self.index += 1
            self.seconds = seconds
            intact += len(line)
        return intact

    def append(
        self,
        kind: str,
        stage: str | None,
        iteration: int | None,
        seconds: float,
        values: dict[str, Any],
    ) -> int | None:
        """Write one record and flush it; values that are not finite become null.

        Returns:
            The record's index, None if the file held it before it was opened.

        Raises:
            ArtifactError: if the file system refuses (a full disk).
        """
        record = {"kind": kind, "stage": stage, "iteration": iteration, **plain(values)}
        key = _key(record)
        if self._known[key]:
            self._known[key] -= 1
            return None
        index = self.index
        line = json.dumps({"index": index, "seconds": round(seconds, 3), **record}, allow_nan=False)
        try:
            self._file.write(line.encode() + b"\n")
            self._file.flush()
        except OSError as error:
            raise self._refused(error) from error
        self.index += 1
        return index

    def close(self) -> None:
        """Close the file. What a full disk kept back was reported when it was written."""
        try:
            self._file.close()
        except OSError:
            return

    def _refused(self, error: OSError) -> ArtifactError:
        return ArtifactError(
            f"Cannot write {self.path}: {error.strerror or error}. Free space or choose another "
            "folder, then add --resume to the command; finished stages are kept."
        )


def plain(values: dict[str, Any]) -> dict[str, Any]:
    """JSON scalars: numpy's become Python's, numbers that are not finite become None."""
    return {name: _plain(value) for name, value in values.items()}


def _plain(value: Any) -> Any:
    if hasattr(value, "item"):
        value = value.item()
    if isinstance(value, float) and not math.isfinite(value):
        return None
    return value


def _key(record: dict[str, Any]) -> str:
    return json.dumps(record, sort_keys=True)
