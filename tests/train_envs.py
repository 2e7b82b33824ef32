"""Environments that misbehave; importing this module registers them."""

from __future__ import annotations

from typing import Any

import gymnasium as gym
import numpy as np


class Tame(gym.Env[Any, Any]):
    """One feature, episodes of ten steps, the reward is 1 for the action 1.

    `fault` happens at the `at`-th step of this environment's life.
    """

    def __init__(
        self, fault: str = "", at: int = 300, actions: str = "discrete", start: int = 0
    ) -> None:
        self.observation_space = gym.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.action_space = {
            "discrete": gym.spaces.Discrete(2, start=start),
            "box": gym.spaces.Box(-1.0, 1.0, (1,), np.float32),
            "multi": gym.spaces.MultiDiscrete([2, 2]),
            "unbounded": gym.spaces.Box(-np.inf, np.inf, (1,), np.float32),
        }[actions]
        self._fault, self._at, self._life, self._step = fault, at, 0, 0

    def reset(self, *, seed: int | None = None, options: Any = None) -> tuple[Any, dict[str, Any]]:
        super().reset(seed=seed)
        self._step = 0
        return self._observation(), {}

    def step(self, action: Any) -> tuple[Any, float, bool, bool, dict[str, Any]]:
        self._life += 1
        self._step += 1
        observation, reward = self._observation(), float(np.asarray(action).reshape(-1)[0])
        if self._fault and self._life >= self._at:
            if self._fault == "raise":
                raise ValueError("the motor is on fire")
            if self._fault == "nan reward":
                reward = float("nan")
            if self._fault == "nan observation":
                observation = np.full(1, np.nan, np.float32)
        return observation, reward, self._step >= 10, False, {}

    def _observation(self) -> Any:
        return self.np_random.uniform(-1, 1, 1).astype(np.float32)


class DictObservations(gym.Env[Any, Any]):
    observation_space = gym.spaces.Dict({"a": gym.spaces.Discrete(2)})
    action_space = gym.spaces.Discrete(2)


class Image(Tame):
    """Tame behind an image of 36 by 36, channels last."""

    def __init__(self) -> None:
        super().__init__()
        self.observation_space = gym.spaces.Box(0, 255, (36, 36, 1), np.uint8)

    def _observation(self) -> Any:
        return self.np_random.integers(0, 256, (36, 36, 1), np.uint8)


gym.register("PopsTame-v0", entry_point=Tame)
gym.register("PopsImage-v0", entry_point=Image)
gym.register("PopsDict-v0", entry_point=DictObservations)
