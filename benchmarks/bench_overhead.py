"""How much `pops bench` adds to what it measures, and how that is known.

Each call is timed twice. Once as the bench does it: the clock is read before and after every call,
and the median difference is kept, less the cost of reading the clock. Once without a clock in the
loop: many calls in a row, less the same loop without a call, divided by their number. What the
two disagree by is what the harness adds.

    python benchmarks/bench_overhead.py [ARTIFACT]
"""

from __future__ import annotations

import argparse
import itertools
import math
import statistics
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pops_deploy.bench.harness import clock_cost
from pops_deploy.pyz.timing import median, time_window
from pops_deploy.runtime import open_runtime

RUN_NS = 300_000
RUNS = 300
ROUNDS = 50


def amortised(call: Callable[[Any], Any], inputs: Sequence[Any], calls: int) -> float:
    """Nanoseconds a call with no clock between calls, over one run of calls."""
    values = list(itertools.islice(itertools.cycle(inputs), calls))
    start = time.perf_counter_ns()
    for value in values:
        call(value)
    middle = time.perf_counter_ns()
    for value in values:  # noqa: B007
        pass
    end = time.perf_counter_ns()
    return ((middle - start) - (end - middle)) / calls


def spin(nanoseconds: int) -> Callable[[Any], None]:
    def wait(_: Any) -> None:
        end = time.perf_counter_ns() + nanoseconds
        while time.perf_counter_ns() < end:
            pass

    return wait


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("artifact", nargs="?", type=Path)
    artifact = parser.parse_args().artifact
    numbers = [float(i) for i in range(64)]
    arrays = [np.full(64, i, np.float32) for i in range(64)]
    cases: list[tuple[str, Callable[[Any], Any], Sequence[Any]]] = [
        ("id(x)", id, numbers),
        ("math.sqrt(x)", math.sqrt, numbers),
        ("numpy sum of 64", np.sum, arrays),
        ("busy wait of 5 µs", spin(5_000), numbers),
        ("busy wait of 50 µs", spin(50_000), numbers),
    ]
    if artifact is not None:
        policy = open_runtime(artifact, "c", "int8")
        from pops_deploy.folder import Artifact

        cases.append(
            ("policy in C, int8", policy.step, list(Artifact(artifact).golden()["observations"]))
        )
    clocks = [clock_cost() for _ in range(ROUNDS)]
    clock = statistics.median(clocks)
    print(f"two readings of the clock: {clock:.0f} ns ({min(clocks):.0f} to {max(clocks):.0f})")
    print(f"{'call':<20}{'no clock':>12}{'bench':>12}{'adds':>10}   nanoseconds")
    for name, call, inputs in cases:
        # Short runs and their median, so that another process costs a run and not the result.
        calls = max(4, int(RUN_NS / max(20.0, amortised(call, inputs, 20))))
        plain, timed = [], []
        for _ in range(RUNS):
            plain.append(amortised(call, inputs, calls))
            window = time_window(call, inputs, calls)
            timed.append(median(sorted(window)) - clock)
        one, other = statistics.median(plain), statistics.median(timed)
        print(f"{name:<20}{one:>12.0f}{other:>12.0f}{other - one:>10.0f}")


if __name__ == "__main__":
    main()
