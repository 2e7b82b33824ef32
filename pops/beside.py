"""Whether a student holds its own in the variant of its environment that is reported beside.

The gate does not judge there: where the variant has few different episodes there is little to
judge by. But a student that a policy gradient changed can fail in it however well it does in its
own environment: one of Pong returned more than its teacher with sticky actions, and without them
ended sixteen of thirty games in a rally that nobody won.
"""

from __future__ import annotations

from pops.candidate import Candidate
from pops.evaluate import EvalResult, evaluate
from pops.journal import StageResult
from pops.record import result_from, result_to
from pops.seeds import screening_seeds
from pops.spec import EnvSpec, Policy
from pops.stages import State

SCREENING_BLOCK = 4
SCREENING_EPISODES = 30


def holds_beside(state: State, candidate: Candidate) -> bool:
    """Whether a student loses no more there than the gate allows at most; journaled.

    That is `max_drop` of what the teacher returns there above random actions. True where there is
    no variant.
    """
    variant = state.env.variant() if isinstance(state.env, EnvSpec) else None
    if variant is None:
        return True
    number = state.played["beside"] = state.played.get("beside", 0) + 1
    teacher = _played(state, variant, state.origin.behaviour, "teacher")
    student = _played(state, variant, candidate.policy(state.lesson), f"{number:02d}")
    allowed = state.config.max_drop * (teacher.mean - state.random_result.mean)
    holds = student.mean >= teacher.mean - allowed
    if not holds:
        state.tracker.say(
            f"polish: returns {student.mean:.2f} under {variant.kwargs}, where its teacher returns "
            f"{teacher.mean:.2f}"
        )
    return holds


def _played(state: State, variant: EnvSpec, policy: Policy, name: str) -> EvalResult:
    seeds = screening_seeds(state.config.seed, SCREENING_EPISODES, SCREENING_BLOCK)

    def make() -> StageResult:
        return StageResult({"result": result_to(evaluate(policy, variant, seeds, state.workers))})

    return result_from(state.journal.stage(f"beside/{name}", make).facts["result"])
