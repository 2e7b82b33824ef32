"""State dicts, CleanRL models, pops' own files, and what `info` tells of each."""

import json

import gymnasium as gym
import numpy as np
import pytest
import torch
from gymnasium import spaces
from stable_baselines3 import PPO
from test_teacher_sb3 import TinyImage, make_model, sample
from torch import nn

from pops.arch import NetArch
from pops.artifact import save_policy, sha256_file, write_json
from pops.builtin import builtin_path
from pops.errors import EnvironmentFailure, PopsError, TeacherError
from pops.policy import NumpyPolicy
from pops.spec import ContinuousActions, EnvSpec, PolicySpec
from pops.teacher.info import info, print_info
from pops.teacher.load import load_teacher
from pops.weights import initialise

CARTPOLE = EnvSpec("CartPole-v1")
PENDULUM = EnvSpec("Pendulum-v1")
OBSERVATIONS = sample(spaces.Box(-1, 1, (4,)))
if "PopsTinyImage-v0" not in gym.registry:
    gym.register("PopsTinyImage-v0", entry_point=TinyImage)


def mlp(*sizes, activation=nn.ReLU):
    torch.manual_seed(0)
    layers = []
    for fan_in, fan_out in zip(sizes, sizes[1:]):
        layers += [nn.Linear(fan_in, fan_out), activation()]
    return nn.Sequential(*layers[:-1])


def torch_outputs(module, observations):
    with torch.no_grad():
        return module(torch.as_tensor(observations)).numpy()


