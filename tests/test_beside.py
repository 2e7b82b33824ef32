"""A student that would pass may fail in the variant that is reported beside."""

import dataclasses
from types import SimpleNamespace

import numpy as np
import pytest
from test_pixels import DRIFT, drift_teacher
from test_reinforce import beginner

from pops.artifact import read_json
from pops.beside import SCREENING_EPISODES, holds_beside
from pops.candidate import Candidate
from pops.config import CompressConfig
from pops.envs import EnvSource
from pops.evaluate import evaluate_random
from pops.journal import Journal
from pops.seeds import screening_seeds
from pops.workers import Workers

LONGER = dataclasses.replace(DRIFT, beside={"falls": 6})


def holds(root, said: list[str], env: EnvSource, candidate: Candidate, max_drop=0.05) -> bool:
    with Workers(1) as workers:
        state = SimpleNamespace(
            journal=Journal(root, {}, resume=root.exists(), overwrite=False),
            tracker=SimpleNamespace(say=said.append),
            workers=workers,
            config=CompressConfig(max_drop=max_drop),
            origin=SimpleNamespace(behaviour=drift_teacher()),
            env=env,
            random_result=evaluate_random(DRIFT, range(20), workers),
            lesson=SimpleNamespace(spec=drift_teacher().spec),
            played={},
        )
        return holds_beside(state, candidate)


def test_as_good_as_the_teacher_holds(tmp_path):
    teacher = drift_teacher()
    copy = Candidate("copy", teacher.arch, teacher.parameters)
    said: list[str] = []
    assert holds(tmp_path / "run", said, LONGER, copy)
    assert said == []
    facts = [read_json(tmp_path / "run/beside" / n / "facts.json") for n in ("teacher", "01")]
    seeds = list(screening_seeds(0, SCREENING_EPISODES, 4))
    assert facts[0]["result"] == facts[1]["result"]
    assert facts[0]["result"]["seeds"] == seeds
    assert max(facts[0]["result"]["returns"]) == 6.0  # four falls in the environment itself


@pytest.mark.parametrize(("max_drop", "expected"), [(0.05, False), (0.9, True)])
def test_what_loses_more_than_may_be_lost_does_not_hold(tmp_path, max_drop, expected):
    said: list[str] = []
    assert holds(tmp_path / "run", said, LONGER, beginner(), max_drop) is expected
    student, teacher = (
        np.mean(read_json(tmp_path / "run/beside" / name / "facts.json")["result"]["returns"])
        for name in ("01", "teacher")
    )
    assert 0 < student < 5 < teacher
    told = f"polish: returns {student:.2f} under {{'falls': 6}}, where its teacher returns "
    assert said == ([] if expected else [f"{told}{teacher:.2f}"])


def test_it_is_played_once(tmp_path):
    said: list[str] = []
    first = holds(tmp_path / "run", said, LONGER, beginner())
    before = (tmp_path / "run/beside/01/facts.json").read_bytes()
    assert holds(tmp_path / "run", said, LONGER, beginner()) is first
    assert (tmp_path / "run/beside/01/facts.json").read_bytes() == before
    assert said[0] == said[1]


def test_without_a_variant_nothing_is_played(tmp_path):
    assert holds(tmp_path / "run", [], DRIFT, beginner())
    assert not (tmp_path / "run/beside").exists()
