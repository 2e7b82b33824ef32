"""Policy distillation (Rusu et al. 2016): temperature, one distillation run."""

from __future__ import annotations

import dataclasses
import math
from contextlib import closing
from dataclasses import dataclass
from typing import Callable

import numpy as np

from pops.arch import NetArch
from pops.config import DistillConfig
from pops.envs import EnvSource
from pops.errors import UsageError
from pops.learner import Learner, new_learner
from pops.loss import PolicyLoss, policy_loss
from pops.policy import NumpyPolicy, Parameters
from pops.replay import ReplayBuffer
from pops.rollout import Rollout, Sampler
from pops.seeds import derive, training_block
from pops.spec import DiscreteActions, FloatArray, Policy, PolicySpec
from pops.weights import Scaling

LOSS_STATES = 4096
"""States on which the loss is measured after training."""


@dataclass(frozen=True)
class Lesson:
    """All that a student is taught from: teacher, environment, loss, seeds."""

    teacher: Policy
    env: EnvSource
    temperature: float
    config: DistillConfig
    seed: int
    sampler: Sampler | None = None
    scaling: Scaling | None = None
    device: str = "cpu"
    """Where convolutional networks train."""
    episode_steps: int = 0
    """How long an episode of the teacher's usually is; 0 if that is not known."""

    @property
    def spec(self) -> PolicySpec:
        """The policy's contract with its environment."""
        return self.teacher.spec

    def loss(self) -> PolicyLoss:
        """The distillation loss that fits the actions."""
        return policy_loss(self.spec, self.temperature)

    def rollout(self, states: int) -> Rollout:
        """Rounds of so many states for one student."""
        return Rollout(self.teacher, self.env, states, self.sampler, self.episode_steps)

    def learner(
        self, arch: NetArch, parameters: Parameters, *, fresh: bool = False, threads: int = 1
    ) -> Learner:
        """A network that is taught this lesson, starting at `parameters`.

        Args:
            arch: the network.
            parameters: (weight, bias) of each layer.
            fresh: they are random.
            threads: that a convolutional network trains on.
        """
        return new_learner(
            arch,
            parameters,
            self.loss(),
            self.scaling,
            self.device,
            batch_norm=self.config.batch_norm,
            fresh=fresh,
            threads=threads,
        )


@dataclass(frozen=True)
class Distilled:
    """A student after distillation."""

    parameters: list[tuple[FloatArray, FloatArray]]
    loss: float
    """Mean loss on states drawn from the buffer."""
    states: int
    """Environment steps taken to collect states."""
    updates: int


def calibrate_temperature(spec: PolicySpec, labels: FloatArray) -> float:
    """The softmax temperature for a teacher's outputs (N, n_outputs).

    Logits are log-probabilities already: 1. The scale of a Q-network is mostly
    the value of the state; what ranks actions is the gap between the two best,
    of which a quarter of the median makes the better one about 50 times as likely.
    """
    if not isinstance(spec.actions, DiscreteActions) or spec.output == "logits":
        return 1.0
    if labels.shape[1] < 2:
        return 1.0
    ordered = np.sort(labels.astype(np.float64), axis=1)
    gap = float(np.median(ordered[:, -1] - ordered[:, -2]))
    if gap <= 0:
        gap = float(np.mean(ordered[:, -1] - ordered[:, -2]))
    return gap / 4 if gap > 0 else 1.0


def fit(
    learner: Learner,
    buffer: ReplayBuffer,
    *,
    updates: int,
    batch_size: int,
    learning_rate: Callable[[int], float],
    rng: np.random.Generator,
    after_update: Callable[[int], None] | None = None,
) -> float:
    """Gradient updates on random batches of the buffer.

    Returns:
        The mean loss on `LOSS_STATES` random states of the buffer afterwards.
    """
    learner.study(buffer)
    states = len(buffer)
    size = min(batch_size, states)
    for update in range(updates):
        learner.update(rng.integers(0, states, size), learning_rate(update))
        if after_update is not None:
            after_update(update)
    return learner.loss(rng.integers(0, states, min(LOSS_STATES, states)))


def cosine(start: float, total: int, done: int = 0) -> Callable[[int], float]:
    """A learning rate that falls from `start` to zero over `total` updates."""
    return lambda update: start * 0.5 * (1 + math.cos(math.pi * min(1.0, (done + update) / total)))


def distill(
    arch: NetArch,
    parameters: Parameters,
    buffer: ReplayBuffer,
    lesson: Lesson,
    name: tuple[int, ...],
    *,
    first_round: int = 0,
    fresh: bool = False,
) -> Distilled:
    """Teach a network from the buffer, and from new states that it visits itself.

    Each round collects states with a mixture of teacher and student in which
    the teacher's share decays, labels them by the teacher, adds them to
    `buffer`, and fits everything collected so far.

    Args:
        arch: the student.
        parameters: where it starts.
        buffer: grows by each round's states.
        lesson: what is taught.
        name: (stage, iteration, candidate), from which the seeds are derived.
        first_round: rounds this student has had before.
        fresh: it starts at random parameters.
    """
    config = lesson.config
    learner = lesson.learner(arch, parameters, fresh=fresh)
    rng = np.random.default_rng(derive(lesson.seed, "distil", *name))
    total = config.rounds * config.updates
    loss, collected = math.nan, 0
    with closing(lesson.rollout(config.states)) as rollout:
        for turn in range(config.rounds):
            student = NumpyPolicy(lesson.spec, arch, learner.parameters())
            observations, labels = rollout.collect(
                student if config.student_states else None,
                config.mixture_decay ** (first_round + turn),
                training_block(lesson.seed, *name, first_round + turn),
            )
            buffer.add(observations, labels)
            collected += len(observations)
            loss = fit(
                learner,
                buffer,
                updates=config.updates,
                batch_size=config.batch_size,
                learning_rate=cosine(config.learning_rate, total, turn * config.updates),
                rng=rng,
            )
    return Distilled(learner.parameters(), loss, collected, total)


def folded_copy(teacher: NumpyPolicy, temperature: float) -> list[tuple[FloatArray, FloatArray]]:
    """The teacher's parameters with 1/τ folded into the last layer.

    A copy of the teacher then starts at zero divergence from softmax(teacher/τ);
    the argmax does not change.
    """
    parameters = [(w.copy(), b.copy()) for w, b in teacher.parameters]
    weight, bias = parameters[-1]
    if isinstance(teacher.spec.actions, DiscreteActions):
        scale = np.float32(1.0 / temperature)
        parameters[-1] = (weight * scale, bias * scale)
    return parameters


def training_device(requested: str, spec: PolicySpec) -> str:
    """Where networks train: a GPU is worth its transfers only where there are convolutions.

    Raises:
        UsageError: if "cuda" is asked for and there is none.
    """
    convolutional = len(spec.input_shape) == 3
    if requested == "cpu" or (requested == "auto" and not convolutional):
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if requested == "cuda":
        raise UsageError("Found --device cuda but no CUDA device; use --device cpu or auto.")
    return "cpu"


def with_rounds(lesson: Lesson, rounds: int) -> Lesson:
    """The same lesson with another number of rounds."""
    return dataclasses.replace(lesson, config=dataclasses.replace(lesson.config, rounds=rounds))
