"""polish_on(): a run's student learns on from its return, and is gated on fresh seeds."""

from __future__ import annotations

import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Callable

from pops.artifact import Run, load_policy, sha256_file
from pops.candidate import Candidate
from pops.config import DistillConfig
from pops.distill import Lesson
from pops.errors import GateFailed, UsageError
from pops.finish import versions
from pops.gate import Verdict
from pops.journal import Journal, StageResult
from pops.metered import metered
from pops.pipeline import CompressResult
from pops.policy import NumpyPolicy
from pops.record import candidate_from, candidate_to
from pops.reinforce import ReinforceConfig, better, can_reinforce, reinforce, spread_rows
from pops.reinforce_stage import tracked
from pops.seeds import screening_seeds
from pops.spec import EnvSpec, FloatArray
from pops.successor import (
    Look,
    calibration,
    keep_original,
    look_at_gate,
    playable_env,
    remember_look,
    write_successor,
)
from pops.tracking import Tracker
from pops.workers import Workers, available_cores

COMPARED_BLOCK = 70
COMPARED_EPISODES = 40
"""Screening episodes on which the student before and after is compared."""


@dataclass(frozen=True)
class _Polish:
    """What one polish works on."""

    run: Run
    student: NumpyPolicy
    lesson: Lesson
    env: EnvSpec
    journal: Journal
    tracker: Tracker
    pool: Workers


def polish_on(
    run: Path | str,
    steps: int,
    out: Path | str | None = None,
    *,
    workers: int | None = None,
    resume: bool = False,
    overwrite: bool = False,
    tracker: Tracker | None = None,
    command: str | None = None,
) -> CompressResult:
    """Polish a run's student further by policy gradient; see `pops.reinforce`.

    Whether it is better for it is seen on screening episodes; only then it is gated, on a fresh
    block of seeds at half the last look's error level, and the look is added to the original
    run's manifest too.

    Args:
        run: a run with a convolutional student, that `compress`, `pick` or this left.
        steps: environment steps.
        out: the new run's folder; RUN-polished beside the run if None.
        workers: processes of evaluations; as many as cores if None.
        resume: go on with the polish in `out` from its last finished stage.
        overwrite: remove the run in `out` first.
        tracker: where progress is shown and recorded; silent if None.
        command: the command line to record in the manifest.

    Raises:
        GateFailed: if the student does not get better; the run stays as it is.
        UsageError: if it cannot be polished in this way, or `out` is taken.
        ArtifactError: if the run is damaged or cannot be played again.
    """
    started = time.perf_counter()
    original = Run(run)
    env, student = playable_env(original), original.student
    lesson = _lesson(original, env)
    _check(original, student, lesson, steps)
    target = Path(out) if out is not None else beside(original.path)
    keep_original(original.path, target, "polished")
    given = {"run": sha256_file(original.path / "student.safetensors"), "steps": steps}
    journal = Journal(target, given, resume=resume, overwrite=overwrite)
    quiet = tracker or Tracker(None, "quiet", tensorboard=False)
    with Workers(workers or available_cores()) as pool:
        polish = _Polish(original, student, lesson, env, journal, quiet, pool)
        policy = _improved(polish, steps)
        look = _gated(polish, policy)
        remember_look(original, look)
        with metered() as visiting:
            states = calibration(policy, env, original.manifest["seed"], pool)
    played = journal.environment_steps + visiting.steps
    name = f"{original.manifest['student'].get('name', 'student')}+polish"
    facts = {
        "student": {"name": name},
        "environment_steps": original.manifest["environment_steps"] + played,
        "polished_from": {"run": str(run), "steps": steps, "student_sha256": given["run"]},
        "versions": versions(),
        "command": command,
        "seconds": round(time.perf_counter() - started, 3),
    }
    manifest = write_successor(original, target, policy, states, look, facts)
    return CompressResult(target, manifest, policy, Verdict(**look.verdict))


def beside(run: Path) -> Path:
    """Where a polished run lies unless another folder is given."""
    return run.with_name(f"{run.name}-polished")


def _lesson(run: Run, env: EnvSpec) -> Lesson:
    manifest = run.manifest
    teacher = load_policy(run.path / "teacher.safetensors")[0]
    return Lesson(teacher, env, manifest["temperature"], DistillConfig(), manifest["seed"])


def _check(run: Run, student: NumpyPolicy, lesson: Lesson, steps: int) -> None:
    if steps < 1:
        raise UsageError(f"Found {steps} steps of polish, expected at least 1.")
    if not can_reinforce(Candidate("student", student.arch), lesson):
        raise UsageError(
            f"The student of {run.path} is {student.arch}; polish by policy gradient is for "
            "convolutional students with discrete actions. `pops compress` polishes the others "
            "itself; --effort thorough does so longer."
        )


def _improved(polish: _Polish, steps: int) -> NumpyPolicy:
    """The student after polish, if it returns more.

    Raises:
        GateFailed: if it does not.
    """
    manifest, lesson, tracker = polish.run.manifest, polish.lesson, polish.tracker
    config = ReinforceConfig(steps)
    before = Candidate("student", polish.student.arch, polish.student.parameters)
    watch = tracked(tracker, config, before.arch.num_parameters)

    def segment(name: str, make: Callable[[], StageResult]) -> StageResult:
        return polish.journal.stage(f"reinforce/{name}", make)

    # A student that is polished twice must not meet the same games again.
    key = (8, int(sha256_file(polish.run.path / "student.safetensors")[:8], 16))
    learnt = reinforce(before, lesson, config, _images(polish), key, watch, segment)
    seeds = screening_seeds(manifest["seed"], COMPARED_EPISODES, COMPARED_BLOCK)

    def compare() -> StageResult:
        after = better(before, learnt, lesson, seeds, polish.pool)
        return candidate_to(after, lesson)

    after = candidate_from(polish.journal.stage("reinforced", compare), "candidate")
    if after.name == before.name:
        raise GateFailed(
            f"The student does not get better by {steps:,} steps of polish: it returns "
            f"{after.mean:.2f} on {COMPARED_EPISODES} screening episodes as it was, and not more "
            f"afterwards. {polish.run.path} stays as it is; give more --steps and another folder."
        )
    tracker.say(f"polish: returns {after.mean:.2f} on {COMPARED_EPISODES} screening episodes")
    return after.policy(lesson)


def _images(polish: _Polish) -> FloatArray:
    """Network inputs from all over the run's calibration states."""
    states = polish.run.states()
    return polish.student.spec.preprocess(states[spread_rows(len(states))])


def _gated(polish: _Polish, policy: NumpyPolicy) -> Look:
    polish.tracker.begin("gate")

    def make() -> StageResult:
        look = look_at_gate(polish.run, policy, polish.env, polish.pool)
        return StageResult(
            {
                "record": look.record,
                "teacher": look.teacher,
                "student": look.student,
                "beside": look.beside,
            }
        )

    facts: dict[str, Any] = polish.journal.stage("gate", make).facts
    look = Look(facts["record"], facts["teacher"], facts["student"], facts["beside"])
    verdict = look.verdict
    polish.tracker.record(
        "gate",
        num_parameters=policy.arch.num_parameters,
        **{key: verdict[key] for key in ("passed", "mean_drop", "lower_bound", "margin")},
    )
    polish.tracker.say(f"gate: {verdict['reason']}")
    return look
