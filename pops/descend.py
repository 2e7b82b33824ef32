"""Down from the smallest student that passes, in small steps and with full effort.

The search looks at many shapes with little effort each. A tiny network often
fails for its start alone: its few units die or double. Here each step down gets
several fresh starts and all the rounds of distillation, so that what ends the
descent is the size.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pops.arch import NetArch
from pops.candidate import Candidate, can_inherit, inherit, teach
from pops.journal import StageResult
from pops.record import candidates_from, candidates_to
from pops.seeds import screening_seeds
from pops.validate import check, out_of_reach, would_pass

if TYPE_CHECKING:
    from pops.stages import State

STEP = 0.8
"""The next size down, as a share."""
MAX_STEPS = 12
CONTEST_BLOCK = 60
CONTEST_EPISODES = 96


def descend(state: State, chosen: Candidate) -> tuple[list[Candidate], list[Candidate]]:
    """Try smaller and smaller students until one fails.

    Args:
        state: the compression so far.
        chosen: a student that would pass.

    Returns:
        Those that would pass, smallest first, and those that would not but came near.
    """
    config = state.config
    passed: list[Candidate] = []
    search = config.search
    if not (search.enabled and search.descend) or chosen.arch.convs:
        return [], []
    while len(passed) < MAX_STEPS:
        above = passed[0] if passed else chosen
        size = above.arch.num_parameters
        shapes = steps_down(above.arch)
        if not shapes or size <= (config.max_params or 0) or size > config.polish.max_params:
            return passed, []
        failed = []
        for winner in _contest(state, above, shapes, len(passed)):
            if out_of_reach(state, winner):
                state.ladder.append(winner)
                continue
            winner = check(state, winner, "descend")
            if would_pass(state, winner):
                passed.insert(0, winner)
                break
            failed.append(winner)
        else:
            return passed, failed
    return passed, []


def steps_down(arch: NetArch) -> list[NetArch]:
    """The shapes a step below `arch`: one hidden layer, and its own depth, the larger first."""
    features = arch.layers()[0].weight[1]
    shapes: dict[int, NetArch] = {}
    if arch.widths:
        room = STEP * arch.num_parameters - arch.outputs
        width = int(room / (features + arch.outputs + 1))
        if width >= 1:
            flat = arch.with_widths((width,))
            shapes[flat.num_parameters] = flat
    if len(arch.widths) > 1:
        narrower = _narrowed(arch)
        if narrower is not None:
            shapes[narrower.num_parameters] = narrower
    return [shapes[size] for size in sorted(shapes, reverse=True)]


def _narrowed(arch: NetArch) -> NetArch | None:
    """The same depth at a step's size: units leave where they leave most units behind."""
    widths = list(arch.widths)
    while arch.with_widths(tuple(widths)).num_parameters > STEP * arch.num_parameters:
        widest = max(range(len(widths)), key=lambda i: widths[i])
        if widths[widest] == 1:
            return None
        widths[widest] -= 1
    return arch.with_widths(tuple(widths))


def best_taught(taught: list[Candidate]) -> Candidate:
    """The lowest loss among those whose return is within a standard error of the highest.

    A hundred episodes of a return with rare disasters do not tell a good start
    from a better one; the loss, a mean over thousands of states, does.
    """
    highest = max(taught, key=lambda c: c.mean)
    assert highest.result is not None
    error = highest.result.std / math.sqrt(len(highest.result.seeds))
    return min((c for c in taught if c.mean >= highest.mean - error), key=lambda c: c.loss)


def _contest(state: State, above: Candidate, shapes: list[NetArch], step: int) -> list[Candidate]:
    """For each shape the best of several starts, on screening episodes of their own."""
    search = state.config.search
    rounds = search.rounds * (2**search.rungs - 1)

    def make() -> StageResult:
        assert above.parameters is not None
        entrants = [Candidate(str(a), a) for a in shapes for _ in range(search.restarts)]
        entrants += [
            Candidate(str(a), a, inherit(a, above.arch, above.parameters))
            for a in shapes
            if state.config.distill.race_warm_start and can_inherit(a, above.arch)
        ]
        inputs, labels = state.buffer.arrays()
        seeds = tuple(screening_seeds(state.config.seed, CONTEST_EPISODES, CONTEST_BLOCK + step))
        tasks = [
            (entrant, inputs, labels, state.lesson, rounds, seeds, (7, step, index))
            for index, entrant in enumerate(entrants)
        ]
        taught = state.workers.map(teach, tasks)
        best = [best_taught([c for c in taught if c.arch == shape]) for shape in shapes]
        return candidates_to(best, state.lesson)

    state.tracker.begin("search")
    return candidates_from(state.journal.stage(f"select/descend-{step + 1}", make))
