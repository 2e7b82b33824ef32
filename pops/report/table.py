"""The one table at the end: teacher and student, and the verdict in words."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from pops.report.interval import half_width

if TYPE_CHECKING:
    from rich.console import Console
    from rich.table import Table

FLOAT32_BYTES = 4


def result_table(manifest: dict[str, Any]) -> Table:
    """Teacher, student and their ratio: parameters, multiply-accumulates, bytes, return.

    Args:
        manifest: a run's manifest.
    """
    from rich.table import Table

    evaluation = manifest["evaluation"]
    succeeds = all("success_rate" in evaluation[role] for role in ("teacher", "student"))
    worst = all("worst_5_percent" in evaluation[role] for role in ("teacher", "student"))
    table = Table()
    table.add_column("")
    for title in ("parameters", "MACs", "bytes", "return"):
        table.add_column(title, justify="right")
    if worst:
        table.add_column("worst 5 %", justify="right")
    if succeeds:
        table.add_column("success", justify="right")
    for role in ("teacher", "student"):
        network, played = manifest[role], evaluation[role]
        row = [role, *_size(network), _return(played)]
        if worst:
            row.append(f"{played['worst_5_percent']:.2f}")
        if succeeds:
            row.append(f"{played['success_rate']:.0%}")
        table.add_row(*row, end_section=role == "student")
    table.add_row("ratio", *_ratios(manifest["teacher"], manifest["student"]))
    return table


def print_result(manifest: dict[str, Any], console: Console) -> None:
    """Print the table, and under it the verdict."""
    console.print(result_table(manifest))
    console.print(verdict_text(manifest), markup=False, highlight=False)


def verdict_text(manifest: dict[str, Any]) -> str:
    """The verdict in words: what the gate found, on how many episodes, after how many looks."""
    verdict = manifest["verdict"]
    looks = len(manifest.get("gate", {}).get("looks", [])) or 1
    head = "Gate passed: no worse." if verdict["passed"] else "Gate not passed."
    tail = "" if looks == 1 else f" ({looks} looks, each on fresh episodes.)"
    return f"{head} {verdict['reason']}{tail}"


def _size(network: dict[str, Any]) -> list[str]:
    parameters, macs = network.get("num_parameters"), network.get("macs")
    size = None if parameters is None else parameters * FLOAT32_BYTES
    return ["?" if n is None else f"{n:,}" for n in (parameters, macs, size)]


def _return(evaluation: dict[str, Any]) -> str:
    return f"{evaluation['mean']:.2f} ± {half_width(evaluation):.2f}"


def _ratios(teacher: dict[str, Any], student: dict[str, Any]) -> list[str]:
    parameters = _ratio(teacher.get("num_parameters"), student.get("num_parameters"))
    return [parameters, _ratio(teacher.get("macs"), student.get("macs")), parameters]


def _ratio(larger: int | None, smaller: int | None) -> str:
    if not larger or not smaller:
        return "?"
    ratio = larger / smaller
    return f"{ratio:,.0f} ×" if ratio >= 100 else f"{ratio:,.1f} ×"
