"""Measure every policy file that this device can run, in turns, one observation at a time."""

from __future__ import annotations

import math
import time
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

from . import machine
from .contents import Bundle
from .failure import DeviceError
from .memory import measure
from .policy import DevicePolicy
from .runtimes import Entry, entries, load
from .selftest import check_entry
from .timing import (
    Candidate,
    TimingConfig,
    clock_cost,
    harness_overhead,
    interleaved,
    median,
    summarise,
)

FORMAT = "pops-device-bench-1"
STAGE_CALLS = 500


@dataclass(frozen=True)
class Loaded:
    """A policy that passed its self-test, with its row of the report."""

    entry: Entry
    policy: DevicePolicy
    inputs: list[Any]
    row: dict[str, Any]


def bench(
    bundle: Bundle,
    timing: TimingConfig,
    runtimes: tuple[str, ...] = (),
    memory: bool = True,
) -> Iterator[dict[str, Any]]:
    """Check, then measure; yield the report as far as it has come after every round of windows.

    Args:
        bundle: what to measure.
        timing: how long.
        runtimes: only these; empty for all that the device has.
        memory: also load each file in a fresh process and read its resident memory.

    Yields:
        JSON-ready reports. `complete` is true in the last one only, so that whoever
        is interrupted keeps what was measured.

    Raises:
        DeviceError: if no file can run here, in the words of the first that cannot.
        FileDamaged: if a member of the bundle does not match its hash.
    """
    bundle.check()
    checks = [(entry, check_entry(bundle, entry)) for entry in entries(bundle, runtimes)]
    missing = [check for _, check in checks if check["status"] == "missing"]
    failed = [check for _, check in checks if check["status"] == "failed"]
    passed = [(entry, check) for entry, check in checks if check["status"] == "passed"]
    if not passed:
        reasons = [str(check["message"]) for check in [*failed, *missing]]
        raise DeviceError(" ".join(reasons[:1]) or "The bundle holds nothing for these runtimes.")
    loaded = [_load(bundle, entry, check) for entry, check in passed]
    clock = clock_cost()
    report: dict[str, Any] = {
        "format": FORMAT,
        "complete": False,
        "bundle": {"made_by": bundle.facts.get("made_by"), "bytes": bundle.path.stat().st_size},
        "machine": machine.facts(),
        "harness": {
            "clock_ns": clock,
            "overhead_ns": harness_overhead(clock),
            "windows": timing.windows,
            "window_seconds": timing.window_seconds,
            "warmup_seconds": timing.warmup_seconds,
            "threads": 1,
        },
        "rows": [item.row for item in loaded],
        "missing": missing,
        "failed": failed,
        "remarks": [],
    }
    yield report
    candidates = [Candidate(item.entry.name, item.policy.step, item.inputs) for item in loaded]
    for measured in interleaved(candidates, timing):
        for item, windows in zip(loaded, measured):
            item.row["latency_ns"] = summarise(windows, clock).to_json()
        yield report
    for item in loaded:
        item.row["stages_ns"] = stages(item.policy, item.inputs, clock)
        if memory:
            item.row["memory"] = _memory(bundle, item.entry)
    report["remarks"] = remarks(report["rows"])
    report["complete"] = True
    yield report


def _load(bundle: Bundle, entry: Entry, check: dict[str, Any]) -> Loaded:
    policy = load(bundle, entry)
    golden = bundle.golden(entry.policy)
    observations = golden.get("visited", golden["observations"])
    rows = [observations.row(index) for index in range(observations.rows)]
    rows = [row for row in rows if all(map(math.isfinite, row))]
    if not rows:
        raise DeviceError(f"{entry.name} has no finite observation to measure with.")
    row = {
        "policy": entry.policy["name"],
        "role": entry.policy["role"],
        "id": entry.policy["id"],
        "file": entry.key,
        "runtime": entry.runtime,
        "versions": policy.versions,
        "num_parameters": entry.policy["num_parameters"],
        "macs": entry.policy["macs"],
        # Of C what counts is its code and constants, not its source.
        "file_bytes": policy.code_bytes or entry.facts["bytes"],
        "sha256": entry.facts["sha256"],
        "evaluation": entry.facts.get("evaluation"),
        "golden": check["golden"],
        "observations": "visited" if "visited" in golden else "golden",
        "latency_ns": None,
        "stages_ns": None,
        "memory": None,
    }
    return Loaded(entry, policy, [policy.convert(values) for values in rows], row)


def _memory(bundle: Bundle, entry: Entry) -> dict[str, Any]:
    try:
        return measure(bundle, entry)
    except DeviceError as error:
        return {"resident_gain_bytes": None, "peak_bytes": None, "message": str(error)}


def stages(policy: DevicePolicy, inputs: list[Any], cost: float) -> dict[str, Any]:
    """Median nanoseconds before, inside and after the network, the clock's cost taken off.

    Measured apart from the whole call, because a clock between its parts would slow
    it down. `inside` comes from a loop in C where the runtime has one, free of the
    clock and of the way into C and back.
    """
    clock = time.perf_counter_ns
    parts: tuple[list[int], list[int], list[int]] = ([], [], [])
    for index in range(STAGE_CALLS):
        observation = inputs[index % len(inputs)]
        start = clock()
        prepared = policy.prepare(observation)
        ready = clock()
        raw = policy.run(prepared)
        done = clock()
        policy.finish(raw)
        end = clock()
        for part, elapsed in zip(parts, (ready - start, done - ready, end - done)):
            part.append(elapsed)
    before, inside, after = (max(0.0, median(sorted(part)) - cost) for part in parts)
    alone = policy.inside_ns(inputs)
    return {
        "before": before,
        "inside": inside if alone is None else alone,
        "inside_from_python": inside,
        "after": after,
    }


def remarks(rows: list[dict[str, Any]]) -> list[str]:
    """Say what would be missed: int8 slower than fp32, a student slower than its teacher."""
    measured = {
        (row["policy"], row["role"], row["file"]): row["latency_ns"]
        for row in rows
        if row["latency_ns"] is not None
    }
    found = []
    for (name, role, key), latency in measured.items():
        against = []
        if "int8" in key:
            floats = key.replace("int8", "f32" if key.startswith("c_") else "fp32")
            against.append((floats, measured.get((name, role, floats))))
        if role == "student":
            against += [
                (f"its teacher's ({teacher})", other)
                for (teacher, its_role, its_key), other in measured.items()
                if its_role == "teacher" and its_key == key
            ]
        for what, other in against:
            # Medians move from window to window; only windows that do not overlap say anything.
            if other is not None and latency["interval"][0] > other["interval"][1]:
                found.append(
                    f"{name}: {key} is slower than {what} here ({latency['median']:.0f} ns "
                    f"against {other['median']:.0f} ns)."
                )
    return found
