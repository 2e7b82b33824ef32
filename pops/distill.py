"""Policy distillation (Rusu et al. 2016): losses, temperature, one distillation run."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, Callable

import numpy as np
import torch
from torch.nn import functional

from pops.config import DistillConfig
from pops.envs import EnvSource
from pops.errors import UsageError
from pops.frames import Stacks
from pops.network import PolicyNetwork, Scaling, to_numpy, to_torch
from pops.policy import NumpyPolicy, Parameters
from pops.rollout import ReplayBuffer, Sampler, collect_labelled
from pops.seeds import derive, training_block
from pops.spec import ContinuousActions, DiscreteActions, FloatArray, Policy, PolicySpec
from pops.workers import Workers

Loss = Callable[[torch.Tensor, torch.Tensor], torch.Tensor]
"""(student outputs, teacher labels) to a scalar."""


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

    @property
    def spec(self) -> PolicySpec:
        """The policy's contract with its environment."""
        return self.teacher.spec

    def loss(self) -> Loss:
        """The distillation loss that fits the actions."""
        return policy_loss(self.spec, self.temperature)


@dataclass(frozen=True)
class Distilled:
    """A student after distillation."""

    parameters: list[tuple[FloatArray, FloatArray]]
    loss: float
    """Mean loss over the last hundred updates."""
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


