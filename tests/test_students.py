"""Any torch module may be a teacher: read exactly where its layers can be, opaque elsewhere."""

import dataclasses

import gymnasium as gym
import numpy as np
import pytest
import torch
from core_cases import GLIDE, STEER, steer_teacher, tiny
from torch import nn

from pops.arch import Conv, NetArch
from pops.envs import make_env
from pops.errors import EnvironmentFailure, TeacherError
from pops.network import to_torch
from pops.pipeline import compress
from pops.policy import NumpyPolicy
from pops.spec import ContinuousActions, DiscreteActions, PolicySpec
from pops.students import OPAQUE_STUDENT_WIDTHS, as_teacher, read_sequential, spec_of


def sequential():
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 6), nn.ReLU(), nn.Identity(), nn.Linear(6, 3)
    )


class Opaque(nn.Module):
    """The hand-made policy behind a forward that cannot be read."""

    def __init__(self):
        super().__init__()
        policy = steer_teacher()
        self.inner = to_torch(policy.arch, policy.parameters)

    def forward(self, x):
        return self.inner(x) * 1.0


def test_a_sequential_is_read_exactly():
    module = sequential()
    origin = as_teacher(module, STEER)
    assert origin.policy is not None
    assert origin.arch == NetArch((3,), 3, (8, 6), ("tanh", "relu"))
    assert origin.num_parameters == origin.arch.num_parameters == 32 + 54 + 21
    assert origin.sampler is not None
    for (weight, bias), layer in zip(origin.policy.parameters, (module[0], module[2], module[5])):
        np.testing.assert_array_equal(weight, layer.weight.detach().numpy())
        np.testing.assert_array_equal(bias, layer.bias.detach().numpy())
    inputs = np.random.default_rng(0).normal(size=(30, 3)).astype(np.float32)
    with torch.inference_mode():
        expected = module(torch.from_numpy(inputs)).numpy()
    np.testing.assert_allclose(origin.behaviour.outputs(inputs), expected, atol=1e-6)
    assert as_teacher(sequential(), STEER).sha256 == origin.sha256


class Doubling(nn.Sequential):
    def forward(self, x):
        return 2 * super().forward(x)


@pytest.mark.parametrize(
    "module",
    [
        Opaque(),
        Doubling(nn.Linear(3, 3)),
        nn.Sequential(nn.Linear(3, 4), nn.ELU(alpha=0.3), nn.Linear(4, 3)),
        nn.Sequential(nn.Linear(3, 4), nn.Hardtanh(), nn.Linear(4, 3)),
        nn.Sequential(nn.Linear(3, 4, bias=False), nn.ReLU(), nn.Linear(4, 3)),
        nn.Sequential(nn.ReLU(), nn.Linear(3, 3)),
        nn.Sequential(nn.Sequential(nn.Linear(3, 3))),
    ],
)
def test_what_cannot_be_read_is_played_as_it_is(module):
    origin = as_teacher(module, STEER)
    assert origin.policy is None
    assert origin.arch.widths == OPAQUE_STUDENT_WIDTHS
    inputs = np.random.default_rng(0).normal(size=(7, 3)).astype(np.float32)
    with torch.inference_mode():
        expected = module(torch.from_numpy(inputs)).numpy()
    np.testing.assert_allclose(origin.behaviour.outputs(inputs), expected, rtol=1e-5, atol=1e-6)
    rows = np.concatenate([origin.behaviour.outputs(row[None]) for row in inputs])
    assert rows.tobytes() == origin.behaviour.outputs(inputs).tobytes()


def test_convolutions_with_their_flattening_are_read():
    spec = PolicySpec((2, 9, 9), DiscreteActions(3), "logits")
    module = nn.Sequential(
        *(nn.Conv2d(2, 4, 3, 2), nn.ReLU(), nn.Conv2d(4, 5, 2, padding=1), nn.Tanh()),
        *(nn.Flatten(), nn.Linear(125, 7), nn.ReLU(), nn.Linear(7, 3)),
    )
    read = read_sequential(module, spec)
    convs = (Conv(4, 3, 2), Conv(5, 2, 1, 1, "tanh"))
    assert read.arch == NetArch((2, 9, 9), 3, (7,), ("relu",), convs)
    inputs = np.random.default_rng(0).normal(size=(4, 2, 9, 9)).astype(np.float32)
    with torch.inference_mode():
        expected = module(torch.from_numpy(inputs)).numpy()
    np.testing.assert_allclose(read.outputs(inputs), expected, rtol=1e-4, atol=1e-5)
    dilated = nn.Sequential(nn.Conv2d(2, 4, 3, dilation=2), nn.Flatten(), nn.Linear(100, 3))
    assert read_sequential(dilated, spec) is None
    same = nn.Sequential(nn.Conv2d(2, 4, 3, padding="same"), nn.Flatten(), nn.Linear(324, 3))
    assert read_sequential(same, spec) is None


def test_specs_follow_from_the_spaces():
    steer, glide = spec_of(STEER), spec_of(GLIDE)
    assert steer == PolicySpec((3,), DiscreteActions(3), "logits", env=STEER)
    assert glide.actions == ContinuousActions((-2.0,), (2.0,))
    assert glide.output == "mean"
    lake = spec_of(lambda: gym.make("FrozenLake-v1"))
    assert (lake.one_hot, lake.n_outputs, lake.env) == (16, 4, None)
    with pytest.raises(EnvironmentFailure, match="Discrete or a bounded Box"):
        spec_of(Unbounded)


class Unbounded(gym.Env):
    observation_space = gym.spaces.Box(-1, 1, (2,))
    action_space = gym.spaces.Box(-np.inf, np.inf, (2,))


@pytest.mark.parametrize(
    ("teacher", "words"),
    [
        (nn.Linear(4, 3), "cannot take an observation of shape"),
        (nn.Linear(3, 2), r"puts out shape \(2,\) for one observation"),
        (42, "type int; expected a file, a policy or a"),
    ],
)
def test_modules_that_do_not_fit_are_refused_in_words(teacher, words):
    with pytest.raises(TeacherError, match=words):
        as_teacher(teacher, STEER)


def test_a_policy_in_memory_is_known_by_what_decides_how_it_acts():
    policy = steer_teacher()
    first = as_teacher(policy, STEER)
    assert first.behaviour is policy
    spec = dataclasses.replace(policy.spec, actions=DiscreteActions(3, start=1))
    other = NumpyPolicy(spec, policy.arch, policy.parameters)
    assert as_teacher(other, STEER).sha256 != first.sha256


@pytest.mark.slow
def test_an_opaque_module_and_a_lambda_are_compressed_with_two_workers(tmp_path):
    config = tiny(iterations=1)
    out = tmp_path / "run"
    result = compress(Opaque(), lambda: make_env(STEER), out, config, workers=2)
    manifest = result.manifest
    assert manifest["teacher"]["num_parameters"] == 387
    assert manifest["teacher"]["net_arch"] is None
    assert manifest["student"]["num_parameters"] < 387
    assert not (out / "teacher.safetensors").exists()
    # The function has another address in another process; a run goes on all the same.
    again = compress(Opaque(), lambda: make_env(STEER), out, config, workers=1, resume=True)
    for (w, b), (x, c) in zip(result.student.parameters, again.student.parameters):
        assert w.tobytes() == x.tobytes()
        assert b.tobytes() == c.tobytes()
