"""The machine at hand: every policy in every runtime that is installed."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

from pops.errors import PopsError, UsageError
from pops_deploy.bench.context import Context
from pops_deploy.bench.harness import time_batches, time_parts, time_side_by_side
from pops_deploy.bench.memory import measure_memories
from pops_deploy.bench.rows import ReturnFigure, Row
from pops_deploy.bench.subjects import Subject
from pops_deploy.config import BenchConfig
from pops_deploy.folder import KEYS
from pops_deploy.runtime import available, open_runtime
from pops_deploy.runtime.base import Runtime

PREFIX = "host"
ON_REQUEST = ("tflite-micro", "numpy")
"""Runtimes that are measured only when they are named."""
FOR_TEACHERS = ("sb3",)
"""Runtimes that students are measured in only when they are named."""


COPIES = 3
"""Where a policy lies in memory moves its time by several percent, so it is opened more than
once, and the copies take turns."""


@dataclass(frozen=True)
class Loaded:
    """A policy in a runtime."""

    subject: Subject
    copies: tuple[Runtime, ...]
    source: Path
    observations: list[Any]

    @property
    def runtime(self) -> Runtime:
        """The first copy, for all that is not timed call by call."""
        return self.copies[0]


def measure(
    target: str, subjects: Sequence[Subject], config: BenchConfig, context: Context
) -> Iterator[Row]:
    """Yield a row for each policy, runtime and file, all timed in turns.

    Raises:
        PopsError: if a runtime that was asked for cannot run.
        KeyboardInterrupt: if interrupted; what was measured has been yielded before.
    """
    context.begin("open the policies in their runtimes")
    loaded = _load_all(subjects, config, context)
    seconds = len(loaded) * (config.windows * config.seconds + config.warmup)
    context.begin(f"time {len(loaded)} rows, for about {seconds:.0f} s")
    timings = time_side_by_side(
        [item.copies for item in loaded], [item.observations for item in loaded], config
    )
    context.facts["clock_ns"] = timings.clock
    context.facts["copies"] = COPIES
    context.facts["order"] = "policies take turns, window by window; garbage collection is off"
    interrupted = timings.interrupted
    rows: list[tuple[Row, Loaded]] = []
    for item, latency in zip(loaded, timings.latencies):
        if latency is None:
            continue
        row = replace(_row(target, item, config, context), latency=latency)
        if not interrupted:
            try:
                row = _complete(row, item, config, timings.clock)
            except KeyboardInterrupt:
                interrupted = True
        rows.append((row, item))
    if config.memory and not interrupted:
        context.begin("measure memory in fresh processes")
        yield from _with_memory(rows, context)
    else:
        yield from (row for row, _ in rows)
    if interrupted:
        raise KeyboardInterrupt


def _with_memory(rows: Sequence[tuple[Row, Loaded]], context: Context) -> Iterator[Row]:
    """The rows with their memory; where that is interrupted, the rest without."""
    requests = [
        (item.source, row.runtime, row.file, item.subject.observations, context.suppliers)
        for row, item in rows
    ]
    done = 0
    try:
        for (row, _), memory in zip(rows, measure_memories(requests)):
            done += 1
            yield replace(row, memory=memory)
    except KeyboardInterrupt:
        yield from (row for row, _ in rows[done:])
        raise


def _load_all(subjects: Sequence[Subject], config: BenchConfig, context: Context) -> list[Loaded]:
    asked = config.runtimes
    known = [*context.suppliers, *available()]
    unknown = [name for name in asked if name not in known]
    if unknown:
        raise UsageError(f"Runtime {unknown[0]!r} is unknown, expected one of: {', '.join(known)}.")
    names = asked or tuple(name for name in known if name not in ON_REQUEST)
    loaded: list[Loaded] = []
    for subject in subjects:
        for name in names:
            if not asked and name in FOR_TEACHERS and subject.role != "teacher":
                continue
            for file in config.files:
                source = _source(subject, name, file, context.suppliers)
                if source is None:
                    continue
                try:
                    copies = _open(source, name, file, context.suppliers)
                except PopsError as error:
                    if asked or _damaged(error):
                        raise
                    context.note(f"{name} was left out: {error}")
                    continue
                loaded.append(Loaded(subject, copies, source, list(subject.observations)))
    if not loaded:
        notes = " ".join(context.notes)
        raise PopsError(
            "No runtime here can run these policies. Export the run first (`pops export RUN`), "
            f"or install a runtime: pip install ai-edge-litert, or onnxruntime. {notes}".strip()
        )
    return loaded


def _open(source: Path, name: str, file: str, suppliers: Mapping[str, str]) -> tuple[Runtime, ...]:
    first = open_runtime(source, name, file, suppliers)
    more = COPIES - 1 if getattr(first, "placed_anew", True) else 0
    return (first, *(open_runtime(source, name, file, suppliers) for _ in range(more)))


def _damaged(error: PopsError) -> bool:
    from pops.errors import ArtifactError

    return isinstance(error, ArtifactError)


def _source(subject: Subject, name: str, file: str, suppliers: Mapping[str, str]) -> Path | None:
    """What the runtime opens; None where this policy has nothing for it."""
    if name in suppliers:
        # Supplied runtimes read the policy's own weights, which are float32.
        return subject.policy_file if file == "fp32" else None
    if subject.artifact is None:
        return None
    return subject.artifact.path if subject.artifact.has(available()[name].FORMAT, file) else None


def _row(target: str, item: Loaded, config: BenchConfig, context: Context) -> Row:
    subject, runtime = item.subject, item.runtime
    return Row(
        target=target,
        role=subject.role,
        policy=subject.policy,
        num_parameters=subject.num_parameters,
        runtime=runtime.name,
        file=runtime.file,
        bytes=runtime.bytes,
        sha256=runtime.sha256,
        returns=_returns(item, config, context),
        versions=runtime.versions,
    )


def _returns(item: Loaded, config: BenchConfig, context: Context) -> ReturnFigure | None:
    subject, name, file = item.subject, item.runtime.name, item.runtime.file
    if name in context.suppliers:
        found = ReturnFigure.of(subject.evaluation)
    else:
        assert subject.artifact is not None
        key = KEYS[available()[name].FORMAT, file]
        found = ReturnFigure.of(subject.artifact.files[key].get("evaluation"))
    if found is None and config.episodes and context.evaluate is not None:
        return ReturnFigure.of(context.evaluate(item.runtime, config.episodes))
    return found


def _complete(row: Row, item: Loaded, config: BenchConfig, clock: float) -> Row:
    row = replace(row, parts=time_parts(item.runtime, item.observations, clock, config.seconds))
    if config.batch:
        rate = time_batches(item.runtime, item.subject.observations, config.batch, config.seconds)
        row = replace(row, throughput=rate)
    return row
