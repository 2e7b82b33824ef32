"""Train the zoo's Atari teachers by imitation (DAgger), faster than by reward on a small machine.

A network on pixels plays; an expert that reads the emulator's memory says for every state what each
action is worth; the network learns to choose as it would (Ross et al. 2011; experts that see more
than the pupil: Chen et al. 2019). Half of the games have sticky actions. The network is NatureCNN
on the frames that the spec describes.

    python zoo/imitate.py pong --out runs/pong-teacher [--start policy.pth] [--rounds 24]

`--start` takes weights to begin with (a `policy.pth` of a Stable-Baselines3 PPO `CnnPolicy`);
without it training begins from nothing and needs more rounds. Run it again with the same
arguments to go on after a stop, or with more rounds to go on after the end: what was collected is
kept in `--out`.
"""

from __future__ import annotations

import argparse
import json
import math
import multiprocessing
import time
from importlib.metadata import version
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from games import FRAMES, NO_OP_STARTS, PLAYED, STICKY, Game
from torch import nn
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn

from pops.artifact import atomic_path, read_arrays, save_policy, write_arrays, write_json
from pops.batch_norm import NormalisedNetwork
from pops.convolutional import SETTLED_BY
from pops.envs import make_env
from pops.evaluate import evaluate
from pops.network import PolicyNetwork, biases
from pops.policy import NumpyPolicy, Parameters
from pops.spec import EnvSpec
from pops.weights import initialise
from pops.workers import available_cores

GAMES = 16
"""Games under way at a time; every other one has sticky actions."""
BATCH = 256
AVERAGED = 0.998
"""The policy that plays is the average of the weights over about 500 updates: a deterministic game
repeats one mistake 21 times, and single updates swing between such mistakes."""
HAS_BFLOAT16 = torch.cpu._is_avx512_bf16_supported()
"""Without the instructions an update in bfloat16 takes ten times as long as in float32."""


class Collector:
    """Games that go on from round to round, played by the network, labelled by the expert."""

    def __init__(self, game: Game, seed: int) -> None:
        self._seed, self._games, self._actions = seed, 0, len(game.actions)
        single = [EnvSpec(game.id, k, game.wrappers) for k in ({}, STICKY)]
        self._envs = [make_env(single[i % 2]) for i in range(GAMES)]
        self._experts = [game.expert() for _ in self._envs]
        self._rng = np.random.default_rng((seed, 0))
        self._stacks = np.zeros((GAMES, FRAMES, 84, 84), np.uint8)
        self._age = np.zeros(GAMES, np.int64)
        self._returns = np.zeros(GAMES)
        for place in range(GAMES):
            self._reset(place)

    def _reset(self, place: int) -> None:
        self._games += 1
        observation, _ = self._envs[place].reset(seed=self._seed + self._games)
        self._experts[place].reset()
        self._stacks[place] = 0
        self._stacks[place, -1] = observation[..., 0]
        self._age[place] = 0
        self._returns[place] = 0.0

    def collect(self, network: nn.Module, steps: int, expert_share: float) -> dict[str, Any]:
        """Frames (games, 3 + steps, 84, 84), ages, values (games, steps, actions), returns.

        And the regret: what a decision of the network's is worth less than the best, on average.
        """
        frames = np.zeros((GAMES, FRAMES - 1 + steps, 84, 84), np.uint8)
        frames[:, : FRAMES - 1] = self._stacks[:, :-1]
        ages = np.zeros((GAMES, steps), np.uint8)
        values = np.zeros((GAMES, steps, self._actions), np.float32)
        finished: list[tuple[float, float]] = []
        missed = 0.0
        for step in range(steps):
            frames[:, FRAMES - 1 + step] = self._stacks[:, -1]
            ages[:, step] = np.minimum(self._age, FRAMES)
            for place, env in enumerate(self._envs):
                values[place, step] = self._experts[place].look(env.unwrapped.ale)  # type: ignore[attr-defined]
            with torch.inference_mode():
                inputs = torch.from_numpy(self._stacks).float().div_(255.0)
                chosen = network(inputs.contiguous(memory_format=torch.channels_last))
            own = chosen.argmax(1).numpy()
            best = values[:, step].argmax(1)
            missed += float((values[:, step].max(1) - values[range(GAMES), step, own]).mean())
            acts = np.where(self._rng.random(GAMES) < expert_share, best, own)
            for place, env in enumerate(self._envs):
                self._experts[place].acted(int(acts[place]))
                observation, reward, terminated, truncated, _ = env.step(int(acts[place]))
                self._returns[place] += float(reward)
                self._age[place] += 1
                self._stacks[place, :-1] = self._stacks[place, 1:]
                self._stacks[place, -1] = observation[..., 0]
                if terminated or truncated:
                    finished.append((place % 2, float(self._returns[place])))
                    self._reset(place)
        return {
            "frames": frames,
            "ages": ages,
            "values": values,
            "finished": np.asarray(finished, np.float64).reshape(-1, 2),
            "regret": np.array(missed / steps),
        }


