"""The closed loop: each file plays the gate's paired episodes in its own runtime."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pops.policy import NumpyPolicy
from pops.spec import EnvSpec, Policy
from pops.workers import Workers

RANDOM_EPISODES = 100


def quietly(stage: str) -> None:
    """Whoever wants to know the stages of an export or a verification passes another function."""


@dataclass(frozen=True)
class Bar:
    """What every file is judged against: the teacher's episodes and the margin."""

    teacher: Any
    """EvalResult of the teacher on the gate's seeds."""
    margin: float
    env: EnvSpec
    seeds: tuple[int, ...]


def raise_bar(teacher: NumpyPolicy, env: EnvSpec, seeds: range, workers: Workers) -> Bar:
    """Play the teacher, and random actions for the margin."""
    from pops.evaluate import evaluate, play_random
    from pops.gate import margin
    from pops.seeds import random_seeds

    played = evaluate(teacher, env, seeds, workers)
    chance = play_random(env, random_seeds(0, min(len(seeds), RANDOM_EPISODES)))
    return Bar(played, margin(played, chance), env, tuple(seeds))


def judge_file(file: Policy, bar: Bar, num_parameters: int) -> tuple[dict[str, Any], Any]:
    """Play one file on the bar's seeds: its evaluation as JSON, and its Verdict."""
    from pops.evaluate import evaluate
    from pops.gate import judge

    # A runtime's session does not travel to another process, so it plays in this one.
    played = evaluate(file, bar.env, bar.seeds, 1)
    return played.to_json(num_parameters), judge(played, bar.teacher, bar.margin)


def gate_facts(bar: Bar, num_teacher: int) -> dict[str, Any]:
    """What artifact.json keeps of the gate, so that it can be repeated."""
    return {
        "seed": bar.seeds[0],
        "episodes": len(bar.seeds),
        "margin": bar.margin,
        "teacher": bar.teacher.to_json(num_teacher),
    }


def failed(files: Mapping[str, Mapping[str, Any]]) -> list[str]:
    """The files whose verdict is negative."""
    return [
        key
        for key, facts in files.items()
        if facts.get("verdict") and not facts["verdict"]["passed"]
    ]
