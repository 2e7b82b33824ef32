"""The search below convergence as a stage: where it begins, what it found."""

from __future__ import annotations

import dataclasses

from pops.candidate import Candidate, describe
from pops.journal import StageResult
from pops.record import result_from, result_to, scalars
from pops.search import search
from pops.stages import State
from pops.validate import is_validated, validated, would_pass


def search_stage(state: State) -> list[Candidate]:
    """Students to choose from: those of the iterations and those found below convergence."""
    if not state.config.search.enabled or state.within_budget():
        return list(state.ladder)
    state.tracker.begin("search")
    base = _search_base(state)
    assert base.parameters is not None
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
        policies = {f"{i:02d}": c.policy(state.lesson) for i, c in enumerate(kept)}
        facts = [
            {**describe(c), "loss": c.loss, "rounds": c.rounds, "result": result_to(c.result)}
            for c in kept
        ]
        return StageResult({"candidates": facts, "rungs": len(rungs)}, policies)

    result = state.journal.stage("search/candidates", make)
    found = [
        Candidate(
            facts["name"],
            result.policies[f"{i:02d}"].arch,
            result.policies[f"{i:02d}"].parameters,
            result_from(facts["result"]),
            facts["loss"],
            facts["rounds"],
        )
        for i, facts in enumerate(result.facts["candidates"])
    ]
    for candidate in found:
        state.tracker.record("candidate", **scalars(candidate), kept=True)
        state.tracker.say(
            f"search: {candidate.arch}, {candidate.arch.num_parameters:,} parameters, returns "
            f"{candidate.mean:.2f}"
        )
    state.ladder.extend(found)
    return list(state.ladder)


def _search_base(state: State) -> Candidate:
    """Where the search begins: the smallest student of the iterations that the gate would pass.

    The teacher's copy, if none would.
    """

    def make() -> StageResult:
        results = []
        for candidate in sorted(state.ladder, key=lambda c: c.arch.num_parameters):
            if candidate.mean < state.guard.lower_bound:
                results.append(result_to(candidate.result))
                continue
            checked = validated(state, candidate)
            results.append(result_to(checked.result))
            if would_pass(state, checked):
                break
        return StageResult({"results": results})

    facts = state.journal.stage("search/base", make).facts
    state.ladder.sort(key=lambda c: c.arch.num_parameters)
    for index, result in enumerate(facts["results"]):
        state.ladder[index] = dataclasses.replace(state.ladder[index], result=result_from(result))
    checked = len(facts["results"])
    last = state.ladder[checked - 1] if checked else None
    if last is not None and is_validated(state, last) and would_pass(state, last):
        return last
    return Candidate("the first student", state.initial, state.first_parameters)
