"""Every environment step of a compression is counted, wherever it was played."""

import numpy as np
import pytest
from core_cases import steer_teacher, tiny
from core_envs import Steer

from pops.errors import EnvironmentFailure
from pops.evaluate import play
from pops.metered import metered, report_steps, with_steps
from pops.pipeline import compress
from pops.workers import Workers

PROBES = 3 * Steer.STEPS
"""Episodes of `reset_is_like_new`, which judge the environment and no policy."""


class Counted(Steer):
    played = 0

    def step(self, action):
        Counted.played += 1
        return super().step(action)


def counted():
    return Counted()


def test_a_compression_tells_the_steps_that_its_environment_was_asked_for(tmp_path):
    Counted.played = 0
    manifest = compress(steer_teacher(), counted, tmp_path / "run", tiny(), workers=1).manifest
    assert len(manifest["iterations"]) >= 1
    assert {"search", "iteration"} <= {rung["stage"] for rung in manifest["ladder"]}
    assert manifest["environment_steps"] == Counted.played - PROBES


def test_the_count_does_not_depend_on_the_workers_nor_on_resuming(tmp_path):
    one = compress(steer_teacher(), counted, tmp_path / "one", tiny(), workers=1).manifest
    two = compress(steer_teacher(), counted, tmp_path / "two", tiny(), workers=2).manifest
    (tmp_path / "two" / "manifest.json").unlink()
    again = compress(
        steer_teacher(), counted, tmp_path / "two", tiny(), workers=2, resume=True
    ).manifest
    assert one["environment_steps"] == two["environment_steps"] == again["environment_steps"]


def test_steps_played_in_other_processes_reach_all_the_work_under_way():
    seeds = [(steer_teacher(), counted, range(i, i + 3)) for i in range(4)]
    with metered() as outer, Workers(2) as workers:
        with metered() as inner:
            results = workers.map(play, seeds)
        report_steps(5)
    lengths = sum(int(result.lengths.sum()) for result in results)
    assert lengths == 4 * 3 * Steer.STEPS
    assert (inner.steps, outer.steps) == (lengths, lengths + 5)
    assert with_steps(np.add, 1, 2) == (3, 0)


def test_what_failed_no_longer_counts_for_later_work():
    class Raises(Steer):
        def step(self, action):
            raise ZeroDivisionError("the world ended")

    with pytest.raises(EnvironmentFailure), metered() as failed:
        play(steer_teacher(), Raises, range(2))
    assert failed.steps == 2
    result, steps = with_steps(play, steer_teacher(), counted, range(2))
    assert steps == int(result.lengths.sum()) == 2 * Steer.STEPS
    assert failed.steps == 2
