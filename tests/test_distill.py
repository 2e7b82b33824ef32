"""Distillation: what the losses ask for, and where they ask for nothing."""

import dataclasses

import numpy as np
import pytest
import torch
from core_cases import STEER, random_policy, steer_teacher

from pops.arch import Conv, NetArch
from pops.config import DistillConfig
from pops.distill import (
    Lesson,
    calibrate_temperature,
    cosine,
    distill,
    fit,
    folded_copy,
    training_device,
)
from pops.errors import UsageError
from pops.evaluate import play
from pops.learner import new_learner
from pops.loss import policy_loss
from pops.policy import NumpyPolicy
from pops.replay import ReplayBuffer
from pops.rollout import collect, label
from pops.spec import ContinuousActions, DiscreteActions, Normaliser, PolicySpec
from pops.weights import Scaling, initialise
from pops.workers import Workers

Q = PolicySpec((3,), DiscreteActions(3), "q_values")
LOGITS = PolicySpec((3,), DiscreteActions(3), "logits")
BOX = PolicySpec((3,), ContinuousActions((-2.0, 0.0), (2.0, 10.0)), "mean")


def test_the_temperature_is_a_quarter_of_the_gap_whatever_the_offset():
    rng = np.random.default_rng(0)
    gaps = np.full(1000, 0.8)
    gaps[:100] = 1e-6
    best = rng.uniform(-50, 50, 1000)
    labels = np.stack([best, best - gaps, best - 5], axis=1)
    plain = calibrate_temperature(Q, labels.astype(np.float32))
    shifted = calibrate_temperature(Q, (labels + 5000.0).astype(np.float32))
    assert plain == pytest.approx(0.2, abs=1e-5)
    assert shifted == pytest.approx(0.2, abs=1e-3)
    permuted = labels[:, [2, 0, 1]].astype(np.float32)
    assert calibrate_temperature(Q, permuted) == plain


def test_the_temperature_where_there_is_nothing_to_calibrate():
    labels = np.array([[0.0, 100.0, 7.0]], np.float32)
    assert calibrate_temperature(LOGITS, labels) == 1.0
    assert calibrate_temperature(BOX, labels[:, :2]) == 1.0
    assert calibrate_temperature(Q, np.zeros((5, 3), np.float32)) == 1.0
    one = dataclasses.replace(Q, actions=DiscreteActions(1))
    assert calibrate_temperature(one, np.ones((5, 1), np.float32)) == 1.0
    mostly_equal = np.zeros((4, 2), np.float32)
    mostly_equal[0, 0] = 8.0
    two = dataclasses.replace(Q, actions=DiscreteActions(2))
    assert calibrate_temperature(two, mostly_equal) == 0.5


def test_the_folded_copy_of_a_teacher_starts_at_zero_divergence():
    teacher = random_policy(NetArch((3,), 3, (16,), ("relu",)), Q)
    weight, bias = teacher.parameters[-1]
    teacher = NumpyPolicy(Q, teacher.arch, [teacher.parameters[0], (weight, bias + 300)])
    inputs = np.random.default_rng(1).normal(size=(500, 3)).astype(np.float32)
    labels = teacher.outputs(inputs)
    temperature = calibrate_temperature(Q, labels)
    assert temperature < 1
    copy = NumpyPolicy(Q, teacher.arch, folded_copy(teacher, temperature))
    loss = policy_loss(Q, temperature)
    targets = loss.targets(labels)
    assert abs(loss.value(copy.outputs(inputs), targets)) < 1e-5
    assert loss.value(labels, targets) > 0.01  # unfolded it does not
    np.testing.assert_array_equal(copy.act(inputs), teacher.act(inputs))
    assert folded_copy(random_policy(NetArch((3,), 2), BOX), 0.01)[0][0].max() < 3


def test_the_learning_rate_falls_to_zero():
    rate = cosine(3e-3, 100)
    assert rate(0) == 3e-3
    assert rate(50) == pytest.approx(1.5e-3)
    assert rate(100) == pytest.approx(0.0, abs=1e-12)
    assert cosine(3e-3, 100, done=50)(0) == rate(50)


