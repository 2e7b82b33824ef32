"""Collecting states from teacher and student."""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pops.envs import EnvSource
from pops.evaluate import EpisodeTable, EvalResult, divided, join
from pops.frames import Stacks, States, join_states
from pops.policy import NumpyPolicy
from pops.spec import Array, DiscreteActions, FloatArray, Policy, PolicySpec
from pops.workers import Workers

TASKS = 4
"""Parts of one collection; fixed, so that its result does not depend on the workers."""
SIDE_BY_SIDE = 2
CALIBRATION_STATES = 4000
CALIBRATION_BYTES = 1 << 25
"""Of large observations there are fewer: 1,188 stacks of four frames of 84 × 84."""


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
    blocks = divided(seeds, workers)
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


@dataclass(frozen=True)
class _Walk:
    """One part of a collection."""

    teacher: Policy
    student: Policy | None
    env: EnvSource
    sampler: Sampler | None
    teacher_share: float
    states: int
    seeds: tuple[int, ...]
    labelled: bool
    episode_steps: int

    @property
    def run(self) -> int:
        """Steps that each place visits."""
        return -(-self.states // SIDE_BY_SIDE)

    @property
    def is_excerpt(self) -> bool:
        """Whether what is visited is much less than an episode."""
        return self.episode_steps > 2 * self.run

    def parts(self) -> list[_Walk]:
        """The walk in `TASKS` parts, each with seeds of its own."""
        share = -(-self.states // TASKS)
        starts = [self.seeds[0] + part * (share + 2) for part in range(TASKS)]
        return [
            dataclasses.replace(self, states=share, seeds=tuple(range(s, s + share + 2)))
            for s in starts
        ]


class _Walker:
    """The episodes under way in one part of a collection."""

    def __init__(self, walk: _Walk) -> None:
        self._rng = np.random.default_rng((walk.seeds[0], 3))
        self._table = EpisodeTable(walk.env, walk.seeds, SIDE_BY_SIDE)
        self._waits = np.zeros(SIDE_BY_SIDE, np.int64)
        if walk.is_excerpt:
            # A random part passes first, so that long episodes are seen at every age.
            self._waits = self._rng.integers(0, walk.episode_steps - walk.run + 1, SIDE_BY_SIDE)

    def __len__(self) -> int:
        """Episodes still running."""
        return len(self._table)

    def close(self) -> None:
        """Close every environment still open."""
        self._table.close()

    def visit(self, walk: _Walk) -> tuple[States, FloatArray | None]:
        """At least `walk.states` states, with their labels if they are wanted."""
        waits, self._waits = self._waits, np.zeros(SIDE_BY_SIDE, np.int64)
        # A place that began early leaves the later ages to the other one.
        ends = waits + walk.run
        table, steps = self._table, 0
        visited: list[Array] = []
        outputs: list[FloatArray | None] = []
        while len(table) and len(visited) < walk.states:
            observations = table.observations()
            actions, known = _mixed_actions(walk, observations, self._rng)
            for place, observation in enumerate(observations):
                if waits[place] <= steps < ends[place]:
                    visited.append(observation)
                    outputs.append(None if known is None else known[place])
            table.step(actions)
            steps += 1
        states = _keep(walk.teacher.spec, visited[: walk.states])
        if not walk.labelled:
            return states, None
        # What the teacher put out while it acted is its label; the rest is still to be asked for.
        rest = [i for i, known in enumerate(outputs[: walk.states]) if known is None]
        if rest:
            asked = label(walk.teacher, [visited[i] for i in rest])
            for i, answer in zip(rest, asked):
                outputs[i] = answer
        return states, np.stack([o for o in outputs[: walk.states] if o is not None])


def _collect_part(walk: _Walk) -> tuple[States, FloatArray | None]:
    walker = _Walker(walk)
    try:
        return walker.visit(walk)
    finally:
        walker.close()


def _keep(spec: PolicySpec, observations: list[Array]) -> States:
    if len(spec.input_shape) == 3:
        return Stacks.of(observations, spec.channels_last)
    return np.stack(observations)


def _mixed_actions(
    walk: _Walk, observations: Array, rng: np.random.Generator
) -> tuple[Array, FloatArray | None]:
    """Actions of teacher and student, and the teacher's outputs where it was asked."""
    by_teacher = rng.random(len(observations)) < walk.teacher_share
    if walk.student is None:
        by_teacher[:] = True
    actions = outputs = None
    if walk.student is not None and not by_teacher.all():
        actions = walk.student.act(observations)
    if by_teacher.any():
        if walk.labelled or walk.sampler is not None:
            outputs = walk.teacher.outputs(observations)
        if outputs is None:
            taught = walk.teacher.act(observations)
        elif walk.sampler is None:
            taught = walk.teacher.spec.decode(outputs)
        else:
            taught = walk.sampler.sample(outputs, [rng] * len(observations))
        if actions is None:
            return taught, outputs
        actions = np.where(by_teacher.reshape(-1, *[1] * (taught.ndim - 1)), taught, actions)
    assert actions is not None
    return actions, outputs


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
    episode_steps: int = 0,
) -> States:
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
        episode_steps: how long an episode usually is; where that is much more than what is
            visited of each, a random part of it passes first. 0 visits from the start.

    Returns:
        (states, *observation_shape), as the environment returned them; images as `Stacks`.
    """
    seeds = (first_seed,)
    walk = _Walk(teacher, student, env, sampler, teacher_share, states, seeds, False, episode_steps)
    return _collect(walk, workers)[0]


def collect_labelled(
    teacher: Policy,
    student: Policy | None,
    env: EnvSource,
    *,
    teacher_share: float,
    states: int,
    first_seed: int,
    workers: Workers,
    sampler: Sampler | None = None,
    episode_steps: int = 0,
) -> tuple[States, FloatArray]:
    """`collect`, and the teacher's outputs (states, n_outputs) for what was visited."""
    seeds = (first_seed,)
    walk = _Walk(teacher, student, env, sampler, teacher_share, states, seeds, True, episode_steps)
    found, labels = _collect(walk, workers)
    assert labels is not None
    return found, labels


def _collect(walk: _Walk, workers: Workers) -> tuple[States, FloatArray | None]:
    return _together(workers.map(_collect_part, [(part,) for part in walk.parts()]), walk.states)


def _together(
    parts: Sequence[tuple[States, FloatArray | None]], count: int
) -> tuple[States, FloatArray | None]:
    states = join_states([found for found, _ in parts])[:count]
    labels = [part for _, part in parts if part is not None]
    return states, np.concatenate(labels)[:count] if labels else None


class Rollout:
    """Rounds of `collect_labelled` for one student.

    Where what a round visits is much less than an episode, the next round goes on with the
    episodes of the last: their random part passes once, not in every round.

    Args:
        teacher: labels the states, and acts in its share of them.
        env: where.
        states: how many a round visits.
        sampler: samples the teacher's actions; None for deterministic ones.
        episode_steps: how long an episode usually is; 0 begins every round anew.
    """

    def __init__(
        self,
        teacher: Policy,
        env: EnvSource,
        states: int,
        sampler: Sampler | None = None,
        episode_steps: int = 0,
    ) -> None:
        self._walk = _Walk(teacher, None, env, sampler, 1.0, states, (0,), True, episode_steps)
        self._walkers: list[_Walker | None] = [None] * TASKS

    def collect(
        self,
        student: Policy | None,
        teacher_share: float,
        first_seed: int,
        workers: Workers | None = None,
    ) -> tuple[States, FloatArray]:
        """Visit one round's states with a mixture of teacher and student (DAgger).

        Args:
            student: acts where the teacher does not; None for the teacher alone.
            teacher_share: in [0, 1], how likely the teacher acts in a state.
            first_seed: episodes that begin anew are seeded from here on.
            workers: divide a round that begins anew; in this process if None. The result is the
                same.

        Returns:
            (states, *observation_shape), images as `Stacks`, and the teacher's outputs for
            them (states, n_outputs).

        Raises:
            EnvironmentFailure: if the environment raises or returns NaN; with seed and step.
        """
        walk = dataclasses.replace(
            self._walk, student=student, teacher_share=teacher_share, seeds=(first_seed,)
        )
        parts = []
        divided = walk.parts()
        if workers is not None and not divided[0].is_excerpt:
            found, labels = _collect(walk, workers)
            assert labels is not None
            return found, labels
        for index, part in enumerate(divided):
            walker = self._walkers[index]
            if walker is None or not (part.is_excerpt and len(walker)):
                if walker is not None:
                    walker.close()
                walker = self._walkers[index] = _Walker(part)
            parts.append(walker.visit(part))
        states, labels = _together(parts, walk.states)
        assert labels is not None
        return states, labels

    def close(self) -> None:
        """Close every environment still open."""
        for walker in self._walkers:
            if walker is not None:
                walker.close()


def calibration_states(spec: PolicySpec) -> int:
    """How many states the student visits for `states.npz`."""
    size = math.prod(spec.observation_shape) * np.dtype(spec.observation_dtype).itemsize
    return max(1, min(CALIBRATION_STATES, CALIBRATION_BYTES // size))


def label(
    teacher: Policy, observations: Sequence[Array] | Array, chunk: int | None = None
) -> FloatArray:
    """The teacher's outputs (N, n_outputs) for observations (N, *observation_shape)."""
    if chunk is None:
        # A convolution unfolds its input: few images at a time.
        image = len(teacher.spec.input_shape) == 3
        chunk = 32 if image else 4096 if isinstance(teacher, NumpyPolicy) else 256
    parts = [
        teacher.outputs(np.asarray(observations[i : i + chunk]))
        for i in range(0, len(observations), chunk)
    ]
    return np.concatenate(parts)
