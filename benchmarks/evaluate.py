"""How fast `pops.evaluate` plays episodes, against Stable-Baselines3's `evaluate_policy`.

Both play the same policy in the same environment in one run, in turns, so that
a noisy machine hits both; what counts is the ratio of environment steps a
second. Run it with: python benchmarks/evaluate.py
"""

from __future__ import annotations

import argparse
import statistics
import time
from typing import Any

import gymnasium as gym
import numpy as np
import torch
from stable_baselines3 import PPO
from stable_baselines3.common.evaluation import evaluate_policy
from stable_baselines3.common.monitor import Monitor

from pops.builtin import builtin_path
from pops.evaluate import evaluate
from pops.policy import NumpyPolicy
from pops.spec import EnvSpec
from pops.teacher.load import load_teacher
from pops.workers import Workers, available_cores


def _as_sb3(policy: NumpyPolicy, env: EnvSpec) -> Any:
    """The same weights in a Stable-Baselines3 PPO policy, so that both do the same work."""
    activation = {"relu": torch.nn.ReLU, "tanh": torch.nn.Tanh}[policy.arch.activation]
    widths = list(policy.arch.widths)
    model = PPO(
        "MlpPolicy",
        gym.make(env.id),
        device="cpu",
        policy_kwargs={"net_arch": {"pi": widths, "vf": [8]}, "activation_fn": activation},
    )
    layers = [m for m in model.policy.mlp_extractor.policy_net if hasattr(m, "weight")]
    for layer, (weight, bias) in zip([*layers, model.policy.action_net], policy.parameters):
        with torch.no_grad():
            layer.weight.copy_(torch.from_numpy(weight))
            layer.bias.copy_(torch.from_numpy(bias))
    return model


def measure(name: str, episodes: int, rounds: int) -> None:
    """Print the ratio of steps a second for one built-in teacher."""
    policy = load_teacher(builtin_path(name)).policy
    env = policy.spec.env
    assert env is not None
    model = _as_sb3(policy, env)
    monitored = Monitor(gym.make(env.id))
    ratios, ours, theirs = [], [], []
    with Workers(available_cores()) as pool:
        evaluate(policy, env, range(pool.count), pool)  # starts the processes
        for turn in range(rounds):
            started = time.perf_counter()
            result = evaluate(policy, env, range(turn * 1000, turn * 1000 + episodes), pool)
            ours.append(result.lengths.sum() / (time.perf_counter() - started))
            started = time.perf_counter()
            few = max(2, episodes // 10)
            _, lengths = evaluate_policy(model, monitored, few, return_episode_rewards=True)
            theirs.append(np.sum(lengths) / (time.perf_counter() - started))
            ratios.append(ours[-1] / theirs[-1])
    print(
        f"{env.id:<16} pops {statistics.median(ours):>9,.0f} steps/s   "
        f"evaluate_policy {statistics.median(theirs):>7,.0f} steps/s   "
        f"ratio {statistics.median(ratios):.1f} (min {min(ratios):.1f}, max {max(ratios):.1f})"
    )


def main() -> None:
    """Measure both built-in teachers."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--episodes", type=int, default=100)
    parser.add_argument("--rounds", type=int, default=5)
    arguments = parser.parse_args()
    for name in ("cartpole", "lunarlander"):
        measure(name, arguments.episodes, arguments.rounds)


if __name__ == "__main__":
    main()