def _collector_process(pipe: Any, name: str, seed: int) -> None:
    torch.set_num_threads(1)
    collector = Collector(PLAYED[name], seed)
    network = PolicyNetwork(PLAYED[name].arch()).to(memory_format=torch.channels_last)
    while True:
        order = pipe.recv()
        if order is None:
            return
        parameters, steps, share = order
        network.load(parameters)
        pipe.send(collector.collect(network, steps, share))


def probabilities(values: np.ndarray, temperature: float) -> np.ndarray:
    """(games, steps, actions) softmax of what each action is worth: sharp only where it matters."""
    scaled = np.exp((values - values.max(axis=2, keepdims=True)) / temperature)
    return np.asarray(scaled / scaled.sum(axis=2, keepdims=True), np.float32)


class Lessons:
    """All rounds, every frame once."""

    def __init__(self, temperature: float) -> None:
        self._temperature = temperature
        self._frames: list[np.ndarray] = []
        self._labels: list[np.ndarray] = []
        self._ages: list[np.ndarray] = []

    def __len__(self) -> int:
        """Labelled states."""
        return sum(ages.size for ages in self._ages)

    def add(self, part: dict[str, Any]) -> None:
        """Keep one round, labelled by what the expert sees in each state."""
        self._frames.append(part["frames"])
        self._labels.append(probabilities(part["values"], self._temperature))
        self._ages.append(part["ages"])

    def batch(self, rng: np.random.Generator, size: int) -> tuple[torch.Tensor, torch.Tensor]:
        """Random states as inputs (size, 4, 84, 84) float32, and probabilities (size, actions)."""
        # The later of two: late rounds show what the network does now, and were learned least.
        rounds = rng.integers(0, len(self._labels), (2, size)).max(axis=0)
        inputs = np.zeros((size, FRAMES, 84, 84), np.uint8)
        labels = np.zeros((size, self._labels[0].shape[2]), np.float32)
        for row, index in enumerate(rounds):
            games, steps = self._ages[index].shape
            game, step = int(rng.integers(games)), int(rng.integers(steps))
            inputs[row] = self._frames[index][game, step : step + FRAMES]
            age = int(self._ages[index][game, step])
            inputs[row, : max(0, FRAMES - 1 - age)] = 0
            labels[row] = self._labels[index][game, step]
        tensor = torch.from_numpy(inputs).float().div_(255.0)
        return tensor.contiguous(memory_format=torch.channels_last), torch.from_numpy(labels)


def load_start(network: PolicyNetwork, path: Path) -> None:
    """Copy the actor of a Stable-Baselines3 PPO `CnnPolicy` with NatureCNN."""
    state = torch.load(path, map_location="cpu", weights_only=True)
    names = ["features_extractor.cnn.0", "features_extractor.cnn.2", "features_extractor.cnn.4"]
    names += ["features_extractor.linear.0", "action_net"]
    with torch.no_grad():
        for layer, name in zip(network.weighted(), names):
            layer.weight.copy_(state[f"{name}.weight"])
            biases(layer).copy_(state[f"{name}.bias"])


