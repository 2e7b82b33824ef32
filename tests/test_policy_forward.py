"""The reference forward pass: independent of the batch, equal to torch's, free of torch."""

import dataclasses
import subprocess
import sys

import numpy as np
import pytest
import torch
from core_cases import environment, glide_teacher, random_policy, steer_teacher

from pops.arch import ACTIVATIONS, Conv, NetArch
from pops.artifact import save_policy
from pops.errors import PopsError
from pops.network import to_torch
from pops.policy import NumpyPolicy
from pops.spec import ContinuousActions, DiscreteActions, Normaliser, PolicySpec

PAPER = NetArch((4,), 2, (256, 256, 128), ("relu", "tanh", "elu"))
NATURE = NetArch(
    (4, 84, 84), 6, (512,), ("relu",), (Conv(32, 8, 4), Conv(64, 4, 2), Conv(64, 3, 1))
)
IMAGES = PolicySpec(
    (84, 84, 4),
    DiscreteActions(6),
    "logits",
    "uint8",
    channels_last=True,
    normaliser=Normaliser((0.0,), (255.0,)),
)


@pytest.fixture(scope="module")
def paper():
    policy = random_policy(PAPER, PolicySpec((4,), DiscreteActions(2), "q_values"))
    observations = np.random.default_rng(1).normal(size=(101, 4)).astype(np.float32)
    return policy, observations


@pytest.fixture(scope="module")
def nature():
    policy = random_policy(NATURE, IMAGES)
    observations = np.random.default_rng(1).integers(0, 256, (9, 84, 84, 4), dtype=np.uint8)
    return policy, observations


@pytest.mark.parametrize("case", ["paper", "nature"])
@pytest.mark.parametrize("split", [1, 2, 3, 7])
def test_a_row_does_not_depend_on_its_batch(case, split, request):
    policy, observations = request.getfixturevalue(case)
    whole = policy.outputs(observations)
    parts = [
        policy.outputs(observations[i : i + split]) for i in range(0, len(observations), split)
    ]
    assert whole.dtype == np.float32
    assert np.concatenate(parts).tobytes() == whole.tobytes()
    reversed_rows = policy.outputs(observations[::-1].copy())
    assert np.ascontiguousarray(reversed_rows[::-1]).tobytes() == whole.tobytes()


@pytest.mark.parametrize("case", ["paper", "nature"])
def test_the_forward_pass_is_torchs(case, request):
    policy, observations = request.getfixturevalue(case)
    inputs = policy.spec.preprocess(observations)
    network = to_torch(policy.arch, policy.parameters)
    with torch.inference_mode():
        expected = network(torch.from_numpy(inputs)).numpy()
    np.testing.assert_allclose(policy.outputs(observations), expected, rtol=2e-5, atol=2e-6)


@pytest.mark.parametrize("activation", ACTIVATIONS)
def test_every_activation_is_torchs(activation):
    arch = NetArch((5,), 3, (16, 16), (activation, activation))
    spec = PolicySpec((5,), DiscreteActions(3), "logits")
    policy = random_policy(arch, spec, scale=3.0)
    observations = np.random.default_rng(2).normal(size=(50, 5)).astype(np.float32)
    with torch.inference_mode():
        network = to_torch(arch, policy.parameters)
        expected = network(torch.from_numpy(observations)).numpy()
    assert policy.outputs(observations).dtype == np.float32
    np.testing.assert_allclose(policy.outputs(observations), expected, rtol=1e-5, atol=1e-5)


def test_a_padded_convolution_is_torchs():
    arch = NetArch((3, 9, 7), 2, (), (), (Conv(4, 3, 2, 1, "tanh"),))
    spec = PolicySpec((3, 9, 7), DiscreteActions(2), "logits")
    policy = random_policy(arch, spec)
    observations = np.random.default_rng(3).normal(size=(6, 3, 9, 7)).astype(np.float32)
    network = to_torch(arch, policy.parameters)
    with torch.inference_mode():
        expected = network(torch.from_numpy(observations)).numpy()
    np.testing.assert_allclose(policy.outputs(observations), expected, rtol=1e-5, atol=1e-6)


