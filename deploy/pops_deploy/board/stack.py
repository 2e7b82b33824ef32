"""The deepest that an image's stack can get, from its machine code.

Each function's frame is what it pushes and subtracts from the stack pointer; calls and tail calls
are the edges; the answer is the deepest path from reset, and on top of it the deepest interrupt
handler with the frame that the core stacks for it. Handlers all have the same priority, so one
runs at a time. What cannot be bounded so (recursion, calls through pointers) is refused.
"""

from __future__ import annotations

import re
import subprocess
from dataclasses import dataclass, field
from pathlib import Path

from pops.errors import PopsError

EXCEPTION_FRAME = 8 * 4 + 4
"""Eight registers and a word of alignment."""
EXCEPTION_FRAME_FPU = 26 * 4 + 4
ROOT = "reset_handler"
FUNCTION = re.compile(r"^([0-9a-f]+) <(.+)>:$")
INSTRUCTION = re.compile(r"^\s+[0-9a-f]+:\s+(?:[0-9a-f]{4} ?)+\s+(\S+)\s*(.*)$")
BY_REGISTER = re.compile(r"(?:(?:add|mov) sp, (?:sp, )?r\d|blx (?:r\d|ip))")
"""Moves the stack pointer by an amount that is not in the instruction, or calls by pointer."""
TARGET = re.compile(r"<([^+>]+)>")
STORED = re.compile(r"\[sp, #-(\d+)\]!")
"""The address of a store that moves the stack pointer down first."""


@dataclass
class Function:
    """One function of the image."""

    frame: int = 0
    """Bytes that it puts on the stack."""
    calls: set[str] = field(default_factory=set)
    indirect: bool = False
    """It calls through a pointer, or moves the stack pointer by a register."""


@dataclass(frozen=True)
class StackBound:
    """How deep the stack can get."""

    thread: int
    """Bytes from reset down to the deepest call."""
    interrupt: int
    """Bytes that the deepest interrupt adds, its exception frame included."""
    path: tuple[str, ...]
    """The deepest calls from reset."""

    @property
    def total(self) -> int:
        """Bytes altogether."""
        return self.thread + self.interrupt


def stack_bound(elf: Path) -> StackBound:
    """Bound an image's stack.

    Raises:
        PopsError: if the code has recursion or calls through pointers.
    """
    listing = subprocess.run(
        ["arm-none-eabi-objdump", "-d", str(elf)],
        capture_output=True,
        text=True,
        check=True,
        timeout=60,
    ).stdout
    functions = parse(listing)
    thread, path = deepest(functions, ROOT)
    handlers = [
        name
        for name in functions
        if name.endswith("_handler") and name not in (ROOT, "fault_handler")
    ]
    frame = EXCEPTION_FRAME_FPU if "vmov" in listing or "vldr" in listing else EXCEPTION_FRAME
    interrupt = max((deepest(functions, name)[0] + frame for name in handlers), default=0)
    return StackBound(thread, interrupt, path)


def parse(listing: str) -> dict[str, Function]:
    """The functions of an `objdump -d` listing."""
    functions: dict[str, Function] = {}
    function, name = Function(), ""
    for line in listing.splitlines():
        header = FUNCTION.match(line)
        if header:
            name = header.group(2)
            function = functions.setdefault(name, Function())
            continue
        instruction = INSTRUCTION.match(line)
        if instruction:
            _read(function, name, instruction.group(1), instruction.group(2))
    return functions


def _read(function: Function, name: str, mnemonic: str, operands: str) -> None:
    base = mnemonic.split(".")[0]
    if base == "push" or (base == "stmdb" and operands.startswith("sp!")):
        function.frame += 4 * _registers(operands)
    elif base == "vpush":
        function.frame += (8 if "d" in operands else 4) * _registers(operands)
    elif base in ("str", "strd") and STORED.search(operands):
        # Hand-written library code (libgcc on Cortex-M3) pushes lr like this.
        function.frame += sum(map(int, STORED.findall(operands)))
    elif base in ("sub", "subw") and operands.startswith("sp"):
        amount = re.search(r"#(\d+)", operands)
        function.frame += int(amount.group(1)) if amount else 0
        function.indirect |= amount is None
    elif BY_REGISTER.match(f"{base} {operands}"):
        function.indirect = True
    elif base.startswith("b") and base not in ("bic", "bfi"):
        target = TARGET.search(operands)
        if target and target.group(1) != name:
            function.calls.add(target.group(1))


def _registers(operands: str) -> int:
    count = 0
    inside = operands[operands.index("{") + 1 : operands.index("}")]
    for part in inside.split(","):
        first, _, last = part.strip().partition("-")
        count += int(last[1:]) - int(first[1:]) + 1 if last else 1
    return count


def deepest(functions: dict[str, Function], root: str) -> tuple[int, tuple[str, ...]]:
    """The deepest path from `root`: bytes, and the names on it.

    Raises:
        PopsError: naming the function whose depth has no bound that can be seen.
    """
    known: dict[str, tuple[int, tuple[str, ...]]] = {}

    def visit(name: str, above: tuple[str, ...]) -> tuple[int, tuple[str, ...]]:
        if name in above:
            raise PopsError(f"The stack has no bound: {' calls '.join((*above, name))}.")
        if name in known:
            return known[name]
        function = functions.get(name, Function())
        if function.indirect:
            raise PopsError(f"The stack has no bound that can be seen: {name} calls by pointer.")
        below = [visit(callee, (*above, name)) for callee in sorted(function.calls)]
        depth, path = max(below, default=(0, ()), key=lambda found: found[0])
        known[name] = (function.frame + depth, (name, *path))
        return known[name]

    return visit(root, ())
