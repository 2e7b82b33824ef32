"""What kinds of instructions one call executes: a trace of every instruction under QEMU.

A count of instructions prices a load, a division and a branch alike; cores do not. This reads
QEMU's log of executed addresses against the disassembly.
"""

from __future__ import annotations

import re
import tempfile
from collections import Counter
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from pops_deploy.targets.mcu.cores import core_facts
from pops_deploy.targets.mcu.measure import CONSTANTS, build, constant, emulate, run_tool

LOADS = re.compile(r"^(v?ldr|v?ldm|ldrd|v?pop|vld)")
STORES = re.compile(r"^(v?str|v?stm|strd|v?push|vst)")
DIVISIONS = re.compile(r"^(vdiv|sdiv|udiv|vsqrt)")
BRANCHES = re.compile(
    r"^(b|bl|blx|bx|cbz|cbnz|tbb|tbh|le|wls|dls)"
    r"(eq|ne|cs|cc|mi|pl|vs|vc|hi|ls|ge|lt|gt|le)?(\.[nw])?$"
)


@dataclass(frozen=True)
class Profile:
    """Instructions of one `policy_act` call by kind; call and return included."""

    instructions: int
    loads: int
    loaded_words: int
    """A load of several registers counts each: closer to what a core takes for it."""
    stores: int
    divisions: int
    branches: int
    functions: Mapping[str, int]
    """Instructions by function, most first."""


def profile(
    sources: Mapping[str, str],
    core: str,
    observation: npt.NDArray[Any],
    prefix: str = "policy",
    flags: Sequence[str] = ("-O3",),
    timeout: float = 60.0,
) -> Profile:
    """Trace one call.

    Args:
        sources: file name to text: `<prefix>.h` and `<prefix>.c`.
        core: one of `CORES`.
        observation: (observation size,) float32, or uint8 in channel-last order.
        prefix: the prefix that the sources were generated with.
        flags: optimisation flags for arm-none-eabi-gcc.
        timeout: seconds that the emulator may take.

    Raises:
        PopsError: if the compiler or the emulator is missing, refuses, or times out.
    """
    facts = core_facts(core)
    constants = {
        name: constant(sources[f"{prefix}.h"], prefix, name)
        for name in CONSTANTS
        if name != "GOLDEN_VECTORS"
    }
    with tempfile.TemporaryDirectory(prefix="pops-mcu-") as name:
        folder = Path(name)
        build(sources, facts, folder, prefix, flags, {**constants, "GOLDEN_VECTORS": 0})
        (folder / "observations.bin").write_bytes(np.ascontiguousarray(observation).tobytes())
        trace = ("-singlestep", "-d", "exec,nochain", "-D", "trace.log")
        emulate(facts, folder, trace, timeout)
        listing = run_tool(["arm-none-eabi-objdump", "-d", "policy.elf"], folder)
        symbols = run_tool(["arm-none-eabi-nm", "policy.elf"], folder)
        addresses = _addresses(folder / "trace.log", _marks(symbols))
    return _count(addresses, listing)


def _marks(symbols: str) -> tuple[int, int]:
    found = {}
    for line in symbols.splitlines():
        words = line.split()
        if len(words) == 3 and words[2] in ("measure_begin", "measure_end"):
            found[words[2]] = int(words[0], 16) & ~1
    return found["measure_begin"], found["measure_end"]


def _addresses(trace: Path, marks: tuple[int, int]) -> list[int]:
    """Addresses executed in the third measured call, the policy's; two known ones come before."""
    calls: list[list[int]] = []
    inside = False
    with trace.open(encoding="utf-8", errors="replace") as file:
        for line in file:
            match = re.match(r"Trace \d+: 0x[0-9a-f]+ \[[0-9a-f]+/([0-9a-f]+)/", line)
            if match is None:
                continue
            address = int(match.group(1), 16)
            if address == marks[0]:
                calls.append([])
                inside = True
            elif address == marks[1]:
                inside = False
            elif inside:
                calls[-1].append(address)
    # QEMU logs an instruction that starts again after a device access twice: never one of these.
    return calls[2]


def _count(addresses: list[int], listing: str) -> Profile:
    mnemonics: dict[int, tuple[str, str, str]] = {}
    function = ""
    for line in listing.splitlines():
        header = re.match(r"[0-9a-f]+ <(.+)>:$", line)
        if header:
            function = header.group(1)
        match = re.match(r"\s*([0-9a-f]+):\t[0-9a-f ]+\t(\S+)\s*(.*)$", line)
        if match:
            operation = match.group(2)
            mnemonics[int(match.group(1), 16)] = (operation, match.group(3), function)
    kinds: Counter[str] = Counter()
    functions: Counter[str] = Counter()
    for address in addresses:
        operation, operands, name = mnemonics.get(address, ("?", "", "?"))
        functions[name] += 1
        if LOADS.match(operation):
            kinds["loads"] += 1
            kinds["words"] += _registers(operation, operands)
        kinds["stores"] += bool(STORES.match(operation))
        kinds["divisions"] += bool(DIVISIONS.match(operation))
        kinds["branches"] += bool(BRANCHES.match(operation)) or "pc" in operands.split(";")[0]
    return Profile(
        instructions=len(addresses),
        loads=kinds["loads"],
        loaded_words=kinds["words"],
        stores=kinds["stores"],
        divisions=kinds["divisions"],
        branches=kinds["branches"],
        functions=dict(functions.most_common()),
    )


def _registers(operation: str, operands: str) -> int:
    if operation.startswith("ldrd"):
        return 2
    braces = re.search(r"\{(.*)\}", operands)
    if braces is None:
        return 1
    total = 0
    for part in braces.group(1).split(","):
        ends = re.findall(r"[a-z](\d+)", part)
        total += int(ends[1]) - int(ends[0]) + 1 if "-" in part and len(ends) == 2 else 1
    return total
