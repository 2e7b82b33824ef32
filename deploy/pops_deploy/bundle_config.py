"""BundleConfig: what `pops deploy bundle` can be told. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from pops.errors import UsageError

ARCHITECTURE_NAMES = ("x86_64", "aarch64", "armv7", "armv6")


@dataclass(frozen=True)
class BundleConfig:
    """Make one file, policy.pyz, that checks, measures and runs a policy on another machine."""

    artifacts: tuple[Path, ...]
    """Folders that `pops export` wrote; name the teacher's as well to measure it side by side."""
    out: Path = Path("policy.pyz")
    """The file to write."""
    architectures: str = ",".join(ARCHITECTURE_NAMES)
    """Machines to carry the generated C for, comma-separated: x86_64, aarch64 (64-bit Raspberry
    Pi OS), armv7 (32-bit, Pi 2 and later), armv6 (Pi 1 and Zero)."""

    def __post_init__(self) -> None:
        unknown = sorted(set(self.architecture_names) - set(ARCHITECTURE_NAMES))
        if unknown:
            raise UsageError(
                f"Architecture {unknown[0]!r} is unknown, expected one or more of: "
                f"{', '.join(ARCHITECTURE_NAMES)}."
            )

    @property
    def architecture_names(self) -> tuple[str, ...]:
        """The architectures, in the order given."""
        names = (name.strip() for name in self.architectures.split(","))
        return tuple(dict.fromkeys(name for name in names if name))
