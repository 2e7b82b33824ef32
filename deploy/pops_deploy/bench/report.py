"""The tables that `pops bench` prints: one for times, one for microcontrollers."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

from pops_deploy.bench.rows import ReturnFigure, Row

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

    from pops_deploy.bench import BenchResult

WIDE = 165
"""Characters a line from which on every column is shown."""
PLAIN_WIDTH = 170
"""Characters a line where the output is not a terminal, so that no table is folded."""


def print_bench(result: BenchResult, console: Console | None = None) -> None:
    """Print the tables and what the figures say."""
    from rich.console import Console

    console = console or Console()
    if not console.is_terminal and console.width < PLAIN_WIDTH:
        console.width = PLAIN_WIDTH
    wide = console.width >= WIDE
    timed = [row for row in result.rows if row.latency is not None]
    counted = [row for row in result.rows if row.mcu is not None]
    for target in dict.fromkeys(row.target for row in timed):
        shown = [row for row in timed if row.target == target]
        console.print(_time_table(target, shown, wide))
        if target == "host":
            console.print(_conditions(result), highlight=False)
    if counted:
        console.print(_mcu_table(counted))
        console.print(
            "Instructions are counted under an emulator; they are not a time. RAM: static data, "
            "scratch and the larger stack" + _images(counted),
            highlight=False,
        )
        assumptions = _assumptions(counted)
        if assumptions:
            console.print(_board_table(counted))
        for sentence in assumptions:
            console.print(sentence, highlight=False, markup=False)
    for sentence in (*result.words, *map(str, result.misses)):
        console.print(f"- {sentence}", highlight=False, markup=False)


def _time_table(target: str, rows: Sequence[Row], wide: bool) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    batches = any(row.throughput is not None for row in rows)
    note = ": emulated, not a latency" if rows[0].emulated else ""
    table = Table(title=f"{target}{note}", title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    cells = [_time_cells(row, wide, batches) for row in rows]
    for name in cells[0]:
        figures = name not in ("policy", "runtime")
        table.add_column(name, justify="right" if figures else "left", no_wrap=wide)
    for row_cells in cells:
        table.add_row(*row_cells.values())
    return table


def _time_cells(row: Row, wide: bool, batches: bool) -> dict[str, str]:
    """The cells of a row by column; a narrow terminal leaves out what the JSON has anyway."""
    latency, parts, memory = row.latency, row.parts, row.memory
    assert latency is not None
    cells = {
        "policy": f"{row.role} {row.policy}",
        "runtime": f"{row.runtime} {row.file}",
        "µs/call": micro(latency.median),
        "windows": f"{micro(latency.low)}..{micro(latency.high)}",
        "p99": micro(latency.p99),
        "max": micro(latency.max),
        "before+inside+after": ""
        if parts is None
        else "+".join(map(micro, (parts.before, parts.inside, parts.after))),
        "obs/s": "" if row.throughput is None else f"{row.throughput:,.0f}",
        "file": size(row.bytes) if row.bytes else "",
        "RSS gained": "" if memory is None else size(memory.gained),
        "peak": "" if memory is None else size(memory.peak),
        "return [95 %]": figure(row.returns),
    }
    hidden = set() if wide else {"windows", "before+inside+after", "peak"}
    if not batches:
        hidden.add("obs/s")
    return {name: text for name, text in cells.items() if name not in hidden}


def _conditions(result: BenchResult) -> str:
    machine: dict[str, Any] = result.machine
    governor = machine.get("governor") or "not readable"
    return (
        f"One observation a call, one thread, {result.facts['windows']} windows. "
        f"{machine['processor']}, governor {governor}, load {machine['load']}. "
        f"Reading the clock took {result.facts.get('clock_ns', 0.0):.0f} ns, which is taken off."
    )


def _mcu_table(rows: Sequence[Row]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    table = Table(box=SIMPLE_HEAD, pad_edge=False)
    for name in ("target", "policy", "code"):
        table.add_column(name)
    for name in ("instructions", "flash", "RAM", "scratch", "stack static/painted", "golden"):
        table.add_column(name, justify="right", no_wrap=True)
    table.add_column("return [95 %]", justify="right", no_wrap=True)
    for row in rows:
        mcu = row.mcu
        assert mcu is not None
        stacks = "/".join(
            "?" if s is None else str(s) for s in (mcu.stack_static, mcu.stack_painted)
        )
        count = "not counted" if mcu.instructions is None else f"{mcu.instructions:,}"
        if mcu.instructions_min != mcu.instructions:
            count = f"{mcu.instructions_min:,}..{count}"
        table.add_row(
            row.target,
            f"{row.role} {row.policy}",
            row.file,
            count,
            f"{mcu.flash:,} B" + (f" (library {mcu.library:,})" if mcu.library else ""),
            f"{mcu.ram:,} B",
            f"{mcu.scratch:,} B",
            stacks,
            f"{mcu.observations - mcu.mismatches}/{mcu.observations}" if mcu.observations else "-",
            figure(row.returns),
        )
    return table


def _images(rows: Sequence[Row]) -> str:
    """What else the RAM counts."""
    images = sorted({row.mcu.image for row in rows if row.mcu is not None and row.mcu.image})
    if not images:
        return "."
    return f", and the image that the caller holds ({' and '.join(map(size, images))})."


def _board_table(rows: Sequence[Row]) -> Table:
    from rich.box import SIMPLE_HEAD
    from rich.table import Table

    title = "boards (times are estimates from instructions, not measured)"
    table = Table(title=title, title_justify="left", box=SIMPLE_HEAD, pad_edge=False)
    for name in ("board", "policy", "code", "fits"):
        table.add_column(name)
    table.add_column("estimated time a call", justify="right")
    for row in rows:
        for board in row.mcu.boards if row.mcu is not None else ():
            policy = f"{row.role} {row.policy}"
            table.add_row(board["name"], policy, row.file, board["verdict"], board["estimate"])
    return table


def _assumptions(rows: Sequence[Row]) -> list[str]:
    """One line for each board: what its estimate takes for granted."""
    boards = [board for row in rows if row.mcu is not None for board in row.mcu.boards]
    return list(dict.fromkeys(f"{board['name']}: {board['assumption']}." for board in boards))


def micro(nanoseconds: float) -> str:
    """Nanoseconds as microseconds with three digits that mean something."""
    value = nanoseconds / 1000
    if value >= 100:
        return f"{value:.0f}"
    return f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def size(count: int) -> str:
    """Bytes in the unit that reads best."""
    if count < 10_000:
        return f"{count:,} B"
    if count < 1 << 20:
        return f"{count / 1024:.1f} KiB"
    return f"{count / (1 << 20):.1f} MiB"


def figure(returns: ReturnFigure | None) -> str:
    """A return with its interval, or that there is none."""
    if returns is None:
        return "not evaluated"
    return f"{returns.mean:.1f} [{returns.low:.1f}, {returns.high:.1f}]"
