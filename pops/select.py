"""Choosing the student: validation on screening seeds, polish, and the gate's looks.

Nothing here sees a gate seed before the gate does. Every look is recorded.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from pops.candidate import Candidate, teach
from pops.descend import descend
from pops.evaluate import EvalResult, evaluate
from pops.gate import Verdict, judge, margin
from pops.journal import StageResult
from pops.polish import polish
from pops.record import candidate_from, candidate_to, result_from, result_to
from pops.reinforce_stage import reinforce_smallest
from pops.search import without_inputs
from pops.seeds import gate_start, screening_seeds
from pops.stages import State
from pops.validate import (
    check,
    is_validated,
    out_of_reach,
    slack,
    validate,
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

    Candidates are validated from the smallest up until one would pass. From
    there smaller ones get full effort, until two sizes fail. Those that came nearest
    are then polished by return, a few at most; the smallest that would pass at
    last tries to do without some inputs.
    """
    ordered = sorted(candidates, key=lambda c: (c.arch.num_parameters, -c.mean))
    if not ordered:
        ordered = [Candidate("teacher's copy", state.arch, state.parameters)]
    chosen: Candidate | None = None
    short: list[Candidate] = []
    unreached: list[Candidate] = []
    for index, candidate in enumerate(ordered):
        if out_of_reach(state, candidate):
            unreached.append(candidate)
            continue
        ordered[index] = check(state, candidate, "validate")
        if would_pass(state, ordered[index]):
            chosen = ordered[index]
            break
        short.append(ordered[index])
    larger = [] if chosen is None else ordered[ordered.index(chosen) :]
    if chosen is not None:
        smaller, failed = descend(state, chosen)
        larger, short = [*smaller, *larger], [*short, *failed]
        chosen = larger[0]
    for attempt in range(state.config.polish.attempts):
        polished = _polish_nearest(state, short, chosen, attempt)
        if polished is None:
            break
        if would_pass(state, polished):
            chosen, larger = polished, [polished, *larger]
    reinforced = reinforce_smallest(state, [*unreached, *short], chosen)
    if reinforced is not None:
        ordered.append(reinforced)
        if would_pass(state, reinforced):
            chosen, larger = reinforced, [reinforced, *larger]
    if chosen is None:
        return Selection(_nearest(state, ordered), [], passed_screening=False)
    fewer = _fewer_inputs(state, chosen)
    return Selection(fewer[0], [*fewer[1:], *larger])


def _nearest(state: State, ordered: list[Candidate]) -> Candidate:
    """What comes nearest to passing where nothing would."""
    known = [c for c in ordered if is_validated(state, c)]
    if not known:
        known = [validate(state, max(ordered, key=lambda c: c.mean))]
    return max(known, key=lambda c: slack(state, c))


def _polish_nearest(
    state: State, short: list[Candidate], chosen: Candidate | None, attempt: int
) -> Candidate | None:
    """Polish what came nearest to passing among those smaller than `chosen`; None if none is."""
    config = state.config.polish
    limit = chosen.arch.num_parameters if chosen is not None else config.max_params + 1
    fitting = [c for c in short if c.arch.num_parameters < min(limit, config.max_params + 1)]
    if not config.enabled or not fitting or not state.polish_helps:
        return None
    candidate = max(fitting, key=lambda c: slack(state, c))
    short.remove(candidate)

    def make() -> StageResult:
        return candidate_to(_polish(state, candidate, attempt), state.lesson)

    result = state.journal.stage(f"select/polish-{attempt + 1}", make)
    return _after_polish(state, candidate, candidate_from(result, "candidate"), "polish")


def _after_polish(state: State, before: Candidate, after: Candidate, what: str) -> Candidate:
    """The polished candidate, checked; where it came back as it was, polish is at its end."""
    if after.name == before.name:
        state.polish_helps = False
        state.tracker.say(f"{what}: {before.arch} does not get better by return")
        return before
    return check(state, after, what)


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


def _fewer_inputs(state: State, candidate: Candidate) -> list[Candidate]:
    """Students that would pass, from the one with the fewest inputs to the candidate itself."""
    found = [candidate]
    if not (state.config.search.enabled and state.config.search.fewer_inputs):
        return found
    if candidate.arch.num_parameters <= (state.config.max_params or 0):
        return found
    if candidate.arch.num_parameters > state.config.polish.max_params:
        return found
    for index, smaller in enumerate(without_inputs(candidate, state.lesson)):

        def make(smaller: Candidate = smaller, index: int = index) -> StageResult:
            inputs, labels = state.buffer.arrays()
            seeds = tuple(screening_seeds(state.config.seed, 24, INPUTS_BLOCK))
            rounds = state.config.search.rounds
            taught = teach(smaller, inputs, labels, state.lesson, rounds, seeds, (5, index, 0))
            return candidate_to(taught, state.lesson)

        name = f"select/inputs-{index + 1}"
        taught = candidate_from(state.journal.stage(name, make), "candidate")
        state.ladder.append(taught)
        without = f"without {index + 1} of its inputs"
        if out_of_reach(state, taught):
            state.tracker.say(f"{without}: returns {taught.mean:.2f}")
            break
        taught = check(state, taught, without)
        wanting = not would_pass(state, taught)
        if wanting and state.config.polish.enabled and state.polish_helps:

            def improve(taught: Candidate = taught, index: int = index) -> StageResult:
                return candidate_to(_polish(state, taught, 20 + index), state.lesson)

            polished = candidate_from(state.journal.stage(f"{name}-polish", improve), "candidate")
            taught = _after_polish(state, taught, polished, f"{without}, polished")
        if not would_pass(state, taught):
            break
        found.insert(0, taught)
    return found


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
    """The smallest larger student that would most likely pass; else what comes nearest."""
    current = selection.candidate.arch.num_parameters
    seen: list[Candidate] = []
    for index, candidate in enumerate(selection.larger):
        if candidate.arch.num_parameters <= current or out_of_reach(state, candidate):
            continue
        checked = check(state, candidate, "next larger")
        if not would_pass(state, checked, alpha):
            checked = _taught_further(state, checked, index)
        selection.larger[index] = checked
        seen.append(checked)
        if would_pass(state, checked, alpha):
            break
    if not seen:
        return None
    return (
        seen[-1]
        if would_pass(state, seen[-1], alpha)
        else max(seen, key=lambda c: slack(state, c, alpha))
    )


def _taught_further(state: State, candidate: Candidate, index: int) -> Candidate:
    """The candidate after the rounds of distillation that the search's last rung would give."""
    config = state.config.search
    rounds = config.rounds * (2**config.rungs - 1) - candidate.rounds
    if rounds <= 0:
        return candidate

    def make() -> StageResult:
        inputs, labels = state.buffer.arrays()
        seeds = tuple(validation_seeds(state))
        key = (6, candidate.arch.num_parameters, index)
        taught = teach(candidate, inputs, labels, state.lesson, rounds, seeds, key)
        return candidate_to(taught, state.lesson)

    name = f"select/further-{candidate.arch.num_parameters}-{index}"
    taught = candidate_from(state.journal.stage(name, make), "candidate")
    better = taught if slack(state, taught) > slack(state, candidate) else candidate
    return check(state, better, "taught further")
