"""Shrinking: properties that hold for every network and every count of non-zeros."""

import dataclasses

import pytest
from hypothesis import assume, given, settings
from hypothesis import strategies as st

from pops.arch import Conv, NetArch
from pops.errors import PopsError
from pops.shrink import shrink

NATURE = NetArch(
    (4, 84, 84), 6, (512,), ("relu",), (Conv(32, 8, 4), Conv(64, 4, 2), Conv(64, 3, 1))
)
PAPER = NetArch((4,), 2, (256, 256, 128), ("relu",) * 3)


@st.composite
def networks(draw):
    if draw(st.booleans()):
        widths = tuple(draw(st.lists(st.integers(1, 40), max_size=3)))
        inputs = draw(st.none() | st.just((0, 2)))
        return NetArch(
            (3,), draw(st.integers(1, 5)), widths, ("tanh",) * len(widths), inputs=inputs
        )
    channels = draw(st.lists(st.integers(1, 12), min_size=1, max_size=2))
    widths = tuple(draw(st.lists(st.integers(1, 20), max_size=2)))
    return NetArch(
        (2, 9, 8), 3, widths, ("relu",) * len(widths), tuple(Conv(c, 3, 2, 1) for c in channels)
    )


@st.composite
def cases(draw):
    arch = draw(networks())
    return arch, [draw(st.integers(0, layer.weights)) for layer in arch.layers()]


def sizes(arch):
    return [layer.weight[0] for layer in arch.layers()]


@settings(deadline=None)
@given(cases())
def test_no_layer_grows_and_every_layer_keeps_a_unit(case):
    arch, nonzeros = case
    smaller = shrink(arch, arch, nonzeros)
    assert all(1 <= new <= old for new, old in zip(sizes(smaller), sizes(arch)))
    assert len(smaller.layers()) == len(arch.layers())
    kept = ("input_shape", "outputs", "activations", "output_activation", "inputs")
    for name in kept:
        assert getattr(smaller, name) == getattr(arch, name)
    for new, old in zip(smaller.convs, arch.convs):
        assert new == dataclasses.replace(old, channels=new.channels)


@settings(deadline=None)
@given(cases())
def test_it_is_a_pure_function_that_makes_progress_or_has_converged(case):
    arch, nonzeros = case
    smaller = shrink(arch, arch, tuple(nonzeros))
    assert shrink(arch, arch, nonzeros) == smaller
    assert smaller == arch or smaller.num_parameters < arch.num_parameters
    if nonzeros == [layer.weights for layer in arch.layers()]:
        assert smaller == arch


@settings(deadline=None, max_examples=50)
@given(networks(), st.data())
def test_iterating_gets_strictly_smaller_until_it_stands(initial, data):
    current = initial
    for _ in range(60):
        nonzeros = [data.draw(st.integers(0, layer.weights)) for layer in current.layers()]
        smaller = shrink(initial, current, nonzeros)
        if smaller == current:
            break
        assert smaller.num_parameters < current.num_parameters
        current = smaller


@settings(deadline=None)
@given(networks())
def test_half_of_a_unit_redundant_is_progress(arch):
    """Where all weights but one a layer are redundant, a layer that can lose a unit loses one."""
    assume(max(sizes(arch)[:-1], default=1) > 1)
    smaller = shrink(arch, arch, [1 for _ in arch.layers()])
    assert smaller.num_parameters < arch.num_parameters


@settings(deadline=None)
@given(st.tuples(*[st.integers(2, 200)] * 3), st.sampled_from([0.5, 0.7, 0.9]))
def test_dense_layers_get_about_as_many_weights_as_there_were_nonzeros(widths, share):
    """Feasible targets: the non-zeros of a network whose every layer is narrower by `share`."""
    arch = NetArch((8,), 4, widths, ("relu",) * 3)
    wanted = arch.with_widths(tuple(max(1, round(w * share)) for w in widths))
    nonzeros = [layer.weights for layer in wanted.layers()]
    assert shrink(arch, arch, nonzeros) == wanted


def test_nature_cnn_with_its_flattening():
    wanted = NATURE.with_widths((100,), (10, 20, 30))
    nonzeros = [layer.weights for layer in wanted.layers()]
    assert shrink(NATURE, NATURE, nonzeros) == wanted
    smaller = shrink(NATURE, NATURE, [2000, 5000, 9000, 80_000, 1500])
    for layer, target in zip(smaller.layers(), [2000, 5000, 9000, 80_000, 1500]):
        assert 0.4 * target <= layer.weights <= 2.5 * target
    # The first dense layer reads every position of every channel that is left.
    assert smaller.layers()[3].weight[1] == 49 * smaller.convs[2].channels


def test_the_papers_network_by_hand():
    # 95 % redundant everywhere: the sizes solve n1 = 0.05·256, n1·n2 = 0.05·256², ... at best.
    nonzeros = [round(0.05 * layer.weights) for layer in PAPER.layers()]
    smaller = shrink(PAPER, PAPER, nonzeros)
    total = sum(layer.weights for layer in smaller.layers())
    assert 0.5 * sum(nonzeros) < total < 2 * sum(nonzeros)
    assert all(new < old for new, old in zip(smaller.widths, PAPER.widths))


def test_layers_without_weights_left_keep_some_units():
    # 4·n1 = n1·n2 = n2·n3 = 2·n3 = 1 cannot be; the logarithms' best is ½, 2.8, ½.
    assert shrink(PAPER, PAPER, [0, 0, 0, 0]).widths == (1, 3, 1)


def test_a_linear_network_has_converged():
    linear = NetArch((4,), 2)
    assert shrink(linear, linear, [1]) is linear


def test_a_wrong_number_of_layers_is_refused():
    with pytest.raises(PopsError, match="2 layers, expected 4"):
        shrink(PAPER, PAPER, [1, 2])
