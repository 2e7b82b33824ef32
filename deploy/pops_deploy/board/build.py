"""Build the demo firmware round a generated policy, and tell what it takes of the board."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

from pops.artifact import write_bytes
from pops.errors import PopsError
from pops.spec import ContinuousActions, PolicySpec
from pops_deploy.board.boards import Board

TOOLS = {
    "cmake": "cmake",
    "arm-none-eabi-gcc": "gcc-arm-none-eabi",
    "qemu-system-arm": "qemu-system-arm",
    "gcc": "gcc",
}
"""Programs and the Debian packages that bring them."""
PERIOD_US = 20_000
API = ("act", "infer", "self_test", "id")
USED = re.compile(r"^ *(FLASH|RAM): +(\d+) (B|KB|MB|GB) ", re.MULTILINE)
"""Lines of the linker's --print-memory-usage."""
UNITS = {"B": 1, "KB": 1 << 10, "MB": 1 << 20, "GB": 1 << 30}
SIZES = ("OBSERVATION_SIZE", "OUTPUT_SIZE", "ACTION_SIZE", "SCRATCH_BYTES", "SCRATCH_ALIGN")


@dataclass(frozen=True)
class PolicySource:
    """A generated policy: where its C lies and what it is."""

    source: Path
    header: Path
    prefix: str
    spec: PolicySpec
    policy_id: str


@dataclass(frozen=True)
class Image:
    """A built firmware."""

    board: Board
    elf: Path
    """For the host an executable of this machine."""
    flash: int
    """Bytes."""
    ram: int
    """Bytes, the reserved stack included."""
    stack: int
    """Bytes reserved for the stack."""


class DoesNotFit(PopsError):
    """A firmware is too large for its board.

    Args:
        board: the board.
        flash: bytes of flash that the firmware takes.
        ram: bytes of RAM, the reserved stack included.
    """

    def __init__(self, board: Board, flash: int, ram: int) -> None:
        self.flash, self.ram = flash, ram
        over = {"flash": flash - board.flash, "RAM": ram - board.ram}
        self.over = ", ".join(f"{n:,} B of {what} too much" for what, n in over.items() if n > 0)
        """By how much, in words."""
        super().__init__(
            f"The firmware does not fit {board.title}: {self.over}. Compress further, or choose a "
            "larger board."
        )


def firmware_source() -> Path:
    """The folder firmware_demo: in this package when installed, else beside it in the checkout.

    Raises:
        PopsError: if it is in neither place.
    """
    here = Path(__file__).resolve().parent.parent
    for folder in (here / "firmware_demo", here.parent.parent / "firmware_demo"):
        if (folder / "CMakeLists.txt").is_file():
            return folder
    raise PopsError(
        "The folder firmware_demo is not here. It comes with the source of pops; clone the "
        "repository and install it with: pip install -e ."
    )


def require_tools(*names: str) -> None:
    """Raise unless the programs are installed.

    Raises:
        PopsError: naming the missing ones and their Debian packages.
    """
    missing = [name for name in names if shutil.which(name) is None]
    packages = [TOOLS[name] for name in missing]
    if shutil.which("arm-none-eabi-gcc"):
        nano = _output(["arm-none-eabi-gcc", "-print-file-name=nano.specs"]).strip()
        if not Path(nano).is_file():
            missing.append("newlib-nano")
            packages.append("libnewlib-arm-none-eabi")
    elif "arm-none-eabi-gcc" in missing:
        packages.append("libnewlib-arm-none-eabi")
    if missing:
        raise PopsError(
            f"Not installed: {', '.join(missing)}. On Debian: apt-get install {' '.join(packages)}"
        )