def main() -> None:
    """Train, and write OUT/GAME.safetensors."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("game", choices=sorted(PLAYED))
    parser.add_argument("--out", type=Path, required=True)
    parser.add_argument("--start", type=Path, help="weights to begin with")
    parser.add_argument("--rounds", type=int, default=24)
    parser.add_argument("--steps", type=int, default=640, help="decisions a game and round")
    parser.add_argument("--updates", type=int, default=500, help="gradient updates a round")
    parser.add_argument("--learning-rate", type=float, default=1e-3)
    parser.add_argument(
        "--threads", type=int, default=2, help="cores that train; one more collects"
    )
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--games", type=int, default=30, help="games of the final evaluation")
    train(parser.parse_args())


class Pupil:
    """The network that learns, the average of its weights that plays, and where they stand."""

    def __init__(self, args: argparse.Namespace) -> None:
        arch = PLAYED[args.game].arch()
        self._args = args
        self._checkpoint = args.out / "checkpoint.pt"
        self._network = NormalisedNetwork(arch)
        self._network.load(initialise(arch, args.seed))
        if args.start is not None:
            load_start(self._network, args.start)
        self._network.to(memory_format=torch.channels_last)
        self._average = AveragedModel(self._network, multi_avg_fn=get_ema_multi_avg_fn(AVERAGED))
        self._optimizer = torch.optim.AdamW(
            [p for p in self._network.parameters() if p.requires_grad],
            lr=args.learning_rate,
            weight_decay=1e-4,
        )
        self.rounds, self.seconds = 0, 0.0
        if self._checkpoint.is_file():
            saved = torch.load(self._checkpoint, weights_only=True)
            self.rounds, self.seconds = saved["round"], saved["seconds"]
            self._network.load_state_dict(saved["network"])
            self._average.load_state_dict(saved["average"])
            self._optimizer.load_state_dict(saved["optimizer"])

    def player(self, lessons: Lessons) -> Parameters:
        """The policy that plays: the average, normalised by the statistics of what was seen."""
        average = cast(NormalisedNetwork, self._average.module)
        as_given = self._args.start is not None and self.rounds < 2  # nothing has been learnt yet
        if len(lessons) and not as_given:
            average.settle(lessons.batch(np.random.default_rng(self.rounds), SETTLED_BY)[0])
        return average.folded()

    def save(self) -> None:
        """One more round is done."""
        self.rounds += 1
        with atomic_path(self._checkpoint) as beside:
            torch.save(
                {
                    "round": self.rounds,
                    "seconds": self.seconds,
                    "network": self._network.state_dict(),
                    "average": self._average.state_dict(),
                    "optimizer": self._optimizer.state_dict(),
                },
                beside,
            )

    def learn(self, lessons: Lessons) -> float:
        """Updates on random states of all rounds; the mean loss of the last hundred."""
        args = self._args
        rng = np.random.default_rng((args.seed, 1, self.rounds))
        # Constant for three tenths of the rounds, then a cosine.
        falling = max(0.0, self.rounds / args.rounds - 0.3) / 0.7
        rate = args.learning_rate * 0.5 * (1 + math.cos(math.pi * falling))
        self._optimizer.param_groups[0]["lr"] = max(rate, 0.02 * args.learning_rate)
        losses = []
        if self.rounds == 1 and args.start is not None:
            # Go on as what was given, and not as what normalising its units would make of it.
            self._network.settle(lessons.batch(rng, SETTLED_BY)[0], unchanged=True)
        self._network.train()
        for _ in range(args.updates):
            inputs, labels = lessons.batch(rng, BATCH)
            with torch.autocast("cpu", torch.bfloat16, enabled=HAS_BFLOAT16):
                outputs = self._network(inputs)
            loss = nn.functional.cross_entropy(outputs.float(), labels)
            self._optimizer.zero_grad(set_to_none=True)
            loss.backward()
            self._optimizer.step()
            self._average.update_parameters(self._network)
            losses.append(float(loss.detach()))
        return float(np.mean(losses[-100:]))


def train(args: argparse.Namespace) -> None:
    """DAgger: a round is collected while the network learns from the rounds before it."""
    torch.set_num_threads(args.threads)
    args.out.mkdir(parents=True, exist_ok=True)
    pupil, lessons = Pupil(args), Lessons(PLAYED[args.game].temperature)
    for index in range(pupil.rounds):
        lessons.add(read_arrays(args.out / f"round-{index}.npz"))
    processes = multiprocessing.get_context("spawn")
    here, there = processes.Pipe()
    seed = args.seed * 1_000_000 + pupil.rounds * 10_000
    processes.Process(target=_collector_process, args=(there, args.game, seed), daemon=True).start()
    while pupil.rounds < args.rounds:
        started, turn = time.process_time(), pupil.rounds
        share = 0.5**turn if args.start is None else 0.0
        here.send((pupil.player(lessons), args.steps, share))
        loss = pupil.learn(lessons) if len(lessons) else math.nan
        part = here.recv()
        write_arrays(args.out / f"round-{turn}.npz", part)
        lessons.add(part)
        pupil.seconds += time.process_time() - started
        pupil.save()
        print(
            f"round {turn}: {len(lessons):,} states, loss {loss:.4f}, regret "
            f"{float(part['regret']):.4f}, returns "
            f"{_mean_return(part, 0)} plain, {_mean_return(part, 1)} sticky",
            flush=True,
        )
    here.send(None)
    finish(pupil.player(lessons), args, len(lessons), pupil.seconds)


def _mean_return(part: dict[str, Any], sticky: int) -> str:
    """Of the games of one kind that ended in a round, with their number."""
    returns = part["finished"][part["finished"][:, 0] == sticky, 1]
    return f"{returns.mean():.1f} ({len(returns)})" if len(returns) else "-"


def finish(parameters: Parameters, args: argparse.Namespace, states: int, seconds: float) -> None:
    """Play full games and write the policy with what is known about it."""
    game = PLAYED[args.game]
    spec = game.spec()
    policy = NumpyPolicy(spec, game.arch(), parameters)
    assert spec.env is not None
    results = {}
    for name, kwargs in (("sticky", STICKY), ("no_op", NO_OP_STARTS)):
        env = EnvSpec(spec.env.id, kwargs, spec.env.wrappers, spec.env.frame_stack)
        result = evaluate(policy, env, range(10_000, 10_000 + args.games), available_cores())
        results[name] = result.to_json(policy.arch.num_parameters)
    facts = {
        "method": "imitation (DAgger) of an expert that reads the emulator's memory",
        "start": "Stable-Baselines3 PPO CnnPolicy" if args.start else "fresh weights",
        "labelled_states": states,
        "updates": args.updates * (args.rounds - 1),
        "cpu_seconds_of_training": round(seconds),
        "seed": args.seed,
        "evaluation": results["sticky"],
        "evaluation_no_op": results["no_op"],
        "versions": {n: version(n) for n in ("torch", "gymnasium", "ale-py", "stable-baselines3")},
    }
    save_policy(args.out / f"{args.game}.safetensors", policy, facts)
    write_json(args.out / f"{args.game}.json", facts)
    print(json.dumps(facts, indent=2))


if __name__ == "__main__":
    main()
