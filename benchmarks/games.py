"""How fast `pops.games` steps Pong for a training, against Stable-Baselines3's SubprocVecEnv.

Both step the same sixteen environments in turns within one run; what counts is the ratio of
environment steps a second. Between two steps a training computes actions, so each is timed with
a pause of the student's own forward pass too. Run it with: python benchmarks/games.py
"""

from __future__ import annotations

import argparse
import statistics
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
from stable_baselines3.common.vec_env import SubprocVecEnv

from pops.artifact import load_policy
from pops.envs import make_env
from pops.games import Games
from pops.policy import NumpyPolicy
from pops.reinforce import training_sources
from pops.workers import available_cores

ZOO = Path(__file__).parents[1] / "zoo"


def steps_per_second(env: Any, policy: NumpyPolicy | None, steps: int) -> float:
    """Environment steps a second, all environments together."""
    rng, seen = np.random.default_rng(0), env.reset()
    started = time.perf_counter()
    for _ in range(steps):
        actions = rng.integers(0, env.action_space.n, env.num_envs)
        if policy is not None:
            policy.outputs(seen)
        seen, *_ = env.step(actions)
    return steps * env.num_envs / (time.perf_counter() - started)


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--student", type=Path, default=ZOO / "pong-small.safetensors")
    parser.add_argument("--environments", type=int, default=16)
    parser.add_argument("--steps", type=int, default=150)
    parser.add_argument("--rounds", type=int, default=5)
    options = parser.parse_args()
    policy = load_policy(options.student)[0]
    assert policy.spec.env is not None
    sources = training_sources(policy.spec.env, options.environments)
    makers = [partial(make_env, source) for source in sources]
    theirs, ours = SubprocVecEnv(makers), Games(makers, available_cores())
    for label, acting in (("stepping alone", None), ("with the student's forward pass", policy)):
        pairs = [
            (
                steps_per_second(ours, acting, options.steps),
                steps_per_second(theirs, acting, options.steps),
            )
            for _ in range(options.rounds)
        ]
        ratios = [mine / other for mine, other in pairs]
        print(
            f"{label}: {statistics.median(p[0] for p in pairs):.0f} steps/s, SubprocVecEnv "
            f"{statistics.median(p[1] for p in pairs):.0f}, ratio {statistics.median(ratios):.2f} "
            f"({min(ratios):.2f} to {max(ratios):.2f})"
        )
    theirs.close()
    ours.close()


if __name__ == "__main__":
    main()
