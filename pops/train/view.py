"""What a training shows: a progress bar or plain lines while it runs, and a table at the end."""

from __future__ import annotations

import shlex
from typing import TYPE_CHECKING, Any

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeRemainingColumn
from rich.table import Table

from pops.evaluate import EvalResult
from pops.train.config import TrainConfig
from pops.train.plan import Plan

if TYPE_CHECKING:
    from pops.train.loop import TrainResult


class View:
    """Shows a training on standard error while it runs."""

    def __init__(self, plan: Plan, *, quiet: bool) -> None:
        self._plan, self._quiet = plan, quiet
        self._console = Console(stderr=True, quiet=quiet, highlight=False)
        self._bar = Progress(
            TextColumn("{task.description}"),
            BarColumn(),
            MofNCompleteColumn(),
            TextColumn("{task.fields[note]}"),
            TimeRemainingColumn(),
            console=self._console,
            disable=quiet or not self._console.is_terminal,
        )
        self._task = self._bar.add_task(
            f"{plan.algorithm.upper()} on {plan.env.id}", total=plan.timesteps, note=""
        )

    def __enter__(self) -> View:
        self._bar.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._bar.stop()

    def say(self, text: str) -> None:
        """One plain line."""
        self._console.print(text)

    def evaluated(self, steps: int, result: EvalResult, best: float) -> None:
        """Show an evaluation."""
        objective = "" if self._plan.objective is None else f", objective {self._plan.objective:g}"
        self._bar.update(self._task, note=f"best {best:.1f}{objective}")
        self.say(
            f"step {steps:>9,}  return {result.mean:8.1f} ± {result.std:.1f}  "
            f"best {best:.1f}{objective}"
        )

    def callback(self) -> Any:
        """What Stable-Baselines3 calls at every step."""
        return self._on_step

    def _on_step(self, local: dict[str, Any], _: dict[str, Any]) -> bool:
        steps = local["self"].num_timesteps
        if not self._bar.disable and steps % 256 < self._plan.n_envs:
            self._bar.update(self._task, completed=min(steps, self._plan.timesteps))
        return True


def resume_command(config: TrainConfig) -> str:
    """The command that goes on with a training."""
    words = ["pops", "train", "--env", config.env, "--out", str(config.out)]
    defaults = TrainConfig(env=config.env, out=config.out)
    for name in (
        *("algo", "preset", "start", "timesteps", "seed"),
        *("device", "n_envs", "net_arch", "objective"),
        *("eval_episodes", "final_episodes", "eval_every", "env_kwargs", "wrapper"),
    ):
        value = getattr(config, name)
        if value != getattr(defaults, name):
            values = value if isinstance(value, tuple) else (value,)
            words += [f"--{name.replace('_', '-')}", *map(str, values)]
    return shlex.join([*words, "--resume"])


def print_result(result: TrainResult, console: Console | None = None) -> None:
    """The table at the end."""
    manifest = result.manifest
    final = manifest["evaluation"]
    table = Table(title=f"Teacher: {result.path}", title_justify="left", show_header=False)
    widths = "-".join(str(n) for n in manifest["plan"]["widths"]) or "none"
    table.add_row("algorithm", f"{manifest['algorithm']}, hidden layers {widths}")
    table.add_row("parameters", f"{manifest['num_parameters']:,}")
    table.add_row(
        "return",
        f"{final['mean']:.1f} ± {final['std']:.1f} (lowest {final['min']:.1f}) on "
        f"{final['episodes']} episodes not seen before",
    )
    table.add_row(
        "cost", f"{manifest['timesteps_trained']:,} steps, {manifest['seconds']:.0f} seconds"
    )
    table.add_row("verdict", result.reason)
    (console or Console()).print(table)
