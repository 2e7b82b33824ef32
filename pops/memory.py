"""Whether what is asked for fits, said before anything is filled."""

from __future__ import annotations

import math
import os
import shutil
from pathlib import Path

from pops.config import CompressConfig
from pops.errors import PopsError
from pops.frames import state_bytes
from pops.spec import PolicySpec

_MEMINFO = Path("/proc/meminfo")


def available_memory() -> int | None:
    """Bytes that programs can have without swapping; None where the system does not tell."""
    try:
        for line in _MEMINFO.read_text().splitlines():
            if line.startswith("MemAvailable:"):
                return 1024 * int(line.split()[1])
    except (OSError, ValueError, IndexError):
        pass
    try:
        return os.sysconf("SC_PHYS_PAGES") * os.sysconf("SC_PAGE_SIZE")
    except (OSError, ValueError, AttributeError):
        return None


def states_of_an_iteration(config: CompressConfig) -> int:
    """States that one iteration adds to the replay buffer, at most."""
    evaluations = math.ceil(config.prune.updates / config.prune.guard_every)
    entrants = 2 if config.distill.race_warm_start else 1
    return (
        evaluations * config.prune.states + entrants * config.distill.rounds * config.distill.states
    )


def check_room(states: int, spec: PolicySpec, folder: Path) -> None:
    """Refuse states for which memory or disk would not suffice.

    Args:
        states: how many are going to be kept.
        spec: of the policy that is taught.
        folder: where the run lies.

    Raises:
        PopsError: with what they take and what there is.
    """
    frames = spec.env.frame_stack if spec.env is not None else 0
    shape = spec.observation_shape if len(spec.input_shape) == 3 else spec.input_shape
    each = state_bytes(shape, spec.observation_dtype, frames) + 4 * spec.n_outputs
    needed = states * each
    memory = available_memory()
    disk = shutil.disk_usage(folder).free
    for place, free in (("memory", memory), ("disk", disk)):
        if free is not None and needed > free:
            raise PopsError(
                f"The {states:,} states asked for take {needed / 1e9:,.1f} GB ({each:,} bytes "
                f"each), and {free / 1e9:,.1f} GB of {place} is free. Ask for fewer with "
                "--budget-scale, --distill.states or --prune.states, or free some."
            )
