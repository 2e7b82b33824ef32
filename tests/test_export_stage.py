from __future__ import annotations

import numpy as np
import pytest
from export_cases import cartpole_policy, dense_case, image_case, random_policy

from pops.arch import NetArch
from pops.errors import PopsError
from pops.policy import NumpyPolicy
from pops.spec import DiscreteActions, Normaliser, PolicySpec
from pops_export.stage import InputStage, exponent, flat_observations, for_integers, plain


def test_the_powers_of_two_that_are_added_change_no_bit_of_the_function():
    policy, states = (
        random_policy(
            PolicySpec((4,), DiscreteActions(3), "logits"), NetArch((4,), 3, (7,), ("relu",))
        ),
        np.random.default_rng(0).normal(size=(200, 4)).astype(np.float32) * [100, 0.01, 3e-7, 5e4],
    )
    network = for_integers(policy, states.astype(np.float32))
    assert network.exponents == tuple(exponent(v) for v in np.abs(states).max(0))
    scaled = network.stage.apply(states.astype(np.float32))
    largest = np.abs(scaled).max(0)
    assert np.all((largest >= 0.5) & (largest < 1.0))
    folded = NumpyPolicy(policy.spec, policy.arch, [network.parameters[0], policy.parameters[1]])
    assert np.array_equal(folded.forward(scaled), policy.outputs(states.astype(np.float32)))


def test_a_normaliser_gets_powers_of_two_in_addition():
    policy, states = dense_case()
    states = states * np.float32([1, 1, 0.01])
    network = for_integers(policy, states)
    assert network.exponents is not None
    largest = np.abs(network.stage.apply(flat_observations(policy.spec, states))).max(0)
    assert np.all((largest >= 0.5) & (largest < 1.0))
    assert network.stage.limit == tuple(10.0 * 2.0**k for k in network.exponents)


def test_the_plain_stage_is_the_students_normaliser_within_rounding():
    policy, states = dense_case()
    found = plain(policy).stage.apply(flat_observations(policy.spec, states))
    np.testing.assert_allclose(found, policy.spec.preprocess(states), rtol=2e-6, atol=1e-6)


def test_centring_takes_the_value_of_the_state_out_and_keeps_the_argmax():
    policy = cartpole_policy(8, offset=100.0)
    states = np.random.default_rng(0).normal(size=(500, 4)).astype(np.float32)
    network = for_integers(policy, states)
    assert network.centred
    centred = NumpyPolicy(policy.spec, policy.arch, network.parameters)
    outputs = centred.forward(network.stage.apply(states))
    assert np.abs(outputs.sum(1)).max() < 1e-5
    assert np.abs(outputs).max() < 5
    assert np.array_equal(outputs.argmax(1), policy.act(states))


def test_pixels_enter_the_integer_core_as_they_are():
    policy, states = image_case()
    network = for_integers(policy, states)
    assert network.stage == InputStage()
    np.testing.assert_allclose(
        network.parameters[0][0] * 255, policy.parameters[0][0], rtol=1e-6, atol=0
    )


def test_a_discrete_observation_becomes_one_hot_exactly():
    stage = InputStage(one_hot=5)
    assert np.array_equal(stage.apply(np.arange(5.0)[:, None]), np.eye(5))


@pytest.mark.parametrize(
    ("value", "expected"), [(0.0, 0), (1.0, -1), (0.75, 0), (100.0, -7), (1e-40, 60), (np.inf, 0)]
)
def test_exponent(value, expected):
    assert exponent(value) == expected


def test_statistics_of_every_pixel_are_refused_in_words():
    policy, _ = image_case()
    spec = PolicySpec(
        (14, 15, 2),
        DiscreteActions(3),
        "logits",
        "uint8",
        channels_last=True,
        normaliser=Normaliser((0.0,) * 420, (255.0,) * 420),
    )
    with pytest.raises(PopsError, match="one a pixel"):
        plain(NumpyPolicy(spec, policy.arch, policy.parameters))


def test_stage_survives_json():
    stage = InputStage((1.0, 2.0), (0.5,), (10.0,))
    assert InputStage.from_json(stage.to_json()) == stage


def test_a_unit_whose_weights_were_all_pruned_keeps_a_scale_for_its_bias():
    policy = random_policy(
        PolicySpec((3,), DiscreteActions(2), "logits"), NetArch((3,), 2, (4,), ("relu",))
    )
    weight, bias = (a.copy() for a in policy.parameters[0])
    weight[1], bias[1] = 0.0, 30.0
    weight[2], bias[2] = 0.0, 0.0
    pruned = NumpyPolicy(policy.spec, policy.arch, [(weight, bias), policy.parameters[1]])
    states = np.random.default_rng(0).uniform(-1, 1, (100, 3)).astype(np.float32)
    network = for_integers(pruned, states)
    rows = np.abs(network.parameters[0][0]).max(1)
    assert np.all(rows > 0)
    assert rows[1] == np.float32(30 * 2.0**-14)
    assert rows[2] < 1e-6
    # The bias in units of its scale fits 32 bits for any input scale down to 1/1024.
    assert 30 / (rows[1] / 127 / 1024) < 2**31
