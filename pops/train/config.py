"""TrainConfig: what `pops train` is asked. Standard library only: the command line imports it."""

from __future__ import annotations

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal, Optional

from pops.errors import UsageError

Algorithm = Literal["dqn", "a2c", "ppo", "sac"]
PresetName = Literal["default", "paper"]


@dataclass(frozen=True)
class TrainConfig:
    """Train a teacher with Stable-Baselines3, to be compressed afterwards."""

    env: str
    """Environment id; `module:Id` imports the module first, as Gymnasium does."""
    out: Path
    """Folder to write: teacher.safetensors, model.zip, train.json, checkpoint/, tensorboard/."""
    algo: Optional[Algorithm] = None
    """Algorithm; unset takes the one that the preset table has for this environment."""
    preset: PresetName = "default"
    """Network sizes: 'paper' for those of the PoPS paper, 'default' for the usual ones."""
    start: Optional[Path] = None
    """A policy to begin with, any file that `pops info` reads; for ppo and a2c."""
    timesteps: Optional[int] = None
    """Environment steps at most; unset takes the preset's."""
    seed: int = 0
    """Seed of everything: the same seed gives the same teacher, byte for byte."""
    device: str = "auto"
    """Where the networks are trained: auto, cpu, cuda, ..."""
    n_envs: Optional[int] = None
    """Environments side by side; unset takes the preset's."""
    net_arch: Optional[tuple[int, ...]] = None
    """Widths of the hidden layers, for example 64 64; unset takes the preset's."""
    objective: Optional[float] = None
    """Mean return at which training stops; unset takes the environment's own threshold."""
    eval_episodes: int = 20
    """Episodes of each evaluation during training; they choose the teacher that is kept."""
    final_episodes: int = 100
    """Episodes, with seeds not used before, that decide whether the objective is met."""
    eval_every: Optional[int] = None
    """Environment steps between evaluations (and checkpoints); unset takes the preset's."""
    env_kwargs: tuple[str, ...] = ()
    """Arguments of the environment as key=value; values are JSON, or else text."""
    wrapper: tuple[str, ...] = ()
    """Wrappers as module:Class, called with the environment alone, in this order."""
    resume: bool = False
    """Go on from the last checkpoint in the folder."""
    overwrite: bool = False
    """Remove the training found in the folder, and start anew."""
    quiet: bool = False
    """Say nothing while training."""


def parse_env_kwargs(pairs: tuple[str, ...]) -> dict[str, Any]:
    """`("continuous=true",)` to `{"continuous": True}`.

    Raises:
        UsageError: if a pair is not of the form key=value, or a key comes twice.
    """
    result: dict[str, Any] = {}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key.isidentifier():
            raise UsageError(f"Found --env-kwargs {pair!r}, expected key=value.")
        if key in result:
            raise UsageError(f"Found --env-kwargs {key} twice; give it once.")
        try:
            result[key] = json.loads(value)
        except ValueError:
            lowered = {"True": True, "False": False, "None": None}
            result[key] = lowered.get(value, value)
    try:
        json.dumps(result, allow_nan=False)
    except ValueError:
        raise UsageError(
            f"Found --env-kwargs {' '.join(pairs)}, expected finite numbers."
        ) from None
    return result