def assert_outputs(policy, expected, observations=OBSERVATIONS):
    np.testing.assert_allclose(policy.outputs(observations), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(
    ("name", "activation"),
    [("relu", nn.ReLU), ("tanh", nn.Tanh), ("silu", nn.SiLU), ("sigmoid", nn.Sigmoid)],
)
@pytest.mark.parametrize("new_format", [True, False])
def test_state_dict(name, activation, new_format, tmp_path):
    module = mlp(4, 16, 8, 2, activation=activation)
    path = tmp_path / "policy.pt"
    torch.save(module.state_dict(), path, _use_new_zipfile_serialization=new_format)
    with pytest.raises(TeacherError, match=r"does not tell the activation.*--activation relu"):
        load_teacher(path, env=CARTPOLE)
    with pytest.raises(TeacherError, match="Give --env ID"):
        load_teacher(path, activation=name)
    teacher = load_teacher(path, env=CARTPOLE, activation=name)
    assert teacher.policy.spec.output == "logits"
    assert teacher.facts["activation_source"] == "given"
    assert teacher.sha256 == sha256_file(path)
    assert_outputs(teacher.policy, torch_outputs(module, OBSERVATIONS))


class Named(nn.Module):
    """Layers whose names are not in the order in which they are used, and a critic."""

    def __init__(self):
        super().__init__()
        self.value_head = nn.Linear(4, 1)
        self.fc10 = nn.Linear(8, 2)
        self.fc2 = nn.Linear(16, 8)
        self.fc1 = nn.Linear(4, 16, bias=False)

    def forward(self, x):
        return self.fc10(torch.relu(self.fc2(torch.relu(self.fc1(x)))))


def test_state_dict_in_the_order_of_its_names(tmp_path):
    torch.manual_seed(0)
    module = Named()
    torch.save({"state_dict": module.state_dict(), "epoch": 3}, tmp_path / "policy.pt")
    teacher = load_teacher(tmp_path / "policy.pt", env=CARTPOLE, activation="relu")
    assert teacher.policy.arch.widths == (16, 8)
    assert_outputs(teacher.policy, torch_outputs(module, OBSERVATIONS))


def test_state_dict_without_activations_between(tmp_path):
    torch.manual_seed(0)
    module = nn.Sequential(nn.Linear(4, 8), nn.Linear(8, 6), nn.Tanh(), nn.Linear(6, 2))
    torch.save(module.state_dict(), tmp_path / "policy.pt")
    teacher = load_teacher(tmp_path / "policy.pt", env=CARTPOLE, activation="tanh")
    assert teacher.policy.arch.activations == ("identity", "tanh")
    assert_outputs(teacher.policy, torch_outputs(module, OBSERVATIONS))


@pytest.mark.parametrize(
    ("module", "words"),
    [
        (nn.Sequential(nn.Linear(4, 8), nn.LayerNorm(8), nn.Linear(8, 2)), "neither a Linear"),
        (nn.Sequential(nn.Linear(4, 8), nn.Linear(4, 2)), "does not follow"),
        (nn.Sequential(nn.Conv2d(1, 2, 5), nn.ReLU(), nn.Flatten(), nn.Linear(8, 2)), "strides"),
        (nn.Sequential(nn.Linear(4, 8), nn.ReLU(), nn.Softsign(), nn.Linear(8, 2)), "2 modules"),
        (nn.Sequential(nn.ReLU()), "no Linear or Conv layers"),
    ],
)
def test_state_dicts_that_are_no_chain(module, words, tmp_path):
    torch.save(module.state_dict(), tmp_path / "policy.pt")
    with pytest.raises(TeacherError, match=words):
        load_teacher(tmp_path / "policy.pt", env=CARTPOLE, activation="relu")


class Agent(nn.Module):
    """CleanRL's ppo.py and ppo_continuous_action.py."""

    def __init__(self, continuous):
        super().__init__()
        torch.manual_seed(0)
        inputs = 3 if continuous else 4
        self.critic = mlp(inputs, 16, 16, 1, activation=nn.Tanh)
        if continuous:
            self.actor_mean = mlp(inputs, 16, 16, 1, activation=nn.Tanh)
            self.actor_logstd = nn.Parameter(torch.full((1, 1), -0.5))
        else:
            self.actor = mlp(inputs, 16, 16, 2, activation=nn.Tanh)


class Q(nn.Module):
    """CleanRL's dqn.py."""

    def __init__(self):
        super().__init__()
        self.network = mlp(4, 120, 84, 2)


class Actor(nn.Module):
    """CleanRL's td3 and ddpg."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.fc1, self.fc2, self.fc_mu = nn.Linear(3, 32), nn.Linear(32, 32), nn.Linear(32, 1)
        self.register_buffer("action_scale", torch.tensor([2.0]))
        self.register_buffer("action_bias", torch.tensor([0.0]))

    def forward(self, x):
        x = torch.relu(self.fc2(torch.relu(self.fc1(x))))
        return torch.tanh(self.fc_mu(x)) * self.action_scale + self.action_bias


def save_cleanrl(tmp_path, state):
    path = tmp_path / "experiment.cleanrl_model"
    torch.save(state, path)
    return path


def test_cleanrl_ppo(tmp_path):
    agent = Agent(continuous=False)
    teacher = load_teacher(save_cleanrl(tmp_path, agent.state_dict()), env=CARTPOLE)
    assert teacher.facts["kind"] == "CleanRL model"
    assert teacher.facts["activation_source"] == "default of CleanRL's PPO"
    assert_outputs(teacher.policy, torch_outputs(agent.actor, OBSERVATIONS))
    with pytest.raises(EnvironmentFailure, match="puts out 2 values"):
        load_teacher(save_cleanrl(tmp_path, agent.state_dict()), env=EnvSpec("Acrobot-v1"))


def test_cleanrl_ppo_continuous(tmp_path):
    agent = Agent(continuous=True)
    teacher = load_teacher(save_cleanrl(tmp_path, agent.state_dict()), env=PENDULUM)
    observations = OBSERVATIONS[:, :3] * 3
    assert teacher.facts["log_std"] == (-0.5,)
    assert teacher.policy.spec.actions == ContinuousActions((-2.0,), (2.0,), "clip")
    assert "does not save its statistics" in teacher.facts["notes"][0]
    assert_outputs(teacher.policy, torch_outputs(agent.actor_mean, observations), observations)
    with pytest.raises(EnvironmentFailure, match="continuous actions"):
        load_teacher(save_cleanrl(tmp_path, mlp_as("actor_mean", 4, 8, 2)), env=CARTPOLE)


def mlp_as(prefix, *sizes):
    return {f"{prefix}.{key}": value for key, value in mlp(*sizes).state_dict().items()}


def test_cleanrl_dqn(tmp_path):
    q = Q()
    teacher = load_teacher(save_cleanrl(tmp_path, q.state_dict()), env=CARTPOLE)
    assert teacher.policy.spec.output == "q_values"
    assert teacher.policy.arch.activations == ("relu", "relu")
    assert_outputs(teacher.policy, torch_outputs(q.network, OBSERVATIONS))


def test_cleanrl_td3_acts_within_the_bounds(tmp_path):
    actor = Actor()
    state = (actor.state_dict(), mlp(4, 8, 1).state_dict(), mlp(4, 8, 1).state_dict())
    teacher = load_teacher(save_cleanrl(tmp_path, state), env=PENDULUM)
    observations = OBSERVATIONS[:, :3] * 5
    expected = torch_outputs(actor, observations)
    assert np.abs(teacher.policy.predict(observations)[0] - expected).max() <= 1e-5


def test_cleanrl_c51_is_refused(tmp_path):
    state = {**Q().state_dict(), "atoms": torch.linspace(-100, 100, 51)}
    with pytest.raises(TeacherError, match="C51's distribution"):
        load_teacher(save_cleanrl(tmp_path, state), env=CARTPOLE)


def nature(actions=3):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Conv2d(1, 8, 8, 4), nn.ReLU(),
        nn.Conv2d(8, 8, 4, 2), nn.ReLU(),
        nn.Conv2d(8, 8, 3, 1), nn.ReLU(),
        nn.Flatten(), nn.Linear(8 * 49, 16), nn.ReLU(), nn.Linear(16, actions),
    )  # fmt: skip


@pytest.mark.parametrize("channels_first", [True, False])
def test_cleanrl_atari_network(channels_first, tmp_path):
    module = nature()
    state = {f"network.{key}": value for key, value in module.state_dict().items()}
    env = EnvSpec("PopsTinyImage-v0", kwargs={"channels_first": channels_first})
    teacher = load_teacher(save_cleanrl(tmp_path, state), env=env)
    images = np.random.default_rng(0).integers(0, 256, (20, 1, 84, 84), dtype=np.uint8)
    given = images if channels_first else np.moveaxis(images, 1, -1)
    assert_outputs(teacher.policy, torch_outputs(module, images.astype(np.float32) / 255), given)


def test_bare_policy_of_stable_baselines3(tmp_path):
    model = make_model("PPO", "CartPole-v1", {}, {})
    torch.save(model.policy.state_dict(), tmp_path / "policy.pth")
    with pytest.raises(TeacherError, match="--activation"):
        load_teacher(tmp_path / "policy.pth", env=CARTPOLE)
    teacher = load_teacher(tmp_path / "policy.pth", env=CARTPOLE, activation="tanh")
    expected = model.predict(OBSERVATIONS, deterministic=True)[0]
    np.testing.assert_array_equal(teacher.policy.predict(OBSERVATIONS)[0], expected)


def export(module, example, path, **kwargs):
    torch.onnx.export(module, (torch.as_tensor(example[:1]),), path, dynamo=False,
        input_names=["observation"], dynamic_axes={"observation": {0: "n"}}, **kwargs)  # fmt: skip


def test_policy_file_run_and_training_folder_of_pops(tmp_path):
    make_model("PPO", "Pendulum-v1", {}, {}).save(tmp_path / "teacher.zip")
    policy = load_teacher(tmp_path / "teacher.zip", env=PENDULUM).policy
    extra = {"algorithm": "PPO", "log_std": [-1.0]}
    save_policy(tmp_path / "policy.safetensors", policy, extra)
    (tmp_path / "trained").mkdir()
    save_policy(tmp_path / "trained" / "teacher.safetensors", policy, extra)
    (tmp_path / "run").mkdir()
    save_policy(tmp_path / "run" / "student.safetensors", policy)
    write_json(tmp_path / "run" / "manifest.json", {"format": "pops-run-1"})
    observations = OBSERVATIONS[:, :3]
    for name in ("policy.safetensors", "trained", "run"):
        for env in (PENDULUM, None):
            teacher = load_teacher(tmp_path / name, env=env)
            assert teacher.source == str(tmp_path / name)
            assert teacher.policy.spec.env == PENDULUM
            np.testing.assert_array_equal(
                teacher.policy.outputs(observations), policy.outputs(observations)
            )
    teacher = load_teacher(tmp_path / "trained")
    assert (teacher.facts["algorithm"], teacher.facts["log_std"]) == ("PPO", (-1.0,))
    for env_id, word in [("CartPole-v1", "observations"), ("MountainCarContinuous-v0", "Box")]:
        with pytest.raises(EnvironmentFailure, match=word):
            load_teacher(tmp_path / "run", env=EnvSpec(env_id))


def test_info_is_json_and_prints(tmp_path, capsys):
    kwargs = {"activation_fn": nn.ReLU, "net_arch": [32, 16]}
    PPO("MlpPolicy", "Pendulum-v1", policy_kwargs=kwargs, device="cpu").save(tmp_path / "p.zip")
    torch.save(mlp(4, 8, 2).state_dict(), tmp_path / "p.pt")
    data = info(tmp_path / "p.zip")
    assert json.loads(json.dumps(data, allow_nan=False)) is not None
    assert data["algorithm"] == "PPO"
    assert [layer["shape"] for layer in data["layers"]] == [[32, 3], [16, 32], [1, 16]]
    assert data["num_parameters"] == 3 * 32 + 32 + 32 * 16 + 16 + 16 + 1
    assert data["macs"] == 3 * 32 + 32 * 16 + 16
    assert data["observation_space"]["shape"] == [3]
    assert data["action_space"]["high"] == [2.0]
    assert data["sha256"] == sha256_file(tmp_path / "p.zip")
    print_info(data)
    shown = capsys.readouterr().out
    assert "relu (policy_kwargs)" in shown
    data = info(tmp_path / "p.pt")
    assert (data["activation"], data["layers"][0]["activation"]) == (None, None)
    print_info(data)
    assert "unknown: give --activation" in capsys.readouterr().out


def test_info_of_a_policy_of_ours_tells_the_spaces_in_its_spec(tmp_path, capsys):
    data = info(builtin_path("cartpole"))
    assert data["observation_space"] == {"kind": "Box", "shape": [4], "dtype": "float32"}
    assert data["action_space"] == {"kind": "Discrete", "n": 2, "start": 0}
    print_info(data)
    assert "Box(4,) float32" in capsys.readouterr().out
    actions = ContinuousActions((-2.0,), (2.0,))
    spec = PolicySpec((), actions, "mean", observation_dtype="int64", one_hot=3)
    arch = NetArch((3,), 1)
    save_policy(tmp_path / "p.safetensors", NumpyPolicy(spec, arch, initialise(arch, 0)), {})
    data = info(tmp_path / "p.safetensors")
    assert data["observation_space"] == {"kind": "Discrete", "n": 3, "start": 0}
    assert (data["action_space"]["low"], data["action_space"]["high"]) == ([-2.0], [2.0])


ZOO_CONFIG = """!!python/object/apply:collections.OrderedDict
- - - env_wrapper
    - gymnasium.wrappers.FlattenObservation
  - - frame_stack
    - 2
  - - normalize
    - '{''norm_obs'': True}'
  - - policy_kwargs
    - !!python/object/apply:os.system ["touch CANARY"]
  - - hook
    - !!python/name:os.system
"""


def test_zoo_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    make_model("PPO", gym.wrappers.FrameStackObservation(gym.make("CartPole-v1"), 2), {}, {}).save(
        tmp_path / "best_model.zip"
    )
    folder = tmp_path / "CartPole-v1"
    folder.mkdir()
    (folder / "config.yml").write_text(ZOO_CONFIG)
    (folder / "args.yml").write_text(
        "!!python/object/apply:collections.OrderedDict\n- - - env\n    - CartPole-v1\n"
    )
    data = info(tmp_path / "best_model.zip")
    assert data["env"] == "CartPole-v1"
    assert data["zoo"]["env_wrapper"] == "gymnasium.wrappers.FlattenObservation"
    assert data["zoo"]["policy_kwargs"] == ["touch CANARY"]
    assert not (tmp_path / "CANARY").exists()
    (folder / "config.yml").write_text("a: &a [1]\nb: [*a, *a]\n")
    assert "zoo" not in info(tmp_path / "best_model.zip")


@pytest.mark.parametrize("kind", ["zip", "onnx", "pt"])
def test_damage_anywhere_ends_in_words(kind, tmp_path):
    """Bytes flipped at 60 places: a policy or a PopsError, never anything else."""
    path = tmp_path / f"teacher.{kind}"
    if kind == "zip":
        PPO("MlpPolicy", "CartPole-v1", device="cpu", policy_kwargs={"net_arch": [4]}).save(path)
    elif kind == "onnx":
        export(mlp(4, 4, 2), OBSERVATIONS, path)
    else:
        torch.save(mlp(4, 4, 2).state_dict(), path)
    whole = path.read_bytes()
    rng = np.random.default_rng(0)
    outcomes = []
    for _ in range(60):
        damaged = bytearray(whole)
        for index in rng.integers(0, len(whole), size=3):
            damaged[index] = int(rng.integers(256))
        if rng.random() < 0.3:
            damaged = damaged[: int(rng.integers(1, len(whole)))]
        path.write_bytes(damaged)
        try:
            outcomes.append(info(path)["kind"])
        except PopsError as error:
            outcomes.append(str(error))
    kinds = {"Stable-Baselines3 zip", "ONNX", "torch state dict"}
    assert all(said in kinds or path.name in said for said in outcomes)
    assert any(path.name in said for said in outcomes)
