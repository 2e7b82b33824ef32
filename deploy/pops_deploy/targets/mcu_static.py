"""What the compiler and the linker know before anything runs: library code and the worst stack."""

from __future__ import annotations

import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pops_deploy.bench.stack import worst_stack
from pops_deploy.targets.mcu.cores import core_facts
from pops_deploy.targets.mcu.measure import GCC, run_tool


@dataclass(frozen=True)
class StaticFigures:
    """One policy, compiled for one core."""

    flash: int
    """Bytes of code, constants and initialised data, library code included."""
    library: int
    """Bytes of library code and constants that the policy pulls in: float arithmetic, tanh."""
    stack: int | None
    """Worst case of the stack over policy_act's calls; None where it has no bound."""
    compiler: str


def static_figures(
    sources: Mapping[str, str], core: str, prefix: str, flags: Sequence[str]
) -> StaticFigures:
    """Compile and link a policy with the libraries it needs, and read what gcc tells.

    Args:
        sources: file name to text, `<prefix>.h` and `<prefix>.c`.
        core: for example cortex-m4.
        prefix: of the policy's names.
        flags: optimisation flags.

    Raises:
        PopsError: if the compiler is missing or refuses the code.
    """
    root = f"{prefix}_act"
    with tempfile.TemporaryDirectory(prefix="pops-") as name:
        folder = Path(name)
        for file, text in sources.items():
            (folder / file).write_text(text, encoding="utf-8")
        facts = core_facts(core)
        cpu = [f"-mcpu={facts.cpu}", "-mthumb", *facts.flags]
        common = [GCC, *cpu, *flags, "-std=c99", "-fcallgraph-info=su"]
        bare = [f"-D{prefix.upper()}_NO_SELF_TEST"]
        sections = ["-ffunction-sections", "-fdata-sections"]
        # With and without the self-test: gcc may arrange the same functions differently.
        stacks = []
        for name, options in (("whole", []), ("bare", bare), ("split", [*bare, *sections])):
            run_tool([*common, *options, "-c", f"{prefix}.c", "-o", f"{name}.o"], folder)
            stacks.append(_link(common, root, name, folder))
        whole, alone = (_bytes(folder, file) for file in ("split.elf", "split.alone.o"))
        version = run_tool([GCC, "--version"], folder).splitlines()[0]
    return StaticFigures(whole, max(0, whole - alone), _largest(stacks), version)


def _link(common: list[str], root: str, name: str, folder: Path) -> int | None:
    """Link an object with the libraries it needs, and bound the stack of `root`."""
    # Everything is reachable from policy_act; what else the linker misses does not matter.
    link = ["-nostartfiles", f"-Wl,--entry={root}", "-Wl,--gc-sections"]
    ignore = ["-Wl,--unresolved-symbols=ignore-all", "-lm", "-lc", "-lgcc"]
    run_tool([*common, f"{name}.o", *link, *ignore, "-o", f"{name}.elf"], folder)
    run_tool([*common, f"{name}.o", *link, "-r", "-o", f"{name}.alone.o"], folder)
    listing = run_tool(["arm-none-eabi-objdump", "-d", f"{name}.elf"], folder)
    symbols = run_tool(["arm-none-eabi-nm", f"{name}.elf"], folder)
    graph = (folder / f"{name}.ci").read_text(encoding="utf-8")
    return worst_stack([root], graph, listing, symbols)


def _largest(bounds: list[int | None]) -> int | None:
    known = [bound for bound in bounds if bound is not None]
    return max(known) if len(known) == len(bounds) else None


def _bytes(folder: Path, file: str) -> int:
    """Text and initialised data of a file."""
    numbers = run_tool(["arm-none-eabi-size", file], folder).splitlines()[1].split()
    return int(numbers[0]) + int(numbers[1])
