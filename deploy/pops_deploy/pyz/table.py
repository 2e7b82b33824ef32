"""Plain-text tables: a board has no rich."""

from __future__ import annotations

import math
from typing import Any


def selftest_table(result: dict[str, Any]) -> str:
    """One line a file, the verdict last."""
    lines = [f"{result['members']} files match their hashes."]
    for row in result["rows"]:
        name = f"{row['policy']}/{row['file']}"
        golden = row.get("golden")
        if row["status"] == "passed":
            exact = "every bit"
            if not golden["bit_for_bit"]:
                rest = golden["largest_difference"]
                exact = f"{golden['identical']} in every bit, the rest within {rest:g}"
            lines.append(f"passed   {name}: {golden['vectors']} golden vectors, {exact}")
        else:
            lines.append(f"{row['status']:8} {name}: {row['message']}")
    lines.append("Self-test passed." if result["passed"] else "Self-test FAILED.")
    return "\n".join(lines)


def bench_table(report: dict[str, Any]) -> str:
    """Latency in microseconds, memory in KiB, the return beside them."""
    head = (
        "policy",
        "file",
        "params",
        "median µs",
        "p99 µs",
        "max µs",
        "inside µs",
        "bytes",
        "RSS KiB",
        "return [95 %]",
    )
    body = [_cells(row) for row in report["rows"]]
    widths = [max(map(len, column)) for column in zip(head, *body)]
    lines = []
    for cells in (head, *body):
        left = [cell.ljust(width) for cell, width in zip(cells[:2], widths[:2])]
        right = [cell.rjust(width) for cell, width in zip(cells[2:], widths[2:])]
        lines.append("  ".join([*left, *right]).rstrip())
    machine = report["machine"]
    about = machine["model"] or machine["processor"] or machine["machine"]
    lines.append(
        f"{about}, Python {machine['python']}, one thread, one observation at a time; the "
        f"harness adds {report['harness']['overhead_ns']:.0f} ns."
    )
    messages = [str(row["message"]) for row in [*report["missing"], *report["failed"]]]
    lines += dict.fromkeys(messages)
    lines += report["remarks"]
    if not report["complete"]:
        lines.append("Interrupted: only what was measured until then is shown.")
    return "\n".join(lines)


def _cells(row: dict[str, Any]) -> tuple[str, ...]:
    latency, stages, memory = row["latency_ns"], row["stages_ns"], row["memory"]
    evaluation = row["evaluation"] or {}
    gain = (memory or {}).get("resident_gain_bytes")
    return (
        str(row["policy"]),
        str(row["file"]),
        str(row["num_parameters"]),
        *(_micro(latency, name) for name in ("median", "p99", "max")),
        _micro(stages, "inside"),
        str(row["file_bytes"]),
        "-" if gain is None else str(gain >> 10),
        _return(evaluation),
    )


def _return(evaluation: dict[str, Any]) -> str:
    """The mean with its 95 % interval (normal approximation)."""
    try:
        mean, episodes = float(evaluation["mean"]), int(evaluation["episodes"])
        half = 1.959964 * float(evaluation["std"]) / math.sqrt(episodes)
    except (KeyError, TypeError, ValueError, ZeroDivisionError):
        return "-"
    return f"{mean:.1f} [{mean - half:.1f}, {mean + half:.1f}]"


def _micro(values: dict[str, Any] | None, name: str) -> str:
    return "-" if values is None else f"{values[name] / 1000:.2f}"
