"""Choosing the student: validation on screening seeds, polish, and the gate's looks.

Nothing here sees a gate seed before the gate does. Every look is recorded.
"""

from __future__ import annotations

import dataclasses
from dataclasses import dataclass, field
from typing import Any

from pops.candidate import Candidate, teach
from pops.evaluate import EvalResult, evaluate
from pops.gate import Verdict, judge, margin
from pops.journal import StageResult
from pops.polish import polish
from pops.record import candidate_from, candidate_to, result_from, result_to
from pops.search import without_inputs
from pops.seeds import gate_start, screening_seeds
from pops.stages import State
from pops.validate import (
    VALIDATION_EPISODES,
    is_validated,
    predicted_slack,
    validated,
    validation_seeds,
    would_pass,
)

GENERATION_BLOCK = 20
INPUTS_BLOCK = 50


@dataclass
class Selection:
    """The student in hand, and what is larger should the gate refuse it."""

    candidate: Candidate
    larger: list[Candidate] = field(default_factory=list)
    """Students with more parameters, smallest first."""
    passed_screening: bool = True
    looks: list[dict[str, Any]] = field(default_factory=list)
    teacher: EvalResult | None = None
    student: EvalResult | None = None


def choose(state: State, candidates: list[Candidate]) -> Selection:
    """The smallest student that passes validation, polished where that helps.

    Candidates are tried from the smallest up. One that does not pass but
    returns more than the lower bound is polished by return, a few of them at
    most. The one that passes then tries to do without some inputs.
    """
    ordered = sorted(candidates, key=lambda c: (c.arch.num_parameters, -c.mean))
    if not ordered:
        ordered = [Candidate("teacher's copy", state.arch, state.parameters)]
        ordered = [validated(state, ordered[0])]
    attempts = 0
    for index, candidate in enumerate(ordered):
        if candidate.mean < state.guard.lower_bound:
            continue
        tries = attempts < state.config.polish.attempts
        chosen, polished = _try(state, candidate, f"select/{index:02d}", tries, index)
        attempts += polished
        ordered[index] = chosen
        if would_pass(state, chosen):
            smaller = _fewer_inputs(state, chosen)
            larger = [chosen] if smaller is not chosen else []
            return Selection(smaller, [*larger, *ordered[index + 1 :]])
    best = max(
        (c for c in ordered if is_validated(c)),
        key=lambda c: predicted_slack(state, c, state.config.gate.alpha),
        default=None,
    )
    if best is None:
        best = validated(state, max(ordered, key=lambda c: c.mean))
    return Selection(best, [], passed_screening=False)


def _try(
    state: State, candidate: Candidate, stage: str, may_polish: bool, key: int
) -> tuple[Candidate, bool]:
    """Validate a candidate, and polish it if it needs that and may be."""
    config = state.config.polish
    fits = config.enabled and candidate.arch.num_parameters <= config.max_params

    def make() -> StageResult:
        current = validated(state, candidate)
        polished = False
        if fits and may_polish and not would_pass(state, current):
            polished = True
            current = _polish(state, current, key)
        result = candidate_to(current, state.lesson)
        return dataclasses.replace(result, facts={**result.facts, "polished": polished})

    result = state.journal.stage(stage, make)
    chosen = candidate_from(result, "candidate")
    state.tracker.say(
        f"validate: {chosen.arch}, {chosen.arch.num_parameters:,} parameters, returns "
        f"{chosen.mean:.2f} on {VALIDATION_EPISODES} screening episodes"
        + (" after polish" if result.facts["polished"] else "")
    )
    _replace_in_ladder(state, chosen)
    return chosen, bool(result.facts["polished"])


def _polish(state: State, candidate: Candidate, key: int) -> Candidate:
    config = state.config.polish
    state.tracker.begin("polish", total=float(config.generations))

    def seeds(generation: int) -> range:
        start = GENERATION_BLOCK + key % 30
        block = screening_seeds(state.config.seed, 100_000, start)
        return block[generation * config.episodes : (generation + 1) * config.episodes]

    def watch(generation: int, best: float, mean: float) -> None:
        state.tracker.advance(1)
        state.tracker.record("polish", generation=generation, best=best, mean=mean)
        state.tracker.show(stage="polish", mean=mean, parameters=candidate.arch.num_parameters)

    return polish(
        candidate,
        state.lesson,
        config,
        state.workers,
        satisfied=state.teacher_result.mean,
        generation_seeds=seeds,
        validation_seeds=validation_seeds(state),
        key=(4, key),
        watch=watch,
    )


