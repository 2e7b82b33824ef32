"""Iterative policy pruning (IPP): gradual magnitude pruning under distillation.

Livne and Cohen 2020, section III; the schedule is Zhu and Gupta's (2017).
Pruning stops while the return is under a lower bound, the student recovers by
distillation, and pruning goes on once the return is back at the objective. The
sparsest student that meets the objective is kept.
"""

from __future__ import annotations

from collections.abc import Sequence
from contextlib import closing
from dataclasses import dataclass
from typing import Any, Callable

import numpy as np

from pops.arch import NetArch
from pops.config import PruneConfig
from pops.distill import Lesson, fit
from pops.evaluate import EvalResult, evaluate
from pops.learner import Learner
from pops.policy import NumpyPolicy, Parameters
from pops.replay import ReplayBuffer
from pops.rollout import collect_labelled
from pops.seeds import derive, training_block
from pops.spec import Array, FloatArray
from pops.weights import nonzeros
from pops.workers import Workers

THREADS = 2
"""That a convolutional network is pruned on, while no worker has anything to do. A constant: the
result must not depend on how many cores there are."""


@dataclass(frozen=True)
class ReturnGuard:
    """When to stop pruning and when to go on, in mean return."""

    lower_bound: float
    """Pruning stops below this: R + 0.5·(T - R)."""
    objective: float
    """Pruning goes on at or above this, and a student here may be kept: T - margin."""
    seeds: tuple[int, ...]
    """Screening episodes that measure the return."""


@dataclass(frozen=True)
class CurvePoint:
    """One evaluation during pruning."""

    update: int
    sparsity: float
    nonzeros: int
    mean: float
    std: float
    pruning: bool


@dataclass(frozen=True)
class Pruned:
    """The sparsest student that met the objective."""

    parameters: list[tuple[FloatArray, FloatArray]]
    nonzeros_per_layer: tuple[int, ...]
    sparsity: float
    curve: tuple[CurvePoint, ...]
    states: int
    updates: int


def cubic_sparsity(progress: float, target: float) -> float:
    """Zhu and Gupta's schedule from 0 to `target` as progress goes from 0 to 1."""
    return target * (1.0 - (1.0 - min(1.0, max(0.0, progress))) ** 3)


def lamp_scores(weight: FloatArray) -> Array:
    """Layer-adaptive magnitude scores (Lee et al. 2021), comparable between layers, float64.

    The square of a weight over the sum of the squares of all weights in its
    layer that are not smaller.
    """
    squares = weight.ravel().astype(np.float64) ** 2
    order = np.argsort(squares, kind="stable")
    ordered = squares[order]
    remaining = np.cumsum(ordered[::-1])[::-1]
    scores = np.empty_like(ordered)
    scores[order] = ordered / np.maximum(remaining, 1e-300)
    return scores.reshape(weight.shape)


def masks_at(weights: Sequence[FloatArray], sparsity: float, ranking: str) -> list[FloatArray]:
    """A mask for each layer that leaves (1 - sparsity) of the weights, one a layer at least.

    `ranking="layer"` prunes each layer to the same sparsity by magnitude, as
    published; `"lamp"` ranks the whole network, so that layers differ in
    redundancy.
    """
    if ranking == "layer":
        kept = [max(1, round((1.0 - sparsity) * weight.size)) for weight in weights]
        return [_top(np.abs(weight), count) for weight, count in zip(weights, kept)]
    scores = [lamp_scores(weight) for weight in weights]
    total = max(len(weights), round((1.0 - sparsity) * sum(w.size for w in weights)))
    chosen = _top(np.concatenate([score.ravel() for score in scores]), total)
    ends = np.cumsum([weight.size for weight in weights])[:-1]
    masks = [part.reshape(score.shape) for part, score in zip(np.split(chosen, ends), scores)]
    return [mask if mask.any() else _top(score, 1) for mask, score in zip(masks, scores)]


def _top(scores: Array, count: int) -> FloatArray:
    mask = np.zeros(scores.size, np.float32)
    mask[np.argsort(-scores, axis=None, kind="stable")[:count]] = 1.0
    return mask.reshape(scores.shape)


