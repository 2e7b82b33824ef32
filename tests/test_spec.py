"""PolicySpec: preprocessing worked out by hand, and the way to JSON and back."""

import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from pops.errors import PopsError
from pops.spec import ContinuousActions, DiscreteActions, EnvSpec, Normaliser, PolicySpec

DISCRETE = DiscreteActions(3)


def test_running_statistics_are_applied_in_double_precision_and_clipped():
    spec = PolicySpec(
        (2,), DISCRETE, "logits", normaliser=Normaliser((1.0, 0.1), (2.0, 1e-3), clip=10.0)
    )
    got = spec.preprocess(np.array([[3.0, 0.1], [-99.0, 5.0]], np.float32))
    expected = (np.float64(np.float32(0.1)) - 0.1) / 1e-3
    np.testing.assert_array_equal(got, np.float32([[1.0, expected], [-10.0, 10.0]]))
    assert got.dtype == np.float32


def test_images_are_scaled_in_single_precision_and_turned_channels_first():
    spec = PolicySpec(
        (2, 3, 1),
        DISCRETE,
        "logits",
        "uint8",
        channels_last=True,
        normaliser=Normaliser((0.0,), (255.0,)),
    )
    image = np.arange(6, dtype=np.uint8).reshape(1, 2, 3, 1)
    got = spec.preprocess(image)
    assert got.shape == (1, 1, 2, 3)
    np.testing.assert_array_equal(got.ravel(), np.arange(6, dtype=np.float32) / np.float32(255))


def test_statistics_of_each_pixel_follow_the_channels():
    mean = tuple(float(i) for i in range(8))
    spec = PolicySpec(
        (2, 2, 2), DISCRETE, "logits", channels_last=True, normaliser=Normaliser(mean, (1.0,) * 8)
    )
    image = np.arange(8, dtype=np.float64).reshape(1, 2, 2, 2)
    np.testing.assert_array_equal(spec.preprocess(image), np.zeros((1, 2, 2, 2)))


def test_discrete_and_flat_observations():
    one_hot = PolicySpec((), DISCRETE, "logits", "int64", one_hot=4)
    np.testing.assert_array_equal(one_hot.preprocess(np.array([2, 0])), np.eye(4)[[2, 0]])
    assert one_hot.input_shape == (4,)
    grid = PolicySpec((2, 3), DISCRETE, "logits")
    assert grid.preprocess(np.zeros((5, 2, 3))).shape == (5, 6)


numbers = st.floats(-1e6, 1e6)


@given(
    st.one_of(
        st.builds(DiscreteActions, st.integers(1, 20), st.integers(-3, 3)),
        st.lists(st.tuples(numbers, numbers), min_size=1, max_size=3).map(
            lambda b: ContinuousActions(
                tuple(min(p) for p in b), tuple(max(p) for p in b), "tanh", (1, len(b))
            )
        ),
    ),
    st.none() | st.builds(Normaliser, st.just((1.5,)), st.just((0.1,)), st.none() | numbers),
    st.none() | st.builds(EnvSpec, st.text(), st.just({"a": [1, "b"]}), st.just(("m:C",))),
)
def test_json_both_ways(actions, normaliser, env):
    spec = PolicySpec((4,), actions, "mean", normaliser=normaliser, env=env)
    assert PolicySpec.from_json(json.loads(json.dumps(spec.to_json()))) == spec


@pytest.mark.parametrize(
    "change",
    [
        {"actions": {"kind": "dance"}},
        {"actions": None},
        {"observation_dtype": "complex64"},
        {"env": {"id": 1}},
        {"normaliser": {"mean": [1]}},
        {"more": 1},
    ],
)
def test_a_damaged_spec_is_refused_in_words(change):
    data = {**PolicySpec((4,), DISCRETE, "logits").to_json(), **change}
    with pytest.raises(PopsError, match="cannot be read"):
        PolicySpec.from_json(data)


@pytest.mark.parametrize("std", [0.0, -1.0, float("nan"), float("inf")])
def test_statistics_that_cannot_be_divided_by_are_refused(std):
    with pytest.raises(PopsError, match="damaged"):
        Normaliser((0.0,), (std,))
