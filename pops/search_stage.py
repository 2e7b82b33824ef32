"""The search below convergence as a stage: where it begins, what it found."""

from __future__ import annotations

import dataclasses

from pops.candidate import Candidate
from pops.journal import StageResult
from pops.record import candidates_from, candidates_to, scalars
from pops.search import search
from pops.sizes import search_sizes
from pops.stages import State
from pops.validate import out_of_reach, validated_and_confirmed, would_pass


def search_stage(state: State) -> list[Candidate]:
    """Students to choose from: those of the iterations and those found below convergence."""
    if not state.config.search.enabled or state.within_budget():
        return list(state.ladder)
    state.tracker.begin("search")
    if state.arch.convs:
        found = search_sizes(state, state.arch, state.parameters)
    else:
        found = _search_dense(state)
    for candidate in found:
        state.tracker.record("candidate", **scalars(candidate), kept=True)
        state.tracker.say(
            f"search: {candidate.arch}, {candidate.arch.num_parameters:,} parameters, returns "
            f"{candidate.mean:.2f}"
        )
    state.ladder.extend(found)
    return list(state.ladder)


def _search_dense(state: State) -> list[Candidate]:
    base = _search_base(state)
    # Within the margin is not enough to choose by: the gate wants it with confidence.
    teacher, objective = state.teacher_result.mean, state.guard.objective
    guard = dataclasses.replace(state.guard, objective=teacher - 0.25 * (teacher - objective))

    def make() -> StageResult:
        assert base.parameters is not None
        rungs = search(
            base.arch,
            base.parameters,
            state.buffer,
            state.lesson,
            guard,
            state.config.search,
            state.workers,
        )
        last: dict[str, Candidate] = {}
        for rung in rungs:
            last.update({candidate.name: candidate for candidate in rung})
        kept = sorted(last.values(), key=lambda c: c.arch.num_parameters)
        return candidates_to(kept, state.lesson)

    return candidates_from(state.journal.stage("search/candidates", make))


def _search_base(state: State) -> Candidate:
    """Where the search begins: the smallest student of the iterations that the gate would pass.

    The teacher's copy, if none would.
    """
    ordered = sorted(state.ladder, key=lambda c: c.arch.num_parameters)
    for index, candidate in enumerate(ordered):
        if out_of_reach(state, candidate):
            continue
        ordered[index] = validated_and_confirmed(state, candidate)
        if would_pass(state, ordered[index]):
            break
    else:
        index = -1
    state.ladder[:] = ordered
    if index >= 0:
        return ordered[index]
    return Candidate("the first student", state.initial, state.first_parameters)
