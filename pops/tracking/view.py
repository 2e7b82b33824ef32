"""The live view on a terminal: where a run is, redrawn in place below what it has said."""

from __future__ import annotations

import time
from typing import TYPE_CHECKING, Any

from pops.tracking.pace import Pace

if TYPE_CHECKING:
    from rich.console import Console, RenderableType

REDRAWS_PER_SECOND = 4
WIDTH = 76


def duration(seconds: float) -> str:
    """Seconds in words: 8 s, 2 min 05 s, 1 h 02 min."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    minutes, rest = divmod(whole, 60)
    if minutes < 60:
        return f"{minutes} min {rest:02d} s"
    return f"{minutes // 60} h {minutes % 60:02d} min"


def facts(state: dict[str, Any]) -> str:
    """What the student is at the moment: parameters, sparsity, return, and what else is shown."""
    parts = []
    if state.get("parameters") is not None:
        parts.append(f"{state['parameters']:,} parameters")
    if state.get("sparsity") is not None:
        parts.append(f"sparsity {state['sparsity']:.1%}")
    mean = state.get("mean", state.get("episodic_return"))
    if mean is not None:
        parts.append(f"return {mean:.2f}")
    for name, value in state.items():
        known = ("parameters", "sparsity", "mean", "episodic_return", "stage", "iteration")
        if name not in known and value is not None:
            text = f"{value:.4g}" if isinstance(value, float) else str(value)
            parts.append(f"{name.replace('_', ' ')} {text}")
    return " · ".join(parts)


class LiveView:
    """A panel that is redrawn in place. Whoever opens it closes it."""

    def __init__(self, pace: Pace, console: Console | None = None) -> None:
        from rich.console import Console
        from rich.live import Live

        self._pace = pace
        self._started = time.perf_counter()
        self._title = "starting"
        self._state: dict[str, Any] = {}
        self.console = console or Console(highlight=False)
        self._live = Live(
            console=self.console,
            get_renderable=self._render,
            refresh_per_second=REDRAWS_PER_SECOND,
            transient=True,
        )

    def open(self) -> None:
        """Show the panel."""
        self._live.start()

    def close(self) -> None:
        """Take the panel away."""
        self._live.stop()

    def begin(self, title: str) -> None:
        """A stage begins; what was shown about the last one goes, the student's facts stay."""
        self._title = title
        kept = ("parameters", "mean", "episodic_return")
        self._state = {k: v for k, v in self._state.items() if k in kept}

    def show(self, state: dict[str, Any]) -> None:
        """Show facts until the next."""
        self._state = {**self._state, **state}

    def say(self, text: str) -> None:
        """Print a line above the panel."""
        self.console.print(text, markup=False, highlight=False, soft_wrap=True)

    def _render(self) -> RenderableType:
        from rich.panel import Panel
        from rich.progress_bar import ProgressBar
        from rich.table import Table
        from rich.text import Text

        fraction = self._pace.fraction
        head = Table.grid(expand=True)
        head.add_column()
        head.add_column(justify="right", no_wrap=True)
        bar = ProgressBar(
            total=1.0, completed=fraction or 0.0, pulse=fraction is None, width=WIDTH // 3
        )
        share = "" if fraction is None else f" {fraction:4.0%}"
        head.add_column(justify="right", no_wrap=True)
        head.add_row(Text(self._title, style="bold"), bar, Text(share))
        body = Table.grid(expand=True)
        body.add_row(head)
        body.add_row(Text(facts(self._state) or "no student yet"))
        body.add_row(Text(self._clock_text(), style="dim"))
        return Panel(body, width=min(WIDTH, self.console.width), border_style="blue")

    def _clock_text(self) -> str:
        elapsed = duration(time.perf_counter() - self._started)
        left = self._pace.left()
        if left is None:
            return f"{elapsed} so far"
        return f"{elapsed} so far, about {duration(left)} left"
