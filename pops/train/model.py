"""The Stable-Baselines3 model of one training, and its policy as pops reads it."""

from __future__ import annotations

import io
import tempfile
from pathlib import Path
from typing import Any

import gymnasium as gym

from pops.artifact import write_bytes
from pops.envs import make_env
from pops.errors import MissingPackage, PopsError, UsageError
from pops.policy import NumpyPolicy
from pops.seeds import derive
from pops.spec import EnvSpec
from pops.teacher.load import load_teacher
from pops.train.checked import CheckedEnv
from pops.train.plan import Plan
from pops.workers import available_cores


def build_model(plan: Plan, device: str) -> Any:
    """A fresh model; its weights depend on the plan's seed alone.

    Raises:
        MissingPackage: if Stable-Baselines3 is not installed.
        EnvironmentFailure: if the environment cannot be made.
    """
    try:
        import stable_baselines3 as sb3
        import torch
        from stable_baselines3.common.preprocessing import is_image_space
        from stable_baselines3.common.utils import set_random_seed
        from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor

        from pops.games import Games
    except ImportError as error:
        raise MissingPackage(error.name or "stable-baselines3", "train", "pops train") from error

    base = {"dqn": sb3.DQN, "a2c": sb3.A2C, "ppo": sb3.PPO, "sac": sb3.SAC}[plan.algorithm]

    class Budgeted(base):  # type: ignore[misc, valid-type]
        """Trains in segments, with schedules that see the whole budget."""

        budget = plan.timesteps

        def _update_current_progress_remaining(self, num_timesteps: int, total: int) -> None:
            super()._update_current_progress_remaining(num_timesteps, self.budget)

    def make() -> gym.Env[Any, Any]:
        return CheckedEnv(make_env(plan.training_env), plan.env.id)

    makers = [make] * plan.n_envs
    # A step of a game with images is worth a process; one of CartPole is not.
    apart = plan.preset.images and plan.n_envs > 1
    games = Games(makers, available_cores()) if apart else DummyVecEnv(makers)
    env = VecMonitor(games)
    activation = {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh}[plan.preset.activation]
    image = is_image_space(env.observation_space)
    set_random_seed(derive(plan.seed, "initial weights"))
    try:
        model = Budgeted(
            "CnnPolicy" if image else "MlpPolicy",
            env,
            policy_kwargs={"net_arch": list(plan.widths), "activation_fn": activation},
            device=_device(device),
            **plan.preset.hyperparameters,
        )
        if image:  # an update of NatureCNN takes a fifth less time on a CPU (AVX2) like this
            model.policy.to(memory_format=torch.channels_last)
        return model
    except (RuntimeError, ValueError, AssertionError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(
            f"Stable-Baselines3 cannot train {plan.algorithm} on {plan.env.id} with the "
            f"observations {env.observation_space}: {first} Try another --algo or a --wrapper."
        ) from error


def _device(name: str) -> str:
    """`name`, if torch has it here; Stable-Baselines3 would fall back to the CPU silently."""
    import torch

    if name == "auto":
        return name
    try:
        torch.zeros(1, device=name)
    except (RuntimeError, AssertionError, NotImplementedError) as error:
        first = (str(error).splitlines() or [type(error).__name__])[0]
        raise UsageError(f"Found --device {name}, which cannot be used here: {first}") from error
    return name


def check_finite(model: Any) -> None:
    """Refuse a network that has diverged.

    Raises:
        PopsError: if a weight is NaN or infinite.
    """
    for name, values in model.policy.state_dict().items():
        if not bool(values.isfinite().all()):
            raise PopsError(
                f"The network diverged: {name} holds NaN or infinite weights after "
                f"{model.num_timesteps:,} steps. What was trained up to the last evaluation is "
                "kept. Try another --seed or --algo; very large rewards need a --wrapper."
            )


def zip_bytes(model: Any) -> bytes:
    """The model as Stable-Baselines3 saves it."""
    buffer = io.BytesIO()
    model.save(buffer)
    return buffer.getvalue()


def policy_of(zipped: bytes, env: EnvSpec) -> NumpyPolicy:
    """The deterministic policy of a saved model, read as any teacher is."""
    with tempfile.TemporaryDirectory(prefix="pops-train-") as folder:
        path = Path(folder) / "model.zip"
        write_bytes(path, zipped)
        return load_teacher(path, env=env).policy
