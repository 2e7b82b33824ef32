"""Replay the golden vectors on this device: does each file compute what was exported?"""

from __future__ import annotations

import math
import struct
from dataclasses import dataclass
from typing import Any

from .contents import Bundle, GoldenArray
from .failure import DeviceError, FileDamaged, RuntimeMissing
from .policy import DevicePolicy
from .runtimes import Entry, entries, load

FLOAT_TOLERANCE = 1e-4
"""Of a vector's largest output. Libraries sum in another order on every processor; the bound
that holds is proven at export, this one only tells a wrong result from another rounding."""


@dataclass(frozen=True)
class Comparison:
    """Golden vectors against what this device computes."""

    vectors: int
    identical: int
    """Vectors whose outputs agree in every bit and whose action is the same."""
    largest_difference: float
    outside: int
    """Vectors with an output further from its golden value than `allowed`."""
    actions_changed: int
    """Actions that differ though the golden outputs do not lie within the tolerance of a tie."""

    @property
    def passed(self) -> bool:
        """No output outside of the tolerance and no action changed."""
        return self.actions_changed == 0 and self.outside == 0

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "vectors": self.vectors,
            "identical": self.identical,
            "bit_for_bit": self.identical == self.vectors,
            "largest_difference": self.largest_difference,
            "outside_tolerance": self.outside,
            "actions_changed": self.actions_changed,
        }


def compare(entry: Entry, policy: DevicePolicy, golden: dict[str, GoldenArray]) -> Comparison:
    """Run a policy over its golden observations.

    The generated C must agree in every bit where it computes in integers. Elsewhere
    one quantisation step a layer is allowed, or `FLOAT_TOLERANCE`.
    """
    observations = golden["observations"]
    outputs, actions = golden[f"{entry.key}/outputs"], golden[f"{entry.key}/actions"]
    step = quantisation_step(outputs) if "int8" in entry.key else None
    identical = outside = changed = 0
    largest = 0.0
    for index in range(observations.rows):
        observation = policy.convert(observations.row(index))
        found, expected = policy.infer(observation), outputs.row(index).tolist()
        action = policy.step(observation)
        tolerance = allowed(entry, expected, step)
        same_action = _same_action(action, actions.row(index).tolist(), tolerance)
        same = _bits(found) == _bits(expected)
        identical += same and _exactly(action, actions.row(index).tolist())
        if not same:
            difference = max(map(_difference, found, expected))
            largest = max(largest, difference)
            outside += difference > tolerance
        if not same_action and not (policy.discrete and _near_tie(expected, tolerance)):
            changed += 1
    return Comparison(observations.rows, identical, largest, outside, changed)


def allowed(entry: Entry, expected: list[float], step: float | None) -> float:
    """How far the outputs of one vector may lie from their golden values.

    Args:
        entry: the file.
        expected: the vector's golden outputs.
        step: the quantisation step of its outputs; None where they are not quantised.
    """
    if entry.key == "c_int8":
        return 0.0
    if step is not None:
        return int(entry.policy.get("layers", 1)) * 1.001 * step
    sizes = [abs(v) for v in expected if math.isfinite(v)]
    return FLOAT_TOLERANCE * max([1.0, *sizes])


def quantisation_step(outputs: GoldenArray) -> float:
    """The step between the outputs of a quantised file, from its golden outputs."""
    distinct = sorted({v for v in outputs.values if math.isfinite(v)})
    return min((b - a for a, b in zip(distinct, distinct[1:])), default=0.0)


def _bits(values: list[float]) -> bytes:
    return struct.pack(f"<{len(values)}f", *values)


def _difference(a: float, b: float) -> float:
    if a == b or (a != a and b != b):
        return 0.0
    difference: float = abs(a - b)
    return difference if math.isfinite(difference) else math.inf


def _exactly(action: Any, expected: list[Any]) -> bool:
    if isinstance(action, int):
        return bool(action == expected[0])
    return _bits(action) == _bits(expected)


def _same_action(action: Any, expected: list[Any], tolerance: float) -> bool:
    if isinstance(action, int):
        return bool(action == expected[0])
    # An action is the clipped output or its tanh: it moves no more than the output does, but
    # for the width of its range.
    scale = max([1.0, *(abs(v) for v in expected if math.isfinite(v))])
    return all(_difference(a, b) <= 2 * scale * tolerance for a, b in zip(action, expected))


def _near_tie(outputs: list[float], tolerance: float) -> bool:
    if len(outputs) < 2 or any(v != v for v in outputs):
        return False
    best, second = sorted(outputs)[-1:-3:-1]
    return best - second <= 2 * tolerance


def check_entry(bundle: Bundle, entry: Entry) -> dict[str, Any]:
    """One file's result: `status` "passed", "failed" or "missing", and why."""
    row: dict[str, Any] = {
        "policy": entry.policy["name"],
        "file": entry.key,
        "runtime": entry.runtime,
        "status": "failed",
    }
    try:
        policy = load(bundle, entry)
        row["versions"] = policy.versions
        policy.self_test()
        comparison = compare(entry, policy, bundle.golden(entry.policy))
    except RuntimeMissing as error:
        return {**row, "status": "missing", "package": error.package, "message": str(error)}
    except FileDamaged:
        raise
    except DeviceError as error:
        return {**row, "message": str(error)}
    row["golden"] = comparison.to_json()
    if comparison.passed:
        return {**row, "status": "passed"}
    return {
        **row,
        "message": f"{entry.name} differs from its golden vectors on this device: "
        f"{comparison.vectors - comparison.identical} of {comparison.vectors} vectors, "
        f"{comparison.outside} of them beyond rounding, {comparison.actions_changed} actions, "
        f"largest difference {comparison.largest_difference:g}. "
        "Do not use it here.",
    }


def selftest(bundle: Bundle, runtimes: tuple[str, ...] = ()) -> dict[str, Any]:
    """Check every member's hash and every file whose runtime this device has.

    Returns:
        `members` (how many hashes were checked), `rows`, and `passed`: nothing failed
        and at least one file ran.

    Raises:
        FileDamaged: if a member does not match its hash.
    """
    members = bundle.check()
    rows = [check_entry(bundle, entry) for entry in entries(bundle, runtimes)]
    states = [row["status"] for row in rows]
    return {
        "members": members,
        "rows": rows,
        "passed": "failed" not in states and "passed" in states,
    }
