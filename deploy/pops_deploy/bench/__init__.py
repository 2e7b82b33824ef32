"""bench(): teacher and students measured the same way on every target."""

from __future__ import annotations

import contextlib
import math
import signal
import threading
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

from pops_deploy.bench.budget import Miss, judge_budget, parse_budget
from pops_deploy.bench.context import Context, Evaluator, quietly
from pops_deploy.bench.machine import describe_machine
from pops_deploy.bench.report import print_bench
from pops_deploy.bench.rows import Row
from pops_deploy.bench.subjects import Exporter, Subject, find_subjects
from pops_deploy.bench.words import in_words
from pops_deploy.config import BenchConfig

__all__ = ["BenchConfig", "BenchResult", "bench", "print_bench"]

FORMAT = "pops-bench-1"


@dataclass(frozen=True)
class BenchResult:
    """Everything that a bench measured."""

    rows: tuple[Row, ...]
    words: tuple[str, ...]
    """What the figures say, and what was left out."""
    misses: tuple[Miss, ...]
    machine: dict[str, Any]
    facts: dict[str, Any]
    """How it was measured: the clock's cost and the settings."""
    interrupted: bool = False

    @property
    def exit_code(self) -> int:
        """0; 3 where a budget is missed; 130 where the bench was interrupted."""
        if self.interrupted:
            return 130
        return 3 if self.misses else 0

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dictionary."""
        return {
            "format": FORMAT,
            "rows": [_finite(row.to_json()) for row in self.rows],
            "words": list(self.words),
            "budget_misses": [str(miss) for miss in self.misses],
            "machine": self.machine,
            "measured": _finite(self.facts),
            "interrupted": self.interrupted,
            "exit_code": self.exit_code,
        }


def bench(
    config: BenchConfig,
    suppliers: Mapping[str, str] | None = None,
    export: Exporter | None = None,
    evaluate: Evaluator | None = None,
    begin: Callable[[str], None] = quietly,
) -> BenchResult:
    """Measure the policies of runs and artifacts on every target, and write what was asked for.

    Args:
        config: what to measure and how.
        suppliers: runtimes from outside of this package as "module:function" by name.
        export: makes the artifact of a run's teacher or student where it is missing.
        evaluate: plays episodes, for rows without a return when `config.episodes` asks for it.
        begin: told each stage as it begins.

    Raises:
        UsageError: if a path, target, runtime or budget cannot be understood.
        PopsError: if a tool, a package or a target is missing (says which).
    """
    from pops_deploy.targets import find_target

    limits = parse_budget(config.budget)
    targets = [(name, find_target(name)) for name in config.targets]
    context = Context(suppliers=suppliers or {}, evaluate=evaluate, begin=begin)
    rows: list[Row] = []
    interrupted = False
    machine = describe_machine()
    with _terminated_as_interrupted():
        try:
            subjects: list[Subject] = find_subjects(config.paths, config.observations, export)
            for name, module in targets:
                if name != "host":
                    begin(f"measure on {name}")
                # A generator, so that the rows before an interruption are kept.
                for row in module.measure(name, subjects, config, context):
                    rows.append(row)
        except KeyboardInterrupt:
            interrupted = True
    misses, unused = judge_budget(rows, limits)
    for what in unused:
        context.note(f"The budget for {what} was not judged: no target here measures it.")
    if interrupted:
        context.note(f"Interrupted: {len(rows)} rows had been measured and are kept.")
    facts = {**context.facts, "windows": config.windows, "seconds": config.seconds}
    result = BenchResult(
        tuple(rows),
        (*in_words(rows), *context.notes),
        tuple(misses),
        machine,
        facts,
        interrupted,
    )
    _write(result, config)
    return result


def _write(result: BenchResult, config: BenchConfig) -> None:
    from pops.artifact import write_json

    if config.json is not None:
        write_json(config.json, result.to_json())
    if config.plot is not None and result.rows:
        from pops_deploy.bench.plot import plot_bench

        plot_bench(result.rows, config.plot)


def _finite(value: Any) -> Any:
    """JSON has no infinity and no NaN: null instead."""
    if isinstance(value, float) and not math.isfinite(value):
        return None
    if isinstance(value, dict):
        return {key: _finite(item) for key, item in value.items()}
    if isinstance(value, (list, tuple)):
        return [_finite(item) for item in value]
    return value


@contextlib.contextmanager
def _terminated_as_interrupted() -> Iterator[None]:
    """SIGTERM keeps what was measured, as Ctrl-C does."""
    if threading.current_thread() is not threading.main_thread():
        yield
        return

    def interrupt(number: int, frame: Any) -> None:
        raise KeyboardInterrupt

    before = signal.signal(signal.SIGTERM, interrupt)
    try:
        yield
    finally:
        signal.signal(signal.SIGTERM, before)
