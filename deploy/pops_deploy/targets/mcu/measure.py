"""Run generated C on an emulated Cortex-M and count what it executes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt

CORES = ("cortex-m0", "cortex-m3", "cortex-m4", "cortex-m7", "cortex-m55")


@dataclass(frozen=True)
class McuMeasurement:
    """One policy on one core."""

    core: str
    instructions: npt.NDArray[np.int64]
    """(N,) instructions of one `policy_act` call, call and return included."""
    outputs: npt.NDArray[np.float32]
    """(N, outputs): what `policy_infer` gave."""
    actions: npt.NDArray[Any]
    """(N, action size): what `policy_act` gave, int32 or float32."""
    statuses: npt.NDArray[np.int32]
    """(N,): the status that `policy_act` returned."""
    text: int
    """Bytes of the policy's code."""
    rodata: int
    """Bytes of the policy's constants, self test aside."""
    data: int
    """Bytes of the policy's initialised variables: always 0."""
    bss: int
    """Bytes of the policy's zeroed variables: always 0."""
    stack: int
    """Bytes of stack that `policy_act` touched at most, found by painting."""
    scratch: int
    """Bytes of scratch that the caller supplies."""
    self_test: int
    """What `policy_self_test` returned on the core."""

    @property
    def minimum(self) -> int:
        """Fewest instructions of one call."""
        return int(self.instructions.min())

    @property
    def maximum(self) -> int:
        """Most instructions of one call."""
        return int(self.instructions.max())


def measure(
    sources: Mapping[str, str],
    core: str,
    observations: npt.NDArray[Any],
    prefix: str = "policy",
    flags: Sequence[str] = ("-O3",),
    timeout: float = 60.0,
) -> McuMeasurement:
    """Compile generated C for a core, run it under QEMU on each observation and count.

    Args:
        sources: file name to text: `<prefix>.h` and `<prefix>.c`.
        core: one of `CORES`.
        observations: (N, observation size) float32, or uint8 in channel-last order.
        prefix: the prefix that the sources were generated with.
        flags: optimisation flags for arm-none-eabi-gcc.
        timeout: seconds that the emulator may take.

    Raises:
        PopsError: if the compiler or the emulator is missing, refuses, or times out.
    """
    raise NotImplementedError
