"""Evaluations and candidates as stage results, and back."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import numpy as np

from pops.candidate import Candidate, describe
from pops.distill import Lesson
from pops.evaluate import EvalResult
from pops.frames import States, join_states
from pops.journal import StageResult


def result_to(result: EvalResult | None) -> dict[str, Any] | None:
    """Every episode, JSON-ready; floats survive exactly."""
    if result is None:
        return None
    return {
        "seeds": list(result.seeds),
        "returns": [float(r) for r in result.returns],
        "lengths": [int(n) for n in result.lengths],
        "successes": None if result.successes is None else [bool(s) for s in result.successes],
        "trajectories": None
        if result.trajectories is None
        else [int(t) for t in result.trajectories],
    }


def result_from(data: dict[str, Any]) -> EvalResult:
    """What `result_to` wrote."""
    successes, trajectories = data["successes"], data.get("trajectories")
    return EvalResult(
        tuple(data["seeds"]),
        np.asarray(data["returns"], np.float64),
        np.asarray(data["lengths"], np.int64),
        None if successes is None else np.asarray(successes, bool),
        None if trajectories is None else np.asarray(trajectories, np.uint32),
    )


def candidate_to(
    candidate: Candidate, lesson: Lesson, others: Sequence[Candidate] = ()
) -> StageResult:
    """A candidate with the states that it, or all `others`, visited."""
    arrays: dict[str, States] = {}
    sources = [c for c in (others or [candidate]) if c.own_labels is not None]
    if sources:
        arrays = {
            "inputs": join_states([c.own_inputs for c in sources if c.own_inputs is not None]),
            "labels": np.concatenate([c.own_labels for c in sources if c.own_labels is not None]),
        }
    facts = {
        **describe(candidate),
        "loss": candidate.loss if math.isfinite(candidate.loss) else None,
        "rounds": candidate.rounds,
        "result": result_to(candidate.result),
        "entrants": [describe(c) for c in others],
    }
    return StageResult(facts, {"candidate": candidate.policy(lesson)}, arrays)


def candidate_from(stage: StageResult, name: str) -> Candidate:
    """The candidate that `candidate_to` wrote, without the states it visited."""
    policy, facts = stage.policies[name], stage.facts
    return Candidate(
        facts["name"],
        policy.arch,
        policy.parameters,
        result_from(facts["result"]),
        math.nan if facts["loss"] is None else facts["loss"],
        facts["rounds"],
    )


def candidates_to(candidates: Sequence[Candidate], lesson: Lesson) -> StageResult:
    """Several candidates, without the states they visited."""
    facts = [
        {**describe(c), "loss": c.loss, "rounds": c.rounds, "result": result_to(c.result)}
        for c in candidates
    ]
    policies = {f"{i:02d}": c.policy(lesson) for i, c in enumerate(candidates)}
    return StageResult({"candidates": facts}, policies)


def candidates_from(stage: StageResult) -> list[Candidate]:
    """The candidates that `candidates_to` wrote."""
    return [
        Candidate(
            facts["name"],
            stage.policies[f"{i:02d}"].arch,
            stage.policies[f"{i:02d}"].parameters,
            result_from(facts["result"]),
            facts["loss"],
            facts["rounds"],
        )
        for i, facts in enumerate(stage.facts["candidates"])
    ]


def scalars(candidate: Candidate) -> dict[str, Any]:
    """What is recorded of a candidate as metrics."""
    facts = describe(candidate)
    return {key: facts[key] for key in ("name", "num_parameters", "mean", "std", "episodes")}
