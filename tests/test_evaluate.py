"""Evaluation: an episode is its seed, whoever plays beside it."""

import threading

import gymnasium as gym
import numpy as np
import pytest
from core_cases import (
    CARTPOLE,
    GLIDE,
    STEER,
    cartpole_teacher,
    glide_teacher,
    random_policy,
    steer_teacher,
)
from core_envs import Steer

from pops.arch import NetArch
from pops.envs import make_env
from pops.errors import EnvironmentFailure, PopsError
from pops.evaluate import EvalResult, evaluate, evaluate_random, join, play, play_random
from pops.spec import ContinuousActions, DiscreteActions, EnvSpec, PolicySpec
from pops.workers import Workers


def plain_loop(policy, env_id, seeds, new_each_time=False):
    """One environment, one observation at a time, no code of ours but the forward pass."""
    env, returns, lengths = gym.make(env_id), [], []
    for seed in seeds:
        if new_each_time:
            env = gym.make(env_id)
        observation, _ = env.reset(seed=int(seed))
        total, steps, done = 0.0, 0, False
        while not done:
            action = policy.act(observation[None])[0]
            action = int(action) if isinstance(env.action_space, gym.spaces.Discrete) else action
            observation, reward, terminated, truncated, _ = env.step(action)
            total, steps, done = total + float(reward), steps + 1, terminated or truncated
        returns.append(total)
        lengths.append(steps)
    env.close()
    return returns, lengths


def lunar_policy():
    spec = PolicySpec((8,), DiscreteActions(4), "logits")
    return random_policy(NetArch((8,), 4, (16,), ("tanh",)), spec, seed=3, scale=3)


def pendulum_policy():
    spec = PolicySpec((3,), ContinuousActions((-2.0,), (2.0,)), "mean")
    return random_policy(NetArch((3,), 1, (16,), ("tanh",)), spec, seed=1, scale=3)


def bad_cartpole_policy():
    spec = PolicySpec((4,), DiscreteActions(2), "q_values")
    return random_policy(NetArch((4,), 2, (64, 64), ("relu", "relu")), spec, seed=2)


CASES = {
    "CartPole-v1": (bad_cartpole_policy, 30),
    "LunarLander-v3": (lunar_policy, 6),
    "Pendulum-v1": (pendulum_policy, 6),
}


@pytest.mark.parametrize("env_id", CASES)
def test_it_agrees_with_a_plain_loop_episode_by_episode_exactly(env_id):
    make, episodes = CASES[env_id]
    policy = make()
    seeds = range(10_000, 10_000 + episodes)
    result = evaluate(policy, EnvSpec(env_id), seeds)
    returns, lengths = plain_loop(policy, env_id, seeds)
    assert result.returns.tolist() == returns
    assert result.lengths.tolist() == lengths
    assert result.seeds == tuple(seeds)
    assert len(set(returns)) > 3


def test_the_hand_made_cartpole_teacher_balances_throughout():
    result = evaluate(cartpole_teacher(), CARTPOLE, range(10))
    assert result.returns.tolist() == [500.0] * 10
    assert result.lengths.tolist() == [500] * 10
    assert result.std == 0.0


@pytest.mark.parametrize("side_by_side", [1, 3, 7, 50])
def test_it_does_not_depend_on_how_many_play_side_by_side(side_by_side):
    policy = bad_cartpole_policy()
    seeds = [5, 3, 99, 7, 11, 2, 1]
    expected = evaluate(policy, CARTPOLE, seeds, side_by_side=1)
    result = evaluate(policy, CARTPOLE, seeds, side_by_side=side_by_side)
    assert result.seeds == tuple(seeds)
    assert result.returns.tobytes() == expected.returns.tobytes()
    assert result.lengths.tobytes() == expected.lengths.tobytes()


def test_it_does_not_depend_on_the_workers():
    seeds = range(7)
    one = evaluate(glide_teacher(), GLIDE, seeds, workers=1)
    two = evaluate(glide_teacher(), GLIDE, seeds, workers=2)
    more = evaluate(glide_teacher(), lambda: make_env(GLIDE), seeds, workers=2)
    assert one.seeds == two.seeds == more.seeds == tuple(seeds)
    assert one.returns.tobytes() == two.returns.tobytes() == more.returns.tobytes()
    assert one.lengths.tobytes() == two.lengths.tobytes()


def test_random_play_is_a_function_of_the_seeds():
    for env in (STEER, GLIDE):
        first, second = play_random(env, range(8)), play_random(env, range(8))
        assert first.returns.tobytes() == second.returns.tobytes()
        assert play_random(env, [3]).returns[0] == first.returns[3]
        with Workers(2) as workers:
            divided = evaluate_random(env, range(8), workers)
        assert divided.returns.tobytes() == first.returns.tobytes()
        assert divided.seeds == first.seeds


