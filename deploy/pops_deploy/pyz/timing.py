"""The loop that measures calls one by one. Standard library only, so that it runs on any device.

Candidates take turns, window by window, so that a machine that turns noisy
disturbs all of them alike. The clock is read next to the call and nowhere
else; choosing the input and storing the result lie outside of what is timed.
"""

from __future__ import annotations

import gc
import math
import time
from array import array
from bisect import bisect_left, bisect_right
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Callable

Call = Callable[[Any], Any]


@dataclass(frozen=True)
class TimingConfig:
    """How long to measure."""

    windows: int = 5
    """Windows for each candidate; five or more, or the interval between them means little."""
    window_seconds: float = 0.2
    """Wall-clock seconds that one window of one candidate aims at."""
    warmup_seconds: float = 0.1
    """Seconds of calls for each candidate before anything counts."""
    max_calls: int = 20_000
    """Most calls in one window, so that a fast policy does not fill the memory of a small board."""
    min_calls: int = 20
    """Fewest calls in one window, however slow the policy is."""


@dataclass(frozen=True)
class Candidate:
    """One thing to measure: `call(inputs[i % len(inputs)])`, one observation at a time."""

    name: str
    call: Call
    inputs: Sequence[Any]


@dataclass(frozen=True)
class LatencySummary:
    """What one candidate's windows say, in nanoseconds per call."""

    calls: int
    median: float
    p99: float
    max: float
    window_medians: tuple[float, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON-ready; `interval` spans the smallest and the largest median of a window."""
        return {
            "calls": self.calls,
            "median": self.median,
            "p99": self.p99,
            "max": self.max,
            "window_medians": list(self.window_medians),
            "interval": [min(self.window_medians), max(self.window_medians)],
        }


def time_window(call: Call, inputs: Sequence[Any], count: int) -> array[int]:
    """Call `count` times, going round the inputs; nanoseconds of each call, (count,) int64."""
    clock = time.perf_counter_ns
    durations = array("q", bytes(8 * count))
    size = len(inputs)
    for index in range(count):
        value = inputs[index % size]
        start = clock()
        call(value)
        durations[index] = clock() - start
    return durations


def calls_per_window(candidate: Candidate, config: TimingConfig) -> int:
    """Warm the candidate up and return how many calls fill one window."""
    clock = time.perf_counter_ns
    calls = 0
    index = 0
    start = clock()
    end = start + int(config.warmup_seconds * 1e9)
    now = start
    while now < end or calls < 3:
        candidate.call(candidate.inputs[index])
        index = (index + 1) % len(candidate.inputs)
        calls += 1
        now = clock()
    per_call = max((now - start) / calls, 1.0)
    wanted = int(config.window_seconds * 1e9 / per_call)
    return max(config.min_calls, min(wanted, config.max_calls))


def interleaved(
    candidates: Sequence[Candidate], config: TimingConfig
) -> Iterator[list[list[array[int]]]]:
    """Measure all candidates in turns; yield after every round what there is so far.

    Yields:
        For each candidate, the windows measured so far: `[candidate][window]` holds
        (calls,) int64 nanoseconds. The last yield is the whole measurement; a caller
        that is interrupted keeps the one before.
    """
    counts = [calls_per_window(candidate, config) for candidate in candidates]
    measured: list[list[array[int]]] = [[] for _ in candidates]
    for _ in range(config.windows):
        for candidate, count, windows in zip(candidates, counts, measured):
            was_enabled = gc.isenabled()
            gc.collect()
            gc.disable()
            try:
                windows.append(time_window(candidate.call, candidate.inputs, count))
            finally:
                if was_enabled:
                    gc.enable()
        yield measured


def quantile(ordered: Sequence[float], share: float) -> float:
    """The smallest value with at least `share` of the sorted values at or below it."""
    return float(ordered[max(0, math.ceil(share * len(ordered)) - 1)])


def median(ordered: Sequence[float]) -> float:
    """The median of sorted values, of which many may be equal because their clock ticks coarsely.

    A clock of 10 ns tells 64 ns as 60 six times out of ten and as 70 otherwise. The plain median
    is 60; the mid-quantile, which interpolates between the steps of the distribution, is 64
    (Ma, Genton and Parzen 2011, Ann. Inst. Stat. Math. 63). Without ties it is the median.
    """
    size = len(ordered)
    middle = ordered[(size - 1) // 2]
    value, share = _step(ordered, middle)
    if share >= 0.5:
        first = bisect_left(ordered, middle)
        other = _step(ordered, ordered[first - 1]) if share > 0.5 and first else (value, share)
    else:
        after = bisect_right(ordered, middle)
        other = _step(ordered, ordered[after]) if after < size else (value, share)
    if other[1] == share:
        return value
    return value + (other[0] - value) * (0.5 - share) / (other[1] - share)


def _step(ordered: Sequence[float], value: float) -> tuple[float, float]:
    """A value and the share of those below it, half of those equal to it included."""
    below, up_to = bisect_left(ordered, value), bisect_right(ordered, value)
    return float(value), (below + up_to) / (2 * len(ordered))


def quiet_median(medians: Sequence[float]) -> float:
    """The median of the quieter half of the windows' medians.

    Other programs and a processor that clocks down only ever add time, often for seconds on end;
    what the policy itself takes is found in the windows that they left alone.
    """
    ordered = sorted(medians)
    return median(ordered[: (len(ordered) + 1) // 2])


def summarise(windows: Sequence[Sequence[int]], clock: float = 0.0) -> LatencySummary:
    """What the quieter windows' median is, and p99 and maximum over all calls.

    Args:
        windows: nanoseconds of each call, window by window.
        clock: what `clock_cost` returned, taken off every figure.
    """
    ordered = sorted(value for window in windows for value in window)
    medians = tuple(max(0.0, median(sorted(window)) - clock) for window in windows)
    return LatencySummary(
        calls=len(ordered),
        median=quiet_median(medians),
        p99=max(0.0, quantile(ordered, 0.99) - clock),
        max=max(0.0, ordered[-1] - clock),
        window_medians=medians,
    )


def clock_cost(calls: int = 10_000) -> float:
    """Median nanoseconds between two readings of the clock with nothing between them."""
    clock = time.perf_counter_ns
    durations = array("q", bytes(8 * calls))
    for index in range(calls):
        start = clock()
        durations[index] = clock() - start
    return median(sorted(durations))


def _nothing(value: Any) -> None:
    """The call that costs only what the harness itself adds."""


def harness_overhead(clock: float, calls: int = 5_000) -> float:
    """Median nanoseconds that the harness reports for a call that does nothing.

    It is measured by the same loop and in the same way, the clock's cost taken off,
    so it is what the harness adds to every figure: one call of a Python function.
    """
    windows = [time_window(_nothing, (None,), calls) for _ in range(3)]
    return summarise(windows, clock).median
