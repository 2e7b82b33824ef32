"""The pictures of a run: size against return, sparsity against return."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pops.artifact import atomic_path
from pops.report.interval import half_width

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

# Okabe and Ito's colours, told apart with any colour vision.
BLACK, ORANGE, SKY, GREEN = "#000000", "#E69F00", "#56B4E9", "#009E73"
YELLOW, BLUE, VERMILION, PURPLE = "#F0E442", "#0072B2", "#D55E00", "#CC79A7"
GREY = "#6b6b6b"
LINES = (BLUE, VERMILION, GREEN, PURPLE, ORANGE, SKY, BLACK)
DASHES = ("-", "--", "-.", ":")
STAGES = {
    "iteration": ("pruned and shrunk", BLUE, "o"),
    "search": ("search below convergence", ORANGE, "s"),
    "polish": ("polished by return", PURPLE, "D"),
}
SIZE = (10.0, 5.6)
"""Inches."""
DPI = 144
STYLE = {
    "svg.hashsalt": "pops",
    "font.size": 11,
    "axes.spines.top": False,
    "axes.spines.right": False,
    "axes.axisbelow": True,
    "axes.grid": True,
    "grid.color": "#e4e4e4",
    "grid.linewidth": 0.8,
    "legend.frameon": False,
}


def draw(run_dir: Path, manifest: dict[str, Any]) -> list[Path]:
    """Draw a run's figures into `run_dir/figures`.

    The same manifest gives the same bytes with one version of matplotlib.

    Args:
        run_dir: the run's folder.
        manifest: its manifest.

    Returns:
        The files written: `size_vs_return` and, where a student was pruned,
        `sparsity_vs_return`, each as PNG and SVG.

    Raises:
        ArtifactError: if the file system refuses.
    """
    import matplotlib as mpl

    # A user's matplotlibrc changes nothing; the backend is not drawn with and stays as it is.
    settings: dict[Any, Any] = {**mpl.rcParamsDefault, **STYLE}
    settings.pop("backend", None)
    with mpl.rc_context(settings):
        figures = {"size_vs_return": size_against_return(manifest)}
        if any(entry.get("curve") for entry in manifest.get("iterations", [])):
            figures["sparsity_vs_return"] = sparsity_against_return(manifest)
        written = []
        for name, figure in figures.items():
            written += _save(figure, Path(run_dir) / "figures" / name)
    return written


def size_against_return(manifest: dict[str, Any]) -> Figure:
    """Parameters, on a logarithmic axis, against the mean return with its 95 % interval."""
    from matplotlib.ticker import FuncFormatter, LogLocator, NullFormatter

    figure, axes = _figure()
    played = manifest["evaluation"]
    teacher, student = played["teacher"], played["student"]
    tried = _tried(manifest)
    for stage, (title, colour, marker) in STAGES.items():
        group = [entry for entry in tried if entry["stage"] == stage]
        _points(axes, group, label=title, color=colour, marker=marker)
    if manifest["teacher"].get("num_parameters"):
        size = {"num_parameters": manifest["teacher"]["num_parameters"]}
        _points(axes, [{**teacher, **size}], label="teacher", color=BLACK, marker="^", markersize=9)
    chosen = {**student, "num_parameters": manifest["student"]["num_parameters"]}
    _points(
        axes,
        [chosen],
        label="chosen student",
        color=VERMILION,
        marker="*",
        markersize=17,
        zorder=5,
    )
    _levels(axes, manifest)
    axes.set_xscale("log")
    axes.margins(x=0.08)
    smallest, largest = axes.get_xlim()
    decades = math.log10(largest / smallest)
    axes.xaxis.set_major_locator(LogLocator(subs=(1, 2, 5) if decades < 3 else (1,)))
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{x:,.0f}"))
    axes.xaxis.set_minor_formatter(NullFormatter())
    axes.set_xlabel("parameters (weights and biases)")
    axes.set_ylabel("episodic return (mean, 95 % interval)")
    _limit(axes, manifest, [*tried, teacher, chosen])
    _title(axes, _size_title(manifest))
    _legend(axes)
    return figure


def sparsity_against_return(manifest: dict[str, Any]) -> Figure:
    """One line for each iteration of pruning: sparsity against the mean return.

    The axis is logarithmic in the weights that are left, so that 99 % and 99.9 % lie apart.
    """
    from matplotlib.ticker import FuncFormatter, NullLocator

    figure, axes = _figure()
    points: list[dict[str, Any]] = []
    for position, entry in enumerate(e for e in manifest["iterations"] if e.get("curve")):
        curve = entry["curve"]
        points += curve
        colour = LINES[position % len(LINES)]
        dash = DASHES[position // len(LINES) % len(DASHES)]
        left = [_left(point) for point in curve]
        means = [point["mean"] for point in curve]
        axes.plot(left, means, dash, color=colour, lw=1.6, label=f"iteration {entry['index']}")
        for pruning, face in ((True, colour), (False, "white")):
            chosen = [i for i, point in enumerate(curve) if point.get("pruning", True) is pruning]
            axes.plot(
                [left[i] for i in chosen],
                [means[i] for i in chosen],
                "o",
                color=colour,
                markerfacecolor=face,
                markersize=5,
            )
    if any(not point.get("pruning", True) for point in points):
        axes.plot([], [], "o", color=GREY, markerfacecolor="white", label="recovering, not pruned")
    _levels(axes, manifest, bound=True)
    axes.set_xscale("log")
    axes.invert_xaxis()
    least = min(map(_left, points))
    ticks = [t for t in (1, 0.5, 0.2, 0.1, 0.05, 0.02, 0.01, 0.005, 0.002, 0.001) if t >= least / 2]
    axes.set_xticks(ticks)
    axes.xaxis.set_minor_locator(NullLocator())
    axes.xaxis.set_major_formatter(FuncFormatter(lambda x, _: f"{100 * (1 - x):.4g}"))
    axes.set_xlabel("sparsity (% of the iteration's weights that are zero)")
    axes.set_ylabel("episodic return (mean)")
    _limit(axes, manifest, points)
    _title(axes, "Return while the student is pruned")
    _legend(axes)
    return figure


def _figure() -> tuple[Figure, Axes]:
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(figsize=SIZE, layout="constrained")
    FigureCanvasAgg(figure)
    return figure, figure.add_subplot()


def _tried(manifest: dict[str, Any]) -> list[dict[str, Any]]:
    """Every size that was tried: the ladder's rungs, and iterations that are not among them."""
    rungs = [entry for entry in manifest.get("ladder", []) if _is_point(entry)]
    known = {(entry["num_parameters"], entry["mean"]) for entry in rungs}
    others = [
        {**entry, "stage": "iteration"}
        for entry in manifest.get("iterations", [])
        if _is_point(entry)
        and entry.get("episodes")
        and (entry["num_parameters"], entry["mean"]) not in known
    ]
    return [*rungs, *others]


