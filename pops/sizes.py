"""Below convergence with convolutions: two sizes at a time, each taught to the end.

A convolutional student learns for ten thousand updates before its return tells what it is worth,
so that halving a crowd of candidates early (`pops.search`) would keep the largest. Sizes fall by
a constant ratio instead, and where a pair ends decides which pair is next.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pops.arch import NetArch
from pops.candidate import Candidate, teach
from pops.journal import StageResult
from pops.record import candidates_from, candidates_to
from pops.seeds import screening_seeds
from pops.shapes import compact, with_parameters

if TYPE_CHECKING:
    from pops.stages import State

START = 0.05
"""The larger one of the first pair, as a share of the network that the iterations ended with."""
STEP = 0.45
"""The next size down, as a share."""
SIZES_BLOCK = 10
FIRST_KEY = 50
"""Keys of seeds are not negative; places are."""


def sizes(base: NetArch, place: int) -> list[NetArch]:
    """The pair at `place`, 0 for the first and one less for each size up, larger first."""
    kind = compact(base)
    targets = [base.num_parameters * START * STEP ** (place + k) for k in range(2)]
    found: dict[NetArch, None] = {}
    for target in targets:
        arch = with_parameters(kind, max(1, round(target)))
        # Beyond its widest the kind has no such size.
        if STEP * target < arch.num_parameters < base.num_parameters:
            found[arch] = None
    return list(found)


def search_sizes(state: State, base: NetArch) -> list[Candidate]:
    """Teach a pair, then the next two down where the smaller would do, or up where none would.

    Args:
        state: the compression so far.
        base: what the iterations ended with.

    Returns:
        All that were taught, in the order of teaching.
    """
    found: dict[NetArch, Candidate] = {}
    place, seen = 0, set()
    while len(found) < state.config.search.candidates and place not in seen:
        seen.add(place)
        pair = [arch for arch in sizes(base, place) if arch not in found]
        if not pair:
            break
        taught = _taught(state, pair, place)
        found.update({candidate.arch: candidate for candidate in taught})
        if may_reach(taught[-1], state.guard.objective):
            place += 2
        elif may_reach(taught[0], state.guard.objective):
            break
        else:
            place -= 2
    return list(found.values())


def may_reach(candidate: Candidate, objective: float) -> bool:
    """Whether the objective lies within a standard error of the screening return, or below."""
    result = candidate.result
    assert result is not None
    return result.mean + result.std / math.sqrt(len(result.seeds)) >= objective


def _taught(state: State, pair: list[NetArch], place: int) -> list[Candidate]:
    search = state.config.search

    def make() -> StageResult:
        inputs, labels = state.buffer.arrays()
        seeds = tuple(screening_seeds(state.config.seed, search.episodes, SIZES_BLOCK))
        tasks = [
            (
                Candidate(str(arch), arch),
                inputs,
                labels,
                state.lesson,
                search.rounds,
                seeds,
                (3, FIRST_KEY + place, index),
            )
            for index, arch in enumerate(pair)
        ]
        return candidates_to(state.workers.map(teach, tasks), state.lesson)

    return candidates_from(state.journal.stage(f"search/sizes{place:+d}", make))
