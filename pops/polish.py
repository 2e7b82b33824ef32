"""Polish a tiny student by its return, with CMA-ES (Hansen 2016, arXiv 1604.00772).

Distillation minimises a divergence; what counts is the return. Below some
hundreds of parameters an evolution strategy can work on the return itself.
Every generation plays fresh screening seeds, the same for its whole
population, so that no student is fitted to a handful of episodes.
"""

from __future__ import annotations

import dataclasses
import warnings
from collections.abc import Sequence
from typing import Callable

import numpy as np

from pops.candidate import Candidate
from pops.config import PolishConfig
from pops.distill import Lesson
from pops.evaluate import evaluate, play
from pops.policy import NumpyPolicy, Parameters
from pops.seeds import derive
from pops.spec import Array, FloatArray
from pops.weights import fold, standardise
from pops.workers import Workers

INITIAL_STEP = 0.2
"""Initial deviation of a weight, as a share of its layer's root mean square."""


def flatten(parameters: Parameters) -> Array:
    """All weights and biases as one vector (n,) float64."""
    return np.concatenate([part.ravel() for pair in parameters for part in pair]).astype(np.float64)


def unflatten(vector: Array, like: Parameters) -> list[tuple[FloatArray, FloatArray]]:
    """The inverse of `flatten`, with the shapes of `like`, in float32."""
    result, at = [], 0
    for weight, bias in like:
        w = vector[at : at + weight.size].reshape(weight.shape)
        at += weight.size
        b = vector[at : at + bias.size]
        at += bias.size
        result.append((w.astype(np.float32), b.astype(np.float32)))
    return result


class _Coordinates:
    """The vector that CMA-ES sees: weights for standardised inputs, in units of their layer."""

    def __init__(self, candidate: Candidate, lesson: Lesson) -> None:
        assert candidate.parameters is not None
        self._arch, self._scaling = candidate.arch, lesson.scaling
        self._like = standardise(candidate.arch, candidate.parameters, lesson.scaling)
        units = []
        for weight, bias in self._like:
            rms = float(np.sqrt(np.mean(weight.astype(np.float64) ** 2))) or 1.0
            units.append(np.full(weight.size + bias.size, rms))
        self._units = np.concatenate(units)
        self.start = flatten(self._like) / self._units

    def parameters(self, vector: Array) -> list[tuple[FloatArray, FloatArray]]:
        raw = unflatten(vector * self._units, self._like)
        return fold(self._arch, raw, self._scaling)


def polish(
    candidate: Candidate,
    lesson: Lesson,
    config: PolishConfig,
    workers: Workers,
    *,
    satisfied: float,
    generation_seeds: Callable[[int], Sequence[int]],
    validation_seeds: Sequence[int],
    key: tuple[int, ...],
    watch: Callable[[int, float, float], None] | None = None,
) -> Candidate:
    """Improve a candidate's mean return; the better of before and after is given back.

    Args:
        candidate: taught already.
        lesson: environment, spec and input scaling.
        config: generations and episodes.
        workers: the population's episodes are divided among them.
        satisfied: stop once three quarters of a population return at least this.
        generation_seeds: screening seeds of a generation.
        validation_seeds: screening seeds on which before and after are compared.
        key: (stage, iteration, candidate), from which its seeds are derived.
        watch: called with generation, best and mean fitness.
    """
    import cma

    space = _Coordinates(candidate, lesson)
    options = {
        "seed": derive(lesson.seed, "polish", *key) % (2**31 - 1) + 1,
        "verbose": -9,
        "CMA_diagonal": space.start.size > 150,
        "tolflatfitness": 10_000,
    }
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        strategy = cma.CMAEvolutionStrategy(space.start, INITIAL_STEP, options)
        steps = 0
        for generation in range(config.generations):
            if steps >= config.steps:
                break
            population = strategy.ask()
            seeds = tuple(generation_seeds(generation))
            tasks = [
                (NumpyPolicy(lesson.spec, candidate.arch, space.parameters(v)), lesson.env, seeds)
                for v in population
            ]
            results = workers.map(play, tasks)
            steps += int(sum(result.lengths.sum() for result in results))
            returns = [result.mean for result in results]
            strategy.tell(population, [-value for value in returns])
            if watch is not None:
                watch(generation, max(returns), float(np.mean(returns)))
            if np.quantile(returns, 0.25) >= satisfied:
                break
        favourite = np.asarray(strategy.result.xfavorite)
    polished = dataclasses.replace(
        candidate,
        name=f"{candidate.name}+polish",
        parameters=space.parameters(favourite),
        confirmation=None,
    )
    before = evaluate(candidate.policy(lesson), lesson.env, validation_seeds, workers)
    after = evaluate(polished.policy(lesson), lesson.env, validation_seeds, workers)
    if after.mean >= before.mean:
        return dataclasses.replace(polished, result=after)
    return dataclasses.replace(candidate, result=before)
