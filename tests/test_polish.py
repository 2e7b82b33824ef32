"""Polish by return: better or as it was, and the same whoever plays."""

import dataclasses

import numpy as np
import pytest
from core_cases import STEER, random_policy, steer_teacher

from pops.arch import NetArch
from pops.candidate import Candidate
from pops.config import DistillConfig, PolishConfig
from pops.distill import Lesson
from pops.evaluate import evaluate
from pops.polish import flatten, polish, unflatten
from pops.weights import Scaling
from pops.workers import Workers

CONFIG = PolishConfig(generations=6, episodes=3)
VALIDATION = range(900, 920)


def lesson():
    teacher = steer_teacher()
    scaling = Scaling(np.array([0.1, 0.0, 0.0]), np.array([0.5, 0.4, 0.6]))
    return Lesson(teacher, STEER, 1.0, DistillConfig(), 0, scaling=scaling)


def start():
    arch = NetArch((3,), 3)
    policy = random_policy(arch, steer_teacher().spec, seed=4)
    return Candidate("start", arch, policy.parameters)


def polished(workers=1, config=CONFIG, satisfied=19.0, candidate=None):
    seen = []

    def seeds(generation):
        seen.append(generation)
        return range(100 * generation, 100 * generation + config.episodes)

    with Workers(workers) as pool:
        result = polish(
            candidate or start(),
            lesson(),
            config,
            pool,
            satisfied=satisfied,
            generation_seeds=seeds,
            validation_seeds=VALIDATION,
            key=(4, 0),
        )
    return result, seen


def test_a_vector_and_back():
    parameters = start().parameters
    vector = flatten(parameters)
    assert vector.shape == (12,)
    for (w, b), (x, c) in zip(parameters, unflatten(vector, parameters)):
        assert w.tobytes() == x.tobytes()
        assert b.tobytes() == c.tobytes()


def test_a_poor_student_gets_better():
    before = evaluate(start().policy(lesson()), STEER, VALIDATION).mean
    result, seen = polished()
    assert result.mean > before + 1.0
    assert result.name == "start+polish"
    assert result.result.seeds == tuple(VALIDATION)
    assert result.mean == evaluate(result.policy(lesson()), STEER, VALIDATION).mean
    assert seen == list(range(len(seen)))


@pytest.mark.slow
def test_it_is_deterministic_and_independent_of_the_workers():
    (one, _), (two, _) = polished(), polished(workers=2)
    assert all(a[0].tobytes() == b[0].tobytes() for a, b in zip(one.parameters, two.parameters))
    assert one.result.returns.tobytes() == two.result.returns.tobytes()


def test_it_stops_when_the_population_is_satisfied():
    _, seen = polished(satisfied=-1e9)
    assert seen == [0]


def test_what_does_not_get_better_is_given_back_as_it_was():
    teacher = steer_teacher()
    whole = Candidate("whole", teacher.arch, teacher.parameters)
    config = dataclasses.replace(CONFIG, generations=1, episodes=1)
    result, _ = polished(config=config, candidate=whole)
    assert result.mean >= evaluate(teacher, STEER, VALIDATION).mean