def _replace_in_ladder(state: State, candidate: Candidate) -> None:
    size = candidate.arch
    state.ladder[:] = [c for c in state.ladder if c.arch != size]
    state.ladder.append(candidate)


def _fewer_inputs(state: State, candidate: Candidate) -> Candidate:
    """The candidate with as few inputs as it passes validation with."""
    if not (state.config.search.enabled and state.config.search.fewer_inputs):
        return candidate
    if candidate.arch.num_parameters <= (state.config.max_params or 0):
        return candidate
    if candidate.arch.num_parameters > state.config.polish.max_params:
        return candidate
    best = candidate
    for index, smaller in enumerate(without_inputs(candidate, state.lesson)):

        def make(smaller: Candidate = smaller, index: int = index) -> StageResult:
            inputs, labels = state.buffer.arrays()
            seeds = tuple(screening_seeds(state.config.seed, 24, INPUTS_BLOCK))
            rounds = state.config.search.rounds
            taught = teach(smaller, inputs, labels, state.lesson, rounds, seeds, (5, index, 0))
            if taught.mean >= state.guard.objective:
                taught = validated(state, taught)
                if state.config.polish.enabled and not would_pass(state, taught):
                    taught = _polish(state, taught, 20 + index)
            return candidate_to(taught, state.lesson)

        found = candidate_from(state.journal.stage(f"select/inputs-{index + 1}", make), "candidate")
        state.tracker.say(
            f"without {index + 1} of its inputs: {found.arch.num_parameters:,} parameters, "
            f"returns {found.mean:.2f}"
        )
        state.ladder.append(found)
        if not is_validated(found) or not would_pass(state, found):
            break
        best = found
    return best


def pass_gate(state: State, selection: Selection) -> Verdict:
    """Judge the finalist on seeds that nothing has seen; on a failure the next larger one.

    Each look takes a fresh block of seeds and half the error level of the last.
    """
    config = state.config.gate
    state.tracker.begin("gate")
    alpha, verdict = config.alpha, None
    for look in range(config.looks):
        start = gate_start(state.config.seed) + look * state.config.episodes
        verdict = _look(state, selection, look, start, alpha)
        if verdict.passed or not selection.passed_screening:
            break
        alpha /= 2
        following = _next_larger(state, selection, alpha) if look + 1 < config.looks else None
        if following is None:
            break
        selection.candidate = following
    assert verdict is not None
    return verdict


def _look(state: State, selection: Selection, look: int, start: int, alpha: float) -> Verdict:
    candidate = selection.candidate
    seeds = range(start, start + state.config.episodes)

    def make() -> StageResult:
        teacher = state.play_teacher(seeds)
        student = evaluate(candidate.policy(state.lesson), state.env, seeds, state.workers)
        return StageResult({"teacher": result_to(teacher), "student": result_to(student)})

    facts = state.journal.stage(f"gate/{look + 1}", make).facts
    teacher, student = result_from(facts["teacher"]), result_from(facts["student"])
    allowed = margin(teacher, state.random_result, state.config.max_drop)
    verdict = judge(student, teacher, allowed, alpha)
    selection.teacher, selection.student = teacher, student
    selection.looks.append(
        {
            "seed": start,
            "episodes": len(seeds),
            "alpha": alpha,
            "num_parameters": candidate.arch.num_parameters,
            "net_arch": str(candidate.arch),
            "student_mean": student.mean,
            "teacher_mean": teacher.mean,
            **verdict.to_json(),
        }
    )
    state.tracker.record(
        "gate",
        num_parameters=candidate.arch.num_parameters,
        passed=verdict.passed,
        mean_drop=verdict.mean_drop,
        lower_bound=verdict.lower_bound,
        margin=verdict.margin,
    )
    state.tracker.say(f"gate: {verdict.reason}")
    return verdict


def _next_larger(state: State, selection: Selection, alpha: float) -> Candidate | None:
    """The smallest larger student that passes validation."""
    current = selection.candidate.arch.num_parameters
    while selection.larger:
        candidate = selection.larger.pop(0)
        if candidate.arch.num_parameters <= current:
            continue
        if candidate.mean < state.guard.lower_bound:
            continue
        stage = f"select/larger-{len(selection.larger)}"
        chosen, _ = _try(state, candidate, stage, True, 10 + len(selection.larger) % 10)
        if would_pass(state, chosen, alpha):
            return chosen
    return None
