"""Pong as numbers out of the emulator's memory, and the expert that was trained on them.

The expert labels states for `imitate.py`: it is small and sees the ball exactly, so PPO trains it
in minutes where a network on pixels needs hours. It is no policy on pixels.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import gymnasium as gym
import numpy as np
from stable_baselines3.common.atari_wrappers import FireResetEnv, MaxAndSkipEnv, NoopResetEnv

from pops.policy import NumpyPolicy
from pops.teacher.load import load_teacher

ACTIONS = (0, 2, 3)
"""NOOP, RIGHT (up), LEFT (down), as the emulator numbers them."""
FEATURES = 17
BALL_X, BALL_Y, ENEMY, OWN = 49, 54, 50, 51
"""Where the emulator keeps the ball's place and the paddles' lines."""
PADDLE_X = 188.0
CENTRE = 8.0
"""From a paddle's stored line to its middle, as the game counts."""
JUMP = 40.0
"""A ball that moves further in one decision has been served anew."""
_TOP, _BOTTOM = 44.5, 205.5
_SIGN = (0.0, -1.0, 1.0)


class PongFeatures:
    """Where ball and paddles are, how they move, and where the ball will arrive."""

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget the game before."""
        self._last: np.ndarray | None = None
        self._velocity = (0.0, 0.0)
        self._presses = (0, 0, 0)

    def acted(self, action: int) -> None:
        """Tell which of the three actions was taken."""
        self._presses = (action, *self._presses[:2])

    def look(self, ale: Any) -> np.ndarray:
        """(FEATURES,) float32 of the state that the emulator is in, about -2 to 2 each."""
        memory = ale.getRAM()
        now = memory[[BALL_X, BALL_Y, OWN, ENEMY]].astype(np.float64)
        last = now if self._last is None else self._last
        self._last = now
        x, y, own, enemy = now
        playing = self._follow(last[:2], now[:2])
        dx, dy = self._velocity
        decisions, offset = 0.0, 0.0
        if playing and dx > 0 and x < PADDLE_X + 3:
            decisions = max((PADDLE_X - x) / dx, 0.0)
            offset = reflected(y + dy * decisions)[0] - own - CENTRE
        features = (
            float(playing),
            float(playing and dx > 0),
            (x - 125.0) / 60.0,
            (y - 125.0) / 60.0,
            dx / 12.0,
            dy / 12.0,
            (own + CENTRE - 125.0) / 60.0,
            (own - last[2]) / 20.0,
            (enemy + CENTRE - 125.0) / 60.0,
            (enemy - last[3]) / 20.0,
            offset / 40.0,
            min(decisions, 12.0) / 6.0,
            np.clip(offset / 10.0, -2.0, 2.0),
            min(decisions, 2.0),
            *(_SIGN[press] for press in self._presses),
        )
        return np.clip(np.asarray(features, np.float32), -3.0, 3.0)

    def _follow(self, last: np.ndarray, now: np.ndarray) -> bool:
        """Whether a ball is in play; its velocity, which a wall turns round but does not change."""
        moved = now - last
        if now.min() <= 0 or last.min() <= 0 or np.abs(moved).max() >= JUMP:
            self._velocity = (0.0, 0.0)
            return False
        dx, dy = self._velocity
        expected, turned = reflected(last[1] + dy)
        bounced = turned and abs(expected - now[1]) <= 2.0 and abs(dx - moved[0]) <= 2.0
        self._velocity = (moved[0], -dy if bounced else moved[1])
        return True


def reflected(y: float) -> tuple[float, bool]:
    """Where a ball that flies straight on to `y` is after bouncing off the walls; if it turned."""
    height = _BOTTOM - _TOP
    folds, rest = divmod(y - _TOP, height)
    turned = bool(folds % 2)
    return (_BOTTOM - rest if turned else _TOP + rest), turned


class PongMemory(gym.Wrapper[Any, Any, Any, Any]):
    """Pong with `PongFeatures` for observations, decisions every fourth frame, no-op starts."""

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(FireResetEnv(MaxAndSkipEnv(NoopResetEnv(env, noop_max=30), skip=4)))
        self._features = PongFeatures()
        self.action_space = gym.spaces.Discrete(len(ACTIONS))
        self.observation_space = gym.spaces.Box(-10.0, 10.0, (FEATURES,), np.float32)

    def reset(self, **kwargs: Any) -> tuple[np.ndarray, dict[str, Any]]:
        """Begin a game."""
        _, info = self.env.reset(**kwargs)
        self._features.reset()
        return self._features.look(self.env.unwrapped.ale), info  # type: ignore[attr-defined]

    def step(self, action: Any) -> tuple[np.ndarray, Any, bool, bool, dict[str, Any]]:
        """Four frames."""
        self._features.acted(int(action))
        _, reward, terminated, truncated, info = self.env.step(ACTIONS[int(action)])
        features = self._features.look(self.env.unwrapped.ale)  # type: ignore[attr-defined]
        return features, reward, terminated, truncated, info


class ExpertPong:
    """Says what a policy on `PongFeatures` prefers; one instance for each game under way."""

    def __init__(self, path: Path) -> None:
        self._policy: NumpyPolicy = load_teacher(path).policy
        self._features = PongFeatures()

    def reset(self) -> None:
        """Forget the game before."""
        self._features.reset()

    def look(self, ale: Any) -> np.ndarray:
        """(3,) log-probability of each action, up to a constant."""
        return np.asarray(self._policy.outputs(self._features.look(ale)[None])[0], np.float64)

    def acted(self, action: int) -> None:
        """Tell which action was taken in the end, the expert's or another's."""
        self._features.acted(action)
