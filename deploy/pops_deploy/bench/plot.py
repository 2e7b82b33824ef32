"""`pops bench --plot`: return against latency and against bytes, one mark for each row."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from pops.artifact import atomic_path
from pops.errors import MissingPackage
from pops_deploy.bench.rows import Row

MARKERS = {"teacher": "s", "student": "o"}


def plot_bench(rows: Sequence[Row], path: Path) -> None:
    """Draw one panel for each: time of a call, instructions, bytes.

    Raises:
        MissingPackage: if matplotlib is not installed.
    """
    try:
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure
    except ImportError as error:
        raise MissingPackage("matplotlib", "report", "Drawing --plot") from error
    timed = [row for row in rows if row.latency is not None and not row.emulated]
    counted = [row for row in rows if row.mcu is not None and row.mcu.instructions]
    panels = [
        (timed, _microseconds, "microseconds a call"),
        (counted, _instructions, "instructions a call"),
        (list(rows), _bytes, "bytes of file or flash"),
    ]
    panels = [panel for panel in panels if panel[0]]
    figure = Figure(figsize=(6 * len(panels), 5.5), layout="constrained")
    FigureCanvasAgg(figure)
    axes = figure.subplots(1, len(panels), squeeze=False)[0]
    for axis, (shown, cost, label) in zip(axes, panels):
        _panel(axis, rows, shown, cost, label)
    handles, names = axes[-1].get_legend_handles_labels()
    figure.legend(handles, names, loc="outside lower center", ncols=3, fontsize="small")
    # No date in the file: the same rows give the same bytes.
    metadata = {".svg": {"Date": None}, ".pdf": {"CreationDate": None}}.get(path.suffix)
    with atomic_path(path) as beside:
        figure.savefig(beside, format=path.suffix[1:], dpi=150, metadata=metadata)


def _microseconds(row: Row) -> float:
    return 0.0 if row.latency is None else row.latency.median / 1000


def _instructions(row: Row) -> float:
    return 0.0 if row.mcu is None else float(row.mcu.instructions or 0)


def _bytes(row: Row) -> float:
    return float(row.bytes)


def _panel(
    axes: Any, rows: Sequence[Row], shown: Sequence[Row], cost: Callable[[Row], float], label: str
) -> None:
    """One mark for each row: squares are teachers, hollow marks float32, crosses unevaluated."""
    for row in shown:
        colour = f"C{rows.index(row) % 10}"
        value = max(1e-3, cost(row))
        style = {
            "marker": MARKERS[row.role] if row.returns is not None else "x",
            "color": colour,
            "markerfacecolor": "none" if row.file == "fp32" else colour,
            "linestyle": "none",
            "label": f"{row.title} ({row.target})",
        }
        if row.returns is None:
            # Without a return there is no height: on the lower edge.
            axes.plot([value], [0.02], transform=axes.get_xaxis_transform(), **style)
            continue
        mean = row.returns.mean
        spread = [[mean - row.returns.low], [row.returns.high - mean]]
        axes.errorbar([value], [mean], yerr=spread, capsize=3, **style)
    axes.set_xscale("log")
    axes.set_xlabel(f"{label} (log)")
    axes.set_ylabel("return (mean, 95 % interval)")
    axes.grid(alpha=0.3)
