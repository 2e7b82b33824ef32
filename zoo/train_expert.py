"""Train the expert that `imitate.py pong` imitates: PPO on what the emulator's memory says.

    python zoo/train_expert.py --out zoo/pong-expert.safetensors

It begins with what `scripted_pong.py` does, which plays shots that win; PPO from nothing returns
every ball and wins few. PPO on whole games makes it robust; then an episode is one point, of which
every decision costs a little, so that it wins them quickly. Three quarters of the games have sticky
actions.
"""

from __future__ import annotations

import argparse
import tempfile
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, Callable

import gymnasium as gym
import numpy as np
import torch
from scipy.special import softmax
from scripted_pong import ScriptedPong
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv

from pops.artifact import save_policy, write_json
from pops.envs import make_env
from pops.evaluate import evaluate
from pops.policy import NumpyPolicy
from pops.spec import EnvSpec
from pops.teacher.load import load_teacher
from pops.train.start import critic_alone
from pops.workers import available_cores

GAMES = 8
STICKY = tuple(0.25 if place % 4 else 0.0 for place in range(GAMES))
PRICE = 0.003
"""Points that a decision costs in the last part."""
TEMPERATURE = 0.04
"""Softmax temperature of what the script says each action is worth."""
EPOCHS = 20


def game(sticky: float) -> EnvSpec:
    """Pong on features, with or without sticky actions; without frames it runs faster."""
    kwargs = {"repeat_action_probability": sticky, "obs_type": "ram"}
    return EnvSpec("PongNoFrameskip-v4", kwargs, ("pong_memory:PongMemory",))


def lessons(decisions: int, seed: int) -> tuple[torch.Tensor, torch.Tensor]:
    """Features (decisions, FEATURES) and what the script would do (decisions, 3).

    Every fifth action is random, so that what the script avoids is seen too.
    """
    rng = np.random.default_rng(seed)
    features, labels = [], []
    for place, sticky in enumerate(STICKY):
        env, script = make_env(game(sticky)), ScriptedPong()
        observation, _ = env.reset(seed=seed * GAMES + place)
        for _ in range(decisions // GAMES):
            values = script.look(env.unwrapped.ale)  # type: ignore[attr-defined]
            features.append(observation)
            labels.append(softmax(values / TEMPERATURE))
            action = int(rng.integers(3)) if rng.random() < 0.2 else int(np.argmax(values))
            script.acted(action)
            observation, _, terminated, truncated, _ = env.step(action)
            if terminated or truncated:
                observation, _ = env.reset()
                script.reset()
    return torch.tensor(np.array(features)), torch.tensor(np.array(labels, np.float32))


def imitate_script(model: PPO, decisions: int, seed: int) -> None:
    """Let the fresh policy do as the script does."""
    features, labels = lessons(decisions, seed)
    optimizer = torch.optim.Adam(model.policy.parameters(), lr=1e-3)
    generator = torch.Generator().manual_seed(seed)
    for epoch in range(EPOCHS):
        optimizer.param_groups[0]["lr"] = 1e-3 * (1 - epoch / EPOCHS)
        losses = []
        for rows in torch.randperm(len(features), generator=generator).split(256):
            logits = model.policy.get_distribution(features[rows]).distribution.logits
            loss = torch.nn.functional.cross_entropy(logits, labels[rows])
            optimizer.zero_grad()
            loss.backward()
            optimizer.step()
            losses.append(loss.detach())
        print(f"script, epoch {epoch}: {float(torch.stack(losses).mean()):.4f}", flush=True)


class OnePoint(gym.Wrapper[Any, Any, Any, Any]):
    """An episode is a point, and each of its decisions costs `price`; the game goes on."""

    def __init__(self, env: gym.Env[Any, Any], price: float) -> None:
        super().__init__(env)
        self._price = price
        self._over = True
        self._observation: Any = None

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """The next point, of a new game if the last is over or a seed is given."""
        if not self._over and kwargs.get("seed") is None:
            return self._observation, {}
        self._over = False
        return self.env.reset(**kwargs)

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Step."""
        observation, reward, terminated, truncated, info = self.env.step(action)
        self._observation, self._over = observation, terminated or truncated
        over = terminated or bool(reward)
        return observation, float(reward) - self._price, over, truncated, info


class Falling:
    """From `start` to a twentieth of it over the training."""

    def __init__(self, start: float) -> None:
        self.start = start

    def __call__(self, left: float) -> float:
        """`left`: the share of the training to come."""
        return self.start * (0.05 + 0.95 * left)


def learner(make: Callable[[float], gym.Env[Any, Any]], seed: int, **settings: Any) -> PPO:
    """A fresh PPO on `GAMES` games."""
    return PPO(
        "MlpPolicy",
        DummyVecEnv([lambda sticky=sticky: make(sticky) for sticky in STICKY]),
        seed=seed,
        device="cpu",
        n_steps=512,
        batch_size=512,
        n_epochs=6,
        clip_range=0.15,
        policy_kwargs={"net_arch": [128, 128], "activation_fn": torch.nn.ReLU},
        verbose=1,
        **settings,
    )


def learn(model: PPO, steps: int) -> None:
    """PPO; the critic, which knows nothing of these rewards, learns alone at first."""
    with critic_alone(model):
        model.learn(steps // 10)
    model.learn(steps)


def train(args: argparse.Namespace) -> NumpyPolicy:
    """The script's policy, PPO on games, PPO on points; the policy of the last step."""
    games = learner(
        lambda sticky: make_env(game(sticky)),
        args.seed,
        gamma=0.99,
        ent_coef=0.002,
        learning_rate=Falling(2e-4),
    )
    imitate_script(games, args.lessons, args.seed)
    learn(games, args.steps)
    points = learner(
        lambda sticky: OnePoint(make_env(game(sticky)), PRICE),
        args.seed + 1,
        gamma=0.997,  # nearer to one, so that what a long rally costs is felt
        ent_coef=0.005,
        learning_rate=Falling(4e-4),
    )
    points.set_parameters(games.get_parameters())
    learn(points, args.steps)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "model.zip"
        points.save(path)
        return load_teacher(path, env=game(0.25)).policy


def main() -> None:
    """Train, play, write."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--steps", type=int, default=400_000, help="of each part of PPO")
    parser.add_argument("--lessons", type=int, default=120_000, help="decisions of the script")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--games", type=int, default=30, help="games of the final evaluation")
    args = parser.parse_args()
    torch.set_num_threads(1)
    started = time.perf_counter()
    policy = train(args)
    seconds = time.perf_counter() - started
    results: dict[str, Any] = {}
    for name, sticky in (("evaluation", 0.25), ("evaluation_no_op", 0.0)):
        seeds = range(10_000, 10_000 + args.games)
        result = evaluate(policy, game(sticky), seeds, available_cores())
        results[name] = result.to_json(policy.arch.num_parameters)
        print(f"{name}: {result.mean:.1f} over {args.games} games")
    facts = {
        "method": "PPO on features of the emulator's memory",
        "lessons": args.lessons,
        "steps": 2 * (args.steps + args.steps // 10),
        "seconds": round(seconds),
        "seed": args.seed,
        **results,
        "versions": {n: version(n) for n in ("torch", "gymnasium", "ale-py", "stable-baselines3")},
    }
    save_policy(args.out, policy, facts)
    write_json(args.out.with_suffix(".json"), facts)


if __name__ == "__main__":
    main()
