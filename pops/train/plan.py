"""From a TrainConfig to everything that decides a training's result."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import gymnasium as gym

from pops.artifact import sha256_file
from pops.envs import make_env
from pops.errors import UsageError
from pops.spec import EnvSpec
from pops.train.config import TrainConfig, parse_env_kwargs
from pops.train.presets import (
    CONTINUOUS_ALGORITHMS,
    DISCRETE_ALGORITHMS,
    Preset,
    default_algorithm,
    find_preset,
)


@dataclass(frozen=True)
class Plan:
    """A training, fully decided."""

    env: EnvSpec
    algorithm: str
    preset_name: str
    preset: Preset
    widths: tuple[int, ...]
    timesteps: int
    n_envs: int
    eval_every: int
    eval_episodes: int
    final_episodes: int
    objective: float | None
    seed: int
    start_sha256: str | None = None
    """Of the policy that the training begins with, if it does not begin from nothing."""

    @property
    def training_env(self) -> EnvSpec:
        """The environment to train in: the same, with the preset's wrappers for training."""
        wrappers = (*self.env.wrappers, *self.preset.training_wrappers)
        return dataclasses.replace(self.env, wrappers=wrappers)

    def to_json(self) -> dict[str, Any]:
        """What a resumed training must have in common with its start, JSON-ready."""
        data = dataclasses.asdict(self)
        preset = data.pop("preset")
        return {
            **data,
            "widths": list(self.widths),
            "env": {**data["env"], "wrappers": list(self.env.wrappers)},
            "training_wrappers": list(self.preset.training_wrappers),
            "hyperparameters": {k: str(v) for k, v in preset["hyperparameters"].items()},
            "activation": preset["activation"],
        }


def make_plan(config: TrainConfig) -> Plan:
    """Fill in from the preset table what the configuration leaves open.

    Raises:
        EnvironmentFailure: if the environment cannot be made.
        UsageError: if its spaces are not supported, the algorithm does not fit them, or a
            number is out of range.
    """
    _check_numbers(config)
    env = EnvSpec(config.env, kwargs=parse_env_kwargs(config.env_kwargs), wrappers=config.wrapper)
    discrete, threshold = _probe(env)
    fitting = DISCRETE_ALGORITHMS if discrete else CONTINUOUS_ALGORITHMS
    algorithm = config.algo or default_algorithm(config.env, discrete)
    if algorithm not in fitting:
        kind = "discrete" if discrete else "continuous"
        raise UsageError(
            f"{algorithm} does not fit the {kind} actions of {config.env}; expected --algo "
            f"{' or '.join(fitting)}."
        )
    preset = find_preset(config.env, algorithm, config.preset)
    env = dataclasses.replace(
        env,
        kwargs={**preset.env_kwargs, **env.kwargs},
        wrappers=(*preset.wrappers, *env.wrappers),
        frame_stack=preset.frame_stack,
        beside=dict(preset.beside),
    )
    objective = config.objective
    if objective is None:
        objective = threshold if threshold is not None else preset.objective
    return Plan(
        env=env,
        algorithm=algorithm,
        preset_name=config.preset,
        preset=preset,
        widths=tuple(config.net_arch) if config.net_arch else preset.widths,
        timesteps=config.timesteps or preset.timesteps,
        n_envs=config.n_envs or preset.n_envs,
        eval_every=config.eval_every or preset.eval_every,
        eval_episodes=config.eval_episodes,
        final_episodes=config.final_episodes,
        objective=objective,
        seed=config.seed,
        start_sha256=None if config.start is None else _hash_of(config.start),
    )


def _hash_of(start: Path) -> str:
    if not start.is_file():
        raise UsageError(f"Found --start {start}, which is not a file; expected a policy's file.")
    return sha256_file(start)


def _check_numbers(config: TrainConfig) -> None:
    for name in ("timesteps", "n_envs", "eval_episodes", "final_episodes", "eval_every"):
        value = getattr(config, name)
        if value is not None and value < 1:
            raise UsageError(f"Found --{name.replace('_', '-')} {value}, expected at least 1.")
    if config.seed < 0:
        raise UsageError(f"Found --seed {config.seed}, expected zero or more.")
    if config.objective is not None and not math.isfinite(config.objective):
        raise UsageError(f"Found --objective {config.objective}, expected a finite return.")
    if config.net_arch and min(config.net_arch) < 1:
        raise UsageError(f"Found --net-arch {config.net_arch}, expected widths of at least 1.")


def _probe(spec: EnvSpec) -> tuple[bool, float | None]:
    """Whether the actions are discrete, and the environment's own threshold."""
    env = make_env(spec)
    try:
        actions, observations = env.action_space, env.observation_space
        threshold = env.spec.reward_threshold if env.spec is not None else None
    finally:
        env.close()
    if not isinstance(observations, (gym.spaces.Box, gym.spaces.Discrete)):
        raise UsageError(
            f"{spec.id} has the observations {observations}; expected Box or Discrete. "
            "Flatten them with --wrapper."
        )
    for space in (actions, observations):
        if isinstance(space, gym.spaces.Discrete) and int(space.start) != 0:
            raise UsageError(
                f"{spec.id} has the space {space}, which does not start at zero; "
                "Stable-Baselines3 cannot train on it. Shift it with --wrapper."
            )
    if isinstance(actions, gym.spaces.Discrete):
        return True, threshold
    if isinstance(actions, gym.spaces.Box) and actions.is_bounded():
        return False, threshold
    raise UsageError(
        f"{spec.id} has the actions {actions}; expected Discrete or a bounded Box. "
        "MultiDiscrete, MultiBinary, Dict and unbounded actions are not supported."
    )
