"""Runtimes with known cost, for tests of the harness."""

from __future__ import annotations

import gc
import os
import signal
import time
from pathlib import Path
from typing import Any

import numpy as np

from pops.artifact import load_policy
from pops.torch_runtime import NumpyRuntime

SUPPLIERS = {
    "nothing": "bench_suppliers:open_nothing",
    "millisecond": "bench_suppliers:open_millisecond",
    "big": "bench_suppliers:open_big",
    "terminated": "bench_suppliers:open_terminated",
    "killed": "bench_suppliers:open_killed",
}


CANDIDATES = 4


class Known(NumpyRuntime):
    def __init__(self, path: Path, name: str, call: Any) -> None:
        super().__init__(path, "fp32")
        self.name = name
        self.step = call


def open_nothing(path: Path, file: str) -> Known:
    return Known(path, "nothing", id)


def open_millisecond(path: Path, file: str) -> Known:
    def wait(_: Any) -> int:
        end = time.perf_counter_ns() + 1_000_000
        while time.perf_counter_ns() < end:
            pass
        return 0

    return Known(path, "millisecond", wait)


def open_big(path: Path, file: str) -> Known:
    kept: list[Any] = []

    def grow(_: Any) -> int:
        if not kept:
            kept.append(np.ones(64 << 20, np.uint8))
        return 0

    return Known(path, "big", grow)


def open_terminated(path: Path, file: str) -> Known:
    """Ends the bench in its third round: the harness collects garbage before every window."""
    collected: list[str] = []
    gc.callbacks.append(lambda phase, _: collected.append(phase))

    def stop(_: Any) -> int:
        if collected.count("start") > 2 * CANDIDATES:
            os.kill(os.getpid(), signal.SIGTERM)
        return 0

    return Known(path, "terminated", stop)


def open_killed(path: Path, file: str) -> Known:
    """Runs in the bench; ends by a signal in the process that measures memory."""
    load_policy(path)

    def end(_: Any) -> int:
        if "PYTEST_VERSION" not in os.environ or os.environ.get("POPS_TEST_KILL") == "1":
            os.kill(os.getpid(), signal.SIGKILL)
        return 0

    return Known(path, "killed", end)
