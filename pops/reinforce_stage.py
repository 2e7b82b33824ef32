"""Polish by policy gradient as a stage: which student, and whether it is better for it."""

from __future__ import annotations

from typing import Callable

from pops.beside import holds_beside
from pops.candidate import Candidate
from pops.journal import StageResult
from pops.reinforce import ReinforceConfig, can_reinforce, reinforce, settling_images
from pops.stages import State
from pops.tracking import Tracker
from pops.validate import check, validate, validated_and_confirmed, would_pass


def hopeful(state: State, candidate: Candidate) -> bool:
    """Whether polish is asked for and may make something of a student.

    That is: it plays better than halfway between random actions and the teacher.
    """
    config = state.config.polish
    asked = config.enabled and config.image_steps > 0
    plays = candidate.parameters is not None and candidate.mean >= state.guard.lower_bound
    return asked and plays and can_reinforce(candidate, state.lesson)


def tracked(
    tracker: Tracker, config: ReinforceConfig, parameters: int
) -> Callable[[int, float], None]:
    """Begin the stage; what it returns shows and records how a polish gets on."""
    tracker.begin("polish", total=float(config.steps))
    tracker.say(f"polish: the critic learns alone first, for {config.critic_steps:,} steps")

    def watch(done: int, mean: float) -> None:
        tracker.advance(float(config.rollout))
        tracker.record("polish", steps=done, mean=mean)
        tracker.show(stage="polish", mean=mean, parameters=parameters)

    return watch


def reinforce_smallest(
    state: State, short: list[Candidate], chosen: Candidate | None
) -> Candidate | None:
    """Polish the smallest student on images that did not pass, until it would, or steps are spent.

    It is good enough for no further round if it also holds its own where it is reported beside.

    None if there is none to polish, or if it does not get better.

    Args:
        state: the compression so far.
        short: students that the gate would most likely refuse.
        chosen: what passes already, if anything; only smaller ones are worth it then.
    """
    fitting = [
        candidate
        for candidate in short
        if hopeful(state, candidate)
        and (chosen is None or candidate.arch.num_parameters < chosen.arch.num_parameters)
    ]
    if not fitting:
        return None
    candidate = min(fitting, key=lambda c: c.arch.num_parameters)
    config = ReinforceConfig(state.config.polish.image_steps)
    watch = tracked(state.tracker, config, candidate.arch.num_parameters)
    best = validate(state, candidate)

    def segment(name: str, make: Callable[[], StageResult]) -> StageResult:
        return state.journal.stage(f"select/reinforce/{name}", make)

    def enough(learnt: Candidate) -> bool:
        nonlocal best
        learnt = validated_and_confirmed(state, learnt)
        state.tracker.say(
            f"polish: returns {learnt.mean:.2f}, before {best.mean:.2f}, on "
            f"{state.config.screen.validation} screening episodes"
        )
        if would_pass(state, learnt) and holds_beside(state, learnt):
            best = learnt
            return True
        best = max(learnt, best, key=lambda c: c.mean)
        return False

    images = settling_images(state.buffer)
    reinforce(candidate, state.lesson, config, images, (7,), watch, segment, enough)
    if best.name == candidate.name:
        state.tracker.say(f"polish: {candidate.arch} does not get better by policy gradient")
        return None
    return check(state, best, "polish")
