"""Stable-Baselines3 and sb3-contrib zips act as their own library's `predict` does."""

import base64
import io
import json
import pickle
import zipfile

import gymnasium as gym
import numpy as np
import pytest
import sb3_contrib
import stable_baselines3
import torch
from gymnasium import spaces
from torch import nn

from pops.envs import make_env
from pops.errors import TeacherError
from pops.spec import DiscreteActions, EnvSpec
from pops.teacher.load import load_teacher

OFF_POLICY = {"buffer_size": 10}
CASES = {
    "ppo-tanh": ("PPO", "CartPole-v1", {}, {}),
    "ppo-relu": ("PPO", "CartPole-v1", {}, {"activation_fn": nn.ReLU, "net_arch": [32, 16]}),
    "ppo-elu": (
        "PPO",
        "Acrobot-v1",
        {},
        {"activation_fn": nn.ELU, "net_arch": {"pi": [8], "vf": []}},
    ),
    "ppo-linear": ("PPO", "CartPole-v1", {}, {"net_arch": []}),
    "ppo-box": ("PPO", "Pendulum-v1", {}, {"activation_fn": nn.LeakyReLU}),
    "ppo-box-silu": ("PPO", "Pendulum-v1", {}, {"activation_fn": nn.SiLU}),
    "ppo-gsde": ("PPO", "Pendulum-v1", {"use_sde": True}, {}),
    "ppo-gsde-squashed": ("PPO", "Pendulum-v1", {"use_sde": True}, {"squash_output": True}),
    "ppo-unshared": ("PPO", "CartPole-v1", {}, {"share_features_extractor": False}),
    "a2c": ("A2C", "Acrobot-v1", {}, {}),
    "a2c-box": ("A2C", "Pendulum-v1", {}, {}),
    "trpo": ("TRPO", "CartPole-v1", {}, {}),
    "dqn": ("DQN", "CartPole-v1", OFF_POLICY, {}),
    "dqn-tanh": ("DQN", "Acrobot-v1", OFF_POLICY, {"activation_fn": nn.Tanh, "net_arch": [32]}),
    "qrdqn": ("QRDQN", "Acrobot-v1", OFF_POLICY, {"n_quantiles": 25}),
    "sac": ("SAC", "Pendulum-v1", OFF_POLICY, {"net_arch": [32, 32]}),
    "sac-gsde": ("SAC", "Pendulum-v1", {**OFF_POLICY, "use_sde": True}, {"net_arch": [32]}),
    "sac-gsde-clip": (
        "SAC",
        "Pendulum-v1",
        {**OFF_POLICY, "use_sde": True},
        {"net_arch": [32], "clip_mean": 0.25},
    ),
    "td3": ("TD3", "Pendulum-v1", OFF_POLICY, {"net_arch": [32, 24]}),
    "ddpg": ("DDPG", "MountainCarContinuous-v0", OFF_POLICY, {"net_arch": [32]}),
    "tqc": ("TQC", "Pendulum-v1", OFF_POLICY, {"net_arch": [32, 32]}),
    "ppo-discrete-observation": ("PPO", "FrozenLake-v1", {}, {}),
    "dqn-discrete-observation": ("DQN", "Taxi-v4", OFF_POLICY, {"net_arch": [16]}),
}
NAMES = {"QRDQN": "QR-DQN"}


class TinyImage(gym.Env):
    """Random 84×84 images; `channels_first` says how they lie."""

    def __init__(self, channels=1, channels_first=False, continuous=False):
        shape = (channels, 84, 84) if channels_first else (84, 84, channels)
        self.observation_space = spaces.Box(0, 255, shape, np.uint8)
        discrete = spaces.Discrete(3)
        self.action_space = spaces.Box(-1, 1, (2,)) if continuous else discrete

    def reset(self, *, seed=None, options=None):
        super().reset(seed=seed)
        return self._frame(), {}

    def step(self, action):
        return self._frame(), 0.0, False, False, {}

    def _frame(self):
        shape = self.observation_space.shape
        return self.np_random.integers(0, 256, shape, dtype=np.uint8)


if "PopsTinyImage-v0" not in gym.registry:
    gym.register("PopsTinyImage-v0", entry_point=TinyImage)


def algorithm(name):
    return getattr(sb3_contrib if name in ("TRPO", "QRDQN", "TQC") else stable_baselines3, name)


def make_model(name, env, kwargs, policy_kwargs, policy="MlpPolicy"):
    """A model with weights far from their small initial values, so that a wrong reader shows."""
    model = algorithm(name)(
        policy, env, policy_kwargs=policy_kwargs, seed=0, device="cpu", verbose=0, **kwargs
    )
    generator = torch.Generator().manual_seed(1)
    with torch.no_grad():
        for parameter in model.policy.parameters():
            noise = torch.randn(parameter.shape, generator=generator)
            parameter.add_(noise * (0.1 if parameter.ndim == 2 else 0.02))
        if name in ("DQN", "QRDQN"):
            centre(model)
    return model


