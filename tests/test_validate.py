"""What predicts the gate: paired episodes resampled, rare disasters included."""

import dataclasses

import numpy as np
import pytest

from pops.evaluate import EvalResult
from pops.gate import judge, margin
from pops.validate import POWER, predicted_slack

SETTINGS = {"episodes": 100, "max_drop": 0.05, "alpha": 0.05}


def played(returns):
    returns = np.asarray(returns, np.float64)
    return EvalResult(tuple(range(len(returns))), returns, np.ones(len(returns), np.int64))


def test_a_perfect_student_of_a_teacher_without_variance_has_no_slack_and_needs_none():
    teacher = played(np.full(200, 500.0))
    assert predicted_slack(teacher, teacher, 20.0, **SETTINGS) == 0.0


def test_one_episode_in_two_hundred_lost_is_too_many_where_none_may_be_lost():
    """A gate of 100 meets it with a chance of four in ten; eight in ten have to pass."""
    returns = np.full(200, 500.0)
    returns[17] = 12.0
    teacher = played(np.full(200, 500.0))
    assert predicted_slack(played(returns), teacher, 20.0, **SETTINGS) < 0
    many = np.full(2000, 500.0)
    many[17] = 12.0  # one in two thousand: nineteen gates of twenty do not meet it
    assert predicted_slack(played(many), played(np.full(2000, 500.0)), 20.0, **SETTINGS) == 0.0


def test_the_margin_is_the_teachers_spread_or_the_drop_whichever_is_less():
    rng = np.random.default_rng(0)
    teacher = played(rng.normal(100, 4, 5000))
    same = predicted_slack(teacher, teacher, 0.0, **SETTINGS)
    assert same == pytest.approx(0.5 * 4, rel=0.1)  # half a deviation is less than 5 of 100
    wide = played(rng.normal(100, 40, 5000))
    assert predicted_slack(wide, wide, 0.0, **SETTINGS) == pytest.approx(5.0, rel=0.1)


@pytest.mark.parametrize("disasters", [0.0, 0.02])
def test_predicted_power_is_the_share_of_real_gates_that_pass(disasters):
    """Among students of every quality, those at a slack of 0 pass about four gates of five."""
    rng = np.random.default_rng(1)

    def teacher_and_student(count, drop):
        teacher = rng.normal(-73, 12, count)
        student = teacher - drop + rng.normal(0, 12, count)
        return played(teacher), played(np.where(rng.random(count) < disasters, -500, student))

    def slack(drop):
        teacher, student = teacher_and_student(20_000, drop)
        return predicted_slack(student, teacher, -500.0, **SETTINGS)

    low, high = -30.0, 10.0
    for _ in range(12):
        middle = (low + high) / 2
        low, high = (middle, high) if slack(middle) > 0 else (low, middle)
    random = played(np.full(3, -500.0))
    passed = 0
    for _ in range(150):
        teacher, student = teacher_and_student(100, low)
        passed += judge(student, teacher, margin(teacher, random, 0.05)).passed
    assert passed / 150 == pytest.approx(POWER, abs=0.12)


def test_a_stricter_level_leaves_less_slack():
    rng = np.random.default_rng(0)
    teacher, student = played(rng.normal(100, 9, 400)), played(rng.normal(99, 9, 400))
    strict = {**SETTINGS, "alpha": 0.0125}
    loose = predicted_slack(student, teacher, 0.0, **SETTINGS)
    assert predicted_slack(student, teacher, 0.0, **strict) < loose - 0.3
    shifted = dataclasses.replace(student, returns=student.returns + 1.0)
    assert predicted_slack(shifted, teacher, 0.0, **SETTINGS) == pytest.approx(loose + 1.0)
