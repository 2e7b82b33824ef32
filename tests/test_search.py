"""Below convergence: what is proposed, who goes on, and doing without inputs."""

import dataclasses

import numpy as np
import pytest
from core_cases import STEER, random_policy, steer_teacher
from hypothesis import given, settings
from hypothesis import strategies as st

from pops.arch import Conv, NetArch
from pops.candidate import Candidate
from pops.config import DistillConfig, SearchConfig
from pops.distill import Lesson
from pops.evaluate import EvalResult
from pops.prune import ReturnGuard
from pops.replay import ReplayBuffer
from pops.rollout import label
from pops.search import propose, search, settled, survivors, without_inputs
from pops.spec import DiscreteActions, PolicySpec
from pops.weights import Scaling
from pops.workers import Workers

GUARD = ReturnGuard(lower_bound=5.0, objective=10.0, seeds=(1,))


@st.composite
def bases(draw):
    widths = tuple(draw(st.lists(st.integers(1, 64), max_size=3)))
    return NetArch(
        (draw(st.integers(1, 20)),), draw(st.integers(1, 8)), widths, ("tanh",) * len(widths)
    )


@settings(deadline=None)
@given(bases(), st.integers(1, 12))
def test_proposals_are_smaller_distinct_and_ordered(base, candidates):
    proposals = propose(base, SearchConfig(candidates=candidates))
    sizes = [arch.num_parameters for arch in proposals]
    assert len(proposals) <= candidates
    assert sizes == sorted(set(sizes), reverse=True)
    assert all(size < base.num_parameters for size in sizes)
    for arch in proposals:
        assert (arch.input_shape, arch.outputs) == (base.input_shape, base.outputs)
        assert len(arch.widths) <= max(1, len(base.widths))
        assert set(arch.activations) <= {"tanh"}


def test_fewer_layers_down_to_none_unless_switched_off():
    base = NetArch((4,), 2, (16, 16), ("relu", "relu"))
    depths = {len(arch.widths) for arch in propose(base, SearchConfig())}
    assert depths == {0, 1, 2}
    for candidates in range(1, 9):  # a linear policy is always among them
        assert () in {a.widths for a in propose(base, SearchConfig(candidates=candidates))}
    depths = {len(arch.widths) for arch in propose(base, SearchConfig(fewer_layers=False))}
    assert depths == {2}
    assert propose(NetArch((4,), 2), SearchConfig()) == []


def candidate(width, mean):
    arch = NetArch((4,), 2, (width,), ("relu",))
    result = EvalResult((1,), np.array([float(mean)]), np.array([1]))
    return Candidate(str(arch), arch, None, result)


def test_survivors_are_on_the_front_of_size_and_return():
    pool = [candidate(w, m) for w, m in ((1, 2), (2, 6), (3, 5.5), (4, 11), (5, 10.5), (6, 12))]
    kept = {c.arch.widths[0] for c in survivors(pool, GUARD)}
    assert 4 in kept  # the smallest that meets the objective
    assert 2 in kept  # smaller, over the bound
    assert not kept & {1, 3, 5, 6}  # hopeless; matched by a smaller one


def test_if_none_is_over_the_bound_the_best_goes_on():
    pool = [candidate(w, m) for w, m in ((1, 2), (2, 4), (3, 3))]
    assert [c.arch.widths for c in survivors(pool, GUARD)] == [(2,)]


@given(st.lists(st.tuples(st.integers(1, 50), st.floats(-10, 20)), min_size=1, max_size=12))
def test_the_smallest_that_meets_the_objective_always_goes_on(pairs):
    pool = [candidate(width, mean) for width, mean in dict(pairs).items()]
    kept = survivors(pool, GUARD)
    assert kept
    assert len(kept) <= max(2, len(pool))
    meeting = [c for c in pool if c.mean >= GUARD.objective]
    if meeting:
        smallest = min(meeting, key=lambda c: c.arch.num_parameters)
        assert smallest in kept


def test_a_lucky_handful_of_episodes_settles_nothing():
    arch = NetArch((4,), 2, (1,), ("relu",))
    spread = EvalResult(tuple(range(24)), np.tile([2.0, 19.0], 12), np.ones(24, np.int64))
    assert spread.mean >= GUARD.objective
    assert not settled([Candidate("small", arch, None, spread), candidate(4, 99)], GUARD)
    same = dataclasses.replace(spread, returns=np.full(24, 10.0))
    assert settled([Candidate("small", arch, None, same), candidate(4, 99)], GUARD)
    assert not settled([candidate(1, 9.0), candidate(4, 99)], GUARD)


def lesson():
    teacher = steer_teacher()
    config = DistillConfig(rounds=1, states=100, updates=100, learning_rate=0.03)
    states = np.random.default_rng(0).normal(size=(500, 3)).astype(np.float32)
    buffer = ReplayBuffer(teacher.spec)
    buffer.add(states, label(teacher, states))
    scaling = Scaling.of(states)
    return Lesson(teacher, STEER, 1.0, config, 0, scaling=scaling), buffer


@pytest.mark.slow
def test_the_search_is_deterministic_and_independent_of_the_workers():
    taught, buffer = lesson()
    base = taught.teacher.arch
    config = SearchConfig(candidates=3, rungs=2, rounds=1, episodes=6)
    guard = ReturnGuard(5.0, 18.0, (1,))
    found = []
    for count in (1, 2):
        with Workers(count) as workers:
            parameters = taught.teacher.parameters
            found.append(search(base, parameters, buffer.copy(), taught, guard, config, workers))
    for one, two in zip(*found):
        assert [c.name for c in one] == [c.name for c in two]
        for a, b in zip(one, two):
            assert a.result.returns.tobytes() == b.result.returns.tobytes()
            assert all(x[0].tobytes() == y[0].tobytes() for x, y in zip(a.parameters, b.parameters))
    first = found[0][0]
    assert max(c.mean for c in first) > 15.0


def test_inputs_go_in_the_order_of_their_importance():
    taught, _ = lesson()
    arch = NetArch((3,), 3, (4,), ("relu",))
    policy = random_policy(arch, taught.spec)
    weight, bias = policy.parameters[0]
    weight = weight / np.linalg.norm(weight, axis=0) * np.float32([3, 1, 2])
    whole = Candidate("c", arch, [(weight, bias), policy.parameters[1]])
    scaling = Scaling(np.array([0.0, 7.0, 0.0]), np.ones(3))
    smaller = without_inputs(whole, dataclasses.replace(taught, scaling=scaling))
    assert [c.arch.inputs for c in smaller] == [(0, 2), (0,)]
    # What an input contributed on average stays in the bias: at the mean nothing changes.
    at_mean = np.array([[0.3, 7.0, -0.2]], np.float32)
    before, after = (
        whole.policy(taught).outputs(at_mean),
        smaller[0].policy(taught).outputs(at_mean),
    )
    np.testing.assert_allclose(after, before, rtol=1e-4, atol=1e-5)
    again = without_inputs(smaller[0], dataclasses.replace(taught, scaling=scaling))
    assert [c.arch.inputs for c in again] == [(0,)]
    spec = PolicySpec((1, 9, 9), DiscreteActions(2), "logits")
    conv = NetArch((1, 9, 9), 2, convs=(Conv(2, 3, 1),))
    assert without_inputs(Candidate("c", conv, random_policy(conv, spec).parameters), taught) == []
