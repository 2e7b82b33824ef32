"""Hyperparameters by environment and algorithm, as a table. Standard library only.

An entry is all there is to adding an environment. Most are those of RL Baselines3 Zoo
(github.com/DLR-RM/rl-baselines3-zoo, hyperparams/), where they were tuned.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Mapping
from dataclasses import dataclass, field
from types import MappingProxyType
from typing import Any, Literal

from pops.train.config import PresetName

PAPER_WIDTHS: Mapping[str, tuple[int, ...]] = MappingProxyType(
    {"dqn": (256, 256, 128), "ppo": (64, 64, 64), "a2c": (64, 64, 64), "sac": (64, 64, 64)}
)
"""Livne and Cohen, 2020: CartPole's Q-network, and Lunar Lander's actor."""


@dataclass(frozen=True)
class Linear:
    """A schedule that falls from `start` to zero over the budget of steps."""

    start: float

    def __call__(self, progress_remaining: float) -> float:
        """The value when this share of the budget is left."""
        return self.start * progress_remaining


@dataclass(frozen=True)
class Preset:
    """How to train on one environment with one algorithm."""

    timesteps: int
    """Environment steps at most."""
    widths: tuple[int, ...]
    """Hidden layers of the actor (or Q-network); critics have the same."""
    activation: Literal["relu", "tanh"] = "relu"
    n_envs: int = 1
    eval_every: int = 10_000
    """Environment steps between two evaluations."""
    objective: float | None = None
    """Where the environment has no threshold of its own."""
    hyperparameters: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of Stable-Baselines3's algorithm."""
    wrappers: tuple[str, ...] = ()
    """Of the environment, in training and evaluation; the policy needs them."""
    episode_wrappers: tuple[str, ...] = ()
    """Round those, in training alone: shorter episodes."""
    reward_wrappers: tuple[str, ...] = ()
    """Round those, in training alone: other rewards."""
    frame_stack: int = 0
    env_kwargs: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments of the environment, unless others are given."""
    beside: Mapping[str, Any] = field(default_factory=dict)
    """Keyword arguments under which returns are reported too."""
    images: bool = False
    """NatureCNN (32-64-64-512, Mnih et al. 2015) reads the observation; `widths` come after it."""

    @property
    def training_wrappers(self) -> tuple[str, ...]:
        """All that goes round the environment in training alone."""
        return self.episode_wrappers + self.reward_wrappers


_CARTPOLE_DQN = Preset(
    timesteps=32_000,
    widths=(256, 256),
    eval_every=2_560,
    hyperparameters={
        "learning_rate": 2.3e-3,
        "batch_size": 64,
        "buffer_size": 100_000,
        "learning_starts": 1000,
        "gamma": 0.99,
        "target_update_interval": 10,
        "train_freq": 256,
        "gradient_steps": 128,
        "exploration_fraction": 0.02,
        "exploration_final_eps": 0.04,
    },
)
_CARTPOLE_PPO = Preset(
    timesteps=100_000,
    widths=(64, 64),
    activation="tanh",
    n_envs=8,
    eval_every=5_120,
    hyperparameters={
        "n_steps": 32,
        "batch_size": 256,
        "gae_lambda": 0.8,
        "gamma": 0.98,
        "n_epochs": 20,
        "ent_coef": 0.0,
        "learning_rate": Linear(0.001),
        "clip_range": Linear(0.2),
    },
)
_CARTPOLE_A2C = Preset(
    timesteps=500_000, widths=(64, 64), activation="tanh", n_envs=8, eval_every=20_000
)
_LUNAR_PPO = Preset(
    timesteps=1_000_000,
    widths=(64, 64),
    n_envs=16,
    eval_every=49_152,
    hyperparameters={
        "n_steps": 1024,
        "batch_size": 64,
        "gae_lambda": 0.98,
        "gamma": 0.999,
        "n_epochs": 4,
        "ent_coef": 0.01,
    },
)
_LUNAR_A2C = Preset(
    timesteps=1_000_000,
    widths=(64, 64),
    n_envs=8,
    eval_every=50_000,
    hyperparameters={
        "gamma": 0.995,
        "n_steps": 5,
        "learning_rate": Linear(0.00083),
        "ent_coef": 0.00001,
    },
)
_LUNAR_DQN = Preset(
    timesteps=300_000,
    widths=(256, 256),
    eval_every=20_000,
    hyperparameters={
        "learning_rate": 6.3e-4,
        "batch_size": 128,
        "buffer_size": 50_000,
        "learning_starts": 1000,
        "gamma": 0.99,
        "target_update_interval": 250,
        "train_freq": 4,
        "gradient_steps": -1,
        "exploration_fraction": 0.12,
        "exploration_final_eps": 0.1,
    },
)
_LUNAR_SAC = Preset(
    timesteps=500_000,
    widths=(400, 300),
    eval_every=25_000,
    hyperparameters={
        "batch_size": 256,
        "learning_rate": Linear(7.3e-4),
        "buffer_size": 500_000,
        "tau": 0.01,
        "train_freq": 1,
        "gradient_steps": 1,
        "learning_starts": 10_000,
    },
)
_PENDULUM_PPO = Preset(
    timesteps=200_000,
    widths=(64, 64),
    activation="tanh",
    n_envs=4,
    eval_every=12_288,
    objective=-200.0,
    hyperparameters={
        "n_steps": 1024,
        "gae_lambda": 0.95,
        "gamma": 0.9,
        "n_epochs": 10,
        "ent_coef": 0.0,
        "learning_rate": 1e-3,
        "clip_range": 0.2,
        "use_sde": True,
        "sde_sample_freq": 4,
    },
)
_PENDULUM_SAC = Preset(
    timesteps=20_000,
    widths=(64, 64),
    eval_every=2_500,
    objective=-200.0,
    hyperparameters={"learning_rate": 1e-3},
)

_ATARI = Preset(
    timesteps=10_000_000,
    widths=(),
    n_envs=8,
    eval_every=102_400,
    hyperparameters={
        "n_steps": 128,
        "n_epochs": 4,
        "batch_size": 256,
        "learning_rate": Linear(2.5e-4),
        "clip_range": Linear(0.1),
        "vf_coef": 0.5,
        "ent_coef": 0.01,
    },
    wrappers=("pops.atari:AtariFrames",),
    episode_wrappers=("pops.atari:EpisodePerLife",),
    reward_wrappers=("stable_baselines3.common.atari_wrappers:ClipRewardEnv",),
    frame_stack=4,
    # Machado et al. 2018: without chance in the game a policy can learn it by heart.
    env_kwargs={"repeat_action_probability": 0.25},
    beside={"repeat_action_probability": 0.0},
    images=True,
)
_PONG = dataclasses.replace(
    _ATARI,
    objective=18.0,
    # The three actions that matter, as in the PoPS paper: RIGHT moves up, LEFT moves down.
    wrappers=(*_ATARI.wrappers, "pops.atari:OnlyActions,keep=NOOP+RIGHT+LEFT"),
)
_MSPACMAN = dataclasses.replace(_ATARI, objective=2000.0)

TABLE: Mapping[str, Mapping[str, Preset]] = MappingProxyType(
    {
        "CartPole-v0": {"ppo": _CARTPOLE_PPO, "a2c": _CARTPOLE_A2C, "dqn": _CARTPOLE_DQN},
        "CartPole-v1": {"ppo": _CARTPOLE_PPO, "a2c": _CARTPOLE_A2C, "dqn": _CARTPOLE_DQN},
        "LunarLander-v3": {
            "ppo": _LUNAR_PPO,
            "a2c": _LUNAR_A2C,
            "dqn": _LUNAR_DQN,
            "sac": _LUNAR_SAC,
        },
        "LunarLanderContinuous-v3": {"ppo": _LUNAR_PPO, "a2c": _LUNAR_A2C, "sac": _LUNAR_SAC},
        "Pendulum-v1": {"ppo": _PENDULUM_PPO, "sac": _PENDULUM_SAC},
        "PongNoFrameskip-v4": {"ppo": _PONG},
        "MsPacmanNoFrameskip-v4": {"ppo": _MSPACMAN},
    }
)
"""By environment id; the first fitting algorithm of an entry is its default."""

FALLBACK: Mapping[str, Preset] = MappingProxyType(
    {
        "ppo": Preset(
            timesteps=1_000_000,
            widths=(64, 64),
            activation="tanh",
            n_envs=8,
            eval_every=40_960,
            hyperparameters={
                "n_steps": 512,
                "batch_size": 256,
                "gae_lambda": 0.95,
                "ent_coef": 0.001,
            },
        ),
        "sac": Preset(timesteps=300_000, widths=(256, 256), eval_every=10_000),
        "dqn": Preset(
            timesteps=300_000,
            widths=(256, 256),
            eval_every=10_000,
            hyperparameters={
                "learning_rate": 5e-4,
                "batch_size": 128,
                "buffer_size": 100_000,
                "learning_starts": 1000,
                "target_update_interval": 500,
                "train_freq": 4,
                "gradient_steps": -1,
                "exploration_fraction": 0.15,
                "exploration_final_eps": 0.05,
            },
        ),
        "a2c": Preset(
            timesteps=1_000_000, widths=(64, 64), activation="tanh", n_envs=8, eval_every=50_000
        ),
    }
)
"""For every other environment."""

DISCRETE_ALGORITHMS = ("ppo", "dqn", "a2c")
CONTINUOUS_ALGORITHMS = ("sac", "ppo", "a2c")
"""What fits an action space, the preferred one first."""


def default_algorithm(env_id: str, discrete: bool) -> str:
    """The algorithm to take for an environment when none is named."""
    fitting = DISCRETE_ALGORITHMS if discrete else CONTINUOUS_ALGORITHMS
    listed = [name for name in TABLE.get(_key(env_id), {}) if name in fitting]
    return listed[0] if listed else fitting[0]


def find_preset(env_id: str, algorithm: str, name: PresetName) -> Preset:
    """The table's entry, with the paper's network where `name` is 'paper'.

    For images the usual network is the paper's too.
    """
    preset = TABLE.get(_key(env_id), {}).get(algorithm, FALLBACK[algorithm])
    if name == "paper" and not preset.images:
        return dataclasses.replace(preset, widths=PAPER_WIDTHS[algorithm], activation="relu")
    return preset


def episode_wrappers(env_id: str) -> tuple[str, ...]:
    """What makes an environment's episodes shorter in training; nothing where none is known."""
    listed = TABLE.get(_key(env_id), {})
    return next(iter(listed.values())).episode_wrappers if listed else ()


def _key(env_id: str) -> str:
    return env_id.rpartition(":")[2]
