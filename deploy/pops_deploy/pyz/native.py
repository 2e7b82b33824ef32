"""The generated C as a shared library, through ctypes. Needs nothing but the standard library."""

from __future__ import annotations

import ctypes
import os
import struct
import tempfile
import time
from array import array
from pathlib import Path
from typing import Any

from .failure import DeviceError, RuntimeMissing, SelfTestFailed
from .machine import this_architecture
from .policy import DevicePolicy
from .timing import median

BAD_ARGUMENT = 3
STATUSES = ("ok", "out_of_range", "not_finite", "bad_argument", "self_test_failed")
SIZES = ("observation", "outputs", "actions", "scratch_bytes", "scratch_align")
MAX_SCRATCH_BYTES = 1 << 28
TIMED_CALLS = 20_000


def library_for_this_device(libraries: dict[str, Any]) -> str:
    """The architecture whose library to load.

    Raises:
        RuntimeMissing: if the bundle has none for this device.
    """
    name = this_architecture()
    if name is None or name not in libraries:
        carried = ", ".join(sorted(libraries)) or "none"
        raise RuntimeMissing(
            "pops-rl",
            f"The bundle carries C libraries for {carried}, and this device is "
            f"{os.uname().machine}. Make a bundle for it with: pops deploy bundle "
            "--architectures, or compile c/policy.c on the device.",
        )
    return name


