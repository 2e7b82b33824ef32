"""VecNormalize statistics: the same numbers as the library's, and nothing in the pickle is run."""

import pickle
import struct
import sys
import types

import gymnasium as gym
import numpy as np
import pytest
from gymnasium import spaces
from stable_baselines3 import PPO
from stable_baselines3.common.vec_env import DummyVecEnv, VecNormalize
from test_teacher_sb3 import assert_acts_alike, make_model

from pops.errors import TeacherError, UsageError
from pops.spec import EnvSpec
from pops.teacher.load import load_teacher
from pops.teacher.vecnormalize import read_vecnormalize


def trained_statistics(env_id="Pendulum-v1", steps=64, **kwargs):
    venv = VecNormalize(DummyVecEnv([lambda: gym.make(env_id)]), **kwargs)
    venv.seed(0)
    venv.action_space.seed(0)
    venv.reset()
    for _ in range(steps):
        venv.step([venv.action_space.sample()])
    return venv


def visited(env_id, n=1000):
    env = gym.make(env_id)
    env.action_space.seed(1)
    observation, _ = env.reset(seed=1)
    result = []
    while len(result) < n:
        result.append(observation)
        observation, _, terminated, truncated, _ = env.step(env.action_space.sample())
        if terminated or truncated:
            observation, _ = env.reset()
    return np.array(result)


@pytest.mark.parametrize("name", ["ppo-Pendulum-v1-vecnormalize.pkl", "vecnormalize.pkl"])
def test_found_beside_the_zip_and_equal_to_the_library(name, tmp_path):
    venv = trained_statistics(clip_obs=1.5, epsilon=1e-4)
    model = make_model("PPO", venv, {}, {})
    model.save(tmp_path / "ppo-Pendulum-v1.zip")
    venv.save(tmp_path / name)
    observations = visited("Pendulum-v1")
    normalised = venv.normalize_obs(observations)
    assert (np.abs(normalised) == 1.5).any()
    teacher = load_teacher(tmp_path / "ppo-Pendulum-v1.zip", env=EnvSpec("Pendulum-v1"))
    assert teacher.facts["vecnormalize"]["path"] == str(tmp_path / name)
    np.testing.assert_array_equal(teacher.policy.spec.preprocess(observations), normalised)
    expected = model.predict(normalised, deterministic=True)[0]
    assert_acts_alike(teacher.policy, observations, expected)


def test_given_statistics_and_discrete_actions(tmp_path):
    venv = trained_statistics("Acrobot-v1")
    model = make_model("A2C", venv, {}, {})
    (tmp_path / "elsewhere").mkdir()
    model.save(tmp_path / "teacher.zip")
    venv.save(tmp_path / "elsewhere" / "stats.pkl")
    bare = load_teacher(tmp_path / "teacher.zip", env=EnvSpec("Acrobot-v1"))
    assert bare.policy.spec.normaliser is None
    teacher = load_teacher(
        tmp_path / "teacher.zip",
        env=EnvSpec("Acrobot-v1"),
        vecnormalize=tmp_path / "elsewhere" / "stats.pkl",
    )
    observations = visited("Acrobot-v1")
    expected = model.predict(venv.normalize_obs(observations), deterministic=True)[0]
    assert_acts_alike(teacher.policy, observations, expected)


@pytest.mark.parametrize("protocol", [2, 3, 4, 5])
def test_every_pickle_protocol(protocol, tmp_path):
    venv = trained_statistics()
    (tmp_path / "stats.pkl").write_bytes(pickle.dumps(venv, protocol=protocol))
    read = read_vecnormalize(tmp_path / "stats.pkl")
    np.testing.assert_array_equal(read.mean, venv.obs_rms.mean)
    np.testing.assert_array_equal(read.var, venv.obs_rms.var)
    assert (read.epsilon, read.clip_obs) == (venv.epsilon, venv.clip_obs)


def test_names_of_2021(tmp_path, monkeypatch):
    """gym's spaces, RandomState and numpy 1's module names."""
    venv = trained_statistics()
    gym_module, box_module = types.ModuleType("gym.spaces"), types.ModuleType("gym.spaces.box")

    class Box:
        pass

    Box.__module__, Box.__qualname__ = "gym.spaces.box", "Box"
    box_module.Box = Box
    monkeypatch.setitem(sys.modules, "gym", types.ModuleType("gym"))
    monkeypatch.setitem(sys.modules, "gym.spaces", gym_module)
    monkeypatch.setitem(sys.modules, "gym.spaces.box", box_module)
    old = Box()
    old.low, old._np_random = np.zeros(3, np.float32), np.random.RandomState(0)
    venv.observation_space = old
    raw = pickle.dumps(venv, protocol=3).replace(b"numpy._core.", b"numpy.core.")
    assert b"gym.spaces.box" in raw
    assert b"numpy.core.multiarray" in raw
    (tmp_path / "stats.pkl").write_bytes(raw)
    np.testing.assert_array_equal(read_vecnormalize(tmp_path / "stats.pkl").mean, venv.obs_rms.mean)


def test_statistics_without_observations_change_nothing(tmp_path):
    venv = trained_statistics(norm_obs=False)
    model = make_model("PPO", venv, {}, {})
    model.save(tmp_path / "teacher.zip")
    venv.save(tmp_path / "teacher-vecnormalize.pkl")
    teacher = load_teacher(tmp_path / "teacher.zip", env=EnvSpec("Pendulum-v1"))
    assert teacher.policy.spec.normaliser is None
    assert teacher.facts["vecnormalize"]["norm_obs"] is False


