"""FirmwareConfig: what `pops deploy firmware` can be told. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pops.errors import UsageError


@dataclass(frozen=True)
class FirmwareConfig:
    """Build the demo firmware round an exported policy; run it in an emulator or flash it."""

    artifact: Path
    """Folder that `pops export` wrote, with generated C in it."""
    board: str = "microbit"
    """A folder of firmware_demo/port: microbit, netduinoplus2, mps2-an500 or host."""
    run: bool = False
    """Boot the image in the emulator and show its telemetry."""
    flash: bool = False
    """Write the image to a real board: the micro:bit's USB drive, or openocd."""
    out: Path | None = None
    """Where to build; by default firmware-BOARD beside the artifact."""
    file: str = "int8"
    """Which generated C: int8 or fp32."""
    period_us: int = 20_000
    """Period of the control loop in microseconds."""
    drive: Path | None = None
    """Where the micro:bit's drive is mounted, for --flash; by default it is looked for."""
    seconds: float = 60.0
    """How long --run waits, at most, for an episode to end."""

    def __post_init__(self) -> None:
        if self.file not in ("int8", "fp32"):
            raise UsageError(f"--file {self.file!r} is unknown, expected int8 or fp32.")
        if not 100 <= self.period_us <= 1_000_000:
            raise UsageError(
                f"--period-us {self.period_us}: expected 100 to 1,000,000 (10 kHz to 1 Hz)."
            )
        if not 0 < self.seconds <= 3600:
            raise UsageError(f"--seconds {self.seconds:g}: expected more than 0, at most 3600.")