def build(
    policy: PolicySource,
    board: Board,
    folder: Path,
    standalone: bool | None = None,
    period_us: int = PERIOD_US,
) -> Image:
    """Build the firmware for a board.

    Args:
        policy: the generated C.
        board: the port to build.
        folder: where to build; what a build there left is reused.
        standalone: balance a simulated CartPole while no computer has a session; None: where
            the policy is one for CartPole.
        period_us: period of the control loop.

    Raises:
        DoesNotFit: if the linker finds the board too small.
        PopsError: if a tool is missing, or the compiler refuses; its last lines are quoted.
    """
    host = board.name == "host"
    require_tools("cmake", "gcc" if host else "arm-none-eabi-gcc")
    if standalone is None:
        env = policy.spec.env
        standalone = env is not None and env.id.startswith("CartPole-")
    place_policy(policy, folder / "policy")
    source, out = firmware_source(), folder / "build"
    flags = {
        "BOARD": board.name,
        "POLICY_DIR": str(folder.resolve() / "policy"),
        "POPS_PERIOD_US": str(period_us),
        "POPS_STANDALONE": _switch(standalone),
        "POPS_CONTINUOUS": _switch(isinstance(policy.spec.actions, ContinuousActions)),
        "POPS_OBSERVATION_U8": _switch(policy.spec.observation_dtype == "uint8"),
    }
    if not host:
        flags["CMAKE_TOOLCHAIN_FILE"] = str(source / "cmake" / "arm-none-eabi.cmake")
    _run(["cmake", "-S", str(source), "-B", str(out), *(f"-D{k}={v}" for k, v in flags.items())])
    _run(["cmake", "--build", str(out)], board)
    if host:
        return Image(board, out / f"pops-{board.name}", 0, 0, 0)
    elf = out / f"pops-{board.name}.elf"
    sizes = section_sizes(elf)
    stack = sizes.get(".stack", 0)
    image = Image(
        board,
        elf,
        flash=sum(sizes.get(name, 0) for name in (".vectors", ".text", ".ARM.exidx", ".data")),
        ram=stack + sizes.get(".data", 0) + sizes.get(".bss", 0),
        stack=stack,
    )
    return image


def place_policy(policy: PolicySource, folder: Path) -> None:
    """Put the generated files where the firmware looks for them, as policy.c and policy.h.

    Under another prefix than "policy" a header in front of them gives the names that
    firmware_demo uses.
    """
    source, header = policy.source.read_bytes(), policy.header.read_bytes()
    if policy.prefix == "policy":
        files = {"policy.c": source, "policy.h": header}
    else:
        lines = [f'#include "{policy.header.name}"']
        lines += [f"#define policy_{name} {policy.prefix}_{name}" for name in API]
        upper = policy.prefix.upper()
        lines += [f"#define POLICY_{name} {upper}_{name}" for name in SIZES]
        lines += [f"#define policy_status {policy.prefix}_status"]
        lines += [
            f"#define POLICY_{name} {upper}_{name}"
            for name in ("OK", "OUT_OF_RANGE", "NOT_FINITE", "BAD_ARGUMENT", "SELF_TEST_FAILED")
        ]
        files = {
            "policy.c": source,
            policy.header.name: header,
            "policy.h": ("\n".join(lines) + "\n").encode(),
        }
    for name, data in files.items():
        path = folder / name
        # An unchanged file keeps its time, so that nothing is compiled again.
        if not path.is_file() or path.read_bytes() != data:
            write_bytes(path, data)


def section_sizes(elf: Path) -> dict[str, int]:
    """Bytes of each section, as arm-none-eabi-size tells them."""
    sizes = {}
    for line in _output(["arm-none-eabi-size", "-A", str(elf)]).splitlines():
        parts = line.split()
        if len(parts) == 3 and parts[1].isdigit():
            sizes[parts[0]] = int(parts[1])
    return sizes


def _switch(on: bool) -> str:
    return "ON" if on else "OFF"


def _output(command: Sequence[str]) -> str:
    return subprocess.run(command, capture_output=True, text=True, check=True, timeout=60).stdout


def _run(command: Sequence[str], board: Board | None = None) -> None:
    # Flags of the surrounding shell are for another machine than the board.
    environment = {k: v for k, v in os.environ.items() if k not in ("CFLAGS", "LDFLAGS", "CC")}
    done = subprocess.run(
        command, capture_output=True, text=True, timeout=300, env=environment, check=False
    )
    if done.returncode != 0:
        used = {name: int(n) * UNITS[unit] for name, n, unit in USED.findall(done.stdout)}
        if board is not None and len(used) == 2 and "overflowed by" in done.stderr:
            raise DoesNotFit(board, used["FLASH"], used["RAM"])
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-15:])
        raise PopsError(f"The firmware could not be built ({command[0]}):\n{said}")
