"""Time policies side by side: what a call costs, and where in the call it goes."""

from __future__ import annotations

import time
from array import array
from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

from pops.spec import Array
from pops_deploy.bench.rows import Latency, Parts
from pops_deploy.config import BenchConfig
from pops_deploy.pyz.timing import Candidate, TimingConfig, interleaved, time_window
from pops_deploy.runtime.base import Runtime

PART_CALLS = 4_000
MAX_CALLS = 100_000


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
    measured: list[list[array[int]]] = [[] for _ in candidates]
    clocks: list[float] = [clock_cost()]
    interrupted = False
    try:
        for windows in interleaved(candidates, timing):
            measured = windows
            clocks.append(clock_cost())
    except KeyboardInterrupt:
        interrupted = True
    clock = float(np.median(clocks))
    return Timings([_summary(windows, clock) for windows in measured], clock, interrupted)


def clock_cost(calls: int = 10_000) -> float:
    """Median nanoseconds between two readings of the clock, in the loop that times calls."""
    clock = time.perf_counter_ns
    durations = array("q", bytes(8 * calls))
    for index in range(calls):
        start = clock()
        durations[index] = clock() - start
    return float(np.median(np.asarray(durations)))


def _summary(windows: Sequence[array[int]], clock: float) -> Latency | None:
    if not windows:
        return None
    medians = [max(0.0, float(np.median(np.asarray(window))) - clock) for window in windows]
    every = np.concatenate([np.asarray(window) for window in windows])
    return Latency(
        median=max(0.0, float(np.median(every)) - clock),
        low=min(medians),
        high=max(medians),
        p99=max(0.0, float(np.quantile(every, 0.99)) - clock),
        max=max(0.0, float(every.max()) - clock),
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
