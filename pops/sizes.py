"""Below convergence with convolutions: two sizes at a time, each taught to the end.

A convolutional student learns for ten thousand updates before its return tells what it is worth,
so that halving a crowd of candidates early (`pops.search`) would keep the largest. Sizes fall by
a constant ratio instead, and where a pair ends decides which pair is next.
"""

from __future__ import annotations

import math
from typing import TYPE_CHECKING

from pops.arch import NetArch
from pops.candidate import Candidate, inherit, teach
from pops.journal import StageResult
from pops.memory import check_room
from pops.policy import Parameters
from pops.record import candidates_from, candidates_to
from pops.reinforce_stage import hopeful
from pops.seeds import screening_seeds
from pops.shapes import compact, levelled, with_parameters

if TYPE_CHECKING:
    from pops.stages import State

START = 0.4
"""The larger one of the first pair, as a share of the network that the iterations ended with."""
STEP = 0.45
"""The next size down, as a share."""
INHERITS = 0.1
"""Above this share the student is what is left of that network; below, of the compact kind."""
SIZES_BLOCK = 10
FIRST_KEY = 50
"""Keys of seeds are not negative; places are."""


def first_share(base: NetArch, max_params: int | None) -> float:
    """Where the first pair begins: the smaller of it is no larger than what is small enough."""
    if max_params is None:
        return START
    return min(START, max_params / base.num_parameters / STEP)


def sizes(
    base: NetArch, parameters: Parameters | None, place: int, start: float = START
) -> list[Candidate]:
    """The pair at `place`, 0 for the first and one less for each size up, larger first.

    Args:
        base: what the sizes are shares of.
        parameters: its weights, which the larger students keep; None if all begin anew.
        place: two less for the pair above, two more for the one below.
        start: share of the larger one of the first pair.
    """
    found: dict[NetArch, Candidate] = {}
    for share in (start * STEP**place, start * STEP ** (place + 1)):
        # A share of a share of a number: rounded before it is cut, or 7000 becomes 6999.
        target = max(1, int(round(base.num_parameters * share, 6)))
        inherits = parameters is not None and share >= INHERITS
        arch = levelled(base, target) if inherits else with_parameters(compact(base), target)
        if arch.num_parameters < base.num_parameters:
            weights = inherit(arch, base, parameters) if inherits and parameters else None
            found.setdefault(arch, Candidate(str(arch), arch, weights))
    return list(found.values())


def search_sizes(state: State, base: NetArch, parameters: Parameters) -> list[Candidate]:
    """Teach a pair, then the next two down where the smaller would do, or up where none would.

    Args:
        state: the compression so far.
        base: what the iterations ended with.
        parameters: its weights.

    Returns:
        All that were taught, in the order of teaching.
    """
    found: dict[NetArch, Candidate] = {}
    config, objective = state.config, state.guard.objective
    kept = parameters if config.distill.race_warm_start else None
    start = first_share(base, config.max_params)
    place, seen = 0, set()
    while len(found) < config.search.candidates and place not in seen:
        seen.add(place)
        pair = [c for c in sizes(base, kept, place, start) if c.arch not in found]
        if not pair:
            break
        taught = _taught(state, pair, place)
        found.update({candidate.arch: candidate for candidate in taught})
        near = any(may_reach(c, objective) or hopeful(state, c) for c in taught)
        if taught[-1].mean >= objective:
            if taught[-1].arch.num_parameters <= (config.max_params or 0):
                break
            place += 2
        elif near:
            break
        else:
            place -= 2
    return list(found.values())


def may_reach(candidate: Candidate, objective: float) -> bool:
    """Whether the objective lies within a standard error of the screening return, or below."""
    result = candidate.result
    assert result is not None
    return result.mean + result.std / math.sqrt(len(result.seeds)) >= objective


def _taught(state: State, pair: list[Candidate], place: int) -> list[Candidate]:
    search, states = state.config.search, state.config.distill.states
    check_room(len(pair) * search.rounds * states, state.origin.spec, state.journal.root)

    def make() -> StageResult:
        inputs, labels = state.buffer.arrays()
        seeds = tuple(screening_seeds(state.config.seed, search.episodes, SIZES_BLOCK))
        tasks = [
            (entrant, inputs, labels, state.lesson, search.rounds, seeds, (3, FIRST_KEY + place, i))
            for i, entrant in enumerate(pair)
        ]
        return candidates_to(state.workers.map(teach, tasks), state.lesson)

    return candidates_from(state.journal.stage(f"search/sizes{place:+d}", make))
