"""Wrappers for Atari games, named in an EnvSpec with their parameters.

The preprocessing is Stable-Baselines3's own, so that its teachers see what they were trained on.
Episodes stay full games and rewards stay the game's points: what makes training easier (an
episode a life, clipped rewards) belongs to a training's own wrappers, never to an evaluation.
"""

from __future__ import annotations

from typing import Any

import gymnasium as gym

from pops.errors import EnvironmentFailure, MissingPackage


class AtariFrames(gym.Wrapper[Any, Any, Any, Any]):
    """One grey image for each decision, after a random number of idle frames at the start.

    No-op starts, `frame_skip` frames a decision, the pixel-wise maximum of the last two, FIRE
    pressed at the start where the game waits for it, grey, resized to `size` × `size`
    (Mnih et al. 2015; `stable_baselines3.common.atari_wrappers.AtariWrapper`).
    The observation is (size, size, 1) uint8.
    """

    def __init__(
        self, env: gym.Env[Any, Any], noop_max: int = 30, frame_skip: int = 4, size: int = 84
    ) -> None:
        try:
            import cv2  # noqa: F401
            from stable_baselines3.common.atari_wrappers import AtariWrapper
        except ImportError as error:
            raise MissingPackage(error.name or "cv2", "atari", "an Atari environment") from error
        if not hasattr(env.unwrapped, "ale"):
            raise EnvironmentFailure(
                f"Found {env.unwrapped}, expected an Atari game of ale-py, such as "
                "PongNoFrameskip-v4."
            )
        if getattr(env.unwrapped, "_frameskip", 1) != 1:
            raise EnvironmentFailure(
                f"Found a game that skips frames by itself ({env.unwrapped}); the wrapper skips "
                "them. Expected an id that ends with NoFrameskip-v4."
            )
        super().__init__(
            AtariWrapper(
                env, noop_max, frame_skip, size, terminal_on_life_loss=False, clip_reward=False
            )
        )


class OnlyActions(gym.ActionWrapper[Any, Any, Any]):
    """Leaves the actions with the given names, in that order: `keep=NOOP+RIGHT+LEFT`."""

    def __init__(self, env: gym.Env[Any, Any], keep: str) -> None:
        super().__init__(env)
        meanings = list(getattr(env.unwrapped, "get_action_meanings", list)())
        names = keep.split("+")
        unknown = [name for name in names if name not in meanings]
        if unknown or len(set(names)) != len(names):
            raise EnvironmentFailure(
                f"Found the actions {keep!r} to keep; expected some of {'+'.join(meanings)}, "
                "each once."
            )
        self._actions = tuple(meanings.index(name) for name in names)
        self.action_space = gym.spaces.Discrete(len(names))

    def action(self, action: Any) -> int:
        """The game's own number of an action."""
        return self._actions[int(action)]


class EpisodePerLife(gym.Wrapper[Any, Any, Any, Any]):
    """For training: the episode ends with each life, the game goes on at the next reset.

    As Stable-Baselines3's `EpisodicLifeEnv`, but a reset with a seed always begins a new game,
    so that what follows depends on the seed alone.
    """

    def __init__(self, env: gym.Env[Any, Any]) -> None:
        super().__init__(env)
        self._over = True
        self._lives = 0

    def reset(
        self, *, seed: int | None = None, options: dict[str, Any] | None = None
    ) -> tuple[Any, dict[str, Any]]:
        """Begin a new game if the last one is over or a seed is given, else the next life."""
        if seed is None and not self._over:
            observation, _, terminated, truncated, info = self.env.step(0)
            if not (terminated or truncated):
                self._lives = self._lives_left()
                return observation, info
        observation, info = self.env.reset(seed=seed, options=options)
        self._over, self._lives = False, self._lives_left()
        return observation, info

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step; the episode ends where a life was lost."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._over = terminated or truncated
        lives = self._lives_left()
        if 0 < lives < self._lives:
            terminated = True
        self._lives = lives
        return observation, reward, terminated, truncated, info

    def _lives_left(self) -> int:
        return int(self.env.unwrapped.ale.lives())  # type: ignore[attr-defined]
