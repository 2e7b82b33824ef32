"""The printed tables: what belongs to which target, and what is not a time."""

from __future__ import annotations

import io
from dataclasses import replace

from rich.console import Console
from test_bench_budget import LATENCY, MCU, RETURN, ROW

from pops_deploy.bench import BenchResult, print_bench
from pops_deploy.bench.boards import load_boards
from pops_deploy.bench.budget import judge_budget, parse_budget
from pops_deploy.bench.report import figure, micro, size
from pops_deploy.bench.words import in_words

MACHINE = {"processor": "A processor", "governor": None, "load": 0.1}
FACTS = {"windows": 9, "clock_ns": 55.0}


def printed(*rows: object) -> str:
    out = io.StringIO()
    result = BenchResult(tuple(rows), (), (), MACHINE, FACTS)  # type: ignore[arg-type]
    print_bench(result, Console(file=out, width=200))
    return out.getvalue()


def test_narrow_terminals_show_less_and_cut_nothing() -> None:
    out = io.StringIO()
    result = BenchResult((replace(ROW, returns=RETURN),), (), (), MACHINE, FACTS)
    print_bench(result, Console(file=out, width=80, force_terminal=True, color_system=None))
    narrow = out.getvalue()
    assert "…" not in narrow
    assert "windows" not in narrow.split("One observation")[0]
    out = io.StringIO()
    print_bench(result, Console(file=out, width=80))
    assert "0.99..1.01" in out.getvalue()


def test_units() -> None:
    assert [micro(n) for n in (80, 1234, 12_345, 123_456)] == ["0.08", "1.23", "12.3", "123"]
    assert [size(n) for n in (900, 20_480, 5 << 20)] == ["900 B", "20.0 KiB", "5.0 MiB"]
    assert figure(None) == "not evaluated"
    assert figure(RETURN) == "500.0 [499.0, 501.0]"


def test_emulated_times_are_marked_and_never_compared() -> None:
    emulated = replace(ROW, target="aarch64", notes=("emulated, not a latency",))
    slow = replace(LATENCY, median=1e6, low=9e5, high=2e6)
    rows = [ROW, emulated, replace(emulated, file="fp32", latency=slow)]
    text = printed(*rows)
    assert "aarch64: emulated, not a latency" in text
    assert "A processor, governor not readable" in text
    assert not any("slower" in sentence for sentence in in_words(rows))
    assert judge_budget([emulated], parse_budget("latency=1ns")) == ([], ["latency"])


def test_microcontrollers_are_counted_not_timed() -> None:
    (board,) = load_boards(("nucleo-f446re",))
    judged = board.judge((3900, 4000), MCU.flash, MCU.ram)
    mcu = replace(MCU, boards=(judged,), library=1200)
    text = printed(replace(ROW, target="cortex-m4", latency=None, mcu=mcu, returns=RETURN))
    assert "3,900..4,000" in text
    assert "30,000 B (library 1,200)" in text
    assert "96/88" in text
    assert "100/100" in text
    assert "they are not a time" in text
    assert "Nucleo-F446RE" in text
    assert "fits: 5.72% of flash" in text
    assert "21.7 to 44.4 µs" in text
    assert "not measured" in text
    assert "Nucleo-F446RE: 1 to 2 cycles an instruction at 180 MHz" in text
    assert "µs/call" not in text
