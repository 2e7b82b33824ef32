"""How much memory a fresh process gains by loading and running one policy file."""

from __future__ import annotations

import json
import subprocess
import sys
from typing import Any

from .contents import Bundle
from .failure import DeviceError
from .machine import process_bytes
from .runtimes import Entry, load

CALLS = 100


def measure_here(bundle: Bundle, entry: Entry) -> dict[str, Any]:
    """Load and run in this process, which must be fresh; bytes from /proc/self/status."""
    golden = bundle.golden({"golden": {"observations": entry.policy["golden"]["observations"]}})
    rows = [golden["observations"].row(i) for i in range(min(8, golden["observations"].rows))]
    before = process_bytes("VmRSS")
    policy = load(bundle, entry)
    inputs = [policy.convert(row) for row in rows]
    for index in range(CALLS):
        policy.step(inputs[index % len(inputs)])
    after, peak = process_bytes("VmRSS"), process_bytes("VmHWM")
    return {
        "resident_gain_bytes": None if before is None or after is None else after - before,
        "peak_bytes": peak,
    }


def measure(bundle: Bundle, entry: Entry, timeout: float = 300.0) -> dict[str, Any]:
    """`measure_here` in a fresh interpreter.

    Raises:
        DeviceError: if that process fails; a process killed for memory is named as such.
    """
    command = [sys.executable, str(bundle.path), "memory", "--file", entry.name]
    try:
        done = subprocess.run(command, capture_output=True, text=True, timeout=timeout, check=False)
    except subprocess.TimeoutExpired as error:
        raise DeviceError(
            f"Measuring the memory of {entry.name} took more than {timeout:.0f} s."
        ) from error
    if done.returncode == -9:
        raise DeviceError(
            f"The system killed the process that loaded {entry.name}: the device is out of memory."
        )
    try:
        result: dict[str, Any] = json.loads(done.stdout)
    except ValueError as error:
        reason = (done.stderr.strip().splitlines() or ["no message"])[-1]
        raise DeviceError(f"Measuring the memory of {entry.name} failed: {reason}") from error
    return result
