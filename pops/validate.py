"""Validation on screening seeds: would the gate pass this student?

What was chosen among many by some episodes was lucky on them. So a student is
validated on one block of screening seeds, and whoever passes is confirmed on
another block that has chosen nothing, before it may see the gate.
"""

from __future__ import annotations

import dataclasses
import math
from statistics import NormalDist
from typing import TYPE_CHECKING

import numpy as np

from pops.candidate import Candidate
from pops.evaluate import EvalResult, evaluate
from pops.journal import StageResult
from pops.record import result_from, result_to
from pops.seeds import screening_seeds

if TYPE_CHECKING:
    from pops.stages import State

VALIDATION_BLOCK = 1
CONFIRMATION_BLOCK = 3
POWER = 0.8
"""How likely a student has to be to pass the gate."""
RESAMPLES = 1000
BOOTSTRAP_SEED = 20_200_102


def validation_seeds(state: State) -> range:
    """The screening seeds on which students are validated."""
    return screening_seeds(state.config.seed, state.config.screen.validation, VALIDATION_BLOCK)


def confirmation_seeds(state: State) -> range:
    """The screening seeds on which those that pass validation are confirmed."""
    episodes = state.config.screen.confirmation
    return screening_seeds(state.config.seed, episodes, CONFIRMATION_BLOCK)


def validate(state: State, candidate: Candidate) -> Candidate:
    """The candidate with its validation episodes; journaled."""
    if is_validated(state, candidate):
        return candidate
    seeds = validation_seeds(state)
    result = _played(state, candidate, seeds, "validate")
    return dataclasses.replace(candidate, result=result)


def confirm(state: State, candidate: Candidate) -> Candidate:
    """The candidate with its confirmation episodes; journaled."""
    if candidate.confirmation is not None:
        return candidate
    result = _played(state, candidate, confirmation_seeds(state), "confirm")
    return dataclasses.replace(candidate, confirmation=result)


def _played(state: State, candidate: Candidate, seeds: range, stage: str) -> EvalResult:
    number = state.played[stage] = state.played.get(stage, 0) + 1

    def make() -> StageResult:
        result = evaluate(candidate.policy(state.lesson), state.env, seeds, state.workers)
        facts = {"name": candidate.name, "num_parameters": candidate.arch.num_parameters}
        return StageResult({**facts, "result": result_to(result)})

    return result_from(state.journal.stage(f"{stage}/{number:02d}", make).facts["result"])


def teachers_confirmation(state: State) -> EvalResult:
    """The teacher on the confirmation block; journaled."""

    def make() -> StageResult:
        return StageResult({"teacher": result_to(state.play_teacher(confirmation_seeds(state)))})

    return result_from(state.journal.stage("confirm/teacher", make).facts["teacher"])


def predicted_slack(
    student: EvalResult,
    teacher: EvalResult,
    random_mean: float,
    *,
    episodes: int,
    max_drop: float,
    alpha: float,
) -> float:
    """By how much the gate's bound would clear -margin, in units of return, with 80 % power.

    Gates of `episodes` pairs are drawn from the pairs at hand (Efron and
    Tibshirani, An Introduction to the Bootstrap, chapter 25): in each the bound
    lies z standard errors below the mean, and the margin follows from the
    teacher's returns in it. A student that clears its margin on average fails
    every other gate; here four of five have to pass.

    Args:
        student: its episodes, on the same seeds as the teacher's.
        teacher: the teacher's.
        random_mean: mean return of random actions.
        episodes: paired episodes of one gate.
        max_drop: largest share of (teacher - random) that may be lost.
        alpha: the gate's error level.
    """
    rng = np.random.default_rng(BOOTSTRAP_SEED)
    drawn = rng.integers(0, len(student.seeds), (RESAMPLES, episodes))
    differences = (student.returns - teacher.returns)[drawn]
    reference = teacher.returns[drawn]
    allowed = np.minimum(
        max_drop * (reference.mean(axis=1) - random_mean), 0.5 * reference.std(axis=1)
    )
    error = differences.std(axis=1, ddof=1) / math.sqrt(episodes)
    bound = differences.mean(axis=1) - NormalDist().inv_cdf(1 - alpha) * error
    return float(np.quantile(bound + np.maximum(allowed, 0.0), 1 - POWER))


def slack(state: State, candidate: Candidate, alpha: float | None = None) -> float:
    """`predicted_slack` of a validated candidate; by its confirmation where it has one."""
    result, teacher = candidate.result, state.teacher_result
    if candidate.confirmation is not None:
        result, teacher = candidate.confirmation, teachers_confirmation(state)
    assert result is not None
    return predicted_slack(
        result,
        teacher,
        state.random_result.mean,
        episodes=state.config.episodes,
        max_drop=state.config.max_drop,
        alpha=state.config.gate.alpha if alpha is None else alpha,
    )


def would_pass(state: State, candidate: Candidate, alpha: float | None = None) -> bool:
    """Whether a validated candidate would most likely pass the gate."""
    return slack(state, candidate, alpha) >= 0


def is_validated(state: State, candidate: Candidate) -> bool:
    """Whether a candidate's latest episodes are those of its validation."""
    return candidate.result is not None and candidate.result.seeds == tuple(validation_seeds(state))


def out_of_reach(state: State, candidate: Candidate) -> bool:
    """Whether a candidate's screening return is so low that nothing would lift it to the gate."""
    result = candidate.result
    if result is None:
        return False
    error = result.std / math.sqrt(len(result.seeds))
    floor = state.random_result.mean + 0.75 * (state.teacher_result.mean - state.random_result.mean)
    return result.mean + 2 * error < floor


def check(state: State, candidate: Candidate, what: str) -> Candidate:
    """The candidate validated, and confirmed if it would pass; told, and put on the ladder."""
    checked = validate(state, candidate)
    if would_pass(state, checked):
        checked = confirm(state, checked)
    result = checked.confirmation or checked.result
    assert result is not None
    state.tracker.say(
        f"{what}: {checked.arch}, {checked.arch.num_parameters:,} parameters, returns "
        f"{result.mean:.2f} on {len(result.seeds)} screening episodes"
        + ("" if would_pass(state, checked) else "; the gate would want more")
    )
    # One rung for each architecture: the latest of it.
    state.ladder[:] = [c for c in state.ladder if c.arch != checked.arch]
    state.ladder.append(checked)
    return checked