def centre(model):
    """Shift the last bias so that every action is the best one somewhere."""
    network = model.q_net if hasattr(model, "q_net") else model.quantile_net
    last = (network.q_net if hasattr(network, "q_net") else network.quantile_net)[-1]
    observations = torch.as_tensor(sample(model.observation_space, 100))
    last.bias.sub_(network(observations).reshape(100, -1).mean(dim=0))


def sample(space, n=1000, seed=0):
    rng = np.random.default_rng(seed)
    if isinstance(space, spaces.Discrete):
        return rng.integers(space.n, size=n)
    if space.dtype == np.uint8:
        return rng.integers(0, 256, (n, *space.shape), dtype=np.uint8)
    return rng.normal(size=(n, *space.shape)).astype(space.dtype)


def assert_acts_alike(policy, observations, expected):
    """Discrete actions are equal but for ties within float error; continuous within 1e-5."""
    found, outputs = [], []
    for start in range(0, len(observations), 100):
        block = observations[start : start + 100]
        found.append(policy.predict(block)[0])
        outputs.append(policy.outputs(block))
    actions, outputs = np.concatenate(found), np.concatenate(outputs)
    assert len(actions) == len(observations)
    if isinstance(policy.spec.actions, DiscreteActions):
        top = np.sort(outputs, axis=1)
        gap = top[:, -1] - top[:, -2]
        scale = np.abs(outputs).max()
        different = actions != expected
        assert (gap[different] < 1e-5 * max(scale, 1)).all()
        assert different.sum() <= 1
        assert len(set(expected.tolist())) > 1
    else:
        assert actions.dtype == np.float32
        assert np.abs(actions - expected).max() <= 1e-5
        assert np.abs(expected).std() > 1e-3


@pytest.mark.parametrize("case", CASES)
def test_acts_as_the_library_does(case, tmp_path):
    name, env_id, kwargs, policy_kwargs = CASES[case]
    model = make_model(name, env_id, kwargs, policy_kwargs)
    model.save(tmp_path / "teacher.zip")
    observations = sample(model.observation_space)
    expected = model.predict(observations, deterministic=True)[0]
    teacher = load_teacher(tmp_path / "teacher.zip", env=EnvSpec(env_id))
    assert teacher.facts["algorithm"] == NAMES.get(name, name)
    assert teacher.facts["library_version"]
    assert teacher.policy.spec.env == EnvSpec(env_id)
    assert_acts_alike(teacher.policy, observations, expected)
    without = load_teacher(tmp_path / "teacher.zip")
    assert without.policy.spec.env is None
    np.testing.assert_array_equal(
        without.policy.outputs(observations), teacher.policy.outputs(observations)
    )


def test_activation_and_its_source_are_told(tmp_path):
    facts = {}
    for case in ("ppo-relu", "ppo-tanh", "dqn", "ppo-box"):
        name, env_id, kwargs, policy_kwargs = CASES[case]
        make_model(name, env_id, kwargs, policy_kwargs).save(tmp_path / f"{case}.zip")
        facts[case] = load_teacher(tmp_path / f"{case}.zip").facts
    told = {key: (f["activation"], f["activation_source"]) for key, f in facts.items()}
    assert told == {
        "ppo-relu": ("relu", "policy_kwargs"),
        "ppo-tanh": ("tanh", "default of PPO"),
        "dqn": ("relu", "default of DQN"),
        "ppo-box": ("leaky_relu", "policy_kwargs"),
    }
    assert len(facts["ppo-box"]["log_std"]) == 1
    assert "log_std" not in facts["dqn"]
    given = load_teacher(tmp_path / "ppo-relu.zip", activation="tanh")
    assert given.facts["activation_source"] == "given"
    assert given.policy.arch.activations == ("tanh", "tanh")


@pytest.mark.parametrize(
    ("name", "kwargs", "channels_first", "normalize_images"),
    [
        ("PPO", {}, False, True),
        ("PPO", {}, True, False),
        ("DQN", OFF_POLICY, False, True),
        ("SAC", OFF_POLICY, True, True),
    ],
)
def test_nature_cnn(name, kwargs, channels_first, normalize_images, tmp_path):
    env_kwargs = {"channels_first": channels_first, "continuous": name == "SAC"}
    env = gym.make("PopsTinyImage-v0", **env_kwargs)
    policy_kwargs = {"normalize_images": normalize_images}
    policy_kwargs["features_extractor_kwargs"] = {"features_dim": 32}
    if name == "SAC":
        policy_kwargs["net_arch"] = [16]
    model = make_model(name, env, kwargs, policy_kwargs, "CnnPolicy")
    model.save(tmp_path / "teacher.zip")
    teacher = load_teacher(
        tmp_path / "teacher.zip", env=EnvSpec("PopsTinyImage-v0", kwargs=env_kwargs)
    )
    policy = teacher.policy
    assert policy.spec.channels_last is not channels_first
    assert policy.spec.observation_dtype == "uint8"
    assert (policy.spec.normaliser is not None) is normalize_images
    assert [conv.stride for conv in policy.arch.convs] == [4, 2, 1]
    observations = sample(env.observation_space)
    blocks = [observations[i : i + 100] for i in range(0, 1000, 100)]
    expected = np.concatenate([model.predict(b, deterministic=True)[0] for b in blocks])
    assert_acts_alike(policy, observations, expected)


