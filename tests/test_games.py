"""Games(): several environments to a process, the same as all of them in one."""

import dataclasses
import functools
import os
import signal

import numpy as np
import pytest
from stable_baselines3.common.monitor import Monitor
from stable_baselines3.common.vec_env import DummyVecEnv
from test_pixels import DRIFT

from pops.envs import make_env
from pops.errors import EnvironmentFailure
from pops.games import Games
from pops.spec import EnvSpec
from pops.train.checked import CheckedEnv


def makers(count: int, env: EnvSpec = DRIFT):
    return [lambda: CheckedEnv(make_env(env), env.id)] * count


@pytest.fixture
def games():
    opened = Games(makers(5), 2)
    yield opened
    opened.close()


def test_it_plays_as_one_process_does(games):
    together = DummyVecEnv(makers(5))
    rng = np.random.default_rng(0)
    for one in (games, together):
        one.seed(7)
    assert np.array_equal(games.reset(), together.reset())
    dones = 0
    for _ in range(90):  # an episode has 40 steps
        actions = rng.integers(0, 3, 5)
        (seen, *mine), (expected, *theirs) = games.step(actions), together.step(actions)
        assert np.array_equal(seen, expected)
        assert seen.dtype == expected.dtype
        assert np.array_equal(mine[0], theirs[0])
        assert np.array_equal(mine[1], theirs[1])
        dones += int(mine[1].sum())
        for one, other in zip(mine[2], theirs[2]):
            assert one.keys() == other.keys()
            for key in one:
                assert np.array_equal(one[key], other[key])
    assert dones == 10
    assert games.reset_infos == together.reset_infos
    # Seeds are for one reset; the next goes on with each environment's own random numbers.
    assert np.array_equal(games.reset(), together.reset())


def test_attributes_are_those_of_the_environments_asked_for(games):
    games.reset()
    assert games.get_attr("render_mode") == [None] * 5
    games.set_attr("mark", "here", indices=[3, 1])
    marked = games.env_method("has_wrapper_attr", "mark")
    assert marked == [False, True, False, True, False]
    assert games.get_attr("mark", [3]) == ["here"]
    assert games.env_is_wrapped(CheckedEnv) == [True] * 5
    assert games.env_is_wrapped(Monitor, indices=[4, 0]) == [False, False]


@pytest.mark.parametrize("processes", [1, 3])
def test_more_processes_than_environments_are_not_started(processes):
    opened = Games(makers(2), processes)
    assert len(opened._processes) == min(processes, 2)
    assert opened.reset().shape == (2, 12, 12, 2)
    opened.close()


def play(games: Games, steps: int) -> None:
    for _ in range(steps):
        games.step(np.ones(games.num_envs, int))


def test_what_an_environment_raises_is_said():
    broken = dataclasses.replace(DRIFT, wrappers=("test_reinforce:Breaks",))
    opened = Games(makers(3, broken), 2)
    opened.reset()
    with pytest.raises(EnvironmentFailure, match="raised OSError: the cable is out, at step 19"):
        play(opened, 200)
    opened.close()
    with pytest.raises(EnvironmentFailure, match="Nowhere"):
        Games(makers(2, EnvSpec("Nowhere-v0")), 2)


def test_a_process_that_is_killed_is_said(games):
    games.reset()
    os.kill(games._processes[1].pid, signal.SIGKILL)
    with pytest.raises(EnvironmentFailure, match="A process that steps environments ended"):
        play(games, 3)


def test_closing_ends_the_processes():
    opened = Games([functools.partial(make_env, DRIFT)] * 4, 2)
    opened.reset()
    opened.step_async(np.ones(4, int))  # what was begun is not waited for
    processes = list(opened._processes)
    opened.close()
    assert [process.is_alive() for process in processes] == [False, False]
    opened.close()
