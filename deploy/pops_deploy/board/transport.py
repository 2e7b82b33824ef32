"""Lines to a board: a real serial port, or an emulator that this process starts."""

from __future__ import annotations

import os
import selectors
import subprocess
import sys
import weakref
from collections.abc import Sequence
from pathlib import Path
from typing import Protocol

from pops.errors import MissingPackage
from pops_deploy.board.boards import Board
from pops_deploy.board.protocol import BoardError

BAUD = 115_200


class Transport(Protocol):
    """Bytes both ways."""

    def read(self, timeout: float) -> bytes:
        """What has come; waits up to `timeout` seconds for the first byte, then returns b""."""
        ...

    def write(self, data: bytes) -> None:
        """Send all of `data`."""
        ...

    def close(self) -> None:
        """Hang up. May be called twice."""
        ...


class SerialTransport:
    """A serial device through pyserial, 115,200 baud, 8N1."""

    def __init__(self, device: str) -> None:
        try:
            import serial
        except ImportError as error:
            raise MissingPackage("pyserial", "serial", f"The serial line {device}") from error
        try:
            self._port = serial.Serial(device, BAUD, timeout=0, write_timeout=5)
        except (serial.SerialException, OSError, ValueError) as error:
            raise BoardError(
                f"Cannot open the serial line {device}: {error}. Check that the board is plugged "
                "in and that no other program has the line; on Linux you may have to join the "
                "group dialout."
            ) from error
        self._errors = (serial.SerialException, OSError)
        self._device = device

    def read(self, timeout: float) -> bytes:
        """What has come; waits up to `timeout` seconds for the first byte."""
        try:
            self._port.timeout = timeout
            first: bytes = self._port.read(1)
            self._port.timeout = 0
            return first + self._port.read(4096) if first else b""
        except self._errors as error:
            raise BoardError(f"The serial line {self._device} broke off: {error}.") from error

    def write(self, data: bytes) -> None:
        """Send all of `data`."""
        try:
            self._port.write(data)
        except self._errors as error:
            raise BoardError(f"The serial line {self._device} broke off: {error}.") from error

    def close(self) -> None:
        """Hang up."""
        self._port.close()


class ProcessTransport:
    """A program whose standard input and output are the line: QEMU, or the firmware itself."""

    def __init__(self, command: Sequence[str]) -> None:
        self._program = command[0]
        try:
            self._process = subprocess.Popen(
                list(command),
                stdin=subprocess.PIPE,
                stdout=subprocess.PIPE,
                stderr=subprocess.PIPE,
                bufsize=0,
            )
        except FileNotFoundError as error:
            raise BoardError(
                f"{command[0]} is not installed. On Debian: apt-get install {command[0]}"
            ) from error
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        self._input, self._output = self._process.stdin.fileno(), self._process.stdout.fileno()
        os.set_blocking(self._output, False)
        self._selector = selectors.DefaultSelector()
        self._selector.register(self._output, selectors.EVENT_READ)
        # An emulator outlives a line that hangs up: it ends with this object, or with Python.
        self._end = weakref.finalize(self, _end, self._process, self._selector)

    def read(self, timeout: float) -> bytes:
        """What has come; waits up to `timeout` seconds for the first byte."""
        if not self._selector.select(timeout):
            return b""
        data = os.read(self._output, 65536)
        if not data:
            raise self._ended()
        return data

    def write(self, data: bytes) -> None:
        """Send all of `data`."""
        try:
            while data:
                data = data[os.write(self._input, data) :]
        except OSError as error:
            raise self._ended() from error

    def _ended(self) -> BoardError:
        assert self._process.stderr is not None
        self._process.kill()
        code = self._process.wait()
        said = self._process.stderr.read(2000).decode(errors="replace").strip()
        return BoardError(
            f"{self._program} ended with exit status {code}" + (f": {said}" if said else ".")
        )

    def close(self) -> None:
        """End the program."""
        self._end()


def _end(process: subprocess.Popen[bytes], selector: selectors.BaseSelector) -> None:
    if process.poll() is None:
        process.kill()
    process.wait()
    selector.close()
    for stream in (process.stdin, process.stdout, process.stderr):
        if stream is not None:
            stream.close()


def emulator_command(board: Board, elf: Path, sleep: bool = True) -> list[str]:
    """The command that boots an image, its serial line on standard input and output.

    Args:
        board: which machine.
        elf: the image.
        sleep: True: an idle board waits in real time, so that a computer in the loop is never
            late by the board's clock; False: idle time is skipped.
    """
    if board.name == "host":
        return [str(elf)]
    icount = "shift=0" if sleep else "shift=0,sleep=off"
    arguments = [part.format(elf=elf) for part in board.qemu]
    common = ["-display", "none", "-monitor", "none", "-serial", "stdio"]
    return ["qemu-system-arm", *arguments, "-icount", icount, *common]


def open_serial(device: str) -> Transport:
    """A serial device by path (`/dev/ttyACM0`) or, on Windows, by name (`COM3`)."""
    if sys.platform != "win32" and not Path(device).exists():
        raise BoardError(
            f"There is no serial device {device}. Plug the board in and look for it with "
            "`ls /dev/ttyACM* /dev/ttyUSB*`, or name an emulated one: qemu-microbit, "
            "qemu-netduinoplus2."
        )
    return SerialTransport(device)