def test_stacked_frames_are_those_of_vec_frame_stack(tmp_path):
    from stable_baselines3.common.vec_env import DummyVecEnv, VecFrameStack

    venv = VecFrameStack(DummyVecEnv([lambda: gym.make("CartPole-v1")]), 4)
    model = make_model("PPO", venv, {}, {})
    model.save(tmp_path / "teacher.zip")
    (tmp_path / "config.yml").write_text(
        "!!python/object/apply:collections.OrderedDict\n- - - frame_stack\n    - 4\n"
    )
    teacher = load_teacher(tmp_path / "teacher.zip", env=EnvSpec("CartPole-v1"))
    assert teacher.policy.spec.env == EnvSpec("CartPole-v1", frame_stack=4)
    assert teacher.policy.spec.observation_shape == (16,)
    env = make_env(teacher.policy.spec.env)
    venv.seed(7)
    theirs = venv.reset()
    ours, _ = env.reset(seed=7)
    observations = []
    for step in range(12):
        np.testing.assert_array_equal(theirs[0], ours)
        observations.append(ours)
        action = step % 2
        theirs, _, dones, _ = venv.step([action])
        ours, *_ = env.step(action)
        assert not dones[0]
    noisy = np.concatenate([observations, sample(model.observation_space, 988)])
    assert_acts_alike(teacher.policy, noisy, model.predict(noisy, deterministic=True)[0])


def rewrite(source, target, change_data=None, change_weights=None):
    """Write a zip again with another `data` and other weights."""
    with zipfile.ZipFile(source) as old, zipfile.ZipFile(target, "w") as new:
        for name in old.namelist():
            content = old.read(name)
            if name == "data" and change_data is not None:
                data = json.loads(content)
                content = json.dumps(change_data(data) or data).encode()
            if name == "policy.pth" and change_weights is not None:
                weights = torch.load(io.BytesIO(content), weights_only=True)
                buffer = io.BytesIO()
                torch.save(change_weights(weights), buffer)
                content = buffer.getvalue()
            new.writestr(name, content)


def test_file_of_2021_with_gym_spaces_and_a_shared_net(tmp_path):
    """gym's spaces, a shared net, and keyword arguments that only the pickle's names tell."""
    name, env_id, kwargs, policy_kwargs = CASES["ppo-relu"]
    model = make_model(name, env_id, kwargs, policy_kwargs)
    model.save(tmp_path / "new.zip")

    def age_data(data):
        box = data["observation_space"]
        data["observation_space"] = {
            ":type:": "<class 'gym.spaces.box.Box'>",
            ":serialized:": "bm90IGEgcGlja2xl",
            "dtype": "float32",
            "shape": [4],
            "low": box["low"],
            "high": box["high"],
        }
        data["action_space"] = {":type:": "<class 'gym.spaces.discrete.Discrete'>", "n": 2}
        pickled = base64.b64encode(pickle.dumps({"activation_fn": nn.ReLU})).decode()
        data["policy_kwargs"] = {":type:": "<class 'dict'>", ":serialized:": pickled}

    def age_weights(weights):
        shift = {"mlp_extractor.policy_net.0.": "mlp_extractor.shared_net.0."}
        shift["mlp_extractor.policy_net.2."] = "mlp_extractor.policy_net.0."
        aged = {}
        for key, value in weights.items():
            prefix = next((p for p in shift if key.startswith(p)), None)
            aged[key if prefix is None else shift[prefix] + key[len(prefix) :]] = value
        return aged

    rewrite(tmp_path / "new.zip", tmp_path / "old.zip", age_data, age_weights)
    teacher = load_teacher(tmp_path / "old.zip", env=EnvSpec(env_id))
    assert teacher.facts["activation"] == "relu"
    assert teacher.facts["activation_source"] == "names in policy_kwargs"
    assert teacher.policy.arch.widths == (32, 16)
    observations = sample(model.observation_space)
    expected = model.predict(observations, deterministic=True)[0]
    assert_acts_alike(teacher.policy, observations, expected)


def test_quantiles_need_the_number_of_actions(tmp_path):
    name, env_id, kwargs, policy_kwargs = CASES["qrdqn"]
    make_model(name, env_id, kwargs, policy_kwargs).save(tmp_path / "new.zip")
    rewrite(tmp_path / "new.zip", tmp_path / "old.zip", lambda d: d.pop("action_space") and None)
    with pytest.raises(TeacherError, match="75 outputs for an unknown number of actions"):
        load_teacher(tmp_path / "old.zip")
