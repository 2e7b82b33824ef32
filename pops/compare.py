"""compare(): the gate between any two policies, on seeds of the user's choice."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from pops.envs import EnvSource
from pops.evaluate import RANDOM_EPISODES, EvalResult, evaluate, evaluate_random
from pops.gate import Verdict, check_teacher, judge, margin
from pops.policy import NumpyPolicy
from pops.seeds import random_seeds
from pops.workers import Workers


@dataclass(frozen=True)
class Comparison:
    """A policy against its teacher, episode by episode."""

    teacher: EvalResult
    random: EvalResult
    verdict: Verdict

    def to_json(self, teachers_parameters: int) -> dict[str, Any]:
        """A JSON-ready dictionary."""
        return {
            "teacher": self.teacher.to_json(teachers_parameters, returns=True),
            "random": self.random.to_json(0),
            "verdict": self.verdict.to_json(),
        }


def compare(
    played: EvalResult,
    teacher: NumpyPolicy,
    env: EnvSource,
    *,
    max_drop: float = 0.05,
    alpha: float = 0.05,
    workers: int = 1,
) -> Comparison:
    """Play the teacher on the seeds that a policy has played, and judge the two as the gate does.

    Args:
        played: the policy's episodes.
        teacher: what it should be no worse than; acts by its best action.
        env: where both play.
        max_drop: largest share of (teacher - random) that the mean return may lose.
        alpha: the error level.
        workers: processes.

    Returns:
        What teacher and random actions returned, and the verdict (the test is `pops.gate`'s).

    Raises:
        PopsError: if the teacher is not clearly better than random actions.
        GateFailed: if its episodes are too much alike for any gate to pass.
    """
    with Workers(workers) as pool:
        reference = evaluate(teacher, env, played.seeds, pool)
        random = evaluate_random(env, random_seeds(0, RANDOM_EPISODES), pool)
    check_teacher(reference, random)
    allowed = margin(reference, random, max_drop)
    return Comparison(reference, random, judge(played, reference, allowed, alpha))
