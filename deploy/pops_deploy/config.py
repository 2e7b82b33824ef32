"""BenchConfig: what `pops bench` can be told. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Optional

from pops.errors import UsageError

PLOT_SUFFIXES = (".png", ".svg", ".pdf")


@dataclass(frozen=True)
class BenchConfig:
    """Measure policies on targets: latency and memory beside the return."""

    paths: tuple[Path, ...]
    """Runs (teacher and student) and artifacts to measure side by side."""
    target: str = "host"
    """Where to measure, comma-separated: host, aarch64, cortex-m0, cortex-m3, cortex-m4,
    cortex-m7, microbit, netduinoplus2, mps2-an500, board:PORT, ssh:user@address[:port]."""
    runtime: str = ""
    """Runtimes for the host, comma-separated: sb3, torch, onnx, litert, c, tflite-micro, numpy.
    Empty: all that are installed, tflite-micro and numpy aside; sb3 for teachers only."""
    file: str = "fp32,int8"
    """Which of an artifact's files to measure: fp32, int8 or both."""
    json: Optional[Path] = None
    """Write everything that was measured to this file."""
    plot: Optional[Path] = None
    """Draw return against latency and against bytes into this file (.png, .svg or .pdf)."""
    budget: str = ""
    """Limits for the students, for example flash=32K,ram=4K,instructions=5000 (also stack, bytes
    and latency=20us); a missed one makes the command exit with status 3."""
    board: str = ""
    """Boards to check microcontroller figures against, comma-separated; empty: all that have the
    core."""
    windows: int = 24
    """Windows of measurement for each row; at least 5."""
    seconds: float = 0.04
    """Length of one window, in seconds."""
    warmup: float = 0.1
    """Seconds of warm-up before the first window of each row."""
    batch: int = 0
    """Also measure the throughput of batches of this many observations; 0: do not."""
    observations: int = 1024
    """Number of distinct visited observations to cycle through; none is answered from a cache."""
    episodes: int = 0
    """Episodes to play for rows whose return is not on file; 0: leave them without."""
    memory: bool = True
    """Measure resident memory in a fresh process for each row."""
    accept_new_host_key: bool = False
    """ssh targets: trust a device that is not known yet."""
    ssh_config: Optional[Path] = None
    """ssh targets: an OpenSSH configuration file instead of your own."""

    def __post_init__(self) -> None:
        checks = (
            (self.windows >= 5, f"--windows {self.windows}: at least 5 are needed for an interval"),
            (0 < self.seconds <= 60, f"--seconds {self.seconds}: expected more than 0, at most 60"),
            (0 <= self.warmup <= 60, f"--warmup {self.warmup}: expected 0 to 60"),
            (0 <= self.batch <= 1 << 20, f"--batch {self.batch}: expected 0 to {1 << 20}"),
            (self.observations >= 1, f"--observations {self.observations}: expected at least 1"),
            (self.episodes >= 0, f"--episodes {self.episodes}: expected 0 or more"),
        )
        for good, message in checks:
            if not good:
                raise UsageError(message + ".")
        unknown = sorted(set(self.files) - {"fp32", "int8"})
        if unknown or not self.files:
            raise UsageError(f"--file {self.file!r}: expected fp32, int8 or fp32,int8.")
        if not self.targets:
            raise UsageError("--target is empty; expected for example host or host,cortex-m4.")
        if self.plot is not None and self.plot.suffix not in PLOT_SUFFIXES:
            raise UsageError(
                f"--plot {self.plot}: expected a name that ends in {', '.join(PLOT_SUFFIXES)}."
            )

    @property
    def targets(self) -> tuple[str, ...]:
        """The targets, in the order given."""
        return _names(self.target)

    @property
    def runtimes(self) -> tuple[str, ...]:
        """The runtimes that were asked for; empty for the default."""
        return _names(self.runtime)

    @property
    def files(self) -> tuple[str, ...]:
        """The files that were asked for."""
        return _names(self.file)

    @property
    def boards(self) -> tuple[str, ...]:
        """The boards that were asked for; empty for all."""
        return _names(self.board)


def _names(text: str) -> tuple[str, ...]:
    return tuple(dict.fromkeys(name.strip() for name in text.split(",") if name.strip()))
