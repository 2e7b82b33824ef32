"""Validation on screening seeds: would the gate pass this student?"""

from __future__ import annotations

import dataclasses
import math
from typing import TYPE_CHECKING

from pops.candidate import Candidate
from pops.evaluate import evaluate
from pops.gate import margin
from pops.seeds import screening_seeds

if TYPE_CHECKING:
    from pops.stages import State

VALIDATION_BLOCK = 1


def validation_seeds(state: State) -> range:
    """The screening seeds on which students are validated."""
    return screening_seeds(state.config.seed, state.config.screen.validation, VALIDATION_BLOCK)


def validated(state: State, candidate: Candidate) -> Candidate:
    """The candidate with its validation episodes."""
    if candidate.result is not None and candidate.result.seeds == tuple(validation_seeds(state)):
        return candidate
    policy = candidate.policy(state.lesson)
    result = evaluate(policy, state.env, validation_seeds(state), state.workers)
    return dataclasses.replace(candidate, result=result)


def predicted_slack(state: State, candidate: Candidate, alpha: float) -> float:
    """By how much the gate's bound would clear -margin, in units of return, with 80 % power.

    The gate's bound of mean(student - teacher) scatters round mean - z·deviation/√episodes.
    A student that only just clears it on screening seeds, of which it was the luckiest,
    fails every other gate; one that clears it by another 0.84 standard errors passes four
    gates in five (the power of a one-sided test, Chow et al. 2017, chapter 3).
    """
    from scipy.stats import norm

    assert candidate.result is not None
    allowed = margin(state.teacher_result, state.random_result, state.config.max_drop)
    differences = candidate.result.returns - state.teacher_result.returns
    error = float(differences.std(ddof=1)) / math.sqrt(state.config.episodes)
    quantiles = float(norm.ppf(1 - alpha) + norm.ppf(0.8))
    return float(differences.mean()) - quantiles * error + allowed


def would_pass(state: State, candidate: Candidate, alpha: float | None = None) -> bool:
    """Whether a validated candidate would most likely pass the gate."""
    return predicted_slack(state, candidate, alpha or state.config.gate.alpha) >= 0


def is_validated(state: State, candidate: Candidate) -> bool:
    """Whether a candidate's latest episodes are those of its validation."""
    result = candidate.result
    return result is not None and result.seeds == tuple(validation_seeds(state))