@pytest.fixture(scope="module")
def two():
    with Workers(2) as workers:
        yield workers


def taught(seed=0, pool=None, **changes):
    teacher = steer_teacher()
    config = DistillConfig(**{"rounds": 2, "states": 200, "updates": 150, **changes})
    arch = NetArch((3,), 3)
    pool = pool or Workers(1)
    states = collect(
        teacher, None, STEER, teacher_share=1.0, states=400, first_seed=9, workers=pool
    )
    buffer = ReplayBuffer(teacher.spec)
    buffer.add(states, label(teacher, states))
    scaling = Scaling.of(buffer.arrays()[0])
    lesson = Lesson(teacher, STEER, 1.0, config, seed, scaling=scaling)
    result = distill(arch, initialise(arch, seed), buffer, lesson, (7, 1))
    return NumpyPolicy(teacher.spec, arch, result.parameters), result, buffer


def test_a_linear_student_learns_a_linear_teacher():
    student, result, buffer = taught(learning_rate=0.05)
    teacher = steer_teacher()
    states, _ = buffer.arrays()
    assert np.mean(student.act(states) == teacher.act(states)) > 0.9
    assert result.loss < 0.15
    assert (result.states, result.updates, len(buffer)) == (400, 300, 800)
    seeds = range(20)
    assert play(student, STEER, seeds).mean > play(teacher, STEER, seeds).mean - 1.0


def test_distillation_is_deterministic_and_independent_of_the_workers(two):
    first, again, parallel = taught(), taught(), taught(pool=two)
    other = taught(seed=1)
    for (w, b), (x, c), (y, d) in zip(*(t[0].parameters for t in (first, again, parallel))):
        assert w.tobytes() == x.tobytes() == y.tobytes()
        assert b.tobytes() == c.tobytes() == d.tobytes()
    assert first[1].loss == again[1].loss == parallel[1].loss
    assert other[1].loss != first[1].loss


def test_standardising_does_not_change_what_a_network_computes():
    teacher = steer_teacher()
    inputs = np.random.default_rng(0).normal(7, 3, (300, 3)).astype(np.float32)
    scaling = Scaling.of(inputs)
    loss = policy_loss(teacher.spec, 1.0)
    learner = new_learner(teacher.arch, teacher.parameters, loss, scaling)
    buffer = ReplayBuffer(teacher.spec)
    buffer.add(inputs, teacher.outputs(inputs))
    loss = fit(
        learner,
        buffer,
        updates=3,
        batch_size=100,
        learning_rate=lambda _: 0.0,
        rng=np.random.default_rng(0),
    )
    assert abs(loss) < 1e-5


def test_convolutions_learn_from_images_as_they_came():
    spec = PolicySpec(
        (9, 9, 1),
        DiscreteActions(2),
        "logits",
        "uint8",
        channels_last=True,
        normaliser=Normaliser((0.0,), (255.0,)),
    )
    arch = NetArch((1, 9, 9), 2, (8,), ("relu",), (Conv(4, 3, 2),))
    teacher = random_policy(arch, spec, scale=3)
    images = np.random.default_rng(0).integers(0, 256, (300, 9, 9, 1), dtype=np.uint8)
    buffer = ReplayBuffer(spec)
    buffer.add(images, label(teacher, images))
    assert buffer.arrays()[0].dtype == np.uint8

    def loss_after(updates):
        learner = new_learner(arch, initialise(arch, 1), policy_loss(spec, 1.0))
        settings = {"batch_size": 64, "learning_rate": lambda _: 3e-3}
        return fit(learner, buffer, updates=updates, rng=np.random.default_rng(0), **settings)

    assert loss_after(300) < 0.2 * loss_after(1)


def test_a_gpu_that_is_not_there_is_refused_in_words():
    images = PolicySpec((84, 84, 4), DiscreteActions(2), "logits", channels_last=True)
    assert training_device("cpu", images) == "cpu"
    assert training_device("auto", Q) == "cpu"
    if not torch.cuda.is_available():
        assert training_device("auto", images) == "cpu"
        with pytest.raises(UsageError, match="no CUDA device"):
            training_device("cuda", images)
