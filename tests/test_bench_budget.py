"""Budgets and sentences on rows with known figures."""

from __future__ import annotations

from dataclasses import replace

import pytest

from pops.errors import UsageError
from pops_deploy.bench import BenchResult
from pops_deploy.bench.budget import judge_budget, parse_budget
from pops_deploy.bench.rows import Latency, McuFigures, ReturnFigure, Row
from pops_deploy.bench.words import in_words

LATENCY = Latency(1000.0, 990.0, 1010.0, 1500.0, 9000.0, 100, (990.0, 1010.0))
MCU = McuFigures(
    core="cortex-m4",
    instructions=4000,
    instructions_min=3900,
    flash=30_000,
    ram=3000,
    static_ram=0,
    scratch=64,
    stack_static=96,
    stack_painted=88,
    mismatches=0,
    observations=100,
    compiler="gcc",
    flags="-O3",
)
ROW = Row("host", "student", "4-8-2", 58, "c", "int8", 900, "0" * 64, latency=LATENCY)
RETURN = ReturnFigure(500.0, 499.0, 501.0, 100)


def slower(latency: Latency, factor: float) -> Latency:
    return replace(
        latency,
        median=latency.median * factor,
        low=latency.low * factor,
        high=latency.high * factor,
    )


def test_parse_budget() -> None:
    assert parse_budget("flash=32K, ram=4KiB,instructions=5k,latency=20us,stack=512") == {
        "flash": 32768.0,
        "ram": 4096.0,
        "instructions": 5000.0,
        "latency": 20_000.0,
        "stack": 512.0,
    }
    assert parse_budget("") == {}
    for bad in ("flash", "flash=", "flash=-1", "flash=1X", "=3", "flash=1K,,x"):
        with pytest.raises(UsageError, match="cannot be read"):
            parse_budget(bad)


def test_judge_budget_names_the_miss_and_by_how_much() -> None:
    on_mcu = replace(ROW, target="cortex-m4", latency=None, mcu=MCU)
    misses, unused = judge_budget([ROW, on_mcu], parse_budget("flash=16K,instructions=5000"))
    assert unused == []
    assert [str(miss) for miss in misses] == [
        "student 4-8-2, c int8 on cortex-m4 misses the budget: flash 30,000 bytes, "
        "13,616 over 16,384"
    ]
    result = BenchResult((on_mcu,), (), tuple(misses), {}, {})
    assert result.exit_code == 3
    assert judge_budget([ROW], parse_budget("flash=16K")) == ([], ["flash"])
    late, _ = judge_budget([ROW], parse_budget("latency=500ns,bytes=1K"))
    assert [miss.what for miss in late] == ["latency"]


def test_budget_judges_what_gets_flashed() -> None:
    big = replace(MCU, flash=10**6)
    rows = [
        replace(ROW, target="cortex-m4", latency=None, mcu=MCU),
        replace(ROW, target="cortex-m4", latency=None, mcu=big, file="fp32"),
        replace(ROW, target="cortex-m4", latency=None, mcu=big, role="teacher"),
    ]
    assert judge_budget(rows, parse_budget("flash=32K"))[0] == []
    assert len(judge_budget(rows[1:], parse_budget("flash=32K"))[0]) == 1


def test_slower_is_said_in_words() -> None:
    rows = [
        replace(ROW, returns=RETURN, latency=slower(LATENCY, 3)),
        replace(ROW, returns=RETURN, file="fp32"),
        replace(ROW, returns=RETURN, role="teacher", policy="4-256-2"),
        replace(ROW, returns=RETURN, target="cortex-m0", latency=None, mcu=MCU, file="fp32"),
        replace(
            ROW,
            returns=RETURN,
            target="cortex-m0",
            latency=None,
            mcu=replace(MCU, instructions=4001, mismatches=2),
        ),
    ]
    words = in_words(rows)
    assert words == [
        "student 4-8-2, c int8 on host is slower than fp32: 3.00 µs against 1.00 µs.",
        "student 4-8-2, c int8 on cortex-m0 is slower than fp32: 4,001 instructions against "
        "4,000 instructions.",
        "student 4-8-2, c int8 on host is slower than its teacher: 3.00 µs against 1.00 µs.",
        "student 4-8-2, c int8 on cortex-m0 computed 2 of 100 golden actions differently from "
        "the artifact.",
    ]


def test_overlapping_windows_are_not_called_slower() -> None:
    rows = [
        replace(ROW, returns=RETURN, latency=slower(LATENCY, 1.01)),
        replace(ROW, returns=RETURN, file="fp32"),
    ]
    assert in_words(rows) == []


def test_how_much_faster_and_rows_without_a_return() -> None:
    rows = [
        replace(ROW, role="teacher", runtime="sb3", latency=slower(LATENCY, 200)),
        replace(ROW, runtime="litert", latency=slower(LATENCY, 4), returns=RETURN),
        replace(ROW, returns=RETURN),
    ]
    words = in_words(rows)
    assert words[0].startswith("student 4-8-2, c int8 takes 1.00 µs, 200 times faster")
    assert "4.0 times faster than the best library" in words[1]
    assert words[2].startswith("1 of 3 rows have no return on file")


def test_return_figures() -> None:
    figure = ReturnFigure.of({"mean": 10.0, "std": 5.0, "episodes": 100})
    assert figure is not None
    assert (figure.low, figure.high) == pytest.approx((9.02, 10.98), abs=0.001)
    for nothing in (None, {}, {"mean": "x"}, {"mean": 1, "std": float("nan"), "episodes": 3}):
        assert ReturnFigure.of(nothing) is None
