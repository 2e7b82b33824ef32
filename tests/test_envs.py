"""Environments by id, wrappers by name, and what is said when they cannot be had."""

import gymnasium as gym
import numpy as np
import pytest
from core_cases import STEER
from gymnasium import spaces

from pops.envs import make_env, reset_is_like_new, sample_action
from pops.errors import EnvironmentFailure
from pops.spec import EnvSpec


def first_return(spec):
    env = make_env(spec)
    env.reset(seed=1)
    return env.step(0)[1]


def test_module_and_id_kwargs_and_wrappers():
    plain = first_return(STEER)
    assert first_return(EnvSpec(STEER.id, {"gain": 2.0})) != plain
    doubled = EnvSpec(STEER.id, wrappers=("core_envs:DoubleReward",))
    assert first_return(doubled) == 2 * plain
    twice = EnvSpec(STEER.id, wrappers=("core_envs:DoubleReward",) * 2)
    assert first_return(twice) == 4 * plain


def test_frames_are_stacked_on_zeros():
    env = make_env(EnvSpec(STEER.id, frame_stack=3))
    first, _ = env.reset(seed=1)
    assert first.shape == env.observation_space.shape == (9,)
    assert not first[:6].any()
    second, *_ = env.step(1)
    np.testing.assert_array_equal(second[3:6], first[6:])
    assert not env.reset(seed=2)[0][:6].any()


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (EnvSpec("NoSuchThing-v0"), ["'NoSuchThing-v0'", "not registered", "module:Id"]),
        (EnvSpec("no_such_module:Steer-v0"), ["no_such_module"]),
        (EnvSpec("core_envs:NoSuchThing-v0"), ["NoSuchThing", "not registered"]),
        (EnvSpec("core_envs:NeedsPackage-v0"), ["a_package_that_nobody_has", "pip install"]),
        (EnvSpec(STEER.id, wrappers=("core_envs:DoubleReward,a",)), ["module:Class,key=value"]),
        (EnvSpec(STEER.id, wrappers=("core_envs:DoubleReward,a=1",)), ["cannot wrap", "'a'"]),
        (EnvSpec(STEER.id, wrappers=("builtins:print,sep=x",)), ["no gymnasium.Wrapper"]),
        (EnvSpec("CartPole-v1", {"gravity_of": 3}), ["gravity_of", "--env-kwargs"]),
        (EnvSpec(STEER.id, wrappers=("core_envs.DoubleReward",)), ["module:Class"]),
        (EnvSpec(STEER.id, wrappers=("core_envs:Nothing",)), ["core_envs:Nothing", "imported"]),
        (EnvSpec(STEER.id, wrappers=("no_module:Nothing",)), ["no_module:Nothing", "imported"]),
        (EnvSpec(STEER.id, wrappers=("builtins:int",)), ["builtins:int", "cannot wrap"]),
        (EnvSpec("FrozenLake-v1", frame_stack=2), ["cannot be stacked"]),
        (lambda: 1 / 0, ["ZeroDivisionError"]),
    ],
)
def test_what_cannot_be_made_is_explained(spec, words):
    with pytest.raises(EnvironmentFailure) as caught:
        make_env(spec)
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("name", "expected"),
    [("Steer", True), ("Glide", True), ("KeepsState", False), ("Raises", False)],
)
def test_the_probe_finds_environments_that_keep_state(name, expected):
    assert reset_is_like_new(EnvSpec(f"core_envs:{name}-v0")) is expected


def test_sampled_actions_lie_in_the_space():
    rng = np.random.default_rng(0)
    discrete = spaces.Discrete(3, start=4)
    assert {sample_action(discrete, rng) for _ in range(100)} == {4, 5, 6}
    box = spaces.Box(np.float32([-1, 5]), np.float32([0, 6]))
    for _ in range(50):
        action = sample_action(box, rng)
        assert box.contains(action)


@pytest.mark.parametrize(
    "space",
    [
        spaces.MultiDiscrete([2, 2]),
        spaces.MultiBinary(2),
        spaces.Box(-np.inf, np.inf, (1,)),
        spaces.Dict({"a": spaces.Discrete(2)}),
    ],
)
def test_other_action_spaces_are_refused_in_words(space):
    with pytest.raises(EnvironmentFailure, match="not supported"):
        sample_action(space, np.random.default_rng(0))


def test_a_function_may_make_the_environment():
    env = make_env(lambda: gym.make("CartPole-v1"))
    assert env.spec.id == "CartPole-v1"
