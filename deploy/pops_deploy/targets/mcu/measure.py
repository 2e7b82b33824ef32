"""Run generated C on an emulated Cortex-M and count what it executes.

QEMU advances its clock by the same step with each instruction (`-icount`), and SysTick reads that
clock. A step of 256 ns, several ticks of SysTick, makes the count exact to one instruction; the
harness measures a known sequence of 1,000 instructions in each run and the run is refused if that
does not come out as 1,000. The count does not depend on the step. SysTick has 24 bits, so long runs
take a shorter step and are exact to a few instructions.
"""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pops.errors import PopsError, UsageError
from pops_deploy.targets.mcu.cores import Core, core_facts

HERE = Path(__file__).parent
GCC = "arm-none-eabi-gcc"
QEMU = "qemu-system-arm"
SHIFTS = (8, 3, 0)
"""Steps of 2^n ns: exact, exact to 10 and to 80 instructions."""
LEAST = 0.05
"""Instructions that a multiply-accumulate takes at least; tells which steps need no trying."""
CALL = 1
"""Instructions between the readings that are not the policy's: the first reading itself."""
KNOWN = 1000
WRAPPED = 1 << 16
"""The flag in SysTick's control register that the count went through zero."""


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
    """What `policy_self_test` returned on the core; 0 where no vectors are embedded."""

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
        flags: optimisation flags for arm-none-eabi-gcc, before the core's own.
        timeout: seconds that the emulator may take.

    Raises:
        UsageError: if there is no such core, or the observations do not fit the policy.
        PopsError: if the compiler or the emulator is missing, refuses, or times out.
    """
    facts = core_facts(core)
    header = sources[f"{prefix}.h"]
    constants = {name: constant(header, prefix, name) for name in CONSTANTS}
    dtype: Any = np.uint8 if constants["BYTES"] else np.float32
    x = np.ascontiguousarray(observations)
    if x.dtype != dtype or x.ndim < 2 or x[0].size != constants["OBSERVATION_SIZE"]:
        raise UsageError(
            f"The policy takes {constants['OBSERVATION_SIZE']} {np.dtype(dtype).name} values an "
            f"observation, found {x.dtype} {x.shape}."
        )
    with tempfile.TemporaryDirectory(prefix="pops-mcu-") as name:
        folder = Path(name)
        build(sources, facts, folder, prefix, flags, constants)
        (folder / "observations.bin").write_bytes(x.tobytes())
        shift, results = _counted(facts, folder, len(x), constants, _macs(header, prefix), timeout)
        return _read(core, facts, results, len(x), constants, shift, sizes(folder))


def _macs(header: str, prefix: str) -> int:
    try:
        return constant(header, prefix, "MACS")
    except PopsError:
        return 0  # not known: then the longest step is tried first


def _counted(
    facts: Core,
    folder: Path,
    count: int,
    constants: Mapping[str, int],
    macs: int,
    timeout: float,
) -> tuple[int, bytes]:
    """Run with the longest step with which SysTick does not wrap: (the step's shift, results)."""
    for shift in SHIFTS:
        ticks = macs * LEAST * facts.systick_hz * 2.0**shift / 1e9
        if shift and ticks > 1 << 24:
            continue
        emulate(facts, folder, ("-icount", f"shift={shift}"), timeout)
        results = (folder / "results.bin").read_bytes()
        if not shift or not np.any(_records(results, count, constants)["act"]["control"] & WRAPPED):
            break
    return shift, results


CONSTANTS = (
    "OBSERVATION_SIZE",
    "OUTPUT_SIZE",
    "ACTION_SIZE",
    "SCRATCH_BYTES",
    "GOLDEN_VECTORS",
    "BYTES",
    "DISCRETE",
)


def constant(header: str, prefix: str, name: str) -> int:
    """A named constant of a generated header.

    Raises:
        PopsError: if the header does not define it.
    """
    for line in header.splitlines():
        words = line.split()
        if words[:2] == ["#define", f"{prefix.upper()}_{name}"] and len(words) > 2:
            return int(words[2])
    raise PopsError(
        f"{prefix}.h does not define {prefix.upper()}_{name}. It was not written by this version "
        "of pops; export the policy again."
    )


def build(
    sources: Mapping[str, str],
    facts: Core,
    folder: Path,
    prefix: str,
    flags: Sequence[str],
    constants: Mapping[str, int],
) -> None:
    """Compile the policy and the harness into folder/policy.elf; folder/bare.o has no self test.

    Raises:
        PopsError: if the compiler is missing or refuses.
    """
    for name, text in sources.items():
        (folder / Path(name).name).write_text(text, encoding="utf-8")
    script = (HERE / "link.ld.in").read_text(encoding="utf-8")
    for key, value in {
        "FLASH_ORIGIN": facts.flash[0],
        "FLASH_LENGTH": facts.flash[1],
        "RAM_ORIGIN": facts.ram[0],
        "RAM_LENGTH": facts.ram[1],
        "CONSTANTS_ORIGIN": (facts.constants or facts.flash)[0],
        "CONSTANTS_LENGTH": (facts.constants or facts.flash)[1],
        "CONSTANTS": "CONSTANTS" if facts.constants else "FLASH",
        "STACK_PAINT": facts.stack_paint,
    }.items():
        script = script.replace(f"@{key}@", value if isinstance(value, str) else hex(value))
    (folder / "link.ld").write_text(script, encoding="utf-8")
    common = ["-std=c99", *flags, f"-mcpu={facts.cpu}", "-mthumb", *facts.flags]
    policy = [GCC, *common, "-c", f"{prefix}.c"]
    run_tool([*policy, "-o", "policy.o"], folder)
    run_tool([*policy, f"-D{prefix.upper()}_NO_SELF_TEST", "-o", "bare.o"], folder)
    defines = {
        **constants,
        "ACT": f"{prefix}_act",
        "INFER": f"{prefix}_infer",
        "SELF_TEST": f"{prefix}_self_test",
        "HEADER": f'"{prefix}.h"',
        "FLOATING_POINT": int(bool(facts.flags)),
    }
    options = [f"-D{name}={value}" for name, value in defines.items()]
    # gnu99: the harness names registers, which plain C99 cannot.
    harness = ["-O2", "-std=gnu99", f"-mcpu={facts.cpu}", "-mthumb", *facts.flags, "-I."]
    run_tool([GCC, *harness, *options, "-c", str(HERE / "harness.c"), "-o", "harness.o"], folder)
    link = ["-nostartfiles", "-T", "link.ld", "-Wl,--gc-sections", "-lm", "-lc", "-lgcc"]
    cpu = [f"-mcpu={facts.cpu}", "-mthumb", *facts.flags]
    run_tool([GCC, *cpu, "harness.o", "policy.o", *link, "-o", "policy.elf"], folder)


def run_tool(command: Sequence[str], folder: Path, timeout: float = 120.0) -> str:
    """Run a compiler tool in a folder and return what it prints.

    Raises:
        PopsError: if it is missing, fails or times out.
    """
    if shutil.which(command[0]) is None:
        package = "qemu-system-arm" if command[0] == QEMU else "gcc-arm-none-eabi"
        extra = "" if command[0] == QEMU else " libnewlib-arm-none-eabi"
        raise PopsError(
            f"Microcontroller targets need {command[0]}, which is not installed. On Debian and "
            f"Ubuntu: apt install {package}{extra}"
        )
    try:
        result = subprocess.run(
            list(command),
            cwd=folder,
            capture_output=True,
            text=True,
            timeout=timeout,
            stdin=subprocess.DEVNULL,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise PopsError(f"{command[0]} took longer than {timeout:g} s and was ended.") from error
    if result.returncode != 0:
        text = (result.stderr or result.stdout).strip()
        if "RAM is too small" in text or "overflowed" in text or "will not fit" in text:
            raise PopsError(f"The policy does not fit the core's memory:\n{text[:800]}")
        raise PopsError(f"{command[0]} failed with status {result.returncode}:\n{text[:2000]}")
    return result.stdout


def emulate(facts: Core, folder: Path, options: Sequence[str], timeout: float) -> None:
    """Run folder/policy.elf under QEMU; it reads and writes files in the folder.

    Raises:
        PopsError: if the emulator is missing, the program faults, or it times out.
    """
    (folder / "results.bin").unlink(missing_ok=True)
    command = [QEMU, "-M", facts.machine, "-nographic", "-monitor", "none", "-serial", "none"]
    command += ["-semihosting-config", "enable=on,target=native", *options]
    run_tool([*command, "-kernel", "policy.elf"], folder, timeout)


def sizes(folder: Path) -> dict[str, int]:
    """Bytes of text, rodata, data and bss of the policy's object without its self test."""
    listing = run_tool(["arm-none-eabi-size", "-A", "bare.o"], folder)
    result = dict.fromkeys(("text", "rodata", "data", "bss"), 0)
    for line in listing.splitlines():
        words = line.split()
        for kind in result:
            if words and (words[0] == f".{kind}" or words[0].startswith(f".{kind}.")):
                result[kind] += int(words[1])
    return result


def _records(results: bytes, count: int, constants: Mapping[str, int]) -> npt.NDArray[Any]:
    """The two known sequences are left out; one record an observation."""
    kind = np.dtype(
        [
            ("act", MEASUREMENT),
            ("action", "<i4" if constants["DISCRETE"] else "<f4", (constants["ACTION_SIZE"],)),
            ("outputs", "<f4", (constants["OUTPUT_SIZE"],)),
        ]
    )
    expected = 2 * MEASUREMENT.itemsize + count * kind.itemsize + 4
    if len(results) != expected:
        raise PopsError(
            f"The emulated core wrote {len(results)} bytes, expected {expected}: the policy did "
            "not run through."
        )
    return np.frombuffer(results, kind, count, 2 * MEASUREMENT.itemsize)


MEASUREMENT = np.dtype([("ticks", "<u4"), ("control", "<u4"), ("stack", "<u4"), ("status", "<i4")])


def _read(
    core: str,
    facts: Core,
    results: bytes,
    count: int,
    constants: Mapping[str, int],
    shift: int,
    bytes_of: Mapping[str, int],
) -> McuMeasurement:
    known = np.frombuffer(results, MEASUREMENT, 2)
    records = _records(results, count, constants)
    ticks = facts.systick_hz * 2.0**shift / 1e9

    def instructions(values: npt.NDArray[Any]) -> npt.NDArray[np.int64]:
        counted = (values.astype(np.int64) & 0xFFFFFF) / ticks
        result: npt.NDArray[np.int64] = np.rint(counted).astype(np.int64) - CALL
        return result

    empty, full = (int(n) for n in instructions(known["ticks"]))
    # The known functions are a call and a return, the second with 1,000 instructions between.
    tolerance = 0 if ticks >= 2.0 else int(2.0 / ticks)
    if abs(empty - 2) > tolerance or abs(full - KNOWN - 2) > tolerance:
        raise PopsError(
            f"Under this QEMU a known sequence of {KNOWN + 2} instructions counts as {full}; its "
            "clock cannot be used for counting. Use QEMU 7.2 or later."
        )
    return McuMeasurement(
        core=core,
        instructions=instructions(records["act"]["ticks"]),
        outputs=records["outputs"].astype(np.float32),
        actions=records["action"].copy(),
        statuses=records["act"]["status"].astype(np.int32),
        text=bytes_of["text"],
        rodata=bytes_of["rodata"],
        data=bytes_of["data"],
        bss=bytes_of["bss"],
        stack=int(records["act"]["stack"].max()),
        scratch=constants["SCRATCH_BYTES"],
        self_test=int(np.frombuffer(results, "<i4", 1, len(results) - 4)[0]),
    )
