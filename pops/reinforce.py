"""Polish a convolutional student by its return, with PPO (Schulman et al. 2017).

Thousands of weights are too many for an evolution strategy (`pops.polish`), but few for a policy
gradient. Stable-Baselines3 does the learning. What is ours is how it begins with a policy that
plays well already: it is made about as decided as it will be judged (`pops.sharpen`); the critic
learns alone first, from what the policy's own last map shows; the policy is held near to where it
began by its divergence from there (Schmitt et al. 2018, arXiv 1803.03835, hold it near to a
teacher); batch normalisation's statistics stay as they are, so that what is learnt folds into the
weights; the student is the mean of the policy's weights over the last half of the steps. A long
polish is one after the other: each begins as the student of the last, decided and held anew.
"""

from __future__ import annotations

import dataclasses
import functools
from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, Callable, cast

import gymnasium as gym
import numpy as np

from pops.averaging import Average
from pops.candidate import Candidate
from pops.distill import Lesson
from pops.envs import EnvSource, make_env
from pops.errors import MissingPackage
from pops.evaluate import evaluate
from pops.frames import States
from pops.journal import StageResult
from pops.metered import report_steps
from pops.rounds import Segment, segments
from pops.seeds import derive, training_block
from pops.sharpen import further
from pops.spec import Array, DiscreteActions, EnvSpec, FloatArray
from pops.train.checked import CheckedEnv
from pops.workers import Workers, available_cores

if TYPE_CHECKING:
    from stable_baselines3 import PPO
    from stable_baselines3.common.vec_env import VecEnv

    from pops.actor_critic import ActorCritic

SETTLING_IMAGES = 1024


@dataclass(frozen=True)
class ReinforceConfig:
    """One polish by policy gradient."""

    steps: int
    """Environment steps, those of the critic alone left out."""
    environments: int = 16
    """Stepped side by side in as many processes as there are cores."""
    threads: int = 2
    """Of torch in updates; a fixed number, because the bits of the result depend on it."""
    critic_steps: int = 80_000
    """Environment steps before them, in which the policy stays as it is."""
    segment: int = 204_800
    """Environment steps after which it can go on should it be stopped; games begin anew then."""
    round: int = 1_024_000
    """Environment steps after which it begins anew as the mean of what it learnt; the steps are
    divided evenly among as many rounds as that takes."""
    rollout: int = 4096
    """Environment steps between two updates, in all environments together."""
    batch_size: int = 512
    epochs: int = 3
    learning_rate: float = 1e-4
    """Of the policy; it falls linearly to a tenth in each round."""
    critic_learning_rate: float = 1e-3
    clip: float = 0.1
    gamma: float = 0.99
    gae_lambda: float = 0.95
    entropy: float = 0.002
    anchor: float = 0.05
    """Weight of the divergence from the policy that the round began with."""
    averaged: float = 0.5
    """Share of a round's steps, the last ones, over which the policy's parameters are averaged."""
    entropy_share: float = 0.1
    """Of random actions' entropy, which the student's has where a round begins; see
    `pops.sharpen`."""
    growth: float = 2.0
    """Factor on the logits at a round's end, reached linearly; it begins at 1."""


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
    images: FloatArray,
    key: tuple[int, ...],
    watch: Callable[[int, float], None] | None = None,
    stage: Callable[[str, Callable[[], StageResult]], StageResult] = lambda _, make: make(),
    enough: Callable[[Candidate], bool] = lambda _: False,
) -> Candidate | None:
    """The candidate after learning from its return; None if learning diverged at once.

    Args:
        candidate: taught already; see `can_reinforce`.
        lesson: environment and spec.
        config: steps and hyperparameters.
        images: (N, *input_shape) network inputs that batch normalisation is settled on.
        key: (stage, iteration, candidate), from which its seeds are derived.
        watch: called with steps and the mean return of the latest sampled episodes.
        stage: makes a segment's result, or finds it where it was made before.
        enough: shown each round's student; whether it is the last one.

    Raises:
        MissingPackage: if Stable-Baselines3 is not installed.
        EnvironmentFailure: if an environment raised.
    """
    found, learnt = StageResult(), None
    with Training(candidate, lesson, config, images, key, watch) as training:
        for part in segments(config.critic_steps, config.steps, config.segment, config.round):
            begun = learnt or candidate

            def make(
                part: Segment = part, begun: Candidate = begun, before: StageResult = found
            ) -> StageResult:
                return training.segment(part, begun, before.arrays)

            found = stage(f"{part.number:02d}", make)
            if "student" not in found.policies:
                break
            if part.closes_round:
                parameters = found.policies["student"].parameters
                learnt = dataclasses.replace(
                    candidate,
                    name=f"{candidate.name}+polish",
                    parameters=parameters,
                    result=None,
                    confirmation=None,
                )
                if enough(learnt):
                    break
    return learnt


def better(
    before: Candidate,
    after: Candidate | None,
    lesson: Lesson,
    seeds: Sequence[int],
    workers: Workers,
) -> Candidate:
    """Whichever returns more on these screening seeds, with its episodes."""
    played = [
        dataclasses.replace(one, result=evaluate(one.policy(lesson), lesson.env, seeds, workers))
        for one in (after, before)
        if one is not None
    ]
    return max(played, key=lambda candidate: candidate.mean)


