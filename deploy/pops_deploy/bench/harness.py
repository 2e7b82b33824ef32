"""Time policies side by side: what a call costs, and where in the call it goes."""

from __future__ import annotations

import gc
import time
from array import array
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from pops.spec import Array
from pops_deploy.bench.rows import Latency, Parts
from pops_deploy.config import BenchConfig
from pops_deploy.pyz.timing import (
    Candidate,
    TimingConfig,
    calls_per_window,
    median,
    quiet_median,
    time_window,
)
from pops_deploy.runtime.base import Runtime

PART_CALLS = 4_000
MAX_CALLS = 100_000
CLOCK_CALLS = 2_000


class Timings(NamedTuple):
    """Latencies in the order of the candidates; None where nothing was measured."""

    latencies: list[Latency | None]
    clock: float
    """Nanoseconds between two readings of the clock with nothing between them; taken off."""
    interrupted: bool


def time_side_by_side(
    rows: Sequence[Sequence[Runtime]], observations: Sequence[list[Any]], config: BenchConfig
) -> Timings:
    """Measure single calls of several policies in turns, window by window.

    Args:
        rows: for each policy, the copies of it that take turns from window to window.
        observations: for each policy, the observations it cycles through.
        config: windows, seconds and warm-up.
    """
    candidates = [
        [Candidate(copy.name, copy.step, inputs) for copy in copies]
        for copies, inputs in zip(rows, observations)
    ]
    measured: list[list[Array]] = [[] for _ in candidates]
    clocks: list[float] = []
    interrupted = False
    enabled = gc.isenabled()
    # What the runtimes have loaded is here to stay: a collection before each window need not
    # look at it again, which takes longer than the window where torch is among them.
    gc.collect()
    gc.freeze()
    try:
        counts = [_warm(copies, config) for copies in candidates]
        for number in range(config.windows):
            for copies, count, windows in zip(candidates, counts, measured):
                candidate = copies[number % len(copies)]
                gc.collect()
                gc.disable()
                # Right beside the window: a machine's clock has its moods, too.
                clock = clock_cost(CLOCK_CALLS)
                window = time_window(candidate.call, candidate.inputs, count)
                clock = (clock + clock_cost(CLOCK_CALLS)) / 2
                windows.append(np.maximum(np.asarray(window) - clock, 0.0))
                clocks.append(clock)
                if enabled:
                    gc.enable()
    except KeyboardInterrupt:
        interrupted = True
    finally:
        gc.unfreeze()
        if enabled:
            gc.enable()
    clock = float(np.median(clocks)) if clocks else clock_cost()
    latencies = [summarise_windows(windows, len(copies)) for windows, copies in zip(measured, rows)]
    return Timings(latencies, clock, interrupted)


def _warm(copies: Sequence[Candidate], config: BenchConfig) -> int:
    """Warm every copy up; how many calls fill one window."""
    timing = TimingConfig(
        windows=config.windows,
        window_seconds=config.seconds,
        warmup_seconds=config.warmup / len(copies),
        max_calls=MAX_CALLS,
    )
    return max(calls_per_window(copy, timing) for copy in copies)


def clock_cost(calls: int = 10_000) -> float:
    """Median nanoseconds between two readings of the clock, in the loop that times calls."""
    clock = time.perf_counter_ns
    durations = array("q", bytes(8 * calls))
    for index in range(calls):
        start = clock()
        durations[index] = clock() - start
    return median(sorted(durations))


def summarise_windows(windows: Sequence[Array], copies: int) -> Latency | None:
    """What the windows of copies that took turns say; None where there are none.

    Args:
        windows: nanoseconds of each call, the clock's cost taken off, window by window.
        copies: how many took turns, from window to window.
    """
    if not windows:
        return None
    medians = [median(np.sort(window).tolist()) for window in windows]
    every = np.concatenate(windows)
    # A copy that lies badly in memory is slow in all of its windows, so copies are summed up
    # first: among the quietest windows of all there would be none of its.
    each = [quiet_median(medians[first::copies]) for first in range(min(copies, len(medians)))]
    return Latency(
        median=median(sorted(each)),
        low=min(medians),
        high=max(medians),
        p99=float(np.quantile(every, 0.99)),
        max=float(every.max()),
        calls=len(every),
        windows=tuple(medians),
    )


def time_parts(policy: Runtime, observations: list[Any], clock: float, seconds: float) -> Parts:
    """Median nanoseconds before, inside and after the network, each for two windows at most."""
    measured = policy.phases(observations)
    if measured is not None:
        return Parts(*measured)
    prepared = [policy.prepare(observation) for observation in observations[:256]]
    raw = [policy.run(item) for item in prepared]

    def typical(call: Any, inputs: Sequence[Any]) -> float:
        start = time.perf_counter()
        call(inputs[0])
        one = max(1e-9, time.perf_counter() - start)
        count = int(np.clip(2 * seconds / one, 20, PART_CALLS))
        window = time_window(call, inputs, count)
        return max(0.0, median(sorted(window)) - clock)

    return Parts(
        before=typical(policy.prepare, observations),
        inside=typical(policy.run, prepared),
        after=typical(policy.finish, raw),
    )


def time_batches(policy: Runtime, observations: Array, size: int, seconds: float) -> float:
    """Observations per second when they come in batches of `size`."""
    batch = np.resize(observations, (size, *observations.shape[1:]))
    policy.act(batch)
    rates = []
    for _ in range(5):
        start, rounds = time.perf_counter(), 0
        while time.perf_counter() - start < seconds:
            policy.act(batch)
            rounds += 1
        rates.append(rounds * size / (time.perf_counter() - start))
    return float(np.median(rates))
