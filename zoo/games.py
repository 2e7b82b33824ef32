"""The Atari games that the zoo's teachers play: what a teacher sees, and which expert shows how."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Callable, Protocol

import numpy as np
from pong_memory import ExpertPong
from scripted_mspacman import ScriptedMsPacman

from pops.arch import Conv, NetArch
from pops.spec import DiscreteActions, EnvSpec, Normaliser, PolicySpec

STICKY = {"repeat_action_probability": 0.25}
NO_OP_STARTS = {"repeat_action_probability": 0.0}
FRAMES = 4
NATURE_CNN = (Conv(32, 8, 4), Conv(64, 4, 2), Conv(64, 3, 1))


class Expert(Protocol):
    """A player that reads the emulator."""

    def reset(self) -> None:
        """Forget the game before."""

    def look(self, ale: Any) -> np.ndarray:
        """(actions,) what each action is worth in the state that the emulator is in."""

    def acted(self, action: int) -> None:
        """Tell which action was taken in the end, the expert's or another's."""


@dataclass(frozen=True)
class Game:
    """A game, the actions that matter in it, and who shows how to play it."""

    id: str
    actions: tuple[str, ...]
    expert: Callable[[], Expert]
    temperature: float
    """Softmax temperature of what the expert says each action is worth."""

    @property
    def wrappers(self) -> tuple[str, ...]:
        """Between the emulator and the network."""
        return ("pops.atari:AtariFrames", f"pops.atari:OnlyActions,keep={'+'.join(self.actions)}")

    def spec(self) -> PolicySpec:
        """What the teacher sees and does."""
        return PolicySpec(
            observation_shape=(84, 84, FRAMES),
            actions=DiscreteActions(len(self.actions)),
            output="logits",
            observation_dtype="uint8",
            channels_last=True,
            normaliser=Normaliser((0.0,), (255.0,)),
            env=EnvSpec(self.id, STICKY, self.wrappers, FRAMES, beside=NO_OP_STARTS),
        )

    def arch(self) -> NetArch:
        """32-64-64-512 (Mnih et al. 2015)."""
        return NetArch((FRAMES, 84, 84), len(self.actions), (512,), ("relu",), NATURE_CNN)


EXPERT = Path(__file__).parent / "pong-expert.safetensors"
PLAYED = {
    "pong": Game("PongNoFrameskip-v4", ("NOOP", "RIGHT", "LEFT"), partial(ExpertPong, EXPERT), 1.0),
    "mspacman": Game(
        "MsPacmanNoFrameskip-v4", ("UP", "RIGHT", "LEFT", "DOWN"), ScriptedMsPacman, 0.3
    ),
}
