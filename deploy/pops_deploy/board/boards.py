"""The boards that the demo firmware has a port for."""

from __future__ import annotations

from dataclasses import dataclass

from pops.errors import UsageError


@dataclass(frozen=True)
class Board:
    """One folder of firmware_demo/port/."""

    name: str
    """The folder, and what HELLO says."""
    title: str
    core: str
    flash: int
    """Bytes."""
    ram: int
    """Bytes."""
    qemu: tuple[str, ...]
    """Arguments of qemu-system-arm; {elf} stands for the image. Empty: not emulated."""
    flash_by: str = ""
    """How --flash writes it: "drive" (copy the .hex to the board's USB drive), "openocd", or ""."""
    openocd: tuple[str, ...] = ()
    """Configuration files for openocd."""


BOARDS = {
    board.name: board
    for board in (
        Board(
            name="microbit",
            title="BBC micro:bit V1 (nRF51822)",
            core="Cortex-M0",
            flash=256 << 10,
            ram=16 << 10,
            qemu=("-M", "microbit", "-device", "loader,file={elf}"),
            flash_by="drive",
        ),
        Board(
            name="netduinoplus2",
            title="Netduino Plus 2 (STM32F405)",
            core="Cortex-M4F",
            flash=1 << 20,
            ram=128 << 10,
            qemu=("-M", "netduinoplus2", "-kernel", "{elf}"),
            flash_by="openocd",
            openocd=("interface/stlink.cfg", "target/stm32f4x.cfg"),
        ),
        Board(
            name="mps2-an500",
            title="Arm MPS2 with AN500",
            core="Cortex-M7",
            flash=4 << 20,
            ram=4 << 20,
            qemu=("-M", "mps2-an500", "-kernel", "{elf}"),
        ),
        Board(
            name="host",
            title="this computer",
            core="host",
            flash=0,
            ram=0,
            qemu=(),
        ),
    )
}


def find_board(name: str) -> Board:
    """The board of that name.

    Raises:
        UsageError: if there is no such port.
    """
    if name not in BOARDS:
        raise UsageError(f"There is no board {name!r}, expected one of: {', '.join(BOARDS)}.")
    return BOARDS[name]
