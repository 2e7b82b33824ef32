"""Bundle: what lies in `policy.pyz`, checked against its hashes."""

from __future__ import annotations

import hashlib
import json
import sys
import zipfile
from array import array
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from .failure import DeviceError, FileDamaged

FORMAT = "pops-bundle-1"
MAX_MEMBER_BYTES = 1 << 30

TYPECODES = {
    "float32": "f",
    "float64": "d",
    "uint8": "B",
    "int8": "b",
    "int32": "i",
    "int64": "q",
    "bool": "B",
}
"""Element types of golden arrays, and what the array module calls them."""


@dataclass(frozen=True)
class GoldenArray:
    """A named array: `rows` of `width` values each."""

    values: array[Any]
    shape: tuple[int, ...]
    dtype: str

    @property
    def rows(self) -> int:
        """Length of the first axis."""
        return self.shape[0]

    @property
    def width(self) -> int:
        """Values in one row."""
        return len(self.values) // self.shape[0] if self.shape[0] else 0

    def row(self, index: int) -> array[Any]:
        """One row, flat."""
        return self.values[index * self.width : (index + 1) * self.width]


class Bundle:
    """An opened bundle. Reading a member checks its SHA-256."""

    def __init__(self, path: Path) -> None:
        """Open the zip and read `bundle.json`.

        Raises:
            FileDamaged: if it is not a whole bundle of this format.
        """
        self.path = path
        try:
            self._zip = zipfile.ZipFile(path)
            self.facts: dict[str, Any] = json.loads(self._read("bundle.json"))
            found = self.facts["format"]
            self.policies: list[dict[str, Any]] = self.facts["policies"]
            self._members: dict[str, dict[str, Any]] = self.facts["members"]
        except (OSError, ValueError, KeyError, TypeError, zipfile.BadZipFile) as error:
            raise damaged(path, repr(error)) from error
        if found != FORMAT:
            raise DeviceError(
                f"{path} has format {found!r}, its code reads {FORMAT!r}. Make the bundle again "
                "with: pops deploy bundle"
            )

    def _read(self, name: str) -> bytes:
        if self._zip.getinfo(name).file_size > MAX_MEMBER_BYTES:
            raise ValueError(f"{name} is larger than {MAX_MEMBER_BYTES >> 20} MiB")
        return self._zip.read(name)

    def member(self, name: str) -> bytes:
        """The bytes of one member.

        Raises:
            FileDamaged: if it is missing or does not match its hash.
        """
        try:
            data = self._read(name)
            expected = str(self._members[name]["sha256"])
        except (OSError, ValueError, KeyError, zipfile.BadZipFile, EOFError) as error:
            raise damaged(self.path, f"{name}: {error!r}") from error
        except Exception as error:  # zlib.error where the interpreter has zlib
            raise damaged(self.path, f"{name}: {error!r}") from error
        found = hashlib.sha256(data).hexdigest()
        if found != expected:
            raise damaged(self.path, f"{name} has SHA-256 {found[:16]}…, not {expected[:16]}…")
        return data

    def check(self) -> int:
        """Read every member; the number of members.

        Raises:
            FileDamaged: naming the first one that does not match.
        """
        for name in sorted(self._members):
            self.member(name)
        return len(self._members)

    def golden(self, policy: dict[str, Any]) -> dict[str, GoldenArray]:
        """The golden arrays of one policy, by name."""
        return {
            name: self._array(str(facts["member"]), facts)
            for name, facts in policy["golden"].items()
        }

    def _array(self, member: str, facts: dict[str, Any]) -> GoldenArray:
        data = self.member(member)
        try:
            dtype = str(facts["dtype"])
            shape = tuple(int(n) for n in facts["shape"])
            values: array[Any] = array(TYPECODES[dtype])
            values.frombytes(data)
            count = 1
            for size in shape:
                count *= size
            if len(values) != count or not shape:
                raise ValueError(f"{len(values)} values in shape {shape}")
        except (KeyError, TypeError, ValueError) as error:
            raise damaged(self.path, f"{member}: {error!r}") from error
        if sys.byteorder == "big":
            values.byteswap()
        return GoldenArray(values, shape, dtype)


def damaged(path: Path, reason: str) -> FileDamaged:
    """The error for a bundle whose bytes are not what was written."""
    return FileDamaged(
        f"{path} is damaged ({reason}). Copy it again, or make it again with: pops deploy bundle"
    )