def test_an_environment_that_keeps_state_gets_a_new_one_for_each_episode():
    env, policy = EnvSpec("core_envs:KeepsState-v0"), steer_teacher()
    seeds = [4, 4, 4, 9, 4]
    result = evaluate(policy, env, seeds, side_by_side=2)
    assert len(set(result.returns[[0, 1, 2, 4]])) == 1
    expected, _ = plain_loop(policy, env.id, seeds, new_each_time=True)
    assert result.returns.tolist() == expected
    kept, _ = plain_loop(policy, env.id, seeds)
    assert len(set(kept)) == 5


@pytest.mark.parametrize(
    ("name", "what", "step", "workers"),
    [
        ("Raises", "raised ZeroDivisionError: the world ended", 3, 1),
        ("Raises", "raised ZeroDivisionError: the world ended", 3, 2),
        ("NaNReward", "returned a reward that is not finite", 4, 1),
        ("NaNObservation", "returned an observation that is not finite", 5, 1),
        ("RaisesAtReset", "raised OSError: no simulator", 0, 1),
    ],
)
def test_an_environment_that_misbehaves_is_named_with_seed_and_step(name, what, step, workers):
    with pytest.raises(EnvironmentFailure) as caught:
        evaluate(steer_teacher(), EnvSpec(f"core_envs:{name}-v0"), [77, 78], workers)
    text = str(caught.value)
    assert f"{name}-v0 {what}" in text
    assert f"seed 77, step {step})" in text


@pytest.mark.parametrize("size", [3, 40])
@pytest.mark.parametrize(
    ("values", "is_finite"),
    [
        ((1e308, 1e308), True),  # their sum is not
        ((np.inf, -np.inf), False),
        ((np.nan, 0.0), False),
    ],
)
def test_every_number_of_an_observation_is_looked_at(size, values, is_finite):
    class Shows(Steer):
        def observation(self):
            shown = np.zeros(size)
            shown[: len(values)] = values
            return shown

    class Idle:
        def act(self, observations):
            return np.ones(len(observations), np.int64)

    if is_finite:
        assert play(Idle(), Shows, [0]).lengths.tolist() == [Steer.STEPS]
    else:
        with pytest.raises(EnvironmentFailure, match="an observation that is not finite"):
            play(Idle(), Shows, [0])


def test_successes_are_counted_where_the_environment_reports_them():
    result = play(steer_teacher(), EnvSpec("core_envs:Succeeds-v0"), [0, 1, 2, 4])
    assert result.successes.tolist() == [True, False, True, True]
    assert result.to_json(1)["success_rate"] == 0.75
    assert play(steer_teacher(), STEER, [0]).successes is None


def test_the_json_keys_and_their_values():
    result = EvalResult((5, 6, 7, 8), np.array([1.0, 2.0, 3.0, 6.0]), np.array([10, 20, 30, 40]))
    assert result.to_json(58, returns=True) == {
        "episodes": 4,
        "seed": 5,
        "mean": 3.0,
        "std": np.sqrt(3.5),
        "min": 1.0,
        "max": 6.0,
        "mean_length": 25.0,
        "worst_5_percent": 1.0,
        "num_parameters": 58,
        "returns": [1.0, 2.0, 3.0, 6.0],
    }
    assert "returns" not in result.to_json(58)


def test_the_worst_twentieth():
    returns = np.arange(40.0)[::-1].copy()
    assert EvalResult(tuple(range(40)), returns, returns).worst_5_percent == 0.5


def test_joining_keeps_the_order():
    parts = [play(steer_teacher(), STEER, seeds) for seeds in ([1, 2], [9])]
    whole = play(steer_teacher(), STEER, [1, 2, 9])
    assert join(parts).seeds == (1, 2, 9)
    assert join(parts).returns.tobytes() == whole.returns.tobytes()


def test_what_cannot_reach_the_workers_is_explained():
    lock = threading.Lock()

    def make():
        with lock:
            return make_env(STEER)

    assert evaluate(steer_teacher(), make, range(2)).seeds == (0, 1)
    with pytest.raises(PopsError, match="picklable"):
        evaluate(steer_teacher(), make, range(2), workers=2)


def test_trajectories_are_told_apart_whoever_plays_them():
    teacher = steer_teacher()
    together = evaluate(teacher, STEER, range(30))
    assert together.distinct == 30
    again = evaluate(teacher, STEER, range(30), side_by_side=1)
    np.testing.assert_array_equal(again.trajectories, together.trajectories)
    shared = evaluate(teacher, STEER, range(30), 2)
    np.testing.assert_array_equal(shared.trajectories, together.trajectories)
    assert together.to_json(1)["distinct_trajectories"] == 30
    alike = evaluate(teacher, EnvSpec("core_envs:SameAlways-v0"), range(30))
    assert alike.distinct == 1
