"""Resident memory of a fresh process that loads one policy and runs it.

`python -m pops_deploy.bench.memory REQUEST` is that process: it imports numpy and this package,
notes what it holds, loads the policy, acts on every observation, and prints both as JSON.
"""

from __future__ import annotations

import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np

from pops.errors import PopsError
from pops.spec import Array
from pops_deploy.bench.rows import Memory
from pops_deploy.runtime import open_runtime

TIMEOUT = 120.0
CALLS = 200


def measure_memory(
    path: Path, runtime: str, file: str, observations: Array, suppliers: Mapping[str, str]
) -> Memory | None:
    """Load and run a policy in a fresh interpreter; None where the system does not tell.

    Raises:
        PopsError: if the process fails; quotes its last line.
    """
    if not Path("/proc/self/status").is_file():
        return None
    with tempfile.TemporaryDirectory(prefix="pops-") as folder:
        states = Path(folder) / "observations.npy"
        np.save(states, observations[:CALLS])
        request = json.dumps([str(path), runtime, file, str(states), dict(suppliers)])
        # So that the process finds the same packages, also from a zip.
        environment = {**os.environ, "PYTHONPATH": os.pathsep.join(p for p in sys.path if p)}
        try:
            done = subprocess.run(
                [sys.executable, "-m", "pops_deploy.bench.memory", request],
                capture_output=True,
                text=True,
                timeout=TIMEOUT,
                env=environment,
            )
        except subprocess.TimeoutExpired as error:
            raise PopsError(
                f"Measuring the memory of {runtime} took more than {TIMEOUT:.0f} s; "
                "run again with --no-memory."
            ) from error
    if done.returncode != 0:
        if done.returncode < 0:
            reason = f"it was ended by signal {-done.returncode}: is the device out of memory?"
        else:
            reason = (done.stderr.strip().splitlines() or ["it said nothing"])[-1]
        raise PopsError(f"Measuring the memory of {runtime} failed ({reason}).")
    figures = json.loads(done.stdout.splitlines()[-1])
    return Memory(gained=max(0, figures["after"] - figures["before"]), peak=figures["peak"])


def measure_memories(
    requests: Sequence[tuple[Path, str, str, Array, Mapping[str, str]]],
) -> Iterator[Memory | None]:
    """`measure_memory` of each request in order, as many at a time as there are cores.

    What a process holds does not depend on what runs beside it, as a time does.
    """
    with ThreadPoolExecutor(os.cpu_count()) as pool:
        try:
            for future in [pool.submit(measure_memory, *request) for request in requests]:
                yield future.result()
        finally:
            pool.shutdown(wait=False, cancel_futures=True)


def _status(field: str) -> int:
    """A field of /proc/self/status in bytes."""
    with open("/proc/self/status", encoding="ascii", errors="replace") as file:
        for line in file:
            if line.startswith(field + ":"):
                return int(line.split()[1]) * 1024
    return 0


def main(request: str) -> None:
    """Do what the request says and print the figures."""
    path, runtime, file, states, suppliers = json.loads(request)
    observations: Any = np.load(states, allow_pickle=False)
    before = _status("VmRSS")
    policy = open_runtime(path, runtime, file, suppliers)
    for observation in observations:
        policy.step(observation)
    after, peak = _status("VmRSS"), _status("VmHWM")
    print(json.dumps({"before": before, "after": after, "peak": peak}))


if __name__ == "__main__":
    main(sys.argv[1])
