"""Returns of any Policy on fixed episode seeds.

An episode is its seed: `env.reset(seed=seed)`, deterministic actions, the
undiscounted sum of rewards. Episodes run side by side so that one forward pass
serves many of them; because a policy's result for one observation does not
depend on the batch (`pops.policy`), neither does an episode's return.
"""

from __future__ import annotations

import functools
import math
import zlib
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pops.envs import EnvSource, make_env, reset_is_like_new, sample_action
from pops.errors import EnvironmentFailure
from pops.metered import report_steps
from pops.spec import Array, EnvSpec, Policy

if TYPE_CHECKING:
    import gymnasium as gym

    from pops.workers import Workers

SIDE_BY_SIDE = 50
MAX_EPISODE_STEPS = 1_000_000
RANDOM_EPISODES = 100
"""Of random actions, from which the gate's margin is measured."""
FEW = 24
"""Numbers of an observation up to which Python's sum is faster than numpy's `isfinite`."""
HASHED_EVERY = 8
"""Steps between two observations that go into a trajectory's hash; the last one always does."""


@dataclass(frozen=True)
class EvalResult:
    """Every episode of an evaluation, never only a mean."""

    seeds: tuple[int, ...]
    returns: Array
    """(episodes,) float64, undiscounted sums of rewards."""
    lengths: Array
    """(episodes,) int64, environment steps."""
    successes: Array | None = None
    """(episodes,) bool where the environment reports `is_success`, else None."""
    trajectories: Array | None = None
    """(episodes,) uint32, a hash of what was observed in each; None if it was not watched."""

    @property
    def distinct(self) -> int | None:
        """Number of different trajectories; None if they were not watched."""
        return None if self.trajectories is None else len(np.unique(self.trajectories))

    @property
    def mean(self) -> float:
        """Mean return."""
        return float(np.mean(self.returns))

    @property
    def std(self) -> float:
        """Standard deviation of the returns (population)."""
        return float(np.std(self.returns))

    @property
    def worst_5_percent(self) -> float:
        """Mean of the lowest twentieth of the returns, one episode at least."""
        count = max(1, math.ceil(0.05 * len(self.returns)))
        return float(np.mean(np.sort(self.returns)[:count]))

    def to_json(self, num_parameters: int | None, returns: bool = False) -> dict[str, Any]:
        """The keys of `pops eval --json`."""
        data: dict[str, Any] = {
            "episodes": len(self.seeds),
            "seed": self.seeds[0],
            "mean": self.mean,
            "std": self.std,
            "min": float(np.min(self.returns)),
            "max": float(np.max(self.returns)),
            "mean_length": float(np.mean(self.lengths)),
            "worst_5_percent": self.worst_5_percent,
            "num_parameters": num_parameters,
        }
        if self.successes is not None:
            data["success_rate"] = float(np.mean(self.successes))
        if self.distinct is not None:
            data["distinct_trajectories"] = self.distinct
        if returns:
            data["returns"] = [float(r) for r in self.returns]
        return data


def join(results: Sequence[EvalResult]) -> EvalResult:
    """Evaluations of one policy on disjoint seeds as one."""
    successes = [r.successes for r in results if r.successes is not None]
    trajectories = [r.trajectories for r in results if r.trajectories is not None]
    return EvalResult(
        tuple(seed for r in results for seed in r.seeds),
        np.concatenate([r.returns for r in results]),
        np.concatenate([r.lengths for r in results]),
        np.concatenate(successes) if len(successes) == len(results) else None,
        np.concatenate(trajectories) if len(trajectories) == len(results) else None,
    )


def evaluate(
    policy: Policy,
    env: EnvSource,
    seeds: Sequence[int],
    workers: Workers | int = 1,
    side_by_side: int = SIDE_BY_SIDE,
) -> EvalResult:
    """Play one episode for each seed.

    Args:
        policy: acts on observations (N, *observation_shape).
        env: what the episodes are played in.
        seeds: one for each episode, given to `env.reset`.
        workers: processes to divide the episodes among; the result does not depend on it.
        side_by_side: episodes that share one forward pass; neither does it depend on this.

    Raises:
        EnvironmentFailure: if the environment raises or returns NaN; with seed and step.
    """
    from pops.workers import Workers

    seeds = tuple(int(s) for s in seeds)
    if isinstance(workers, int):
        with Workers(workers) as pool:
            return evaluate(policy, env, seeds, pool, side_by_side)
    blocks = divided(seeds, workers)
    return join(workers.map(play, [(policy, env, block, side_by_side) for block in blocks]))


def evaluate_random(env: EnvSource, seeds: Sequence[int], workers: Workers) -> EvalResult:
    """`play_random` with the episodes divided among processes; the same result."""
    return join(workers.map(play_random, [(env, block) for block in divided(seeds, workers)]))


def divided(seeds: Sequence[int], workers: Workers) -> list[Sequence[int]]:
    """The seeds in order, in one block for each worker."""
    share = math.ceil(len(seeds) / workers.count)
    return [seeds[i : i + share] for i in range(0, len(seeds), share)]


def play(
    policy: Policy, env: EnvSource, seeds: Sequence[int], side_by_side: int = SIDE_BY_SIDE
) -> EvalResult:
    """Play one episode for each seed in this process."""
    table = EpisodeTable(env, seeds, min(side_by_side, len(seeds)))
    try:
        while len(table):
            table.step(policy.act(table.observations()))
    finally:
        table.close()
    return table.result()


