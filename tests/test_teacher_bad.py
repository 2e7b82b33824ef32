"""Teacher files that are damaged, hostile or not supported end with one clear message."""

import base64
import io
import json
import pickle
import struct
import subprocess
import sys
import zipfile

import gymnasium as gym
import numpy as np
import pytest
import sb3_contrib
import torch
from gymnasium import spaces
from stable_baselines3 import A2C, PPO, SAC
from stable_baselines3.common.torch_layers import BaseFeaturesExtractor
from test_teacher_sb3 import rewrite
from torch import nn

from pops.artifact import save_policy
from pops.errors import ArtifactError, EnvironmentFailure, TeacherError, UsageError
from pops.spec import EnvSpec
from pops.teacher.info import info
from pops.teacher.load import load_teacher


@pytest.fixture(scope="session")
def cartpole_zip(tmp_path_factory):
    path = tmp_path_factory.mktemp("teacher") / "ppo.zip"
    PPO("MlpPolicy", "CartPole-v1", device="cpu", seed=0).save(path)
    return path


class Canary:
    """A pickle of this creates a file when it is loaded."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


def refuse(path, kind, *words, **kwargs):
    """Loading and `info` both end with `kind`, naming the file and saying `words`."""
    for reader in (load_teacher, info):
        if reader is info and "env" in kwargs:
            continue
        with pytest.raises(kind) as caught:
            reader(path, **kwargs)
        text = str(caught.value)
        assert type(caught.value) is kind
        assert path.name in text
        for word in words:
            assert word in text, text
    return text


@pytest.mark.parametrize("share", [0.2, 0.6, 0.98])
def test_truncated_zip(share, cartpole_zip, tmp_path):
    raw = cartpole_zip.read_bytes()
    path = tmp_path / "cut.zip"
    path.write_bytes(raw[: int(len(raw) * share)])
    refuse(path, TeacherError, "truncated or damaged", "download it again")


def test_flipped_bytes_in_a_member(cartpole_zip, tmp_path):
    raw = bytearray(cartpole_zip.read_bytes())
    with zipfile.ZipFile(cartpole_zip) as archive:
        offset = archive.getinfo("policy.pth").header_offset
    for index in range(offset + 2000, offset + 2100):
        raw[index] ^= 0xFF
    path = tmp_path / "flipped.zip"
    path.write_bytes(raw)
    refuse(path, TeacherError, "'policy.pth' cannot be unpacked", "damaged")


def test_empty_missing_and_wrong_kinds(tmp_path):
    path = tmp_path / "teacher.zip"
    path.write_bytes(b"")
    refuse(path, TeacherError, "is empty", "expected a trained policy")
    path.write_bytes(b"hello, I am a text file")
    refuse(path, TeacherError, "none of the kinds that pops reads", "Stable-Baselines3")
    refuse(tmp_path / "nowhere.zip", TeacherError, "does not exist", "Check the path")
    (tmp_path / "folder").mkdir()
    refuse(tmp_path / "folder", TeacherError, "folder without", "teacher.safetensors")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("holiday.jpg", b"x")
    refuse(path, TeacherError, "a zip that holds holiday.jpg", "policy.pth")
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", b"{}")
        archive.writestr("parameters", b"x")
        archive.writestr("parameter_list", b"x")
    refuse(path, TeacherError, "Stable Baselines 2")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"{", "not JSON"),
        (b"[1]", "is a list"),
        (b"[" * 100_000, "not JSON"),
        (b"\xff", "not JSON"),
    ],
)
def test_data_that_is_no_json_object(content, words, cartpole_zip, tmp_path):
    path = tmp_path / "bad.zip"
    with zipfile.ZipFile(cartpole_zip) as old, zipfile.ZipFile(path, "w") as new:
        new.writestr("data", content)
        new.writestr("policy.pth", old.read("policy.pth"))
    refuse(path, TeacherError, words)


def test_code_in_policy_pth_is_not_run(cartpole_zip, tmp_path):
    canary, path = tmp_path / "canary", tmp_path / "evil.zip"
    evil = io.BytesIO()
    torch.save({"action_net.weight": Canary(canary)}, evil)
    with zipfile.ZipFile(cartpole_zip) as old, zipfile.ZipFile(path, "w") as new:
        new.writestr("data", old.read("data"))
        new.writestr("policy.pth", evil.getvalue())
    refuse(path, TeacherError, "something other than weights", "Nothing of it was run")
    bare = tmp_path / "evil.pth"
    bare.write_bytes(evil.getvalue())
    refuse(bare, TeacherError, "something other than weights", "Nothing of it was run")
    raw = tmp_path / "raw.pt"
    raw.write_bytes(pickle.dumps(Canary(canary)))
    refuse(raw, TeacherError, "Nothing of it was run")
    assert not canary.exists()
    torch.load(io.BytesIO(evil.getvalue()), weights_only=False)
    assert canary.exists(), "the pickle would have run"


def test_code_in_serialized_data_is_not_run(cartpole_zip, tmp_path):
    canary, path = tmp_path / "canary", tmp_path / "evil.zip"
    evil = base64.b64encode(pickle.dumps(Canary(canary))).decode()

    def poison(data):
        for key in ("policy_class", "observation_space", "action_space", "learning_rate"):
            if isinstance(data[key], dict):
                data[key][":serialized:"] = evil
        data["policy_kwargs"] = {":type:": "<class 'dict'>", ":serialized:": evil}

    rewrite(cartpole_zip, path, poison)
    teacher = load_teacher(path, env=EnvSpec("CartPole-v1"))
    assert teacher.policy.arch.num_parameters == 4_610
    assert info(path)["num_parameters"] == 4_610
    assert not canary.exists()
    pickle.loads(base64.b64decode(evil))
    assert canary.exists(), "the pickle would have run"


def test_zip_bomb(cartpole_zip, tmp_path):
    path = tmp_path / "bomb.zip"
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("data", b"{}")
        archive.writestr("policy.pth", bytes(64 << 20))
    assert path.stat().st_size < 1 << 17
    refuse(path, TeacherError, "-fold", "zip bomb", "not unpacked")
    inner = tmp_path / "inner.zip"
    with zipfile.ZipFile(cartpole_zip) as old, zipfile.ZipFile(inner, "w") as new:
        new.writestr("data", old.read("data"))
        new.writestr("policy.pth", path.read_bytes())
    refuse(inner, TeacherError, "zip bomb", "not unpacked")


def test_zip_that_declares_more_than_is_read(cartpole_zip, tmp_path):
    path = tmp_path / "large.zip"
    raw = bytearray(cartpole_zip.read_bytes())
    (entry,) = struct.unpack("<I", raw[-6:-2])
    assert raw[entry : entry + 4] == b"PK\x01\x02"
    raw[entry + 20 : entry + 28] = struct.pack("<II", 0xFFFFFF00, 0xFFFFFF00)
    path.write_bytes(raw)
    refuse(path, TeacherError, "would unpack to 4,29", "not unpacked")


def test_tensor_with_strides_that_make_it_huge(tmp_path):
    path = tmp_path / "huge.pt"
    torch.save({"0.weight": torch.zeros(1).expand(1 << 20, 1 << 20)}, path)
    assert path.stat().st_size < 10_000
    refuse(path, TeacherError, "elements; at most")


@pytest.mark.parametrize("value", [float("nan"), float("inf"), float("-inf")])
def test_weights_that_are_not_finite(value, cartpole_zip, tmp_path):
    path = tmp_path / "nan.zip"

    def poison(weights):
        weights["mlp_extractor.policy_net.2.weight"][3, 4] = value
        return weights

    rewrite(cartpole_zip, path, None, poison)
    refuse(path, TeacherError, "policy_net.2", "1 NaN or infinite weights", "earlier checkpoint")


@pytest.mark.parametrize(
    ("env_id", "words"),
    [
        ("Acrobot-v1", ["has actions Discrete(2)", "Discrete(3)"]),
        ("Pendulum-v1", ["has actions Discrete(2)", "Box(1,)"]),
        ("MountainCar-v0", ["has actions Discrete(2)", "Discrete(3)"]),
    ],
)
def test_spaces_that_do_not_fit(env_id, words, cartpole_zip):
    refuse(cartpole_zip, EnvironmentFailure, env_id, *words, env=EnvSpec(env_id))


def test_observations_that_do_not_fit(tmp_path):
    path = tmp_path / "lander.zip"
    PPO("MlpPolicy", "Acrobot-v1", device="cpu").save(path)
    text = refuse(path, EnvironmentFailure, "Box(6,)", "Box(2,)", env=EnvSpec("MountainCar-v0"))
    assert "frame stack of 3" in text


def test_images_that_are_floats_in_the_environment(tmp_path):
    path, shape = tmp_path / "cnn.zip", (36, 36, 1)
    images = spaces.Box(0, 255, shape, np.uint8)
    A2C("CnnPolicy", Odd(images, spaces.Discrete(2)), device="cpu").save(path)
    scaled = Odd(spaces.Box(0, 1, shape), spaces.Discrete(2))
    refuse(path, EnvironmentFailure, "(1, 36, 36) uint8", "(36, 36, 1) float32", env=lambda: scaled)


def test_action_bounds_that_do_not_fit(tmp_path):
    path = tmp_path / "sac.zip"
    SAC("MlpPolicy", "Pendulum-v1", buffer_size=10, device="cpu").save(path)

    class Rescaled(gym.wrappers.RescaleAction):
        def __init__(self, env):
            super().__init__(env, np.float32(-1), np.float32(1))

    if "PopsRescaled-v0" not in gym.registry:
        gym.register("PopsRescaled-v0", entry_point=lambda: Rescaled(gym.make("Pendulum-v1")))
    words = ["low bounds [-2]", "has [-1]", "--wrapper"]
    refuse(path, EnvironmentFailure, *words, env=EnvSpec("PopsRescaled-v0"))


def test_environment_from_a_function(cartpole_zip):
    teacher = load_teacher(cartpole_zip, env=lambda: gym.make("CartPole-v1"))
    assert teacher.policy.spec.env is None
    with pytest.raises(EnvironmentFailure, match=r"the environment has Discrete\(3\)"):
        load_teacher(cartpole_zip, env=lambda: gym.make("Acrobot-v1"))


def test_unknown_environment(cartpole_zip):
    with pytest.raises(EnvironmentFailure, match="NoSuchEnv-v0"):
        load_teacher(cartpole_zip, env=EnvSpec("NoSuchEnv-v0"))


def test_recurrent_policy(tmp_path):
    path = tmp_path / "recurrent.zip"
    sb3_contrib.RecurrentPPO("MlpLstmPolicy", "CartPole-v1", device="cpu").save(path)
    refuse(path, TeacherError, "recurrent policy", "feed-forward")


def test_recurrent_state_dict(tmp_path):
    path = tmp_path / "lstm.pt"
    module = nn.Sequential(nn.LSTM(4, 8), nn.Linear(8, 2))
    torch.save(module.state_dict(), path)
    refuse(path, TeacherError, "weight_ih_l0", "neither a Linear nor a Conv")


@pytest.mark.parametrize("name", ["MaskablePPO", "ARS", "CrossQ"])
def test_other_algorithms_of_sb3_contrib(name, tmp_path):
    path = tmp_path / "other.zip"
    env = "Pendulum-v1"
    if name == "MaskablePPO":
        from sb3_contrib.common.wrappers import ActionMasker

        env = ActionMasker(gym.make("CartPole-v1"), lambda env: np.ones(2, bool))
    kwargs = {"buffer_size": 10} if name == "CrossQ" else {}
    getattr(sb3_contrib, name)("MlpPolicy", env, device="cpu", **kwargs).save(path)
    refuse(path, TeacherError, name, "not supported")


class Odd(gym.Env):
    def __init__(self, observation, action):
        self.observation_space, self.action_space = observation, action

    def reset(self, *, seed=None, options=None):
        return self.observation_space.sample(), {}

    def step(self, action):
        return self.observation_space.sample(), 0.0, False, False, {}


BOX = spaces.Box(-1, 1, (3,))


@pytest.mark.parametrize(
    ("observation", "action", "word"),
    [
        (spaces.Dict({"a": BOX}), spaces.Discrete(2), "Dict observations"),
        (spaces.MultiDiscrete([2, 3]), spaces.Discrete(2), "MultiDiscrete observations"),
        (BOX, spaces.MultiDiscrete([2, 2]), "MultiDiscrete actions"),
        (BOX, spaces.MultiBinary(3), "MultiBinary actions"),
    ],
)
def test_spaces_that_are_not_supported(observation, action, word, tmp_path, cartpole_zip):
    path = tmp_path / "odd.zip"
    policy = "MultiInputPolicy" if isinstance(observation, spaces.Dict) else "MlpPolicy"
    A2C(policy, Odd(observation, action), device="cpu").save(path)
    refuse(path, EnvironmentFailure, word, "wrapper" if "obs" in word else "Wrap")
    name = f"PopsOdd{type(observation).__name__}{type(action).__name__}-v0"
    gym.register(name, entry_point=lambda: Odd(observation, action))
    with pytest.raises(EnvironmentFailure, match=word):
        load_teacher(cartpole_zip, env=EnvSpec(name))
    del gym.registry[name]


class Doubled(BaseFeaturesExtractor):
    def __init__(self, space):
        super().__init__(space, features_dim=8)
        self.first = nn.Linear(4, 8)

    def forward(self, x):
        return self.first(x) ** 2


class OwnPolicy(PPO.policy_aliases["MlpPolicy"]):
    pass


@pytest.mark.parametrize(
    ("policy", "policy_kwargs", "words"),
    [
        ("MlpPolicy", {"features_extractor_class": Doubled}, ["Doubled", "ONNX"]),
        ("MlpPolicy", {"activation_fn": nn.GELU}, ["'GELU'", "ReLU, Tanh"]),
        (OwnPolicy, {}, ["custom class", "test_teacher_bad"]),
    ],
)
def test_custom_parts(policy, policy_kwargs, words, tmp_path):
    path = tmp_path / "custom.zip"
    PPO(policy, "CartPole-v1", policy_kwargs=policy_kwargs, device="cpu").save(path)
    refuse(path, TeacherError, *words)


def test_custom_extractor_that_hides_its_name(tmp_path):
    path, hidden = tmp_path / "custom.zip", tmp_path / "hidden.zip"
    kwargs = {"features_extractor_class": Doubled}
    PPO("MlpPolicy", "CartPole-v1", policy_kwargs=kwargs, device="cpu").save(path)
    rewrite(path, hidden, lambda data: {**data, "policy_kwargs": {}})
    refuse(hidden, TeacherError, "custom features extractor", "features_extractor.first.weight")


def test_unknown_activation_is_a_usage_error(cartpole_zip):
    with pytest.raises(UsageError, match="'swish' is not known; expected one of relu"):
        load_teacher(cartpole_zip, activation="swish")


def test_importing_the_loader_imports_no_framework():
    """Nor does reading a policy that pops wrote need one."""
    code = (
        "import sys, pops.teacher.load, pops.teacher.info; "
        "print(sorted({'torch', 'gymnasium', 'onnx', 'yaml'} & set(sys.modules)))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_activation_of_a_file_that_tells_its_own(cartpole_zip, tmp_path):
    path = tmp_path / "policy.safetensors"
    save_policy(path, load_teacher(cartpole_zip).policy)
    with pytest.raises(UsageError, match="tells its own activations"):
        load_teacher(path, activation="relu")


def test_jax_model_of_cleanrl(tmp_path):
    path = tmp_path / "agent.cleanrl_model"
    path.write_bytes(b"\x93\x81\xa6params")
    refuse(path, TeacherError, "JAX models are not supported")


def test_damaged_safetensors(tmp_path):
    path = tmp_path / "policy.safetensors"
    path.write_bytes(struct.pack("<Q", 1 << 40) + b'{"')
    refuse(path, ArtifactError, "not a readable safetensors file")
    path.write_bytes(b"")
    refuse(path, TeacherError, "is empty")
    header = json.dumps({"a": {"dtype": "F32", "shape": [1], "data_offsets": [0, 4]}}).encode()
    path = tmp_path / "other.pt"
    path.write_bytes(struct.pack("<Q", len(header)) + header + bytes(4))
    refuse(path, ArtifactError, "without a pops spec")
