"""Choosing the student: validation on screening seeds, polish, and the gate's looks.

Nothing here sees a gate seed before the gate does. Every look is recorded.
"""

from __future__ import annotations

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
    """The smallest student that the gate would most likely pass, polished where that helps.

    Candidates are validated from the smallest up until one would pass. Those
    below it that came nearest are then polished by return, a few at most; the
    smallest that would pass at last tries to do without some inputs.
    """
    ordered = sorted(candidates, key=lambda c: (c.arch.num_parameters, -c.mean))
    if not ordered:
        ordered = [Candidate("teacher's copy", state.arch, state.parameters)]
        ordered = [validated(state, ordered[0])]
    chosen: Candidate | None = None
    short: list[Candidate] = []
    for index, candidate in enumerate(ordered):
        if candidate.mean < state.guard.lower_bound:
            continue
        ordered[index] = _validate(state, candidate, f"select/{index:02d}")
        if would_pass(state, ordered[index]):
            chosen = ordered[index]
            break
        short.append(ordered[index])
    larger = [] if chosen is None else ordered[ordered.index(chosen) :]
    for attempt in range(state.config.polish.attempts):
        polished = _polish_nearest(state, short, chosen, attempt)
        if polished is None:
            break
        if would_pass(state, polished):
            chosen, larger = polished, [polished, *larger]
    if chosen is None:
        return Selection(_nearest(state, ordered), [], passed_screening=False)
    return Selection(_fewer_inputs(state, chosen), larger)


def _slack(state: State, candidate: Candidate) -> float:
    return predicted_slack(state, candidate, state.config.gate.alpha)


def _nearest(state: State, ordered: list[Candidate]) -> Candidate:
    """What comes nearest to passing where nothing would."""
    known = [c for c in ordered if is_validated(state, c)]
    if not known:
        known = [validated(state, max(ordered, key=lambda c: c.mean))]
    return max(known, key=lambda c: _slack(state, c))


def _validate(state: State, candidate: Candidate, stage: str) -> Candidate:
    def make() -> StageResult:
        return candidate_to(validated(state, candidate), state.lesson)

    checked = candidate_from(state.journal.stage(stage, make), "candidate")
    _tell(state, checked, "validate")
    return checked


def _polish_nearest(
    state: State, short: list[Candidate], chosen: Candidate | None, attempt: int
) -> Candidate | None:
    """Polish what came nearest to passing among those smaller than `chosen`; None if none is."""
    config = state.config.polish
    limit = chosen.arch.num_parameters if chosen is not None else config.max_params + 1
    fitting = [c for c in short if c.arch.num_parameters < min(limit, config.max_params + 1)]
    if not config.enabled or not fitting:
        return None
    candidate = max(fitting, key=lambda c: _slack(state, c))
    short.remove(candidate)

    def make() -> StageResult:
        return candidate_to(_polish(state, candidate, attempt), state.lesson)

    result = state.journal.stage(f"select/polish-{attempt + 1}", make)
    polished = candidate_from(result, "candidate")
    _tell(state, polished, "polish")
    return polished


def _tell(state: State, candidate: Candidate, what: str) -> None:
    state.tracker.say(
        f"{what}: {candidate.arch}, {candidate.arch.num_parameters:,} parameters, returns "
        f"{candidate.mean:.2f} on {state.config.screen.validation} screening episodes"
        + ("" if would_pass(state, candidate) else "; the gate would want more")
    )
    _replace_in_ladder(state, candidate)


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
        if not is_validated(state, found) or not would_pass(state, found):
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
        chosen = _validate(state, candidate, f"select/larger-{len(selection.larger)}")
        if would_pass(state, chosen, alpha):
            return chosen
    return None