def play_random(env: EnvSource, seeds: Sequence[int]) -> EvalResult:
    """Play one episode for each seed with uniformly random actions drawn from that seed."""
    table = EpisodeTable(env, seeds, min(SIDE_BY_SIDE, len(seeds)))
    generators = {seed: np.random.default_rng((seed, 1)) for seed in seeds}
    try:
        while len(table):
            space = table.action_space
            table.step([sample_action(space, generators[s]) for s in table.active_seeds()])
    finally:
        table.close()
    return table.result()


class EpisodeTable:
    """Episodes running side by side, each with its own seed; no autoreset.

    A finished episode's place is taken by the next seed, until none is left.
    """

    def __init__(self, source: EnvSource, seeds: Sequence[int], places: int) -> None:
        self._source = source
        self._seeds = tuple(seeds)
        self._next = 0
        self._renew = not like_new(source)
        self._returns = np.zeros(len(seeds), np.float64)
        self._lengths = [0] * len(seeds)
        self._hashes = [0] * len(seeds)
        self._successes: list[bool | None] = [None] * len(seeds)
        self._envs: list[gym.Env[Any, Any]] = []
        self._episodes: list[int] = []
        self._observations: list[Array] = []
        for _ in range(places):
            self._envs.append(make_env(source))
            self._episodes.append(-1)
            self._observations.append(np.zeros(0))
        self.action_space = self._envs[0].action_space
        for place in range(places):
            self._start(place)

    def __len__(self) -> int:
        """Episodes still running."""
        return len(self._envs)

    def observations(self) -> Array:
        """(running, *observation_shape): the latest observation of each running episode."""
        return np.stack(self._observations)

    def active_seeds(self) -> list[int]:
        """The seed of each running episode."""
        return [self._seeds[e] for e in self._episodes]

    def active_episodes(self) -> list[int]:
        """The index of each running episode among all seeds."""
        return list(self._episodes)

    def step(self, actions: Any) -> None:
        """Take one action in each running episode, in the order of `observations`."""
        discrete = getattr(self.action_space, "n", None) is not None
        finished = []
        report_steps(len(self._envs))
        for place, env in enumerate(self._envs):
            episode = self._episodes[place]
            action = int(actions[place]) if discrete else actions[place]
            try:
                observation, reward, terminated, truncated, info = env.step(action)
            except Exception as error:
                raise self._failure(episode, f"raised {type(error).__name__}: {error}") from error
            value = float(reward)
            observation = np.asarray(observation)
            if not math.isfinite(value) or not _finite(observation):
                what = "a reward" if not math.isfinite(value) else "an observation"
                raise self._failure(episode, f"returned {what} that is not finite")
            self._returns[episode] += value
            length = self._lengths[episode] = self._lengths[episode] + 1
            self._observations[place] = observation
            if terminated or truncated or length % HASHED_EVERY == 0:
                self._hash(episode, observation)
            if terminated or truncated:
                if "is_success" in info:
                    self._successes[episode] = bool(info["is_success"])
                finished.append(place)
            elif length >= MAX_EPISODE_STEPS:
                raise self._failure(episode, "did not end; give it a time limit")
        for place in reversed(finished):
            self._start(place)

    def _start(self, place: int) -> None:
        if self._next == len(self._seeds):
            self._envs.pop(place).close()
            self._episodes.pop(place)
            self._observations.pop(place)
            return
        episode, self._next = self._next, self._next + 1
        self._episodes[place] = episode
        if self._renew and episode >= len(self._envs):
            self._envs[place].close()
            self._envs[place] = make_env(self._source)
        try:
            observation, _ = self._envs[place].reset(seed=self._seeds[episode])
        except Exception as error:
            raise self._failure(episode, f"raised {type(error).__name__}: {error}") from error
        self._observations[place] = np.asarray(observation)
        if not _finite(self._observations[place]):
            raise self._failure(episode, "returned an observation that is not finite")
        self._hash(episode, self._observations[place])

    def _hash(self, episode: int, observation: Array) -> None:
        seen = np.ascontiguousarray(observation)
        self._hashes[episode] = zlib.crc32(seen.data, self._hashes[episode])

    def _failure(self, episode: int, what: str) -> EnvironmentFailure:
        name = self._source.id if isinstance(self._source, EnvSpec) else "given"
        return EnvironmentFailure(
            f"The environment {name} {what} (episode seed {self._seeds[episode]}, step "
            f"{self._lengths[episode]}). Mend the environment; finished stages of a run are kept "
            "and --resume goes on from them."
        )

    def result(self) -> EvalResult:
        """Every episode, in the order of the seeds."""
        known = [s for s in self._successes if s is not None]
        successes = np.asarray(known, bool) if len(known) == len(self._seeds) else None
        lengths, hashes = np.asarray(self._lengths, np.int64), np.asarray(self._hashes, np.uint32)
        return EvalResult(self._seeds, self._returns, lengths, successes, hashes)

    def close(self) -> None:
        """Close every environment still open."""
        for env in self._envs:
            env.close()


def _finite(observation: Array) -> bool:
    if observation.dtype.kind != "f":
        return True
    # Of few numbers a plain sum is the quicker test; it also overflows where all are finite.
    if observation.size <= FEW and math.isfinite(sum(observation.ravel().tolist())):
        return True
    return bool(np.isfinite(observation).all())


@functools.lru_cache(maxsize=64)
def like_new(source: EnvSource) -> bool:
    """`reset_is_like_new`, probed once for each environment and process."""
    return reset_is_like_new(source)