class NativePolicy(DevicePolicy):
    """A generated policy in a shared library."""

    name = "c"

    def __init__(
        self, spec: dict[str, Any], library: bytes, policy_id: str, versions: dict[str, str]
    ) -> None:
        super().__init__(spec)
        self.versions = versions
        self._library = _load(library)
        found = self._library.pops_id().decode()
        if policy_id and found != policy_id:
            raise DeviceError(
                f"The C library belongs to artifact {found[:16]}…, the bundle to "
                f"{policy_id[:16]}…. Make the bundle again with: pops deploy bundle"
            )
        sizes = {name: int(self._library.pops_size(i)) for i, name in enumerate(SIZES)}
        if sizes["observation"] != self.observation_size:
            raise DeviceError(
                f"The C library takes {sizes['observation']} values, the policy's observation has "
                f"{self.observation_size}. Make the bundle again with: pops deploy bundle"
            )
        image = len(self.observation_shape) == 3
        self._channels_first = image and not spec.get("channels_last")
        self._typecode = "B" if self.observation_dtype == "uint8" else "f"
        self._input, self._input_address = _memory(sizes["observation"], self._typecode)
        self._action, self._action_address = _memory(
            sizes["actions"], "i" if self.discrete else "f"
        )
        self._outputs, self._outputs_address = _memory(sizes["outputs"], "f")
        self._pack = struct.Struct(f"={sizes['observation']}{self._typecode}").pack_into
        self._raw_input = memoryview(self._input).cast("B")
        self._scratch = _scratch(sizes["scratch_bytes"], sizes["scratch_align"])
        self._act = self._library.pops_act
        self.last_status = 0
        self.step = self._step_discrete if self.discrete else self._step_in_parts

    def convert(self, values: Any) -> Any:
        """An array of the C type: what a driver would hold; images with their channels last."""
        if self._channels_first:
            channels, height, width = self.observation_shape
            pixels = height * width
            values = [values[c * pixels + p] for p in range(pixels) for c in range(channels)]
        if self._typecode == "B":
            return array("B", [int(v) for v in values])
        return array("f", [float(v) for v in values])

    def prepare(self, observation: Any) -> int:
        """Copy one observation, an array of the C type or any sequence, to where C reads it."""
        try:
            self._input[:] = observation
        except (TypeError, ValueError):
            self._pack(self._raw_input, 0, *observation)
        return self._input_address

    def run(self, prepared: Any) -> Any:
        """The C function; its status."""
        return self._act(prepared, self._action_address, self._scratch)

    def finish(self, raw: Any) -> Any:
        """The action that C left in its place.

        Raises:
            DeviceError: if the policy refused its arguments.
        """
        self.last_status = raw
        if raw >= BAD_ARGUMENT:
            raise DeviceError(f"The compiled policy refused the call ({STATUSES[raw]}).")
        return self._action[0] if self.discrete else self._action.tolist()

    def _step_discrete(self, observation: Any) -> Any:
        # `prepare`, `run` and `finish` in one: each call would cost more than the network.
        try:
            self._input[:] = observation
        except (TypeError, ValueError):
            self._pack(self._raw_input, 0, *observation)
        status = self._act(self._input_address, self._action_address, self._scratch)
        return self._action[0] if status < BAD_ARGUMENT else self.finish(status)

    def infer(self, observation: Any) -> list[float]:
        """The raw outputs for one observation."""
        self.prepare(observation)
        self.finish(
            self._library.pops_infer(self._input_address, self._outputs_address, self._scratch)
        )
        return [float(v) for v in self._outputs]

    def self_test(self) -> None:
        """Let the code replay the golden vectors embedded in it.

        Raises:
            SelfTestFailed: if they do not come out.
        """
        status = int(self._library.pops_self_test(self._scratch))
        if status != 0:
            raise SelfTestFailed(
                f"The compiled policy fails its embedded self-test ({STATUSES[status]}) on this "
                "device: it must not be used here. Please report the processor and the bundle."
            )

    def inside_ns(self, observations: list[Any]) -> float | None:
        """Mean nanoseconds of one C call, from a loop in C over the observations."""
        memory = array(self._typecode)
        for observation in observations:
            memory.extend(self.convert(observation))
        address, _ = memory.buffer_info()
        stride = self.observation_size * memory.itemsize
        rounds = max(1, TIMED_CALLS // len(observations))
        loops = []
        for _ in range(5):
            start = time.perf_counter_ns()
            for _ in range(rounds):
                self._library.pops_act_many(
                    address, len(observations), stride, self._action_address, self._scratch
                )
            elapsed = time.perf_counter_ns() - start
            loops.append(elapsed / (rounds * len(observations)))
        return median(sorted(loops))


def _load(library: bytes) -> Any:
    """Load a library from a private folder, which is gone again when this returns."""
    with tempfile.TemporaryDirectory(prefix="pops-") as folder:
        path = Path(folder) / "policy.so"
        path.write_bytes(library)
        try:
            loaded = ctypes.CDLL(str(path))
        except OSError as error:
            raise RuntimeMissing(
                "pops-rl",
                f"The C library does not load on this device ({error}). If the temporary folder "
                f"{Path(folder).parent} is mounted noexec, set TMPDIR to another one.",
            ) from error
    pointer, integer = ctypes.c_void_p, ctypes.c_int32
    signatures = {
        "pops_act": [pointer, pointer, pointer],
        "pops_infer": [pointer, pointer, pointer],
        "pops_act_many": [pointer, integer, integer, pointer, pointer],
        "pops_self_test": [pointer],
        "pops_size": [integer],
    }
    for name, arguments in signatures.items():
        function = getattr(loaded, name)
        function.argtypes, function.restype = arguments, integer
    loaded.pops_id.argtypes, loaded.pops_id.restype = [], ctypes.c_char_p
    return loaded


def _memory(count: int, typecode: str) -> tuple[Any, int]:
    """`count` zeroed elements as a view, and their address; the view keeps the memory alive."""
    owner = array(typecode, bytes(count * array(typecode).itemsize))
    return memoryview(owner), owner.buffer_info()[0]


def _scratch(size: int, align: int) -> Any:
    if not 0 <= size <= MAX_SCRATCH_BYTES or align < 1:
        raise DeviceError(
            f"The C library asks for {size} bytes of scratch memory aligned to {align}; at most "
            f"{MAX_SCRATCH_BYTES} are given."
        )
    owner = ctypes.create_string_buffer(size + align)
    start = ctypes.addressof(owner)
    pointer = ctypes.c_void_p(start + -start % align)
    pointer.owner = owner  # type: ignore[attr-defined]  # freed together
    return pointer
