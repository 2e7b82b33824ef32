"""Collecting states from teacher and student; the labelled replay buffer."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pops.envs import EnvSource
from pops.evaluate import EpisodeTable, EvalResult, join
from pops.policy import NumpyPolicy
from pops.spec import Array, DiscreteActions, FloatArray, Policy, PolicySpec
from pops.workers import Workers

TASKS = 4
"""Parts of one collection; fixed, so that its result does not depend on the workers."""
SIDE_BY_SIDE = 2


@dataclass(frozen=True)
class Sampler:
    """How a stochastic teacher acts: softmax of its logits, or a Gaussian round its mean."""

    spec: PolicySpec
    log_std: tuple[float, ...] = ()

    def sample(self, outputs: FloatArray, generators: Sequence[np.random.Generator]) -> Array:
        """Outputs (N, n_outputs) to sampled actions (N, *act_shape), one generator a row."""
        noisy = np.empty_like(outputs)
        for row, generator in enumerate(generators):
            if isinstance(self.spec.actions, DiscreteActions):
                # Gumbel's trick: the argmax of logits plus Gumbel noise is a softmax sample.
                noisy[row] = outputs[row] + generator.gumbel(size=outputs.shape[1])
            else:
                deviation = np.exp(self.log_std)
                noisy[row] = outputs[row] + deviation * generator.normal(size=outputs.shape[1])
        return self.spec.decode(noisy)


def evaluate_sampling(
    policy: Policy, sampler: Sampler, env: EnvSource, seeds: Sequence[int], workers: Workers
) -> EvalResult:
    """`play_sampling` with the episodes divided among processes; the same result."""
    share = -(-len(seeds) // workers.count)
    blocks = [tuple(seeds[i : i + share]) for i in range(0, len(seeds), share)]
    return join(workers.map(play_sampling, [(policy, sampler, env, block) for block in blocks]))


def play_sampling(
    policy: Policy, sampler: Sampler, env: EnvSource, seeds: Sequence[int]
) -> EvalResult:
    """Play one episode for each seed with sampled actions, drawn from that seed."""
    table = EpisodeTable(env, seeds, min(50, len(seeds)))
    generators = {seed: np.random.default_rng((seed, 2)) for seed in seeds}
    try:
        while len(table):
            outputs = policy.outputs(table.observations())
            table.step(sampler.sample(outputs, [generators[s] for s in table.active_seeds()]))
    finally:
        table.close()
    return table.result()


def _collect_part(
    teacher: Policy,
    student: Policy | None,
    env: EnvSource,
    sampler: Sampler | None,
    teacher_share: float,
    states: int,
    seeds: tuple[int, ...],
) -> Array:
    """Visit at least `states` states; whole episodes but for the last."""
    rng = np.random.default_rng((seeds[0], 3))
    table = EpisodeTable(env, seeds, SIDE_BY_SIDE)
    visited: list[Array] = []
    try:
        while len(table) and len(visited) < states:
            observations = table.observations()
            visited.extend(observations)
            actions = _mixed_actions(teacher, student, sampler, observations, teacher_share, rng)
            table.step(actions)
    finally:
        table.close()
    return np.stack(visited[:states])


def _mixed_actions(
    teacher: Policy,
    student: Policy | None,
    sampler: Sampler | None,
    observations: Array,
    teacher_share: float,
    rng: np.random.Generator,
) -> Array:
    by_teacher = rng.random(len(observations)) < teacher_share
    if student is None:
        by_teacher[:] = True
    actions = None
    if student is not None and not by_teacher.all():
        actions = student.act(observations)
    if by_teacher.any():
        if sampler is None:
            taught = teacher.act(observations)
        else:
            taught = sampler.sample(teacher.outputs(observations), [rng] * len(observations))
        if actions is None:
            return taught
        actions = np.where(by_teacher.reshape(-1, *[1] * (taught.ndim - 1)), taught, actions)
    assert actions is not None
    return actions


def collect(
    teacher: Policy,
    student: Policy | None,
    env: EnvSource,
    *,
    teacher_share: float,
    states: int,
    first_seed: int,
    workers: Workers,
    sampler: Sampler | None = None,
) -> Array:
    """Visit states with a mixture of teacher and student (DAgger, Ross et al. 2011).

    Args:
        teacher: acts with probability `teacher_share` in each state.
        student: acts otherwise; None for the teacher alone.
        env: where.
        teacher_share: in [0, 1].
        states: how many states.
        first_seed: episodes are seeded from here on, at most `states` + 8 of them.
        workers: processes; the result does not depend on their number.
        sampler: samples the teacher's actions; None for deterministic ones.

    Returns:
        (states, *observation_shape), as the environment returned them.
    """
    share = -(-states // TASKS)
    tasks = []
    for part in range(TASKS):
        start = first_seed + part * (share + 2)
        seeds = tuple(range(start, start + share + 2))
        tasks.append((teacher, student, env, sampler, teacher_share, share, seeds))
    return np.concatenate(workers.map(_collect_part, tasks))[:states]


class ReplayBuffer:
    """States with the teacher's outputs, all kept.

    Dense observations are preprocessed once; images stay as they came (uint8).
    """

    def __init__(self, spec: PolicySpec) -> None:
        self._spec = spec
        self._is_image = len(spec.input_shape) == 3
        self._inputs: list[Array] = []
        self._labels: list[FloatArray] = []

    def __len__(self) -> int:
        """Number of states."""
        return sum(len(part) for part in self._labels)

    def add(self, observations: Array, labels: FloatArray) -> None:
        """Keep observations (N, *observation_shape) with labels (N, n_outputs)."""
        kept = observations if self._is_image else self._spec.preprocess(observations)
        self._inputs.append(kept)
        self._labels.append(np.asarray(labels, np.float32))

    def arrays(self) -> tuple[Array, FloatArray]:
        """Everything: inputs (N, ...) as they are kept, and labels (N, n_outputs)."""
        if len(self._labels) > 1:
            self._inputs = [np.concatenate(self._inputs)]
            self._labels = [np.concatenate(self._labels)]
        return self._inputs[0], self._labels[0]

    def extend(self, inputs: Array, labels: FloatArray) -> None:
        """Add arrays that another buffer's `arrays` gave."""
        self._inputs.append(inputs)
        self._labels.append(labels)

    def copy(self) -> ReplayBuffer:
        """A buffer with the same states that can grow by itself."""
        other = ReplayBuffer(self._spec)
        other._inputs, other._labels = list(self._inputs), list(self._labels)
        return other

    def batch(self, index: Array) -> tuple[FloatArray, FloatArray]:
        """Inputs (batch, *input_shape) float32 and labels of the states at `index`."""
        inputs, labels = self.arrays()
        chosen = inputs[index]
        return self._spec.preprocess(chosen) if self._is_image else chosen, labels[index]


def label(teacher: Policy, observations: Array, chunk: int = 4096) -> FloatArray:
    """The teacher's outputs (N, n_outputs) for observations (N, *observation_shape)."""
    if not isinstance(teacher, NumpyPolicy):
        return np.concatenate(
            [teacher.outputs(observations[i : i + 256]) for i in range(0, len(observations), 256)]
        )
    parts = [
        teacher.forward(teacher.spec.preprocess(observations[i : i + chunk]))
        for i in range(0, len(observations), chunk)
    ]
    return np.concatenate(parts)
