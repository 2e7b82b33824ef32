"""Polish a convolutional student by its return, with PPO (Schulman et al. 2017).

Thousands of weights are too many for an evolution strategy (`pops.polish`), but few for a policy
gradient. Stable-Baselines3 does the learning. What is ours is how it begins with a policy that
plays well already: the critic learns alone first, from what the policy's own last map shows; the
policy is held near to where it began by its divergence from there (Schmitt et al. 2018, arXiv
1803.03835, hold it near to a teacher); batch normalisation's statistics stay as they are, so that
what is learnt folds into the weights.
"""

from __future__ import annotations

import dataclasses
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, cast

import gymnasium as gym
import numpy as np

from pops.candidate import Candidate
from pops.distill import Lesson
from pops.envs import EnvSource, make_env
from pops.errors import EnvironmentFailure, MissingPackage
from pops.evaluate import evaluate
from pops.metered import report_steps
from pops.policy import Parameters
from pops.seeds import derive, training_block
from pops.spec import DiscreteActions, EnvSpec, FloatArray
from pops.workers import Workers

if TYPE_CHECKING:
    from stable_baselines3.common.vec_env import VecEnv

    from pops.actor_critic import ActorCritic


@dataclass(frozen=True)
class ReinforceConfig:
    """One polish by policy gradient."""

    steps: int
    """Environment steps, those of the critic alone left out."""
    environments: int = 16
    """Each in a process of its own, if there are several."""
    threads: int = 2
    """Of torch; a fixed number, because the bits of the result depend on it."""
    critic_steps: int = 80_000
    """Environment steps before them, in which the policy stays as it is."""
    rollout: int = 4096
    """Environment steps between two updates, in all environments together."""
    batch_size: int = 512
    epochs: int = 3
    learning_rate: float = 2e-4
    """Of the policy; it falls linearly to a tenth."""
    critic_learning_rate: float = 1e-3
    clip: float = 0.1
    gamma: float = 0.99
    gae_lambda: float = 0.95
    entropy: float = 0.002
    anchor: float = 0.05
    """Weight of the divergence from the policy that it began with."""
    sharpen: float = 2.0
    """Factor on the distilled logits: sampled at temperature 1 they lose most of the return."""


def can_reinforce(candidate: Candidate, lesson: Lesson) -> bool:
    """Whether there is a form of this for the candidate.

    That is: convolutions, discrete actions, one mean and one deviation for all pixels.
    """
    normaliser = lesson.spec.normaliser
    plain = normaliser is None or (len(normaliser.mean) == 1 and normaliser.clip is None)
    discrete = isinstance(lesson.spec.actions, DiscreteActions)
    return bool(candidate.arch.convs) and discrete and plain


def reinforce(
    candidate: Candidate,
    lesson: Lesson,
    config: ReinforceConfig,
    workers: Workers,
    *,
    images: FloatArray,
    validation_seeds: Sequence[int],
    key: tuple[int, ...],
    watch: Callable[[int, float], None] | None = None,
) -> Candidate:
    """Improve a candidate's mean return; the better of before and after is given back.

    Args:
        candidate: taught already; see `can_reinforce`.
        lesson: environment and spec.
        config: steps and hyperparameters.
        workers: the validation's episodes are divided among them.
        images: (N, *input_shape) network inputs that batch normalisation is settled on.
        validation_seeds: screening seeds on which before and after are compared.
        key: (stage, iteration, candidate), from which its seeds are derived.
        watch: called with steps and the mean return of the latest sampled episodes.

    Raises:
        MissingPackage: if Stable-Baselines3 is not installed.
        EnvironmentFailure: if an environment raised.
    """
    assert candidate.parameters is not None
    seed = derive(lesson.seed, "reinforce", *key) % (2**31)
    first_seed = training_block(lesson.seed, "reinforce", *key)
    learnt = _learn(candidate, lesson, config, images, (seed, first_seed), watch)
    before = evaluate(candidate.policy(lesson), lesson.env, validation_seeds, workers)
    if learnt is None:
        return dataclasses.replace(candidate, result=before)
    polished = dataclasses.replace(
        candidate, name=f"{candidate.name}+polish", parameters=learnt, confirmation=None
    )
    after = evaluate(polished.policy(lesson), lesson.env, validation_seeds, workers)
    if after.mean >= before.mean:
        return dataclasses.replace(polished, result=after)
    return dataclasses.replace(candidate, result=before)


def _learn(
    candidate: Candidate,
    lesson: Lesson,
    config: ReinforceConfig,
    images: FloatArray,
    seeds: tuple[int, int],
    watch: Callable[[int, float], None] | None,
) -> Parameters | None:
    """What the policy became; None if it diverged."""
    try:
        from stable_baselines3.common.vec_env import (
            DummyVecEnv,
            SubprocVecEnv,
            VecMonitor,
            VecNormalize,
        )
    except ImportError as error:
        raise MissingPackage("stable-baselines3", "train", "Polish of image policies") from error

    from pops.actor_critic import callback, new_model
    from pops.convolutional import torch_threads

    source = training_source(lesson.env)

    def make() -> gym.Env[Any, Any]:
        return make_env(source)

    alone = config.environments == 1
    games = DummyVecEnv([make]) if alone else SubprocVecEnv([make] * config.environments)
    try:
        # Rewards in units of the return's deviation, whatever the environment counts in.
        env = VecNormalize(VecMonitor(games), norm_obs=False, gamma=config.gamma)
        with torch_threads(config.threads):
            model = new_model(env, lesson.spec, candidate, config, images, seeds[0])
            # The model's own seed went to the environments too, and may lie in the gate's block.
            env.seed(seeds[1])
            policy = cast("ActorCritic", model.policy)
            with policy.critic_alone():
                model.learn(config.critic_steps)
            report_steps(model.num_timesteps)
            model.learn(config.steps, callback=callback(watch))
            report_steps(model.num_timesteps)
            return policy.parameters_of_actor()
    except (EOFError, ConnectionError) as error:
        raise EnvironmentFailure(
            "A process that steps the environment ended while a student was polished; what it "
            "said stands above. Mend the environment, then add --resume."
        ) from error
    except ValueError as error:  # of a distribution whose logits are NaN
        if "invalid values" not in str(error):
            raise
        return None
    finally:
        _close(games)


def _close(games: VecEnv) -> None:
    """Close environments of which some may have ended with their processes."""
    try:
        games.close()
    except (EOFError, ConnectionError):
        for process in getattr(games, "processes", ()):
            process.terminate()


def training_source(env: EnvSource) -> EnvSource:
    """The environment with shorter episodes for training, where the table of presets has such."""
    from pops.train.presets import episode_wrappers

    if not isinstance(env, EnvSpec):
        return env
    wrappers = (*env.wrappers, *episode_wrappers(env.id))
    return dataclasses.replace(env, wrappers=wrappers)


def settling_images(buffer: Any, count: int = 1024) -> FloatArray:
    """Network inputs from all over a replay buffer."""
    rows = np.linspace(0, len(buffer) - 1, min(len(buffer), count)).astype(np.int64)
    images: FloatArray = buffer.batch(rows)[0]
    return images
