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
from pops_deploy.pyz.timing import Candidate, TimingConfig, calls_per_window, time_window
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
    steps: Sequence[Runtime], observations: Sequence[list[Any]], config: BenchConfig
) -> Timings:
    """Measure single calls of several policies in turns, window by window.

    Args:
        steps: the policies.
        observations: for each policy, the observations it cycles through.
        config: windows, seconds and warm-up.
    """
    candidates = [
        Candidate(policy.name, policy.step, inputs) for policy, inputs in zip(steps, observations)
    ]
    timing = TimingConfig(
        windows=config.windows,
        window_seconds=config.seconds,
        warmup_seconds=config.warmup,
        max_calls=MAX_CALLS,
    )
    measured: list[list[Array]] = [[] for _ in candidates]
    clocks: list[float] = []
    interrupted = False
    enabled = gc.isenabled()
    try:
        counts = [calls_per_window(candidate, timing) for candidate in candidates]
        for _ in range(config.windows):
            for candidate, count, windows in zip(candidates, counts, measured):
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
        if enabled:
            gc.enable()
    clock = float(np.median(clocks)) if clocks else clock_cost()
    return Timings([_summary(windows) for windows in measured], clock, interrupted)


def clock_cost(calls: int = 10_000) -> float:
    """Median nanoseconds between two readings of the clock, in the loop that times calls."""
    clock = time.perf_counter_ns
    durations = array("q", bytes(8 * calls))
    for index in range(calls):
        start = clock()
        durations[index] = clock() - start
    return float(np.median(np.asarray(durations)))


def _summary(windows: Sequence[Array]) -> Latency | None:
    if not windows:
        return None
    medians = [float(np.median(window)) for window in windows]
    every = np.concatenate(windows)
    return Latency(
        median=float(np.median(every)),
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

    def median(call: Any, inputs: Sequence[Any]) -> float:
        start = time.perf_counter()
        call(inputs[0])
        one = max(1e-9, time.perf_counter() - start)
        count = int(np.clip(2 * seconds / one, 20, PART_CALLS))
        window = time_window(call, inputs, count)
        return max(0.0, float(np.median(np.asarray(window))) - clock)

    return Parts(
        before=median(policy.prepare, observations),
        inside=median(policy.run, prepared),
        after=median(policy.finish, raw),
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
