"""COptions: what the generated C is called and what it carries with it."""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Literal

from pops.errors import UsageError
from pops.spec import Array, FloatArray

Layout = Literal["size", "speed"]

KEYWORDS = (
    "auto break case char const continue default do double else enum extern float for goto if "
    "inline int long register restrict return short signed sizeof static struct switch typedef "
    "union unsigned void volatile while asm bool catch class delete explicit export false friend "
    "mutable namespace new operator private protected public template this throw true try typeid "
    "typename using virtual"
)


@dataclass(frozen=True)
class Golden:
    """Observations with the outputs that the generated code must give."""

    observations: Array
    """(n, *observation_shape), as the environment returns them; `drawn_images` for bytes."""
    outputs: FloatArray
    """(n, n_outputs) float32: what the reference computes for them."""


@dataclass(frozen=True)
class COptions:
    """How to generate."""

    prefix: str = "policy"
    """Start of every name and of the files' names; a C identifier."""
    layout: Layout = "size"
    """"size" keeps int8 weights; "speed" spends flash on int16 weights and unrolled code."""
    policy_id: str = "0" * 64
    """The artifact's hash: 64 hexadecimal characters."""
    golden: Golden | None = None
    """Vectors that the self test replays; None for a self test without any."""
    calibration_min: tuple[float, ...] | None = None
    """Smallest value of each observation feature during calibration."""
    calibration_max: tuple[float, ...] | None = None
    """Largest value of each observation feature during calibration."""
    arduino: bool = False
    """Lay the files out as an Arduino and PlatformIO library folder."""

    def __post_init__(self) -> None:
        if (
            not re.fullmatch(r"[A-Za-z_][A-Za-z0-9_]*", self.prefix)
            or self.prefix in KEYWORDS.split()
        ):
            raise UsageError(
                f"{self.prefix!r} is not a C identifier. Choose a prefix of letters, digits and "
                "underscores that starts with a letter and is no keyword, such as 'policy'."
            )
        if not re.fullmatch(r"[0-9a-f]{64}", self.policy_id):
            raise UsageError(
                f"The policy id must be 64 hexadecimal characters, found {self.policy_id!r}."
            )
        if self.layout not in ("size", "speed"):
            raise UsageError(f"The layout must be 'size' or 'speed', found {self.layout!r}.")
        if (self.calibration_min is None) != (self.calibration_max is None):
            raise UsageError("Give both calibration_min and calibration_max, or neither.")
