"""What the compiler and the linker know before anything runs: library code and the worst stack."""

from __future__ import annotations

import shutil
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from pops.errors import PopsError
from pops_deploy.bench.stack import worst_stack

GCC = "arm-none-eabi-gcc"
FPU = {
    "cortex-m4": ("-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"),
    "cortex-m7": ("-mfloat-abi=hard", "-mfpu=fpv5-sp-d16"),
    "cortex-m55": ("-mfloat-abi=hard", "-mfpu=auto"),
}


@dataclass(frozen=True)
class StaticFigures:
    """One policy, compiled for one core."""

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
    if shutil.which(GCC) is None:
        raise PopsError(
            f"Microcontroller targets need {GCC}, which is not installed. On Debian and Ubuntu: "
            "apt install gcc-arm-none-eabi libnewlib-arm-none-eabi"
        )
    root = f"{prefix}_act"
    with tempfile.TemporaryDirectory(prefix="pops-") as name:
        folder = Path(name)
        for file, text in sources.items():
            (folder / file).write_text(text, encoding="utf-8")
        common = [
            f"-mcpu={core}",
            "-mthumb",
            *FPU.get(core, ()),
            *flags,
            "-std=c99",
            "-ffunction-sections",
            "-fdata-sections",
        ]
        defines = [f"-D{prefix.upper()}_NO_SELF_TEST"]
        _run(
            [GCC, *common, *defines, "-fcallgraph-info=su", "-c", f"{prefix}.c", "-o", "policy.o"],
            folder,
        )
        # Everything is reachable from policy_act; what else the linker misses does not matter.
        link = ["-nostartfiles", f"-Wl,--entry={root}", "-Wl,--gc-sections"]
        ignore = ["-Wl,--unresolved-symbols=ignore-all", "-lm", "-lc", "-lgcc"]
        _run([GCC, *common, "policy.o", *link, *ignore, "-o", "policy.elf"], folder)
        _run([GCC, *common, "policy.o", *link, "-r", "-o", "alone.o"], folder)
        whole, alone = (_bytes(folder, file) for file in ("policy.elf", "alone.o"))
        listing = _run(["arm-none-eabi-objdump", "-d", "policy.elf"], folder)
        graphs = "\n".join(path.read_text() for path in sorted(folder.glob("*.ci")))
        version = _run([GCC, "--version"], folder).splitlines()[0]
    return StaticFigures(max(0, whole - alone), worst_stack([root], graphs, listing), version)


def _bytes(folder: Path, file: str) -> int:
    """Text and initialised data of a file."""
    numbers = _run(["arm-none-eabi-size", file], folder).splitlines()[1].split()
    return int(numbers[0]) + int(numbers[1])


def _run(command: list[str], folder: Path) -> str:
    done = subprocess.run(command, cwd=folder, capture_output=True, text=True, timeout=120)
    if done.returncode != 0:
        lines = "\n".join((done.stderr or done.stdout).splitlines()[:5])
        raise PopsError(f"{command[0]} failed on the policy's C:\n{lines}")
    return done.stdout
