from __future__ import annotations

import numpy as np
import pytest
from export_cases import dense_case, image_case, random_policy

from pops.arch import Conv, NetArch
from pops.policy import NumpyPolicy, activate
from pops.spec import ContinuousActions, DiscreteActions, PolicySpec
from pops_export.bound import UNIT, action_bound, output_bound, rounding_factor, undecided


def exact(policy: NumpyPolicy, observations):
    """The policy in float64, in another summation order."""
    mean, std = np.zeros(1), np.ones(1)
    clip = np.inf
    if policy.spec.normaliser is not None:
        n = policy.spec.normaliser
        mean, std = np.asarray(n.mean), np.asarray(n.std)
        clip = n.clip or np.inf
    x = np.clip((observations.reshape(len(observations), -1) - mean) / std, -clip, clip)
    for layer, (weight, bias) in zip(policy.arch.layers(), policy.parameters):
        x = x[:, ::-1] @ weight.astype(np.float64).T[::-1] + bias
        x = activate(layer.activation, x)
    return x


def test_the_students_own_rounding_lies_within_the_bound():
    policy, states = dense_case()
    far = np.concatenate([states, states * 30]).astype(np.float32)
    share = np.abs(policy.outputs(far) - exact(policy, far)) / output_bound(policy, far)
    assert share.max() < 0.5
    assert share.max() > 1e-3


def test_a_wide_network_needs_more_than_a_fixed_relative_bound():
    spec = PolicySpec((8,), DiscreteActions(4), "logits")
    policy = random_policy(spec, NetArch((8,), 4, (64, 64), ("relu", "relu")))
    x = np.random.default_rng(0).normal(size=(5000, 8)).astype(np.float32)
    difference = np.abs(policy.outputs(x) - exact(policy, x))
    relative = difference / np.abs(exact(policy, x))
    assert relative.max() > 1e-6
    assert (difference / output_bound(policy, x)).max() < 0.2


def test_the_bound_by_hand():
    spec = PolicySpec((2,), DiscreteActions(2), "logits")
    weight = np.array([[1.0, -2.0], [3.0, 4.0]], np.float32)
    policy = NumpyPolicy(spec, NetArch((2,), 2), [(weight, np.array([-5.0, 6.0], np.float32))])
    x = np.array([[1.0, -1.0]], np.float32)
    assert np.array_equal(output_bound(policy, x), 8 * UNIT * np.array([[1 + 2 + 5, 3 + 4 + 6]]))


def test_a_long_sum_that_is_rounded_step_by_step_lies_within_the_bound():
    """Some runtimes add a window's products one by one; equal products are rounded alike."""
    length = 1024
    arch = NetArch((4, 16, 16), 1, convs=(Conv(1, 16, 1),))
    spec = PolicySpec((4, 16, 16), ContinuousActions((-1e6,), (1e6,)), "mean")
    weights = [np.full((1, 4, 16, 16), 0.1, np.float32), np.ones((1, 1), np.float32)]
    policy = NumpyPolicy(spec, arch, [(w, np.zeros(1, np.float32)) for w in weights])
    image = np.full((1, 4, 16, 16), 0.7, np.float32)
    products = np.full(length, np.float32(0.1) * np.float32(0.7), np.float32)
    one_by_one = np.add.accumulate(products)[-1]  # numpy sums in pairs, except here
    bound = float(output_bound(policy, image)[0, 0])
    difference = abs(float(one_by_one) - float(policy.outputs(image)[0, 0]))
    assert 8 / 512 * bound < difference < bound
    assert rounding_factor(arch) == 512.0
    assert rounding_factor(dense_case()[0].arch) == 8.0


def test_images():
    policy, states = image_case()
    bound = output_bound(policy, states[:4])
    assert bound.shape == (4, 3)
    assert 1e-7 < bound.max() < 3e-4


def test_outside_of_the_clip_the_bound_stays_small():
    policy, states = dense_case()
    inside, far = output_bound(policy, states[:1]), output_bound(policy, states[:1] * 0 + 1e9)
    assert far.max() < 20 * inside.max()


def test_actions_may_differ_only_where_the_best_two_are_close():
    outputs = np.array([[1.0, 1.0 + 1e-7, 0.0], [1.0, 1.1, 0.0]], np.float32)
    assert undecided(outputs, np.full((2, 3), 1e-6)).tolist() == [True, False]


@pytest.mark.parametrize("scale", [1.0, 50.0])
def test_continuous_actions_are_bounded_through_the_squashing(scale):
    policy, states = dense_case()
    reference = policy.outputs(states) * np.float32(scale)
    bound = np.full(reference.shape, 1e-6)
    moved = reference + np.float32(9e-7) * np.random.default_rng(0).choice([-1, 1], bound.shape)
    difference = np.abs(
        policy.spec.decode(moved.astype(np.float32)) - policy.spec.decode(reference)
    )
    assert np.all(difference <= action_bound(policy, reference, bound))