def test_a_policy_reads_the_inputs_it_selects_and_no_other():
    arch = NetArch((4,), 2, (), (), inputs=(3, 1))
    weight = np.array([[1, 10], [2, 20]], np.float32)
    bias = np.array([0.5, -0.5], np.float32)
    policy = NumpyPolicy(PolicySpec((4,), DiscreteActions(2), "logits"), arch, [(weight, bias)])
    observation = np.array([[np.inf, 2, np.nan, 3]], np.float32)
    np.testing.assert_array_equal(policy.outputs(observation), [[23.5, 45.5]])


def test_predict_is_a_drop_in_for_one_observation_and_for_a_batch():
    steer, glide = steer_teacher(), glide_teacher()
    one, three = np.array([1, 1, 0], np.float32), np.zeros((3, 3), np.float32)
    action, state = steer.predict(one, state=("kept",), episode_start=np.array([True]))
    assert np.shape(action) == ()
    assert int(action) == 0
    assert state == ("kept",)
    assert steer.predict(three)[0].shape == (3,)
    assert steer.predict(three)[0].dtype == np.int64
    assert glide.predict(one, deterministic=True)[0].shape == (1,)
    np.testing.assert_array_equal(glide.predict(one)[0], np.float32([-2]))
    assert glide.predict(three)[0].shape == (3, 1)
    assert glide.predict(three)[0].dtype == np.float32


def test_predict_for_a_discrete_observation():
    spec = PolicySpec((), DiscreteActions(2, start=5), "logits", "int64", one_hot=3)
    weight = np.array([[1, 0, 0], [0, 1, 1]], np.float32)
    policy = NumpyPolicy(spec, NetArch((3,), 2), [(weight, np.zeros(2, np.float32))])
    assert policy.predict(0)[0] == 5
    assert policy.predict(np.array(2))[0] == 6
    np.testing.assert_array_equal(policy.predict(np.array([0, 1, 2]))[0], [5, 6, 6])


def test_predict_refuses_what_does_not_fit():
    policy = steer_teacher()
    with pytest.raises(PopsError, match=r"shape \(4,\), expected \(3,\)"):
        policy.predict(np.zeros(4))
    with pytest.raises(PopsError, match="deterministic"):
        policy.predict(np.zeros(3), deterministic=False)


def test_decoding_clips_squashes_and_takes_the_first_of_equals():
    discrete = PolicySpec((1,), DiscreteActions(3), "logits")
    np.testing.assert_array_equal(discrete.decode(np.float32([[1, 1, 0], [0, 2, 2]])), [0, 1])
    box = ContinuousActions((-2.0, 0.0), (2.0, 10.0))
    clip = PolicySpec((1,), box, "mean")
    np.testing.assert_array_equal(clip.decode(np.float32([[5, -5]])), np.float32([[2, 0]]))
    tanh = PolicySpec((1,), dataclasses.replace(box, squash="tanh"), "mean")
    np.testing.assert_allclose(
        tanh.decode(np.float32([[0.5, 0]])), [[2 * np.tanh(0.5), 5.0]], rtol=1e-6
    )
    limited = dataclasses.replace(tanh, output_clip=0.5)
    np.testing.assert_allclose(
        limited.decode(np.float32([[9, 0]])), [[2 * np.tanh(0.5), 5.0]], rtol=1e-6
    )


def test_damaged_weights_are_refused_with_the_layer():
    policy = steer_teacher()
    broken = [(w.copy(), b.copy()) for w, b in policy.parameters]
    broken[1][0][3, 3] = np.nan
    with pytest.raises(PopsError, match="Layer 1 holds NaN"):
        NumpyPolicy(policy.spec, policy.arch, broken)
    with pytest.raises(PopsError, match="Found 2 layers of weights, expected 3"):
        NumpyPolicy(policy.spec, policy.arch, policy.parameters[:2])


def test_loading_and_acting_needs_numpy_alone(tmp_path):
    save_policy(tmp_path / "policy.safetensors", steer_teacher())
    program = (
        "import sys, numpy, pops\n"
        f"policy = pops.load({str(tmp_path / 'policy.safetensors')!r})\n"
        "print(policy.predict(numpy.float32([1, 1, 0]))[0])\n"
        "heavy = {'torch', 'gymnasium', 'scipy', 'onnx', 'matplotlib', 'tyro', 'rich'}\n"
        "print(sorted(heavy & set(sys.modules)))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", program],
        capture_output=True,
        text=True,
        env=environment(),
        check=True,
    )
    assert done.stdout.split("\n") == ["0", "[]", ""]
