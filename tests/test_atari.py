"""Atari: wrappers named in a spec, chance from the seed alone, failures in words."""

import dataclasses
import subprocess
import sys

import gymnasium as gym
import numpy as np
import pytest
from core_cases import random_policy

from pops.arch import Conv, NetArch
from pops.artifact import load_policy, read_json, save_policy
from pops.envs import make_env, reset_is_like_new
from pops.errors import EnvironmentFailure
from pops.evaluate import evaluate
from pops.spec import DiscreteActions, EnvSpec, Normaliser, PolicySpec
from pops.teacher.load import load_teacher
from pops.train.config import TrainConfig
from pops.train.loop import train

PONG = EnvSpec(
    "PongNoFrameskip-v4",
    {"repeat_action_probability": 0.25},
    ("pops.atari:AtariFrames", "pops.atari:OnlyActions,keep=NOOP+RIGHT+LEFT"),
    frame_stack=4,
    beside={"repeat_action_probability": 0.0},
)
SHORT = {"max_num_frames_per_episode": 600}


def pong_policy(env=PONG, seed=0):
    spec = PolicySpec(
        (84, 84, 4),
        DiscreteActions(3),
        "logits",
        "uint8",
        channels_last=True,
        normaliser=Normaliser((0.0,), (255.0,)),
        env=env,
    )
    arch = NetArch((4, 84, 84), 3, convs=(Conv(2, 8, 8), Conv(2, 3, 2)))
    return random_policy(arch, spec, seed, scale=3.0)


def frames(env, seed, actions):
    seen = [env.reset(seed=seed)[0]]
    rewards = []
    for action in actions:
        observation, reward, terminated, truncated, _ = env.step(action)
        seen.append(observation)
        rewards.append(reward)
        if terminated or truncated:
            break
    return np.stack(seen), rewards


def test_the_chain_is_stable_baselines3s():
    from stable_baselines3.common.atari_wrappers import AtariWrapper
    from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack

    def theirs():
        env = gym.make("PongNoFrameskip-v4", repeat_action_probability=0.25)
        return AtariWrapper(env, terminal_on_life_loss=False, clip_reward=False)

    mine = make_env(dataclasses.replace(PONG, wrappers=PONG.wrappers[:1]))
    stacked = VecFrameStack(DummyVecEnv([theirs]), 4)
    stacked.seed(5)
    expected = stacked.reset()
    observation, _ = mine.reset(seed=5)
    rng = np.random.default_rng(0)
    for _ in range(250):
        np.testing.assert_array_equal(observation, expected[0])
        action = int(rng.integers(6))
        observation, reward, *_ = mine.step(action)
        expected, rewards, _, _ = stacked.step(np.array([action]))
        assert reward == rewards[0]


def test_the_seed_fixes_everything_chance_included():
    assert reset_is_like_new(PONG)
    env, other = make_env(PONG), make_env(PONG)
    actions = [1, 2, 0] * 40
    first, rewards = frames(env, 3, actions)
    frames(env, 4, actions)
    again, same = frames(env, 3, actions)
    elsewhere, _ = frames(other, 3, actions)
    np.testing.assert_array_equal(first, again)
    np.testing.assert_array_equal(first, elsewhere)
    assert rewards == same
    assert first.shape == (121, 84, 84, 4)
    assert first.dtype == np.uint8


def test_actions_are_those_that_are_kept():
    env = make_env(PONG)
    assert env.action_space.n == 3
    env.reset(seed=1)
    row = {}
    for action in (1, 2):  # up ends near the top, down near the bottom
        for _ in range(30):
            observation, *_ = env.step(action)
        row[action] = int(np.argmax(observation[15:78, 74, -1] > 120))
    assert row[1] < 15 < row[2]


def test_without_chance_the_starts_leave_few_games():
    policy = pong_policy()
    plain = dataclasses.replace(PONG, kwargs={**SHORT}, beside={})
    sticky = dataclasses.replace(plain, kwargs={**PONG.kwargs, **SHORT})
    seeds = range(70)
    assert evaluate(policy, plain, seeds).distinct <= 30
    assert evaluate(policy, sticky, seeds).distinct >= 65


def test_an_evaluation_of_pixels_does_not_depend_on_what_plays_beside_it():
    env = dataclasses.replace(PONG, kwargs={**PONG.kwargs, **SHORT})
    together = evaluate(pong_policy(), env, range(4))
    for other in (
        evaluate(pong_policy(), env, range(4), 1, 1),
        evaluate(pong_policy(), env, range(4), 2),
    ):
        np.testing.assert_array_equal(other.trajectories, together.trajectories)
        np.testing.assert_array_equal(other.returns, together.returns)


def test_a_training_life_ends_an_episode_and_a_seed_begins_a_new_game():
    spec = EnvSpec(
        "BreakoutNoFrameskip-v4", {}, ("pops.atari:AtariFrames", "pops.atari:EpisodePerLife")
    )
    env = make_env(spec)
    first, _ = frames(env, 1, [0] * 10)
    env.reset(seed=2)
    ended = lives = None
    for _ in range(400):
        _, _, terminated, _, info = env.step(1)
        if terminated:
            ended, lives = True, info["lives"]
            break
    assert ended
    assert lives == 4
    _, info = env.reset()
    assert info["lives"] == 4  # the game goes on
    again, _ = frames(env, 1, [0] * 10)
    np.testing.assert_array_equal(again, first)


