"""Count the instructions that an emulated firmware executes, one line of QEMU's trace for each."""

from __future__ import annotations

import subprocess
from dataclasses import dataclass
from pathlib import Path

from pops_deploy.board.boards import Board


@dataclass(frozen=True)
class Symbols:
    """Where the functions of an image lie."""

    ranges: tuple[tuple[int, int, str], ...]

    @classmethod
    def read(cls, elf: Path) -> Symbols:
        listing = subprocess.run(
            ["arm-none-eabi-nm", "-S", str(elf)], capture_output=True, text=True, check=True
        ).stdout
        ranges = []
        for line in listing.splitlines():
            parts = line.split()
            if len(parts) == 4 and parts[2] in "tTwW":
                start = int(parts[0], 16) & ~1
                ranges.append((start, start + int(parts[1], 16), parts[3]))
        return cls(tuple(ranges))

    def range(self, name: str) -> tuple[int, int]:
        for start, end, found in self.ranges:
            if found == name:
                return start, end
        raise KeyError(name)


def trace(board: Board, elf: Path, instructions: int) -> list[int]:
    """Program counters of the first `instructions` after reset."""
    arguments = [part.format(elf=elf) for part in board.qemu]
    command = ["qemu-system-arm", *arguments, "-display", "none", "-monitor", "none"]
    command += [
        "-icount",
        "shift=0,sleep=off",
        "-serial",
        "null",
        "-singlestep",
        "-d",
        "exec,nochain",
        "-D",
        "/dev/stdout",
    ]
    process = subprocess.Popen(
        command, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL
    )
    assert process.stdout is not None
    counters = []
    try:
        for line in process.stdout:
            if line.startswith(b"Trace"):
                counters.append(int(line.split(b"/")[1], 16))
                if len(counters) == instructions:
                    break
    finally:
        process.kill()
        process.stdout.close()
        process.wait()
    return counters


def until(counters: list[int], symbols: Symbols, name: str) -> int:
    """Instructions from reset to the first of a function."""
    return counters.index(symbols.range(name)[0])


def calls(counters: list[int], symbols: Symbols, name: str) -> list[int]:
    """Instructions of each complete call of a function, what it calls included, interrupts not."""
    entry = symbols.range(name)[0]
    handlers = [(start, end) for start, end, found in symbols.ranges if found.endswith("_handler")]
    # What an interrupt ran is left out first: it may even stand between a call and its function.
    thread = [pc for pc in counters if not any(start <= pc < end for start, end in handlers)]
    counts = []
    for at, counter in enumerate(thread):
        if counter != entry:
            continue
        caller = thread[at - 1]  # the bl, which has four bytes
        try:
            counts.append(thread.index(caller + 4, at) - at)
        except ValueError:
            break
    return counts
