"""What a bench measures: one Row for each policy, runtime, file and target."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field
from typing import Any, Literal

Role = Literal["teacher", "student"]


@dataclass(frozen=True)
class Latency:
    """Nanoseconds for one observation, the clock's own share taken off."""

    median: float
    """The median call of the quieter half of the windows; see docs/bench.md."""
    low: float
    """Smallest median of a window."""
    high: float
    """Largest median of a window."""
    p99: float
    max: float
    calls: int
    windows: tuple[float, ...]
    """Median of each window, in the order measured."""


@dataclass(frozen=True)
class Parts:
    """Median nanoseconds before, inside and after the network, each timed on its own."""

    before: float
    inside: float
    after: float


@dataclass(frozen=True)
class Memory:
    """Resident bytes of a fresh process that loads and runs the policy."""

    gained: int
    """What loading the runtime and the policy and running it added."""
    peak: int
    """The most that the whole process ever held."""


@dataclass(frozen=True)
class McuFigures:
    """A microcontroller's figures, from an emulator and the linker: instructions and bytes."""

    core: str
    instructions: int | None
    """From float observation to action, the largest over the observations replayed; None where
    the code does not fit the emulated machine."""
    instructions_min: int | None
    flash: int
    """Text, constants and initialised data, the library code that they need included."""
    ram: int
    """Static data, scratch and the larger of the two stacks."""
    static_ram: int
    """Initialised and zeroed variables."""
    scratch: int
    """Bytes that the caller supplies."""
    stack_static: int | None
    """Worst case over the call graph, from the compiler; None where it could not be bounded."""
    stack_painted: int | None
    """What was found used on the emulated core."""
    mismatches: int
    """Golden actions that the target computed differently."""
    observations: int
    """Golden observations replayed."""
    compiler: str
    flags: str
    library: int = 0
    """Of the flash: library code, such as float arithmetic where there is no FPU."""
    self_test: int = 0
    """Status of the policy's own self-test on the core; 0 is good."""
    boards: tuple[dict[str, Any], ...] = ()
    """For each board: whether it fits, by how much, and the estimated time with its assumption."""


@dataclass(frozen=True)
class ReturnFigure:
    """Mean return over episodes with its 95 % confidence interval (normal approximation)."""

    mean: float
    low: float
    high: float
    episodes: int

    @classmethod
    def of(cls, evaluation: Any) -> ReturnFigure | None:
        """From an evaluation on file ({mean, std, episodes}); None where there is none."""
        if not isinstance(evaluation, dict):
            return None
        try:
            mean, std = float(evaluation["mean"]), float(evaluation["std"])
            episodes = int(evaluation["episodes"])
        except (KeyError, TypeError, ValueError):
            return None
        if episodes < 1 or not (math.isfinite(mean) and math.isfinite(std)):
            return None
        half = 1.959964 * std / math.sqrt(episodes)
        return cls(mean, mean - half, mean + half, episodes)


@dataclass(frozen=True)
class Row:
    """One line of the table."""

    target: str
    role: Role
    policy: str
    """The network, for example 4-8-2."""
    num_parameters: int
    runtime: str
    file: str
    bytes: int
    """Of the policy's file; for C of its compiled code and constants; 0 where nobody can tell."""
    sha256: str
    latency: Latency | None = None
    parts: Parts | None = None
    throughput: float | None = None
    """Observations per second in batches."""
    memory: Memory | None = None
    mcu: McuFigures | None = None
    returns: ReturnFigure | None = None
    """None: nobody has evaluated this file in its environment."""
    versions: dict[str, str] = field(default_factory=dict)
    notes: tuple[str, ...] = ()

    @property
    def emulated(self) -> bool:
        """Whether its times come from an emulator, and so are no latency."""
        return any(note.startswith("emulated") for note in self.notes)

    @property
    def title(self) -> str:
        """For example "student 4-8-2, c int8"."""
        return f"{self.role} {self.policy}, {self.runtime} {self.file}"

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dictionary."""
        return dataclasses.asdict(self)
