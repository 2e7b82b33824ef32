"""Down from the smallest student that passes: which shapes, and which start wins."""

import numpy as np
from hypothesis import given
from hypothesis import strategies as st

from pops.arch import NetArch
from pops.candidate import Candidate
from pops.descend import STEP, best_taught, steps_down
from pops.evaluate import EvalResult


@given(st.integers(1, 20), st.integers(1, 8), st.lists(st.integers(1, 40), max_size=3))
def test_every_step_down_is_smaller_and_no_smaller_than_it_has_to_be(features, outputs, widths):
    arch = NetArch((features,), outputs, tuple(widths), ("tanh",) * len(widths))
    for smaller in steps_down(arch):
        assert smaller.num_parameters <= STEP * arch.num_parameters
        assert smaller.input_shape == arch.input_shape
        assert len(smaller.widths) in (1, len(arch.widths))
        assert set(smaller.activations) == {"tanh"}
        if len(smaller.widths) == 1:
            wider = smaller.with_widths((smaller.widths[0] + 1,))
            assert wider.num_parameters > STEP * arch.num_parameters


def test_the_shapes_a_step_below():
    two = NetArch((6,), 3, (3, 5), ("relu", "relu"))
    assert two.num_parameters == 59
    assert [str(a) for a in steps_down(two)] == ["6-3-3-3", "6-4-3"]
    assert [str(a) for a in steps_down(NetArch((6,), 3, (4,), ("relu",)))] == ["6-3-3"]
    assert steps_down(NetArch((6,), 3)) == []
    assert steps_down(NetArch((6,), 3, (1,), ("relu",))) == []


def test_inputs_that_are_not_read_stay_unread():
    arch = NetArch((6,), 3, (9,), ("relu",), inputs=(1, 4))
    assert [a.inputs for a in steps_down(arch)] == [(1, 4)]


def entrant(name, returns, loss):
    returns = np.asarray(returns, np.float64)
    result = EvalResult(tuple(range(len(returns))), returns, np.ones(len(returns), np.int64))
    return Candidate(name, NetArch((6,), 3), None, result, loss)


def test_the_loss_decides_between_starts_that_episodes_cannot_tell_apart():
    noisy = [-70.0, -90.0] * 48
    better = entrant("better", np.array(noisy) - 0.5, 0.01)
    lucky = entrant("lucky", noisy, 0.05)
    hopeless = entrant("hopeless", np.full(96, -300.0), 0.001)
    assert best_taught([lucky, better, hopeless]).name == "better"


def test_where_every_episode_is_the_same_the_return_decides():
    perfect = entrant("perfect", np.full(96, 500.0), 0.9)
    nearly = entrant("nearly", np.full(96, 499.0), 0.1)
    assert best_taught([nearly, perfect]).name == "perfect"