def test_a_policy_file_brings_its_wrappers(tmp_path):
    path = tmp_path / "pong.safetensors"
    save_policy(path, pong_policy())
    assert load_policy(path)[0].spec.env == PONG
    assert load_teacher(path, env=EnvSpec("PongNoFrameskip-v4")).policy.spec.env == PONG
    asked = EnvSpec("PongNoFrameskip-v4", {"repeat_action_probability": 0.5})
    env = load_teacher(path, env=asked).policy.spec.env
    assert env.kwargs == asked.kwargs
    assert env.wrappers == PONG.wrappers
    assert PONG.variant() == dataclasses.replace(
        PONG, kwargs={"repeat_action_probability": 0.0}, beside={}
    )


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"wrappers": PONG.wrappers[:1]}, ["actions", "Discrete(3)", "Discrete(6)"]),
        ({"frame_stack": 2}, ["observations", "(84, 84, 4)", "(84, 84, 2)"]),
        ({"wrappers": ("pops.atari:AtariFrames,size=42",)}, ["(84, 84, 4)", "(42, 42, 4)"]),
    ],
)
def test_a_teacher_that_does_not_fit_the_chain_is_refused(tmp_path, change, words):
    path = tmp_path / "pong.safetensors"
    save_policy(path, pong_policy())
    with pytest.raises(EnvironmentFailure) as caught:
        load_teacher(path, env=dataclasses.replace(PONG, **change))
    for word in words:
        assert word in str(caught.value)


@pytest.mark.parametrize(
    ("spec", "words"),
    [
        (EnvSpec("CartPole-v1", {}, ("pops.atari:AtariFrames",)), ["Atari", "NoFrameskip-v4"]),
        (EnvSpec("ALE/Pong-v5", {}, ("pops.atari:AtariFrames",)), ["skips frames", "NoFrameskip"]),
        (
            EnvSpec("PongNoFrameskip-v4", {}, ("pops.atari:OnlyActions,keep=NOOP+JUMP",)),
            ["NOOP+JUMP", "NOOP+FIRE+RIGHT"],
        ),
        (EnvSpec("PongNoFrameskip-v4", {}, ("pops.atari:AtariFrames,sze=42",)), ["sze"]),
    ],
)
def test_a_chain_that_cannot_be_is_explained(spec, words):
    with pytest.raises(EnvironmentFailure) as caught:
        make_env(spec)
    for word in words:
        assert word in str(caught.value)


def in_a_fresh_process(code, **environment):
    import os

    return subprocess.run(
        [sys.executable, "-c", code],
        capture_output=True,
        text=True,
        env={**os.environ, **environment},
        check=False,
    )


def test_missing_packages_and_roms_are_named(tmp_path):
    make = (
        "from pops.envs import make_env; from pops.spec import EnvSpec\n"
        "try: make_env(EnvSpec('PongNoFrameskip-v4', {}, ('pops.atari:AtariFrames',)))\n"
        "except Exception as error: print(type(error).__name__, error)"
    )
    for package in ("ale_py", "cv2"):
        found = in_a_fresh_process(f"import sys; sys.modules[{package!r}] = None\n{make}")
        assert "pip install 'pops-rl[atari]'" in found.stdout, found
    found = in_a_fresh_process(make, ALE_ROMS_DIR=str(tmp_path))
    assert "ROM of 'PongNoFrameskip-v4' is not there" in found.stdout, found
    assert "pops-rl[atari]" in found.stdout


@pytest.mark.slow
def test_training_on_pixels_resumes_with_the_same_bytes(tmp_path, monkeypatch):
    options = {
        "env": "PongNoFrameskip-v4",
        "preset": "paper",
        "env_kwargs": ("max_num_frames_per_episode=400",),
        "n_envs": 2,
        "eval_every": 256,
        "eval_episodes": 2,
        "final_episodes": 2,
        "device": "cpu",
        "quiet": True,
    }
    whole = train(TrainConfig(out=tmp_path / "whole", timesteps=512, **options))
    train(TrainConfig(out=tmp_path / "parts", timesteps=512, **options))
    assert whole.path.read_bytes() == (tmp_path / "parts" / "teacher.safetensors").read_bytes()
    policy, extra = load_policy(whole.path)
    assert policy.arch.num_parameters == 1_685_667  # the paper's
    assert policy.spec.env.wrappers == PONG.wrappers
    assert policy.spec.env.frame_stack == 4
    assert extra["evaluation"]["beside"]["env_kwargs"]["repeat_action_probability"] == 0.0
    assert extra["evaluation"]["beside"]["episodes"] == 30
    plan = read_json(tmp_path / "whole" / "train.json")["plan"]
    assert plan["training_wrappers"][0] == "pops.atari:EpisodePerLife"
    played = evaluate(load_teacher(whole.path).policy, policy.spec.env, range(2))
    assert len(played.returns) == 2
