"""An environment that says in words what it does wrong."""

from __future__ import annotations

import math
from typing import Any

import gymnasium as gym
import numpy as np

from pops.errors import EnvironmentFailure


class CheckedEnv(gym.Wrapper[Any, Any, Any, Any]):
    """Turns whatever an environment does wrong into an `EnvironmentFailure` in words."""

    def __init__(self, env: gym.Env[Any, Any], name: str) -> None:
        super().__init__(env)
        self._name = name
        self._steps = 0

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Reset, and check the observation."""
        try:
            observation, info = self.env.reset(**kwargs)
        except Exception as error:
            raise self._failure(f"raised {type(error).__name__}: {error}, at reset") from error
        self._steps = 0
        self._check(observation, 0.0)
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step, and check what came back."""
        try:
            observation, reward, terminated, truncated, info = self.env.step(action)
        except Exception as error:
            raise self._failure(
                f"raised {type(error).__name__}: {error}, at step {self._steps} of an episode"
            ) from error
        self._steps += 1
        self._check(observation, float(reward))
        return observation, reward, terminated, truncated, info

    def _check(self, observation: Any, reward: float) -> None:
        array = np.asarray(observation)
        bad = array.dtype.kind == "f" and not np.isfinite(array).all()
        if bad or not math.isfinite(reward):
            what = "an observation" if bad else "a reward"
            raise self._failure(
                f"returned {what} that is not finite, at step {self._steps} of an episode"
            )

    def _failure(self, what: str) -> EnvironmentFailure:
        return EnvironmentFailure(
            f"The environment {self._name} {what}. Mend the environment; what was finished before "
            "is kept, and --resume goes on from there."
        )
