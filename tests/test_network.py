"""Weights into training and out of it; what a smaller network inherits."""

import numpy as np
import pytest
from core_cases import random_policy, steer_teacher
from hypothesis import given, settings
from hypothesis import strategies as st

from pops.arch import Conv, NetArch
from pops.candidate import can_inherit, inherit
from pops.errors import PopsError
from pops.learner import new_learner
from pops.loss import policy_loss
from pops.policy import NumpyPolicy
from pops.spec import DiscreteActions, PolicySpec
from pops.weights import Scaling, fold, initialise, nonzeros, standardise

RNG = np.random.default_rng(0)
SCALING = Scaling(np.array([5.0, -0.1, 300.0]), np.array([2.0, 0.01, 50.0]))
SMALL_CONV = NetArch((2, 8, 8), 3, (10,), ("relu",), (Conv(6, 3, 1), Conv(5, 3, 2)))


def spec_for(arch):
    return PolicySpec(arch.input_shape, DiscreteActions(arch.outputs), "logits")


def test_standardisation_is_folded_in_and_out():
    policy = steer_teacher()
    inputs = RNG.normal(SCALING.mean, SCALING.std, (200, 3)).astype(np.float32)
    trained = standardise(policy.arch, policy.parameters, SCALING)
    outputs = NumpyPolicy(policy.spec, policy.arch, trained).forward(SCALING.apply(inputs))
    size = np.abs(policy.forward(inputs)).max()
    np.testing.assert_allclose(outputs, policy.forward(inputs), atol=2e-6 * size)
    back = NumpyPolicy(policy.spec, policy.arch, fold(policy.arch, trained, SCALING))
    np.testing.assert_allclose(back.forward(inputs), policy.forward(inputs), atol=2e-6 * size)


def test_without_scaling_parameters_come_back_bit_by_bit():
    for arch in (NetArch((3,), 2, (7,), ("tanh",)), SMALL_CONV):
        policy = random_policy(arch, spec_for(arch))
        learner = new_learner(arch, policy.parameters, policy_loss(policy.spec, 1.0))
        for (w, b), (x, c) in zip(policy.parameters, learner.parameters()):
            assert w.tobytes() == x.tobytes()
            assert b.tobytes() == c.tobytes()


def test_selected_inputs_take_their_own_scaling():
    arch = NetArch((3,), 2, (4,), ("relu",), inputs=(2, 0))
    policy = random_policy(arch, spec_for(arch))
    inputs = RNG.normal(SCALING.mean, SCALING.std, (50, 3)).astype(np.float32)
    trained = NumpyPolicy(policy.spec, arch, standardise(arch, policy.parameters, SCALING))
    outputs = trained.forward(SCALING.apply(inputs))
    np.testing.assert_allclose(outputs, policy.forward(inputs), rtol=1e-5, atol=1e-3)


def test_a_constant_feature_is_left_as_it_is():
    inputs = np.array([[1, 7, 0], [3, 7, 0]], np.float32)
    scaling = Scaling.of(inputs)
    assert scaling.mean.tolist() == [2.0, 0.0, 0.0]
    assert scaling.std.tolist() == [1.0, 1.0, 1.0]


def test_fresh_weights_come_from_the_seed_alone():
    arch = NetArch((3,), 2, (7,), ("tanh",))
    first, again, other = initialise(arch, 5), initialise(arch, 5), initialise(arch, 6)
    assert all(a[0].tobytes() == b[0].tobytes() for a, b in zip(first, again))
    assert first[0][0].tobytes() != other[0][0].tobytes()
    bound = np.sqrt(3 / 3)
    assert np.abs(first[0][0]).max() <= bound
    assert np.abs(first[1][0]).max() <= 0.1 * np.sqrt(3 / 7)


def test_weights_that_are_not_finite_are_reported_as_divergence():
    weights = initialise(NetArch((3,), 2), 0)
    weights[0][0][0, 0] = np.inf
    with pytest.raises(PopsError, match="diverged: layer 0"):
        fold(NetArch((3,), 2), weights, Scaling.identity(3))


def test_nonzeros_are_counted_by_layer():
    policy = steer_teacher(16)
    weights = [(w.copy(), b) for w, b in policy.parameters]
    weights[1][0][:] = 0
    weights[2][0][:, 3:] = 0
    assert nonzeros(weights) == (np.count_nonzero(weights[0][0]), 0, 3)


@pytest.mark.parametrize("arch", [NetArch((3,), 2, (12, 9), ("relu", "relu")), SMALL_CONV])
def test_units_without_effect_are_what_is_left_out(arch):
    """Dead units at random places: the narrower network computes the same."""
    policy = random_policy(arch, spec_for(arch))
    parameters = [(w.copy(), b.copy()) for w, b in policy.parameters]
    kept = []
    for index, layer in enumerate(arch.layers()[:-1]):
        size = layer.weight[0]
        dead = np.random.default_rng(index).permutation(size)[: size // 3]
        parameters[index][0][dead] = 0
        parameters[index][1][dead] = 0
        kept.append(size - len(dead))
    convs = len(arch.convs)
    smaller = arch.with_widths(tuple(kept[convs:]), tuple(kept[:convs]))
    assert can_inherit(smaller, arch)
    narrow = NumpyPolicy(policy.spec, smaller, inherit(smaller, arch, parameters))
    inputs = RNG.normal(size=(20, *arch.input_shape)).astype(np.float32)
    expected = NumpyPolicy(policy.spec, arch, parameters).forward(inputs)
    np.testing.assert_allclose(narrow.forward(inputs), expected, rtol=1e-5, atol=1e-5)


def test_another_stride_is_not_inherited():
    other = NetArch((2, 8, 8), 3, (10,), ("relu",), (Conv(6, 3, 2), Conv(5, 3, 2)))
    assert not can_inherit(other, SMALL_CONV)


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 6), st.integers(1, 5), st.integers(1, 10))
def test_inherited_weights_fit_any_narrower_network(first, second, width):
    policy = random_policy(SMALL_CONV, spec_for(SMALL_CONV))
    smaller = SMALL_CONV.with_widths((width,), (first, second))
    NumpyPolicy(policy.spec, smaller, inherit(smaller, SMALL_CONV, policy.parameters))


def test_what_cannot_be_inherited():
    parent = NetArch((3,), 2, (5,), ("relu",))
    assert can_inherit(parent, parent)
    assert not can_inherit(parent.with_widths((6,)), parent)
    assert not can_inherit(parent.with_widths(()), parent)
    assert not can_inherit(NetArch((3,), 2, (5,), ("relu",), inputs=(0,)), parent)