def test_statistics_of_another_teacher_are_refused(tmp_path):
    PPO("MlpPolicy", "CartPole-v1", device="cpu").save(tmp_path / "teacher.zip")
    trained_statistics().save(tmp_path / "teacher-vecnormalize.pkl")
    with pytest.raises(TeacherError, match=r"statistics of 3 features, but .* reads 4"):
        load_teacher(tmp_path / "teacher.zip", env=EnvSpec("CartPole-v1"))


class Canary:
    """A pickle of this creates a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def test_code_in_statistics_is_refused_and_not_run(tmp_path):
    canary = tmp_path / "canary"
    venv = trained_statistics()
    venv.obs_rms.evil = Canary(canary)
    venv.save(tmp_path / "stats.pkl")
    with pytest.raises(TeacherError, match=r"names '_?io.open'.*Nothing of it was run") as caught:
        read_vecnormalize(tmp_path / "stats.pkl")
    assert "stats.pkl" in str(caught.value)
    assert not canary.exists()
    pickle.loads((tmp_path / "stats.pkl").read_bytes())
    assert canary.exists(), "the pickle would have run"


def damaged():
    whole = pickle.dumps(trained_statistics(), protocol=4)
    memo = b"\x80\x04Nr" + struct.pack("<I", 0xFFFFFFF0) + b"."
    huge = b"\x80\x05\x96" + struct.pack("<Q", 1 << 60) + b"x."
    return {
        "truncated": whole[: len(whole) // 2],
        "text": b"not a pickle at all",
        "memo": memo,
        "huge": huge,
        "reduce": b"\x80\x04" + b"(" * 1000 + b".",
    }


@pytest.mark.parametrize("kind", ["truncated", "text", "memo", "huge", "reduce"])
def test_damaged_statistics(kind, tmp_path):
    (tmp_path / "stats.pkl").write_bytes(damaged()[kind])
    with pytest.raises(TeacherError, match=r"stats.pkl is not a readable VecNormalize file"):
        read_vecnormalize(tmp_path / "stats.pkl")


def test_empty_missing_and_other_pickles(tmp_path):
    (tmp_path / "empty.pkl").write_bytes(b"")
    with pytest.raises(TeacherError, match=r"empty.pkl is empty"):
        read_vecnormalize(tmp_path / "empty.pkl")
    with pytest.raises(TeacherError, match=r"Cannot read .*missing.pkl: No such file"):
        read_vecnormalize(tmp_path / "missing.pkl")
    (tmp_path / "other.pkl").write_bytes(pickle.dumps({"mean": 1.0}))
    with pytest.raises(TeacherError, match="a pickle, but not of a VecNormalize"):
        read_vecnormalize(tmp_path / "other.pkl")


def test_statistics_that_are_not_finite(tmp_path):
    venv = trained_statistics()
    venv.obs_rms.mean[1] = np.nan
    venv.save(tmp_path / "stats.pkl")
    with pytest.raises(TeacherError, match="NaN, infinite or negative statistics"):
        read_vecnormalize(tmp_path / "stats.pkl")


def test_dict_statistics_are_refused(tmp_path):
    class Goal(gym.Env):
        observation_space = spaces.Dict({"a": spaces.Box(-1, 1, (2,))})
        action_space = spaces.Discrete(2)

        def reset(self, *, seed=None, options=None):
            return {"a": np.zeros(2, np.float32)}, {}

    venv = VecNormalize(DummyVecEnv([Goal]))
    venv.save(tmp_path / "stats.pkl")
    with pytest.raises(TeacherError, match="Dict observations"):
        read_vecnormalize(tmp_path / "stats.pkl")


def test_statistics_for_a_file_that_has_its_own_spec(tmp_path):
    from pops.artifact import save_policy

    PPO("MlpPolicy", "Pendulum-v1", device="cpu").save(tmp_path / "teacher.zip")
    save_policy(tmp_path / "p.safetensors", load_teacher(tmp_path / "teacher.zip").policy)
    trained_statistics().save(tmp_path / "stats.pkl")
    with pytest.raises(UsageError, match="holds its own normaliser"):
        load_teacher(tmp_path / "p.safetensors", vecnormalize=tmp_path / "stats.pkl")


def test_statistics_of_single_frames_before_stacking(tmp_path):
    """rl-zoo's order: VecNormalize, then VecFrameStack."""
    from stable_baselines3.common.vec_env import VecFrameStack

    venv = trained_statistics()
    model = make_model("PPO", VecFrameStack(venv, 3), {}, {})
    model.save(tmp_path / "teacher.zip")
    venv.save(tmp_path / "vecnormalize.pkl")
    teacher = load_teacher(tmp_path / "teacher.zip", env=EnvSpec("Pendulum-v1", frame_stack=3))
    frames = visited("Pendulum-v1", 3000).reshape(1000, 3, 3)
    normalised = venv.normalize_obs(frames).reshape(1000, 9)
    expected = model.predict(normalised, deterministic=True)[0]
    assert_acts_alike(teacher.policy, frames.reshape(1000, 9), expected)
    assert "single frames" in teacher.facts["notes"][-1]


def test_statistics_given_as_the_teacher(tmp_path):
    trained_statistics().save(tmp_path / "stats.pkl")
    with pytest.raises(TeacherError, match="VecNormalize statistics and no policy"):
        load_teacher(tmp_path / "stats.pkl")
