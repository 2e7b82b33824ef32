"""What `pops export` and `pops verify` can be told. Standard library only."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from pops.errors import UsageError

FORMATS = ("onnx", "tflite", "c", "arduino")
RECIPES = ("fp32", "static_wi8_ai8", "static_wi8_ai16", "dynamic_wi8_afp32")
C_KEYWORDS = (
    " auto break case char const continue default do double else enum extern float for goto if "
    "inline int long register restrict return short signed sizeof static struct switch typedef "
    "union unsigned void volatile while bool true false class namespace template new delete this "
    "private public protected virtual operator try catch throw using friend typename "
)
"""Of C and C++, for the headers serve both."""


@dataclass(frozen=True)
class ExportConfig:
    """Write one student as ONNX, TFLite and C99, and prove each file against it."""

    source: Path
    """A run that `pops compress` left, or a teacher file together with --env."""
    format: str = "onnx,tflite,c"
    """Formats, comma-separated: onnx, tflite, c, arduino."""
    recipe: str = "fp32,static_wi8_ai8"
    """Recipes, comma-separated: fp32, static_wi8_ai8, static_wi8_ai16, dynamic_wi8_afp32."""
    io: Literal["float32", "int8"] = "float32"
    """Input and output of the quantised TFLite file; int8 writes the full-integer file that
    accelerators want, the map from observation to int8 in artifact.json."""
    out: Path | None = None
    """Folder to write; RUN/artifact if not given, TEACHER-artifact beside a teacher file."""
    c_prefix: str = "policy"
    """Prefix of every C name and of the C files."""
    c_layout: Literal["size", "speed"] = "size"
    """size keeps int8 weights, speed may spend flash on faster ones."""
    overwrite: bool = False
    """Replace an artifact that is already there."""
    force: bool = False
    """Export a run whose gate failed."""
    episodes: int = 100
    """Paired episodes of the closed loop for each file; 0 leaves the closed loop out."""
    workers: int | None = None
    """Processes; as many as cores if unset. The result does not depend on it."""
    qat: bool = True
    """Distil once more with fake quantisation where int8 costs return."""
    seed: int = 0
    """Seed of the random proof inputs and of the quantisation-aware distillation."""
    env: str | None = None
    """Environment of a teacher file; a run knows its own."""
    env_kwargs: tuple[str, ...] = ()
    """Keyword arguments of that environment, as key=value."""
    vecnormalize: Path | None = None
    """VecNormalize statistics of a teacher file."""

    def __post_init__(self) -> None:
        _parse(self.format, FORMATS, "format")
        _parse(self.recipe, RECIPES, "recipe")
        prefix = self.c_prefix
        if not (prefix.isascii() and prefix.isidentifier()) or f" {prefix} " in C_KEYWORDS:
            raise UsageError(
                f"--c-prefix {prefix!r} is not a C identifier. Expected letters, digits and "
                "underscores, not starting with a digit and no keyword, for example 'policy'."
            )
        if self.io not in ("float32", "int8"):
            raise UsageError(f"--io {self.io!r} is unknown, expected float32 or int8.")
        if self.c_layout not in ("size", "speed"):
            raise UsageError(f"--c-layout {self.c_layout!r} is unknown, expected size or speed.")
        if self.episodes < 0 or _too_few(self.workers) or self.seed < 0:
            raise UsageError(
                f"Found --episodes {self.episodes}, --workers {self.workers} and --seed "
                f"{self.seed}; expected episodes and seed of 0 or more, and one worker or more."
            )

    @property
    def formats(self) -> tuple[str, ...]:
        """The formats asked for, in a fixed order."""
        return _parse(self.format, FORMATS, "format")

    @property
    def recipes(self) -> tuple[str, ...]:
        """The recipes asked for, in a fixed order."""
        return _parse(self.recipe, RECIPES, "recipe")


@dataclass(frozen=True)
class VerifyConfig:
    """Repeat the whole proof of an artifact from what lies on disk."""

    artifact: Path
    """The folder that `pops export` wrote."""
    episodes: int = 100
    """Paired episodes of the closed loop for each file; 0 leaves the closed loop out."""
    workers: int | None = None
    """Processes; as many as cores if unset. The result does not depend on it."""
    json: bool = False
    """Print the result as JSON instead of a table."""

    def __post_init__(self) -> None:
        if self.episodes < 0 or _too_few(self.workers):
            raise UsageError(
                f"Found --episodes {self.episodes} and --workers {self.workers}; expected 0 or "
                "more episodes and one worker or more."
            )


def _too_few(workers: int | None) -> bool:
    return workers is not None and workers < 1


def _parse(text: str, allowed: tuple[str, ...], what: str) -> tuple[str, ...]:
    names = {name.strip() for name in text.split(",") if name.strip()}
    unknown = sorted(names - set(allowed))
    if unknown or not names:
        found = unknown[0] if unknown else text
        raise UsageError(
            f"--{what} {found!r} is unknown, expected one or more of: {', '.join(allowed)}."
        )
    return tuple(name for name in allowed if name in names)
