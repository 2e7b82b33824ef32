"""Boards: from instructions and bytes to "fits" and to a range of time with its assumption.

Each file in boards/ is flat TOML: strings and numbers, one a line.
"""

from __future__ import annotations

import pkgutil
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pops.errors import PopsError, UsageError

NUMBERS = ("clock_mhz", "flash_kib", "ram_kib", "cycles_low", "cycles_high")
TEXTS = ("name", "core", "fpu", "cycles_why")
FILES = (
    "microbit-v1",
    "raspberry-pi-pico",
    "blue-pill",
    "nucleo-f446re",
    "stm32f4-discovery",
    "teensy-4.1",
    "nucleo-h743zi2",
    "numaker-m55m1",
)


@dataclass(frozen=True)
class Board:
    """A microcontroller board."""

    key: str
    """What `--board` calls it."""
    name: str
    core: str
    """The target whose figures hold for it, for example cortex-m4."""
    clock_mhz: float
    flash_kib: float
    ram_kib: float
    fpu: str
    """"none" or "single"."""
    cycles_low: float
    """Cycles an instruction at best, over a whole policy: an assumption, not a measurement."""
    cycles_high: float
    cycles_why: str

    def judge(self, instructions: tuple[int, int] | None, flash: int, ram: int) -> dict[str, Any]:
        """Whether a policy fits, by how much, and how long a call may take.

        Args:
            instructions: fewest and most of one call; None where they were not counted.
            flash: bytes of code, constants and initialised data.
            ram: bytes of static data, scratch and stack.
        """
        over = {
            "flash": flash - round(self.flash_kib * 1024),
            "RAM": ram - round(self.ram_kib * 1024),
        }
        misses = [f"{n:,} B of {what} too much" for what, n in over.items() if n > 0]
        if misses:
            verdict = "does not fit: " + ", ".join(misses)
        else:
            shares = (flash / self.flash_kib / 1024, ram / self.ram_kib / 1024)
            verdict = f"fits: {shares[0]:.2%} of flash, {shares[1]:.2%} of RAM"
        estimated: list[float] | None = None
        if instructions is not None:
            low, high = (count / self.clock_mhz for count in instructions)
            estimated = [low * self.cycles_low, high * self.cycles_high]
        return {
            "board": self.key,
            "name": self.name,
            "fits": not misses,
            "over_bytes": {what: max(0, n) for what, n in over.items()},
            "verdict": verdict,
            "estimated_microseconds": estimated,
            "estimate": "" if estimated is None else f"{' to '.join(map(_three, estimated))} µs",
            "assumption": (
                f"{self.cycles_low:g} to {self.cycles_high:g} cycles an instruction at "
                f"{self.clock_mhz:g} MHz ({self.cycles_why})"
            ),
        }


def load_boards(names: tuple[str, ...] = ()) -> list[Board]:
    """Boards by name or path of a file; all that come with pops when no name is given.

    Raises:
        UsageError: if a board is unknown.
        PopsError: if a file of the user's own cannot be read.
    """
    boards = []
    for name in names or FILES:
        if name in FILES:
            data = pkgutil.get_data("pops_deploy", f"boards/{name}.toml") or b""
            boards.append(parse_board(name, data.decode()))
        elif name.endswith(".toml"):
            try:
                text = Path(name).read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError) as error:
                raise PopsError(f"Cannot read the board {name}: {error}.") from error
            boards.append(parse_board(Path(name).stem, text))
        else:
            raise UsageError(
                f"Board {name!r} is unknown, expected one of: {', '.join(FILES)}, or the path of "
                "a .toml file like theirs."
            )
    return boards


def parse_board(key: str, text: str) -> Board:
    """Read a board file.

    Raises:
        PopsError: naming the line or the key.
    """
    values: dict[str, Any] = {}
    for number, line in enumerate(text.splitlines(), 1):
        line = line.strip()
        if not line or line.startswith("#"):
            continue
        name, equals, value = (part.strip() for part in line.partition("="))
        try:
            if name not in (*NUMBERS, *TEXTS) or not equals:
                raise ValueError(name)
            values[name] = _text(value) if name in TEXTS else float(value)
        except ValueError as error:
            raise PopsError(
                f"Board {key!r}, line {number}: {line!r} cannot be read; expected name = value "
                f"with one of: {', '.join((*TEXTS, *NUMBERS))}."
            ) from error
    missing = [name for name in (*TEXTS, *NUMBERS) if name not in values]
    if missing:
        raise PopsError(f"Board {key!r} lacks {', '.join(missing)}.")
    if not all(values[name] > 0 for name in NUMBERS):
        raise PopsError(f"Board {key!r}: every number must be positive.")
    return Board(key=key, **values)


def _three(value: float) -> str:
    """Three digits, never an exponent."""
    digits = 2 if value < 10 else 1 if value < 100 else 0
    return f"{value:,.{digits}f}"


def _text(value: str) -> str:
    if len(value) < 2 or value[0] != '"' or value[-1] != '"' or '"' in value[1:-1]:
        raise ValueError(value)
    return value[1:-1]
