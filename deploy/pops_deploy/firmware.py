"""firmware(): from an artifact to an image on a board, emulated or real."""

from __future__ import annotations

import shutil
import subprocess
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pops.errors import PopsError, UsageError
from pops_deploy.board.boards import Board, find_board
from pops_deploy.board.build import Image, PolicySource, build, require_tools
from pops_deploy.board.client import BoardClient
from pops_deploy.board.protocol import BoardError
from pops_deploy.board.runtime import check_hello
from pops_deploy.board.stack import StackBound, stack_bound
from pops_deploy.board.transport import ProcessTransport, emulator_command
from pops_deploy.firmware_config import FirmwareConfig
from pops_deploy.folder import Artifact

if TYPE_CHECKING:
    from rich.console import Console

DRIVES = ("/media/*/MICROBIT", "/run/media/*/MICROBIT", "/mnt/MICROBIT", "/Volumes/MICROBIT")
EPISODE_ENDS = (" held for ", " fell after ", "stopped:", "FAILED")


@dataclass(frozen=True)
class FirmwareResult:
    """What was built, and what came of running or flashing it."""

    image: Image
    policy_id: str
    stack: StackBound | None
    """None for the host."""
    telemetry: tuple[str, ...] = ()
    """Lines of the emulated board, where --run was given."""
    flashed: str = ""
    """How the image was written, where --flash was given."""

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dictionary."""
        board = self.image.board
        return {
            "board": board.name,
            "elf": str(self.image.elf),
            "policy_id": self.policy_id,
            "flash": self.image.flash,
            "flash_left": board.flash - self.image.flash,
            "ram": self.image.ram,
            "ram_left": board.ram - self.image.ram,
            "stack_reserved": self.image.stack,
            "stack_worst": None if self.stack is None else self.stack.total,
            "telemetry": list(self.telemetry),
            "flashed": self.flashed,
        }


def firmware(config: FirmwareConfig, show: Callable[[str], None] | None = None) -> FirmwareResult:
    """Build the firmware for an artifact; run or flash it where asked.

    Args:
        config: what to do.
        show: called with each line of telemetry as it comes.

    Raises:
        PopsError: if a tool is missing, the artifact holds no C, the image does not fit, or the
            board does not do what it should.
    """
    board = find_board(config.board)
    if config.flash and not board.flash_by:
        raise UsageError(f"{board.name} cannot be flashed.")
    artifact = Artifact(config.artifact)
    policy = artifact_source(artifact, config.file)
    out = config.out or artifact.path.resolve().parent / f"firmware-{board.name}"
    image = build(policy, board, out, period_us=config.period_us)
    bound = None if board.name == "host" else stack_bound(image.elf)
    _check_fit(image, bound)
    telemetry: tuple[str, ...] = ()
    if config.run:
        telemetry = run(image, policy, config.seconds, show or (lambda line: None))
    flashed = flash(image, config.drive) if config.flash else ""
    return FirmwareResult(image, policy.policy_id, bound, telemetry, flashed)


def artifact_source(artifact: Artifact, file: str = "int8") -> PolicySource:
    """The artifact's generated C.

    Raises:
        ArtifactError: if it holds none.
    """
    source = artifact.file("c", file)
    header = artifact.beside(str(source.facts["header"]))
    prefix = str(source.facts["prefix"])
    return PolicySource(source.path, header, prefix, artifact.spec, artifact.id)


def _check_fit(image: Image, bound: StackBound | None) -> None:
    board = image.board
    if bound is None:
        return
    if bound.total > image.stack:
        raise PopsError(
            f"The stack can get {bound.total} bytes deep and {image.stack} are reserved; raise "
            f"stack_size in firmware_demo/port/{board.name}/board.ld. Deepest: "
            f"{' > '.join(bound.path)}."
        )
    if image.flash > board.flash or image.ram > board.ram:
        raise PopsError(
            f"The firmware takes {image.flash} bytes of flash and {image.ram} of RAM; "
            f"{board.title} has {board.flash} and {board.ram}. Compress further, or choose a "
            "larger board."
        )


def run(
    image: Image, policy: PolicySource, seconds: float, show: Callable[[str], None]
) -> tuple[str, ...]:
    """Boot an image in the emulator, with the board's idle time skipped; its telemetry.

    It runs until an episode of the standalone demo has ended. A firmware without the demo is
    asked who it is.

    Raises:
        BoardError: if nothing comes within `seconds`.
    """
    if image.board.qemu:
        require_tools("qemu-system-arm")
    standalone = policy.spec.env is not None and policy.spec.env.id.startswith("CartPole-")
    transport = ProcessTransport(emulator_command(image.board, image.elf, sleep=False))
    lines: list[str] = []
    pending, deadline = b"", time.monotonic() + seconds
    try:
        while time.monotonic() < deadline:
            *ended, pending = (pending + transport.read(0.2)).split(b"\n")
            for line in ended:
                lines.append(line.decode("ascii", "replace").rstrip("\r"))
                show(lines[-1])
                if any(word in lines[-1] for word in EPISODE_ENDS):
                    return tuple(lines)
                if not standalone:
                    check_hello(BoardClient(transport).hello(), policy)
                    return tuple(lines)
    finally:
        transport.close()
    raise BoardError(
        f"The emulated {image.board.name} did not finish within {seconds:g} s; it sent "
        f"{len(lines)} lines. Give it longer with --seconds."
    )


def flash(image: Image, drive: Path | None) -> str:
    """Write an image to a real board; how it was done.

    Raises:
        PopsError: if the board's drive or openocd is not there, or openocd fails.
    """
    board = image.board
    if board.flash_by == "drive":
        folder = drive or _find_drive()
        if not folder.is_dir():
            raise PopsError(f"{folder} is not a folder; name the micro:bit's drive with --drive.")
        shutil.copy(image.elf.with_suffix(".hex"), folder)
        return f"copied {image.elf.with_suffix('.hex').name} to {folder}"
    if shutil.which("openocd") is None:
        raise PopsError("openocd is not installed. On Debian: apt-get install openocd")
    command = _openocd(board, image.elf)
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    if done.returncode != 0:
        said = "\n".join((done.stdout + done.stderr).strip().splitlines()[-5:])
        raise PopsError(f"openocd could not flash {board.title}:\n{said}")
    return "written and verified by openocd"


def _openocd(board: Board, elf: Path) -> list[str]:
    files = [part for name in board.openocd for part in ("-f", name)]
    return ["openocd", *files, "-c", f"program {{{elf}}} verify reset exit"]


def _find_drive() -> Path:
    for pattern in DRIVES:
        for folder in Path("/").glob(pattern[1:]):
            return folder
    raise PopsError(
        "The micro:bit's drive is not mounted (looked for a drive called MICROBIT). Plug the "
        "board in, or name the folder with --drive."
    )


def print_firmware(result: FirmwareResult, console: Console | None = None) -> None:
    """Print what the image takes of the board, what is left, and what the board said."""
    from rich.console import Console as RichConsole
    from rich.table import Table

    out = console or RichConsole()
    image, board = result.image, result.image.board
    out.print(f"{board.title}: {image.elf}", soft_wrap=True)
    out.print(f"policy {result.policy_id}", soft_wrap=True)
    if board.flash:
        table = Table("", "used", "left", "of")
        for name, used, size in (
            ("flash", image.flash, board.flash),
            ("RAM, stack included", image.ram, board.ram),
        ):
            table.add_row(name, f"{used:,} B", f"{size - used:,} B", f"{size:,} B")
        out.print(table)
    if result.stack is not None:
        out.print(
            f"stack: {result.stack.total} B at worst, {image.stack} B reserved "
            f"(deepest: {' > '.join(result.stack.path)})",
            soft_wrap=True,
        )
    for line in result.telemetry:
        out.print(line, soft_wrap=True, highlight=False, markup=False)
    if result.flashed:
        out.print(result.flashed)
