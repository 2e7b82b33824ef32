"""Below convergence: fewer units, fewer layers, fewer inputs.

Redundancy stops early: it never proposes a layer less or an input less. Here
candidates of many shapes are taught side by side and the hopeless dropped by
synchronous halving (Jamieson and Talwalkar 2016), never by the clock.
"""

from __future__ import annotations

import dataclasses
import math
from collections.abc import Sequence

import numpy as np

from pops.arch import NetArch
from pops.candidate import Candidate, can_inherit, inherit, teach
from pops.config import SearchConfig
from pops.distill import Lesson
from pops.policy import Parameters
from pops.prune import ReturnGuard
from pops.replay import ReplayBuffer
from pops.seeds import screening_seeds
from pops.workers import Workers

RATIOS = (0.85, 0.7, 0.55, 0.4, 0.3, 0.2)
"""Widths of narrower networks of the same depth, as shares."""
CONFIDENT = 1.645
"""Standard errors of a one-sided 95 % bound."""


def propose(base: NetArch, config: SearchConfig) -> list[NetArch]:
    """Architectures with fewer parameters than `base`, largest first.

    No hidden layer, one hidden layer and the depth of `base`, at sizes that fall by a
    constant ratio. Convolutional networks: see `pops.sizes`.
    """
    proposals: dict[int, NetArch] = {}

    def consider(arch: NetArch) -> None:
        if arch.num_parameters < base.num_parameters:
            proposals.setdefault(arch.num_parameters, arch)

    depth = len(base.widths)
    if config.fewer_layers:
        consider(base.with_widths(()))
        if depth >= 1:
            features = base.layers()[0].weight[1]
            largest = max(2, base.num_parameters // (features + base.outputs + 1))
            for width in _falling(largest, 2 * config.candidates):
                consider(base.with_widths((width,)))
    if depth:
        for ratio in RATIOS:
            consider(base.with_widths(tuple(max(1, round(w * ratio)) for w in base.widths)))
    # A linear policy is the one shape that the others do not lead to; it keeps its place.
    linear = [arch for arch in proposals.values() if not arch.widths]
    others = [arch for arch in proposals.values() if arch.widths]
    chosen = [*linear, *_spread(others, config.candidates - len(linear))]
    return sorted(chosen, key=lambda arch: -arch.num_parameters)


def _spread(archs: list[NetArch], count: int) -> list[NetArch]:
    """`count` of the architectures whose sizes fall by about the same ratio each."""
    if len(archs) <= count:
        return archs
    left = sorted(archs, key=lambda arch: arch.num_parameters)
    chosen = []
    for size in np.geomspace(left[0].num_parameters, left[-1].num_parameters, count):
        nearest = min(left, key=lambda arch: abs(math.log(arch.num_parameters / size)))
        left.remove(nearest)
        chosen.append(nearest)
    return chosen


def _falling(largest: int, count: int) -> list[int]:
    """About `count` different sizes from `largest` down to 1, by a constant ratio."""
    return sorted({max(1, round(s)) for s in np.geomspace(largest, 1, count + 1)}, reverse=True)


def survivors(candidates: Sequence[Candidate], guard: ReturnGuard) -> list[Candidate]:
    """Who goes on to the next rung: the better half of the Pareto front of size and return.

    Dropped are candidates under the lower bound, and those that a smaller one
    matches: a larger student has to return more. If none is over the bound the
    single best goes on.
    """
    front: list[Candidate] = []
    for candidate in sorted(candidates, key=lambda c: (c.arch.num_parameters, -c.mean)):
        reached = max((c.mean for c in front), default=float("-inf"))
        if candidate.mean >= guard.lower_bound and candidate.mean > reached:
            front.append(candidate)
        if candidate.mean >= guard.objective and reached >= guard.objective:
            break
    if not front:
        return [max(candidates, key=lambda c: c.mean)]
    half = max(2, -(-len(candidates) // 2))
    enough = next((i for i, c in enumerate(front) if c.mean >= guard.objective), len(front) - 1)
    # The smallest that meets the objective stays, then the next smaller ones, nearest first.
    return front[max(0, enough + 1 - half) : enough + 2]


def search(
    base: NetArch,
    parameters: Parameters,
    buffer: ReplayBuffer,
    lesson: Lesson,
    guard: ReturnGuard,
    config: SearchConfig,
    workers: Workers,
) -> list[list[Candidate]]:
    """Teach candidates below `base` and halve them, rung by rung.

    Returns:
        The candidates of every rung as they left it, the first rung first.
    """
    candidates = [Candidate(str(arch), arch) for arch in propose(base, config)]
    candidates = [
        dataclasses.replace(c, parameters=inherit(c.arch, base, parameters))
        if lesson.config.race_warm_start and can_inherit(c.arch, base)
        else c
        for c in candidates
    ]
    rungs: list[list[Candidate]] = []
    inputs, labels = buffer.arrays()
    for rung in range(config.rungs):
        if not candidates:
            break
        rounds = config.rounds * 2**rung
        seeds = tuple(screening_seeds(lesson.seed, config.episodes * 2**rung, block=10 + rung))
        tasks = [
            (candidate, inputs, labels, lesson, rounds, seeds, (3, rung, index))
            for index, candidate in enumerate(candidates)
        ]
        candidates = workers.map(teach, tasks)
        rungs.append(candidates)
        if settled(candidates, guard):
            break
        candidates = survivors(candidates, guard)
    return rungs


def settled(candidates: Sequence[Candidate], guard: ReturnGuard) -> bool:
    """Whether the smallest candidate meets the objective beyond doubt: nothing is left to find."""
    result = min(candidates, key=lambda c: c.arch.num_parameters).result
    assert result is not None
    error = result.std / math.sqrt(len(result.seeds))
    return result.mean - CONFIDENT * error >= guard.objective


def without_inputs(candidate: Candidate, lesson: Lesson) -> list[Candidate]:
    """The candidate without its least important input, its two least important ones, and so on.

    An input's importance is the norm of the standardised weights that read it.
    """
    arch, parameters = candidate.arch, candidate.parameters
    if arch.convs or parameters is None:
        return []
    weight, bias = parameters[0]
    read = list(arch.inputs if arch.inputs is not None else range(arch.input_shape[0]))
    mean, std = np.zeros(len(read)), np.ones(len(read))
    if lesson.scaling is not None:
        chosen = lesson.scaling.select(tuple(read))
        mean, std = chosen.mean, chosen.std
    order = np.argsort(np.linalg.norm(weight * std, axis=0), kind="stable")
    result = []
    for count in range(1, len(read)):
        kept = sorted(int(i) for i in order[count:])
        gone = [int(i) for i in order[:count]]
        smaller = dataclasses.replace(arch, inputs=tuple(read[i] for i in kept))
        # What a dropped input contributed on average stays in the bias.
        first = (weight[:, kept], (bias + weight[:, gone] @ mean[gone]).astype(np.float32))
        result.append(
            Candidate(
                f"{smaller} inputs {','.join(str(read[i]) for i in kept)}",
                smaller,
                [first, *parameters[1:]],
                rounds=candidate.rounds,
                own_inputs=candidate.own_inputs,
                own_labels=candidate.own_labels,
            )
        )
    return result
