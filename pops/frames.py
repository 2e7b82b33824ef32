"""Image observations whose planes are held once, however many observations share them.

A stack of four frames shares three of them with the stack before it. `Stacks` keeps every
plane (one channel of one observation) once, as it came, and for each observation the numbers of
its planes. Planes may lie in a file, which every process maps. Numpy only.
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Union

import numpy as np

from pops.spec import Array


@dataclass(frozen=True, eq=False)
class Part:
    """Planes of one collection and the observations made of them."""

    planes: Array
    """(planes, height, width), possibly mapped from a file."""
    index: Array
    """(observations, channels) int32, which plane is which channel."""

    def __reduce__(self) -> tuple[Any, ...]:
        """Planes that lie in a file travel to other processes as its name."""
        name = getattr(self.planes, "filename", None)
        if isinstance(self.planes, np.memmap) and name is not None:
            return _open_part, (str(name), self.index)
        return Part, (np.ascontiguousarray(self.planes), self.index)

    def rows(self, chosen: slice) -> Part:
        """Some of the observations, with the same planes."""
        return Part(self.planes, self.index[chosen])

    def compact(self) -> Part:
        """The same observations without planes that none of them uses."""
        used, inverse = np.unique(self.index, return_inverse=True)
        if len(used) == len(self.planes):
            return self
        return Part(self.planes[used], inverse.reshape(self.index.shape).astype(np.int32))


def _open_part(name: str, index: Array) -> Part:
    return Part(np.load(name, mmap_mode="r", allow_pickle=False), index)


class Stacks:
    """Observations (N, *shape) of a three-dimensional shape, every plane held once."""

    def __init__(self, parts: Sequence[Part], channels_last: bool) -> None:
        self.parts = tuple(part for part in parts if len(part.index)) or tuple(parts[:1])
        self.channels_last = channels_last
        self._ends = np.cumsum([len(part.index) for part in self.parts])

    @classmethod
    def of(cls, observations: Sequence[Array] | Array, channels_last: bool) -> Stacks:
        """Keep observations; equal planes become one, wherever they occur.

        Args:
            observations: each (height, width, channels), or channels first.
            channels_last: which of the two.
        """
        numbers: dict[bytes, int] = {}
        planes: list[Array] = []
        index = []
        for observation in observations:
            channels = np.moveaxis(observation, -1, 0) if channels_last else observation
            row = []
            for plane in channels:
                kept = np.ascontiguousarray(plane)
                key = hashlib.blake2b(kept.data, digest_size=16).digest()
                if key not in numbers:
                    numbers[key] = len(planes)
                    planes.append(kept.copy() if kept is plane else kept)
                row.append(numbers[key])
            index.append(row)
        return cls([Part(np.stack(planes), np.asarray(index, np.int32))], channels_last)

    def __len__(self) -> int:
        """Number of observations."""
        return int(self._ends[-1])

    @property
    def dtype(self) -> Any:
        """What one value is kept as."""
        return self.parts[0].planes.dtype

    @property
    def nbytes(self) -> int:
        """Bytes of planes and numbers."""
        return sum(part.planes.nbytes + part.index.nbytes for part in self.parts)

    def __getitem__(self, chosen: slice) -> Stacks:
        """A run of observations; `slice` with step 1."""
        start, stop, _ = chosen.indices(len(self))
        parts, begin = [], 0
        for part, end in zip(self.parts, self._ends):
            first, last = max(start, begin) - begin, min(stop, int(end)) - begin
            if first < last:
                parts.append(part.rows(slice(first, last)))
            begin = int(end)
        return Stacks(parts or [self.parts[0].rows(slice(0, 0))], self.channels_last)

    def gather(self, rows: Array) -> Array:
        """The observations at `rows`: (len(rows), channels, height, width).

        In memory the channels come last, as convolutions on a CPU are fastest.
        """
        height, width = self.parts[0].planes.shape[1:]
        channels = self.parts[0].index.shape[1]
        last = np.empty((len(rows), height, width, channels), self.parts[0].planes.dtype)
        homes = np.searchsorted(self._ends, rows, side="right")
        for home in np.unique(homes):
            part, where = self.parts[home], np.flatnonzero(homes == home)
            index = part.index[np.asarray(rows)[where] - int(self._ends[home]) + len(part.index)]
            chosen: Any = slice(None) if len(where) == len(rows) else where
            for channel in range(channels):
                last[chosen, ..., channel] = part.planes[index[:, channel]]
        return last.transpose(0, 3, 1, 2)

    def observations(self, rows: Array) -> Array:
        """The observations at `rows` as the environment returned them."""
        gathered = self.gather(rows)
        return np.moveaxis(gathered, 1, -1) if self.channels_last else gathered

    def __array__(self, dtype: Any = None, copy: Any = None) -> Array:
        """All observations in full."""
        full = self.observations(np.arange(len(self)))
        return full if dtype is None else full.astype(dtype)

    def compact(self) -> Part:
        """Everything as one part without unused planes, to be written."""
        if len(self.parts) == 1:
            return self.parts[0].compact()
        kept = [part.compact() for part in self.parts]
        starts = np.cumsum([0, *(len(part.planes) for part in kept)])
        index = np.concatenate([part.index + start for part, start in zip(kept, starts)])
        return Part(np.concatenate([part.planes for part in kept]), index.astype(np.int32))


States = Union[Array, Stacks]
"""States as a replay buffer keeps them: network inputs, or images in `Stacks`."""


def join_states(parts: Sequence[States]) -> States:
    """States of several collections as one, in order."""
    if all(isinstance(part, Stacks) for part in parts):
        stacks = [part for part in parts if isinstance(part, Stacks)]
        return Stacks([p for s in stacks for p in s.parts], stacks[0].channels_last)
    return np.concatenate([np.asarray(part) for part in parts])


def state_bytes(shape: tuple[int, ...], dtype: str, frame_stack: int) -> int:
    """Bytes that one more observation takes in `Stacks`, labels left out.

    A stack of k frames brings one new one; without stacking every plane is new.
    """
    if len(shape) != 3:
        return 4 * math.prod(shape)
    channels = shape[-1] if shape[-1] <= shape[0] else shape[0]
    return math.prod(shape) // max(1, frame_stack) * np.dtype(dtype).itemsize + 4 * channels


STACKS_FIELDS = ("index", "channels_last")
"""What `write_stacks` leaves to be written beside the planes, and `open_stacks` wants back."""


def write_stacks(folder: Path, name: str, stacks: Stacks) -> dict[str, Array]:
    """Write `NAME.planes.npy`, which can be mapped; return the small arrays that go with it."""
    part = stacks.compact()
    with (folder / f"{name}.planes.npy").open("wb") as file:
        np.save(file, np.ascontiguousarray(part.planes), allow_pickle=False)
    values = (part.index, np.asarray(stacks.channels_last))
    return {f"{name}.{key}": value for key, value in zip(STACKS_FIELDS, values)}


def open_stacks(path: Path, index: Array, channels_last: Array) -> Stacks:
    """Map what `write_stacks` wrote; the planes stay on disk until they are read.

    Raises:
        ValueError: if the file is damaged, or has too few planes.
    """
    part = _open_part(str(path.resolve()), index)
    if part.planes.ndim != 3 or (
        index.size and not 0 <= index.min() <= index.max() < len(part.planes)
    ):
        raise ValueError(f"{path} does not hold the planes that its index names")
    return Stacks([part], bool(channels_last))
