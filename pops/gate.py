"""The gate: is the student provably no worse than its teacher?

A paired non-inferiority test. Teacher and student play the same episode seeds;
the one-sided 95 % percentile bootstrap bound of mean(student - teacher) must
not lie below -margin (Efron and Tibshirani, An Introduction to the Bootstrap,
chapter 13).
"""

from __future__ import annotations

import math
from dataclasses import asdict, dataclass
from statistics import NormalDist
from typing import Any

import numpy as np

from pops.errors import GateFailed, PopsError
from pops.evaluate import EvalResult

RESAMPLES = 10_000
BOOTSTRAP_SEED = 20_200_101
ENOUGH_TRAJECTORIES = 50
"""Different trajectories that the gate wants to see, or half of the episodes if those are fewer."""

WORTHWHILE = 100
"""Times as many episodes, beyond which more of them are not worth advising."""
ENOUGH_POWER = 0.8
"""How often a student as good as its teacher should pass."""


@dataclass(frozen=True)
class Verdict:
    """What the gate found, in the environment's units of return."""

    passed: bool
    mean_drop: float
    """mean(teacher - student); negative where the student is better."""
    lower_bound: float
    """One-sided lower confidence bound of mean(student - teacher)."""
    margin: float
    reason: str
    distinct: int | None = None
    """Different trajectories among the episodes, the teacher's or the student's, the fewer."""

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dictionary."""
        return asdict(self)


def margin(teacher: EvalResult, random: EvalResult, max_drop: float = 0.05) -> float:
    """How much worse is still "no worse": min(max_drop·(T - R), half the teacher's deviation).

    A teacher without variance thereby asks for its own return, exactly.
    """
    return max(0.0, min(max_drop * (teacher.mean - random.mean), 0.5 * teacher.std))


def enough_episodes(
    deviation: float, allowed: float, alpha: float, power: float = ENOUGH_POWER
) -> int:
    """Paired episodes of a gate that a student exactly as good as its teacher passes.

    n = ((z_(1-alpha) + z_power)·deviation / allowed)², by the normal approximation (Julious 2004,
    Sample sizes for clinical trials with Normal data, Statistics in Medicine 23).

    Args:
        deviation: standard deviation of one pair's difference, in units of return.
        allowed: how far below zero the bound may lie: the margin, less what is known to be lost.
        alpha: the gate's error level.
        power: how often such a student is to pass.

    Returns:
        The smallest such number, at least 1.

    Raises:
        ValueError: if nothing is allowed.
    """
    if allowed <= 0:
        raise ValueError("no number of episodes is enough where nothing may be lost")
    z = NormalDist().inv_cdf
    return max(1, math.ceil(((z(1 - alpha) + z(power)) * deviation / allowed) ** 2))


def too_few_episodes(teacher: EvalResult, margin: float, alpha: float, episodes: int) -> str | None:
    """What to say before any work where a gate may well fail a student that is no worse.

    At worst the student's choices soon lead elsewhere, so that of a pair only the seed is the same
    and the difference has twice the variance of the teacher's returns.
    """
    if margin <= 0:
        return None
    enough = enough_episodes(math.sqrt(2) * teacher.std, margin, alpha)
    if enough <= episodes:
        return None
    return (
        f"returns vary so much that a gate of {episodes:,} episodes may fail a student that is as "
        f"good as its teacher; --episodes {enough} would pass it four times of five, fewer if the "
        "two play much alike"
    )


def needed_trajectories(episodes: int) -> int:
    """How many of `episodes` have to differ for the gate to have seen anything new."""
    return min(ENOUGH_TRAJECTORIES, -(-episodes // 2))


def _too_alike(distinct: int, episodes: int) -> str:
    return (
        f"Only {distinct} of {episodes} episodes differ from each other, expected "
        f"{needed_trajectories(episodes)} at least: a policy without chance in an environment "
        "with hardly any repeats what training has seen, which proves nothing. Give the "
        "environment more chance, as --env-kwargs repeat_action_probability=0.25 does for Atari."
    )


def check_teacher(teacher: EvalResult, random: EvalResult) -> None:
    """Refuse a teacher that is not clearly better than random actions.

    Raises:
        PopsError: if T - R is under three standard errors of the difference.
        GateFailed: if its episodes are too much alike for any gate to pass.
    """
    error = np.hypot(
        teacher.std / np.sqrt(len(teacher.seeds)), random.std / np.sqrt(len(random.seeds))
    )
    difference = teacher.mean - random.mean
    if difference <= 0 or difference < 3 * error:
        raise PopsError(
            f"The teacher's mean return is {teacher.mean:.2f} and a random policy's is "
            f"{random.mean:.2f} (three standard errors: {3 * error:.2f}); expected a teacher that "
            "is clearly better than random. Check --env, --env-kwargs and --vecnormalize, or "
            "train the teacher further. A policy that needs to sample its actions may do better "
            "with --stochastic."
        )
    if teacher.distinct is not None and teacher.distinct < needed_trajectories(len(teacher.seeds)):
        raise GateFailed(_too_alike(teacher.distinct, len(teacher.seeds)))


def lower_bound(differences: np.ndarray[Any, Any], alpha: float) -> float:
    """One-sided percentile bootstrap bound of the mean at level `alpha`.

    Differences that are all equal have no bootstrap distribution (BCa gives
    NaN there): the bound is their mean.
    """
    if np.ptp(differences) == 0:
        return float(differences[0])
    from scipy.stats import bootstrap

    interval = bootstrap(
        (differences,),
        np.mean,
        confidence_level=1 - alpha,
        alternative="greater",
        method="percentile",
        n_resamples=RESAMPLES,
        batch=1000,
        rng=np.random.default_rng(BOOTSTRAP_SEED),
    ).confidence_interval
    return float(interval.low)


def judge(student: EvalResult, teacher: EvalResult, margin: float, alpha: float = 0.05) -> Verdict:
    """Judge a student against its teacher on the same episode seeds.

    Raises:
        PopsError: if the two were not evaluated on the same seeds.
    """
    if student.seeds != teacher.seeds:
        raise PopsError("The gate compares episodes pair by pair; the seeds differ.")
    differences = student.returns - teacher.returns
    bound = lower_bound(differences, alpha)
    drop = float(np.mean(-differences))
    passed = bool(bound >= -margin)
    episodes = len(student.seeds)
    relation = "within" if passed else "below"
    allowed = f"the {-margin:.2f} that is allowed" if margin else "no difference at all, as allowed"
    reason = (
        f"On {episodes} paired episodes the student returned {student.mean:.2f}, the teacher "
        f"{teacher.mean:.2f}; with {100 * (1 - alpha):.4g} % confidence the difference is no "
        f"lower than {bound:+.2f}, {relation} {allowed}."
    )
    if not passed and drop < margin:
        enough = enough_episodes(float(differences.std(ddof=1)), margin - drop, alpha)
        if enough <= WORTHWHILE * episodes:
            reason += f" {episodes} episodes are too few to tell: about {enough:,} would."
    known = [n for n in (student.distinct, teacher.distinct) if n is not None]
    distinct = min(known) if known else None
    if distinct is not None and distinct < needed_trajectories(episodes):
        return Verdict(False, drop, bound, margin, _too_alike(distinct, episodes), distinct)
    return Verdict(passed, drop, bound, margin, reason, distinct)
