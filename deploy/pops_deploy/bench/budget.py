"""Budgets: `flash=32K,ram=4K,instructions=5000`, and which rows miss them."""

from __future__ import annotations

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pops.errors import UsageError
from pops_deploy.bench.rows import Row

SIZES = {"": 1, "b": 1, "k": 1024, "kb": 1024, "kib": 1024, "m": 1 << 20, "mb": 1 << 20}
COUNTS = {"": 1, "k": 1000, "m": 1_000_000}
TIMES = {"ns": 1.0, "us": 1e3, "µs": 1e3, "ms": 1e6, "s": 1e9}
UNITS: dict[str, Mapping[str, float]] = {
    "flash": SIZES,
    "ram": SIZES,
    "stack": SIZES,
    "bytes": SIZES,
    "instructions": COUNTS,
    "latency": TIMES,
}


@dataclass(frozen=True)
class Miss:
    """One row over one limit."""

    target: str
    title: str
    what: str
    found: float
    limit: float

    def __str__(self) -> str:
        """In words, with how much it is over."""
        unit = {"latency": " ns", "instructions": ""}.get(self.what, " bytes")
        return (
            f"{self.title} on {self.target} misses the budget: {self.what} {self.found:,.0f}"
            f"{unit}, {self.found - self.limit:,.0f} over {self.limit:,.0f}"
        )


def parse_budget(text: str) -> dict[str, float]:
    """Limits by name: bytes, instructions, nanoseconds. K is 1,024 bytes or 1,000 instructions.

    Raises:
        UsageError: naming the part that cannot be read.
    """
    limits: dict[str, float] = {}
    for part in filter(None, (p.strip() for p in text.split(","))):
        match = re.fullmatch(r"(\w+)=(\d+(?:\.\d+)?)\s*([a-zµ]*)", part.lower())
        units = UNITS.get(match.group(1), {}) if match else {}
        if match is None or match.group(3) not in units:
            raise UsageError(
                f"--budget {part!r} cannot be read; expected for example "
                "flash=32K,ram=4K,instructions=5000,latency=20us (names: "
                f"{', '.join(UNITS)})."
            )
        limits[match.group(1)] = float(match.group(2)) * units[match.group(3)]
    return limits


def judge_budget(rows: Sequence[Row], limits: dict[str, float]) -> tuple[list[Miss], list[str]]:
    """Rows over a limit, and limits that nothing was measured for.

    Students are judged, teachers never. Where a target has an int8 row of a student, its fp32
    rows are not judged: the budget is for what gets flashed. `bytes` and `latency` judge rows
    with a latency, the others rows of microcontrollers.
    """
    students = [row for row in rows if row.role == "student"]
    quantised = {(row.target, row.policy) for row in students if row.file == "int8"}
    misses: list[Miss] = []
    unused = []
    for what, limit in limits.items():
        judged = 0
        for row in students:
            found = _figure(row, what)
            if found is None or (
                row.file != "int8" and row.mcu is not None and (row.target, row.policy) in quantised
            ):
                continue
            judged += 1
            if found > limit:
                misses.append(Miss(row.target, row.title, what, found, limit))
        if not judged:
            unused.append(what)
    return misses, unused


def _figure(row: Row, what: str) -> float | None:
    if what == "latency":
        return None if row.latency is None or row.emulated else row.latency.median
    if what == "bytes":
        return float(row.bytes) if row.latency is not None and row.bytes else None
    if row.mcu is None:
        return None
    if what == "stack":
        stacks = [s for s in (row.mcu.stack_static, row.mcu.stack_painted) if s is not None]
        return float(max(stacks)) if stacks else None
    found = {"flash": row.mcu.flash, "ram": row.mcu.ram}.get(what, row.mcu.instructions)
    return None if found is None else float(found)
