"""Sizes of convolutional students: the compact kind, which pair is next."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from pops.arch import Conv, NetArch
from pops.candidate import Candidate, can_inherit
from pops.config import CompressConfig, SearchConfig
from pops.errors import PopsError
from pops.evaluate import EvalResult
from pops.shapes import compact, levelled, with_parameters
from pops.sizes import first_share, may_reach, search_sizes, sizes
from pops.weights import initialise

NATURE = NetArch(
    (4, 84, 84), 3, (512,), ("relu",), (Conv(32, 8, 4), Conv(64, 4, 2), Conv(64, 3, 1))
)
SHRUNK = NetArch(
    (4, 84, 84), 3, (310,), ("relu",), (Conv(19, 8, 4), Conv(64, 4, 2), Conv(18, 3, 1))
)
"""309,452 parameters."""


def test_the_compact_kind_of_naturecnn():
    kind = compact(NATURE)
    assert [(c.kernel, c.stride) for c in kind.convs] == [(4, 4), (4, 2), (3, 1), (3, 2)]
    student = with_parameters(kind, 7000)
    assert str(student) == "conv 8x4/4 12x4/2 12x3/1 12x3/2 then 108-20-3"
    assert (student.num_weights, student.num_parameters) == (6860, 6927)
    assert NATURE.macs / student.macs > 20


@settings(deadline=None)
@given(
    st.integers(1, 4),
    st.integers(6, 90),
    st.lists(st.tuples(st.integers(1, 40), st.integers(1, 8), st.integers(1, 4)), min_size=1),
    st.integers(0, 60),
)
def test_a_compact_kind_fits_any_image(channels, size, convs, hidden):
    try:
        widths, activations = ((hidden,), ("relu",)) if hidden else ((), ())
        base = NetArch(
            (channels, size, size), 5, widths, activations, tuple(Conv(*c) for c in convs[:4])
        )
        base.layers()
    except PopsError:
        return
    kind = compact(base)
    assert kind.input_shape == base.input_shape
    assert kind.outputs == base.outputs
    assert len(kind.layers()) >= len(base.convs) + 2
    for conv, layer in zip(kind.convs, kind.layers()):
        assert layer.weight[2:] == (conv.kernel, conv.kernel)
    least = with_parameters(kind, 1).num_parameters
    assert with_parameters(kind, 2000).num_parameters <= max(2000, least)
    small, smaller = with_parameters(kind, 2000), with_parameters(kind, 500)
    assert can_inherit(smaller, small) or smaller.num_parameters > small.num_parameters


WEIGHTS = initialise(SHRUNK, 0)


def test_sizes_fall_by_a_ratio_and_stay_below_the_base():
    ladder = [c.arch for place in (-2, 0, 2, 4) for c in sizes(SHRUNK, WEIGHTS, place)]
    counts = [arch.num_parameters for arch in ladder]
    assert counts == [268_696, 122_506, 55_170, 24_751, 10_762, 5_006, 1_951]
    assert sizes(SHRUNK, WEIGHTS, -4) == []


def test_large_sizes_keep_weights_and_small_ones_begin_anew():
    large, small = sizes(SHRUNK, WEIGHTS, 0)[1], sizes(SHRUNK, WEIGHTS, 2)[0]
    assert str(large.arch) == "conv 19x8/4 64x4/2 18x3/1 then 882-23-3"
    assert large.parameters[0][0].tobytes() == WEIGHTS[0][0].tobytes()
    assert small.parameters is None
    assert small.arch.convs[0].kernel == 4
    anew = sizes(SHRUNK, None, 0)[1]
    assert anew.parameters is None
    assert anew.arch.convs[0].kernel == 4


@settings(deadline=None, max_examples=30)
@given(st.integers(1, 400_000))
def test_a_levelled_network_is_as_large_as_asked_for(target):
    arch = levelled(SHRUNK, target)
    assert can_inherit(arch, SHRUNK)
    smallest = levelled(SHRUNK, 1)
    assert smallest.num_parameters == 340
    assert arch.num_parameters <= max(target, 340)
    if 5000 < target < SHRUNK.num_parameters:
        assert arch.num_parameters > 0.9 * target
        weights = sorted(layer.weights for layer in arch.layers()[:-1])
        before = sorted(layer.weights for layer in SHRUNK.layers()[:-1])
        assert weights[-1] / weights[0] < before[-1] / before[0]


def taught(arch, mean, std=4.0):
    returns = mean + std * np.tile([-1.0, 1.0], 8)
    return Candidate(str(arch), arch, None, EvalResult(tuple(range(16)), returns, np.ones(16, int)))


def test_a_standard_error_below_the_objective_may_still_reach_it():
    assert may_reach(taught(NATURE, 9.0), 10.0)
    assert not may_reach(taught(NATURE, 8.9), 10.0)
    assert may_reach(taught(NATURE, 10.0, 0.0), 10.0)


def test_the_first_pair_ends_at_the_size_that_was_asked_for():
    pair = sizes(SHRUNK, WEIGHTS, 0, first_share(SHRUNK, 7000))
    assert [c.arch.num_parameters for c in pair] == [15_271, 6_927]
    assert all(c.arch.convs[0].kernel == 4 for c in pair)
    assert first_share(SHRUNK, None) == first_share(SHRUNK, 309_000) == 0.4


@pytest.mark.parametrize(
    ("reaches", "max_params", "hopeful", "places"),
    [
        (lambda size: size > 60_000, None, False, [0]),  # between the first two: done
        (lambda size: size > 20_000, None, False, [0, 2]),  # both of the first: down
        (lambda size: size > 200_000, None, False, [0, -2]),  # none: up
        (lambda size: False, None, False, [0, -2]),  # until the kind has no larger one
        (lambda size: False, None, True, [0]),  # polish may help
        (lambda size: size > 1000, 7000, False, [0]),  # small enough
        (lambda size: size > 20_000, 7000, False, [0, -2]),
    ],
)
def test_where_a_pair_ends_decides_which_is_next(monkeypatch, reaches, max_params, hopeful, places):
    tried = []

    def teach(state, pair, place):
        tried.append(place)
        return [taught(c.arch, 20.0 if reaches(c.arch.num_parameters) else 0.0) for c in pair]

    class Guard:
        objective = 10.0

    class State:
        config = CompressConfig(max_params=max_params, search=SearchConfig(candidates=8))
        guard = Guard

    monkeypatch.setattr("pops.sizes._taught", teach)
    monkeypatch.setattr("pops.sizes.hopeful", lambda *_: hopeful)
    found = search_sizes(State, SHRUNK, WEIGHTS)
    start = first_share(SHRUNK, max_params)
    assert tried == places
    assert len(found) == sum(len(sizes(SHRUNK, WEIGHTS, place, start)) for place in places)