def policy_loss(spec: PolicySpec, temperature: float) -> Loss:
    """KL(softmax(teacher/τ) ‖ softmax(student)); for continuous actions a regression."""
    actions = spec.actions
    if isinstance(actions, ContinuousActions):
        return _continuous_loss(actions, spec.output_clip)

    def divergence(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        target = functional.log_softmax(labels / temperature, dim=1)
        return functional.kl_div(
            functional.log_softmax(outputs, dim=1), target, reduction="batchmean", log_target=True
        )

    return divergence


def _continuous_loss(actions: ContinuousActions, output_clip: float | None) -> Loss:
    """Squared error of the action in units of half its range.

    A Gaussian policy's mean overshoots the clip: where teacher and student
    saturate on the same side they act alike, and there is no loss.
    """
    low, high = torch.tensor(actions.low), torch.tensor(actions.high)

    def regression(outputs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
        centre = ((high + low) / 2).to(outputs.device)
        half = ((high - low) / 2).clamp(min=1e-6).to(outputs.device)
        if output_clip is not None:
            labels = labels.clamp(-output_clip, output_clip)
        if actions.squash == "tanh":
            return functional.mse_loss(torch.tanh(outputs), torch.tanh(labels))
        student, teacher = (outputs - centre) / half, (labels - centre) / half
        target = teacher.clamp(-1.0, 1.0)
        same_side = ((teacher >= 1) & (student >= 1)) | ((teacher <= -1) & (student <= -1))
        return torch.where(same_side, torch.zeros_like(student), (student - target) ** 2).mean()

    return regression


def fit(
    network: PolicyNetwork,
    buffer: ReplayBuffer,
    loss: Loss,
    scaling: Scaling,
    *,
    updates: int,
    batch_size: int,
    learning_rate: Callable[[int], float],
    rng: np.random.Generator,
    device: str = "cpu",
    optimizer: torch.optim.Adam | None = None,
    after_update: Callable[[int], None] | None = None,
) -> tuple[torch.optim.Adam, float]:
    """Gradient updates on random batches of the buffer.

    Returns:
        The optimiser, to go on with, and the mean loss of the last hundred updates.
    """
    network.to(device)
    if optimizer is None:
        optimizer = torch.optim.Adam(network.parameters(), lr=1e-3, fused=True)
    sampler = _batches(network, buffer, scaling)
    size = min(batch_size, len(buffer))
    recent: list[torch.Tensor] = []
    for update in range(updates):
        inputs, labels = sampler(rng.integers(0, len(buffer), size))
        inputs, labels = inputs.to(device), labels.to(device)
        optimizer.param_groups[0]["lr"] = learning_rate(update)
        value = loss(network(inputs), labels)
        optimizer.zero_grad(set_to_none=True)
        value.backward()  # type: ignore[no-untyped-call]
        optimizer.step()
        if after_update is not None:
            after_update(update)
        if update >= updates - 100:
            recent.append(value.detach())
    return optimizer, float(torch.stack(recent).mean()) if recent else math.nan


def _batches(
    network: PolicyNetwork, buffer: ReplayBuffer, scaling: Scaling
) -> Callable[[Any], tuple[torch.Tensor, torch.Tensor]]:
    """Batches in the form that the network reads: dense inputs selected and standardised."""
    arrays, labels = buffer.arrays()
    if isinstance(arrays, Stacks):
        return buffer.batch
    chosen = network.arch.inputs
    if chosen is not None:
        arrays = arrays[:, list(chosen)]
    part = scaling.select(chosen)
    inputs = torch.from_numpy(((arrays - part.mean) / part.std).astype(np.float32))
    targets = torch.from_numpy(labels)

    def batch(index: Any) -> tuple[torch.Tensor, torch.Tensor]:
        rows = torch.from_numpy(index)
        return inputs[rows], targets[rows]

    return batch


def cosine(start: float, total: int, done: int = 0) -> Callable[[int], float]:
    """A learning rate that falls from `start` to zero over `total` updates."""
    return lambda update: start * 0.5 * (1 + math.cos(math.pi * min(1.0, (done + update) / total)))


def distill(
    network: PolicyNetwork,
    buffer: ReplayBuffer,
    lesson: Lesson,
    workers: Workers,
    name: tuple[int, ...],
    *,
    first_round: int = 0,
) -> Distilled:
    """Teach `network` from the buffer, and from new states that it visits itself.

    Each round collects states with a mixture of teacher and student in which
    the teacher's share decays, labels them by the teacher, adds them to
    `buffer`, and fits everything collected so far.

    Args:
        network: trained in place, on inputs standardised by the lesson's scaling.
        buffer: grows by each round's states.
        lesson: what is taught.
        workers: where states are collected.
        name: (stage, iteration, candidate), from which the seeds are derived.
        first_round: rounds this student has had before.
    """
    config = lesson.config
    scaling = lesson.scaling or Scaling.identity(math.prod(lesson.spec.input_shape))
    rng = np.random.default_rng(derive(lesson.seed, "distil", *name))
    total = config.rounds * config.updates
    optimizer = None
    loss, collected = math.nan, 0
    for turn in range(config.rounds):
        student = NumpyPolicy(lesson.spec, network.arch, to_numpy(network, scaling))
        observations, labels = collect_labelled(
            lesson.teacher,
            student if config.student_states else None,
            lesson.env,
            teacher_share=config.mixture_decay ** (first_round + turn),
            states=config.states,
            first_seed=training_block(lesson.seed, *name, first_round + turn),
            workers=workers,
            sampler=lesson.sampler,
        )
        buffer.add(observations, labels)
        collected += len(observations)
        optimizer, loss = fit(
            network,
            buffer,
            lesson.loss(),
            scaling,
            updates=config.updates,
            batch_size=config.batch_size,
            learning_rate=cosine(config.learning_rate, total, turn * config.updates),
            rng=rng,
            device=lesson.device,
            optimizer=optimizer,
        )
    return Distilled(to_numpy(network, scaling), loss, collected, total)


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


def student_network(
    spec: PolicySpec, arch: Any, parameters: Parameters, scaling: Scaling | None
) -> PolicyNetwork:
    """A torch network for `parameters` under a lesson's scaling."""
    return to_torch(arch, parameters, scaling or Scaling.identity(math.prod(spec.input_shape)))


def training_device(requested: str, spec: PolicySpec) -> str:
    """Where networks train: a GPU is worth its transfers only where there are convolutions.

    Raises:
        UsageError: if "cuda" is asked for and there is none.
    """
    if requested == "cuda" and not torch.cuda.is_available():
        raise UsageError("Found --device cuda but no CUDA device; use --device cpu or auto.")
    wants = requested == "cuda" or (requested == "auto" and len(spec.input_shape) == 3)
    return "cuda" if wants and torch.cuda.is_available() else "cpu"


def with_rounds(lesson: Lesson, rounds: int) -> Lesson:
    """The same lesson with another number of rounds."""
    return dataclasses.replace(lesson, config=dataclasses.replace(lesson.config, rounds=rounds))
