"""The gate, on cases worked out by hand."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pops.errors import GateFailed, PopsError
from pops.evaluate import EvalResult
from pops.gate import check_teacher, enough_episodes, judge, lower_bound, margin, too_few_episodes


def result(returns, first_seed=0):
    returns = np.asarray(returns, np.float64)
    seeds = tuple(range(first_seed, first_seed + len(returns)))
    return EvalResult(seeds, returns, np.ones(len(returns), np.int64))


def test_the_margin_is_a_share_of_what_the_teacher_is_worth():
    teacher, random = result([100.0, 200.0, 300.0, 400.0]), result([50.0, 50.0])
    assert margin(teacher, random) == 0.05 * 200
    assert margin(teacher, random, max_drop=0.5) == 0.5 * np.std([100, 200, 300, 400])


def test_a_teacher_without_variance_asks_for_its_own_return_exactly():
    teacher, random = result([500.0] * 20), result([20.0] * 20)
    allowed = margin(teacher, random)
    assert allowed == 0.0
    assert judge(result([500.0] * 20), teacher, allowed).passed
    assert judge(result([501.0] * 20), teacher, allowed).passed
    one_short = judge(result([500.0] * 19 + [499.0]), teacher, allowed)
    assert not one_short.passed
    assert one_short.mean_drop == pytest.approx(0.05)
    assert one_short.lower_bound < 0


def test_differences_that_are_all_equal_have_their_mean_as_bound():
    teacher = result([1.0, 2.0, 3.0])
    verdict = judge(result([0.5, 1.5, 2.5]), teacher, margin=0.5)
    assert (verdict.lower_bound, verdict.mean_drop, verdict.passed) == (-0.5, 0.5, True)
    assert not judge(result([0.5, 1.5, 2.5]), teacher, margin=0.49).passed


def test_the_bound_is_the_percentile_of_resampled_means():
    # Of n = 2 paired differences {0, 1} the resampled mean is 0, ½, 1 with ¼, ½, ¼.
    differences = np.array([0.0, 1.0])
    assert lower_bound(differences, 0.05) == 0.0
    assert lower_bound(differences, 0.4) == 0.5
    # For many differences the bound approaches the normal one, mean - 1.645 standard errors.
    rng = np.random.default_rng(0)
    many = rng.normal(3.0, 2.0, 400)
    expected = many.mean() - 1.6449 * many.std() / 20
    assert lower_bound(many, 0.05) == pytest.approx(expected, abs=0.02)


def test_a_smaller_error_level_gives_a_lower_bound():
    differences = np.random.default_rng(1).normal(size=100)
    bounds = [lower_bound(differences, 0.05 / 2**look) for look in range(4)]
    assert bounds == sorted(bounds, reverse=True)
    assert len(set(bounds)) == 4


@settings(max_examples=25, deadline=None)
@given(st.lists(st.floats(-1e3, 1e3), min_size=3, max_size=30), st.floats(0, 100))
def test_the_verdict_follows_from_the_bound(differences, allowed):
    teacher = result(np.zeros(len(differences)))
    verdict = judge(result(differences), teacher, allowed)
    assert verdict.passed == (verdict.lower_bound >= -allowed)
    assert verdict.lower_bound <= np.mean(differences) + 1e-9
    assert verdict.mean_drop == pytest.approx(-np.mean(differences), abs=1e-9)
    assert judge(result(differences), teacher, allowed) == verdict


def test_the_reason_is_in_words_and_figures():
    teacher = result([10.0, 20.0, 30.0])
    passed, failed = judge(teacher, teacher, 1.0), judge(result([0.0, 0, 0]), teacher, 1.0)
    assert "On 3 paired episodes the student returned 20.00, the teacher 20.00" in passed.reason
    assert "within the -1.00" in passed.reason
    assert "below the -1.00" in failed.reason
    assert passed.to_json()["passed"] is True


def test_other_seeds_cannot_be_compared():
    with pytest.raises(PopsError, match="seeds differ"):
        judge(result([1.0, 2.0]), result([1.0, 2.0], first_seed=5), 1.0)


@pytest.mark.parametrize(
    ("teacher", "random"),
    [
        ([20.0] * 10, [20.0] * 10),
        ([19.0] * 10, [20.0] * 10),
        ([0.0, 100.0] * 5, [0.0, 60.0] * 5),
    ],
)
def test_a_teacher_that_is_not_clearly_better_than_random_is_refused(teacher, random):
    with pytest.raises(PopsError, match="clearly better than random"):
        check_teacher(result(teacher), result(random))


def test_a_teacher_three_standard_errors_better_is_taken():
    random = result([-1.0, 1.0] * 50)
    error = np.hypot(0.1, 0.1)
    check_teacher(result(np.array([-1.0, 1.0] * 50) + 3.01 * error), random)
    with pytest.raises(PopsError):
        check_teacher(result(np.array([-1.0, 1.0] * 50) + 2.99 * error), random)


def seen(distinct, episodes=100, mean=1.0):
    returns = np.full(episodes, mean)
    hashes = np.arange(episodes, dtype=np.uint32) % distinct
    return EvalResult(tuple(range(episodes)), returns, np.ones(episodes, np.int64), None, hashes)


@pytest.mark.parametrize(
    ("student", "teacher", "episodes", "passes"),
    [
        (50, 100, 100, True),
        (49, 100, 100, False),
        (100, 49, 100, False),
        (50, 50, 300, True),
        (10, 10, 20, True),
        (9, 20, 20, False),
    ],
)
def test_episodes_that_repeat_each_other_prove_nothing(student, teacher, episodes, passes):
    verdict = judge(seen(student, episodes), seen(teacher, episodes), margin=0.5)
    assert verdict.passed is passes
    assert verdict.distinct == min(student, teacher)
    assert verdict.to_json()["distinct"] == min(student, teacher)
    if not passes:
        assert f"Only {verdict.distinct} of {episodes} episodes differ" in verdict.reason


def test_a_teacher_whose_episodes_are_all_alike_is_refused_before_the_work():
    check_teacher(seen(60), result([0.0, 0.1] * 50))
    with pytest.raises(GateFailed, match="Only 3 of 100 episodes differ"):
        check_teacher(seen(3), result([0.0, 0.1] * 50))


def test_results_that_nobody_watched_are_judged_by_their_returns():
    verdict = judge(result([1.0, 2.0]), result([1.0, 2.0]), margin=0.0)
    assert verdict.passed
    assert verdict.distinct is None


def test_enough_episodes_pass_an_equal_student_four_times_of_five():
    enough = enough_episodes(deviation=30.0, allowed=4.0, alpha=0.05)
    assert enough == 348  # ((1.6449 + 0.8416)·30/4)² = 347.8
    rng = np.random.default_rng(3)
    bounds = [lower_bound(rng.normal(0.0, 30.0, enough), 0.05) for _ in range(300)]
    assert np.mean(np.asarray(bounds) >= -4.0) == pytest.approx(0.8, abs=0.06)
    with pytest.raises(ValueError):
        enough_episodes(30.0, 0.0, 0.05)


def test_a_teacher_that_varies_much_is_told_how_many_episodes_to_ask_for():
    teacher = result(np.tile([1000.0, 3000.0], 50))
    # √2·1000 against 85: ((1.6449 + 0.8416)·16.64)² = 1,711.4.
    said = too_few_episodes(teacher, margin=85.0, alpha=0.05, episodes=100)
    assert said is not None
    assert "--episodes 1712" in said
    assert too_few_episodes(teacher, margin=85.0, alpha=0.05, episodes=1712) is None
    assert too_few_episodes(result([500.0] * 9), margin=0.0, alpha=0.05, episodes=20) is None


def test_a_gate_that_is_too_small_says_how_large_it_should_be():
    rng = np.random.default_rng(4)
    teacher = result(rng.normal(100.0, 20.0, 50))
    student = result(teacher.returns + rng.normal(0.0, 20.0, 50))
    verdict = judge(student, teacher, margin=4.0)
    assert not verdict.passed
    assert verdict.mean_drop < 4.0
    spread = np.std(student.returns - teacher.returns, ddof=1)
    enough = enough_episodes(float(spread), 4.0 - verdict.mean_drop, 0.05)
    assert verdict.reason.endswith(f"50 episodes are too few to tell: about {enough:,} would.")
    worse = judge(result(teacher.returns - 30.0), teacher, margin=4.0)
    assert "too few" not in worse.reason