def iterative_policy_pruning(
    arch: NetArch,
    parameters: Parameters,
    buffer: ReplayBuffer,
    lesson: Lesson,
    guard: ReturnGuard,
    config: PruneConfig,
    workers: Workers,
    name: tuple[int, ...],
    watch: Callable[[CurvePoint], None] | None = None,
) -> Pruned:
    """Prune a student as far as its return allows.

    Args:
        arch: the student's layers.
        parameters: where it starts; it has to meet the objective to be kept unpruned.
        buffer: labelled states; grows by those visited between evaluations.
        lesson: teacher, environment, loss and scaling.
        guard: bounds on the return.
        config: schedule and budget.
        workers: where episodes are played.
        name: (stage, iteration), from which the seeds are derived.
        watch: called after each evaluation.
    """
    learner = lesson.learner(arch, parameters, threads=THREADS)
    run = _Pruning(learner, config)
    rng = np.random.default_rng(derive(lesson.seed, "prune", *name))
    best = list(parameters)
    curve: list[CurvePoint] = []
    failures, done, collected = 0, 0, 0
    with closing(lesson.rollout(config.states)) as rollout:
        while done < config.updates and failures < config.patience and not run.finished:
            count = min(config.guard_every, config.updates - done)
            fit(
                learner,
                buffer,
                updates=count,
                batch_size=lesson.config.batch_size,
                learning_rate=lambda _: config.learning_rate,
                rng=rng,
                after_update=run.after_update,
            )
            done += count
            current = learner.parameters()
            policy = NumpyPolicy(lesson.spec, arch, current)
            result = evaluate(policy, lesson.env, guard.seeds, workers)
            curve.append(_point(done, current, result, run.pruning))
            if watch is not None:
                watch(curve[-1])
            if result.mean >= guard.objective:
                best, failures, run.pruning = current, 0, True
            elif result.mean < guard.lower_bound or not run.pruning:
                failures, run.pruning = failures + 1, False
            share = lesson.config.mixture_decay if lesson.config.student_states else 1.0
            visitor = policy if lesson.config.student_states else None
            block = training_block(lesson.seed, "prune", *name, done)
            if len(lesson.spec.input_shape) == 3:
                observations, labels = rollout.collect(visitor, share, block, workers)
            else:  # steps are cheap: rather new episodes, on all cores
                observations, labels = collect_labelled(
                    lesson.teacher,
                    visitor,
                    lesson.env,
                    teacher_share=share,
                    states=config.states,
                    first_seed=block,
                    workers=workers,
                    sampler=lesson.sampler,
                    episode_steps=lesson.episode_steps,
                )
            buffer.add(observations, labels)
            collected += len(observations)
    left = nonzeros(best)
    sparsity = 1.0 - sum(left) / arch.num_weights
    return Pruned(best, left, sparsity, tuple(curve), collected, done)


def _point(done: int, current: Parameters, result: EvalResult, pruning: bool) -> CurvePoint:
    left = sum(nonzeros(current))
    total = sum(weight.size for weight, _ in current)
    return CurvePoint(done, 1.0 - left / total, left, result.mean, result.std, pruning)


class _Pruning:
    """The schedule and the masks of one pruning stage."""

    def __init__(self, learner: Learner, config: PruneConfig) -> None:
        self._learner = learner
        self._config = config
        self._steps = 0
        # The schedule ends well before the budget does, so that there is time to recover.
        self._end = max(1, int(0.75 * config.updates) // config.frequency)
        self.pruning = True

    @property
    def finished(self) -> bool:
        """Whether the target sparsity has been held for an evaluation."""
        return self._steps > self._end + self._config.guard_every // self._config.frequency

    def after_update(self, update: int) -> None:
        """Advance the schedule when it is due."""
        if self.pruning and (update + 1) % self._config.frequency == 0:
            self._steps += 1
            sparsity = cubic_sparsity(self._steps / self._end, self._config.target_sparsity)
            weights = self._learner.weights()
            self._learner.mask(masks_at(weights, sparsity, self._config.ranking))


def redundancy(initial: NetArch, nonzeros_per_layer: tuple[int, ...]) -> tuple[float, ...]:
    """Each layer's redundancy: the share of the initial network's weights it does without."""
    layers: list[Any] = initial.layers()
    return tuple(1.0 - left / layer.weights for left, layer in zip(nonzeros_per_layer, layers))