def _is_point(entry: dict[str, Any]) -> bool:
    mean = entry.get("mean")
    return bool(entry.get("num_parameters")) and mean is not None and math.isfinite(mean)


def _points(axes: Axes, entries: Sequence[dict[str, Any]], label: str, **style: Any) -> None:
    if not entries:
        return
    # A white edge tells markers apart that lie side by side.
    style = {"markeredgecolor": "white", "markeredgewidth": 0.7, "markersize": 7, **style}
    bars = axes.errorbar(
        [entry["num_parameters"] for entry in entries],
        [entry["mean"] for entry in entries],
        yerr=[half_width(entry) for entry in entries],
        linestyle="none",
        elinewidth=1.2,
        capsize=2.5,
        **style,
    )
    # The legend shows the marker alone; with its bar it is hard to make out.
    bars.lines[0].set_label(label)


def _levels(axes: Axes, manifest: dict[str, Any], *, bound: bool = False) -> None:
    """Lines across: the teacher's mean, what the gate allows, pruning's bound, random actions."""
    teacher = manifest["evaluation"]["teacher"]["mean"]
    random = manifest["evaluation"]["random"]["mean"]
    across = {"lw": 1.2, "zorder": 1.5}
    axes.axhline(teacher, color=BLACK, label="teacher's mean", **across)
    allowed = manifest["verdict"]["margin"]
    if allowed > 0:
        axes.axhline(teacher - allowed, color=BLACK, ls="--", label="teacher − margin", **across)
    if bound:
        level = random + 0.5 * (teacher - random)
        axes.axhline(level, color=GREY, ls="-.", label="pruning stops below", **across)
    axes.axhline(random, color=GREY, ls=":", label="random actions", **across)


def _limit(axes: Axes, manifest: dict[str, Any], points: Sequence[dict[str, Any]]) -> None:
    """Keep the picture between random actions and the best; much worse ones lie on its edge."""
    evaluation = manifest["evaluation"]
    span = evaluation["teacher"]["mean"] - evaluation["random"]["mean"]
    values = [entry["mean"] for entry in points if entry.get("mean") is not None]
    lowest = evaluation["random"]["mean"] - 0.3 * span
    floor = max(lowest, min([*values, evaluation["random"]["mean"]]) - 0.06 * span)
    bars = [e["mean"] + (half_width(e) if "episodes" in e else 0.0) for e in points]
    top = max(bars) + 0.06 * span
    axes.set_ylim(floor, top)
    below = [e for e in points if e["mean"] < floor]
    for entry in below:
        x = entry["num_parameters"] if "num_parameters" in entry else _left(entry)
        axes.plot([x], [floor + 0.015 * (top - floor)], "v", color=GREY, markersize=6, zorder=4)
    if below:
        axes.plot([], [], "v", color=GREY, linestyle="none", label="return below the picture")


def _left(point: dict[str, Any]) -> float:
    """Share of the weights that are left; never 0, which a logarithmic axis cannot show."""
    return max(1.0 - float(point["sparsity"]), 1e-6)


def _size_title(manifest: dict[str, Any]) -> str:
    student = manifest["student"]["num_parameters"]
    teacher = manifest["teacher"].get("num_parameters")
    env = (manifest.get("env") or {}).get("id")
    where = f"{env}: " if env else ""
    if not teacher:
        return f"{where}{student:,} parameters"
    return f"{where}from {teacher:,} parameters to {student:,}"


def _title(axes: Axes, text: str) -> None:
    axes.set_title(text, loc="left", fontweight="bold", fontsize=13, pad=12)


def _legend(axes: Axes) -> None:
    axes.legend(loc="center left", bbox_to_anchor=(1.01, 0.5), borderaxespad=0.0, fontsize=10)


def _save(figure: Figure, stem: Path) -> list[Path]:
    paths = [stem.with_suffix(".png"), stem.with_suffix(".svg")]
    with atomic_path(paths[0]) as beside:
        figure.savefig(beside, format="png", dpi=DPI)
    with atomic_path(paths[1]) as beside:
        figure.savefig(beside, format="svg", metadata={"Date": None})
    return paths