class Training:
    """Games, actor and critic of one polish; they are made when a segment first asks for them.

    What a segment learns depends on its seed and on what the one before it left, never on whether
    both ran in one process.
    """

    def __init__(
        self,
        candidate: Candidate,
        lesson: Lesson,
        config: ReinforceConfig,
        images: FloatArray,
        key: tuple[int, ...],
        watch: Callable[[int, float], None] | None,
    ) -> None:
        self._candidate = candidate
        self._lesson = lesson
        self._config = config
        self._images = images
        self._key = key
        self._watch = watch
        self._games: VecEnv | None = None
        self._model: PPO | None = None

    def __enter__(self) -> Training:
        return self

    def __exit__(self, *_: object) -> None:
        if self._games is not None:
            self._games.close()

    def segment(self, part: Segment, begun: Candidate, before: Mapping[str, States]) -> StageResult:
        """Learn on from what the segment before left; the first one teaches the critic alone.

        Args:
            part: which one.
            begun: the student that its round begins as.
            before: arrays of the segment before.

        Returns:
            The student, and all that the next segment needs; nothing if it diverged.
        """
        try:
            return self._segment(part, begun, before)
        except ValueError as error:  # of a distribution whose logits are NaN
            if "invalid values" not in str(error):
                raise
            return StageResult()

    def _segment(
        self, part: Segment, begun: Candidate, before: Mapping[str, States]
    ) -> StageResult:
        config, model = self._config, self._opened()
        from pops.actor_critic import begin_as, falling_rate, learn, restore, snapshot

        policy = cast("ActorCritic", model.policy)
        if part.opens_round:
            if before:
                restore(model, before)
            begin_as(policy, begun, config, self._images)
        else:
            begin_as(policy, begun, config, self._images)
            restore(model, before)
        key = (*self._key, part.number)
        model.set_random_seed(derive(self._lesson.seed, "reinforce", *key) % 2**31)
        # The model's own seed went to the environments too, and may lie in the gate's block.
        env = cast("VecEnv", model.get_env())
        env.seed(training_block(self._lesson.seed, "reinforce", *key))
        model.lr_schedule = falling_rate(config.learning_rate, part)
        policy.further = further(config.growth, part.progress(0))
        average = Average({} if part.opens_round else before)

        def updated(more: int) -> None:
            if part.number:
                policy.further = further(config.growth, part.progress(more))
            if part.number and part.progress(more) > 1 - config.averaged:
                average.add(policy.parameters_of_actor())

        def watch(more: int, mean: float) -> None:
            if part.number and self._watch is not None:
                self._watch(part.done + more, mean)

        held = nullcontext() if part.number else policy.critic_alone()
        with held:
            learn(model, part.steps, config.threads, watch, updated)
        report_steps(model.num_timesteps)
        parameters = average.parameters() or policy.parameters_of_actor()
        student = dataclasses.replace(self._candidate, parameters=parameters)
        return StageResult(
            {},
            {"student": student.policy(self._lesson)},
            {**snapshot(model), **average.to_arrays()},
        )

    def _opened(self) -> PPO:
        if self._model is not None:
            return self._model
        try:
            from stable_baselines3.common.vec_env import DummyVecEnv, VecMonitor, VecNormalize
        except ImportError as error:
            raise MissingPackage(
                "stable-baselines3", "train", "Polish of image policies"
            ) from error
        from pops.actor_critic import new_model
        from pops.games import Games

        config = self._config
        makers: list[Callable[[], gym.Env[Any, Any]]] = [
            functools.partial(_checked, source)
            for source in training_sources(self._lesson.env, config.environments)
        ]
        alone = config.environments == 1
        self._games = DummyVecEnv(makers) if alone else Games(makers, available_cores())
        # Rewards in units of the return's deviation, whatever the environment counts in.
        env = VecNormalize(VecMonitor(self._games), norm_obs=False, gamma=config.gamma)
        seed = derive(self._lesson.seed, "reinforce", *self._key) % 2**31
        self._model = new_model(env, self._lesson.spec, self._candidate.arch, config, seed)
        return self._model


def _checked(source: EnvSource) -> CheckedEnv:
    name = source.id if isinstance(source, EnvSpec) else "given"
    return CheckedEnv(make_env(source), name)


def training_sources(env: EnvSource, count: int) -> list[EnvSource]:
    """The environments to train in, with shorter episodes where the table of presets has such.

    Every second one is the variant that is reported beside, if there is one: polished on games
    with sticky actions alone, a student of Pong lost half of its games without them.
    """
    from pops.train.presets import episode_wrappers

    if not isinstance(env, EnvSpec):
        return [env] * count
    shorter = dataclasses.replace(env, wrappers=(*env.wrappers, *episode_wrappers(env.id)))
    kinds = (shorter, shorter.variant() or shorter)
    return [kinds[index % 2] for index in range(count)]


def settling_images(buffer: Any) -> FloatArray:
    """Network inputs from all over a replay buffer."""
    rows = spread_rows(len(buffer))
    images: FloatArray = buffer.batch(rows)[0]
    return images


def spread_rows(count: int) -> Array:
    """Rows from all over `count`, as many as batch normalisation is settled on."""
    return np.linspace(0, count - 1, min(count, SETTLING_IMAGES)).astype(np.int64)
