"""Teachers that come with pops, trained by `pops train`; docs/train.md has the commands."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType

from pops.errors import UsageError


@dataclass(frozen=True)
class Builtin:
    """A teacher in the package."""

    env: str
    """The id of its environment."""
    description: str


BUILTINS: Mapping[str, Builtin] = MappingProxyType(
    {
        "cartpole": Builtin("CartPole-v1", "DQN, 4-256-256-128-2, as in the PoPS paper"),
        "lunarlander": Builtin("LunarLander-v3", "PPO, actor 8-64-64-64-4"),
    }
)


def builtin_path(name: str) -> Path:
    """The safetensors file of a built-in teacher.

    Raises:
        UsageError: if there is none of this name.
    """
    if name not in BUILTINS:
        raise UsageError(
            f"Found no built-in teacher {name!r}; expected one of {', '.join(BUILTINS)}."
        )
    return Path(__file__).parent / f"{name}.safetensors"
