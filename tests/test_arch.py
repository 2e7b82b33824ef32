"""NetArch: what layers cost, worked out by hand, and the way to JSON and back."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st

from pops.arch import ACTIVATIONS, Conv, NetArch
from pops.errors import PopsError

NATURE = NetArch(
    (4, 84, 84), 6, (512,), ("relu",), (Conv(32, 8, 4), Conv(64, 4, 2), Conv(64, 3, 1))
)


def test_the_papers_cartpole_network():
    arch = NetArch((4,), 2, (256, 256, 128), ("relu",) * 3)
    assert arch.num_parameters == 100_226
    assert arch.num_weights == 4 * 256 + 256 * 256 + 256 * 128 + 128 * 2
    assert arch.macs == arch.num_weights
    assert str(arch) == "4-256-256-128-2"


def test_a_linear_policy_is_legal():
    arch = NetArch((8,), 4)
    assert arch.num_parameters == 36
    assert [layer.weight for layer in arch.layers()] == [(4, 8)]


def test_nature_cnn():
    assert [layer.output_shape for layer in NATURE.layers()] == [
        *((32, 20, 20), (64, 9, 9), (64, 7, 7)),
        *((512,), (6,)),
    ]
    assert NATURE.num_weights == 8192 + 32768 + 36864 + 3136 * 512 + 512 * 6
    assert NATURE.num_parameters == NATURE.num_weights + 32 + 64 + 64 + 512 + 6
    assert NATURE.macs == 8192 * 400 + 32768 * 81 + 36864 * 49 + 3136 * 512 + 512 * 6
    assert str(NATURE) == "conv 32x8/4 64x4/2 64x3/1 then 3136-512-6"
    narrow = NATURE.with_widths((10,), (1, 2, 3))
    assert [layer.weight for layer in narrow.layers()] == [
        *((1, 4, 8, 8), (2, 1, 4, 4), (3, 2, 3, 3)),
        *((10, 147), (6, 10)),
    ]


def test_selected_inputs_cost_what_they_read():
    arch = NetArch((8,), 4, (3,), ("tanh",), inputs=(7, 0))
    assert arch.num_parameters == 2 * 3 + 3 + 3 * 4 + 4


@st.composite
def dense(draw):
    widths = tuple(draw(st.lists(st.integers(1, 50), max_size=4)))
    names = st.sampled_from(ACTIVATIONS)
    features = draw(st.integers(1, 9))
    inputs = draw(st.none() | st.sets(st.integers(0, features - 1), min_size=1).map(tuple))
    return NetArch(
        (features,),
        draw(st.integers(1, 6)),
        widths,
        tuple(draw(names) for _ in widths),
        (),
        draw(names),
        inputs,
    )


@given(dense())
def test_json_both_ways(arch):
    assert NetArch.from_json(json.loads(json.dumps(arch.to_json()))) == arch


def test_json_both_ways_with_convolutions():
    assert NetArch.from_json(json.loads(json.dumps(NATURE.to_json()))) == NATURE


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"widths": [0], "activations": ["relu"]}, "at least one unit"),
        ({"widths": [4]}, "activations"),
        ({"output_activation": "softmax"}, "softmax"),
        ({"inputs": [9]}, "do not select"),
        ({"inputs": [1, 1]}, "do not select"),
        ({"widths": [200_000_000], "activations": ["relu"]}, "at most"),
        ({"convs": [{"channels": 1, "kernel": 1, "stride": 1}]}, "Convolutions need"),
        ({"convs": [{"kern": 1}]}, "cannot be read"),
        ({"input_shape": []}, "at least one unit"),
        ({"outputs": "many"}, "cannot be read"),
    ],
)
def test_impossible_architectures_are_refused_in_words(change, words):
    data = {**NetArch((4,), 2).to_json(), **change}
    with pytest.raises(PopsError, match=words):
        NetArch.from_json(data)


def test_a_kernel_larger_than_its_input_is_refused():
    with pytest.raises(PopsError, match="does not fit"):
        NetArch((1, 4, 4), 2, convs=(Conv(1, 5, 1),))
