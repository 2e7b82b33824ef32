"""Losses and learners against torch's autograd: the same values, gradients and steps."""

import dataclasses

import numpy as np
import pytest
import torch
from core_cases import random_policy
from torch.nn import functional

from pops.arch import ACTIVATIONS, Conv, NetArch
from pops.convolutional import ConvolutionalLearner
from pops.distill import fit
from pops.learner import DenseLearner, new_learner
from pops.loss import policy_loss
from pops.network import to_torch
from pops.replay import ReplayBuffer
from pops.spec import ContinuousActions, DiscreteActions, PolicySpec
from pops.weights import Scaling

RNG = np.random.default_rng(0)
LOGITS = PolicySpec((3,), DiscreteActions(3), "logits")
Q = PolicySpec((3,), DiscreteActions(2), "q_values")
BOX = PolicySpec((3,), ContinuousActions((-2.0, 0.0), (2.0, 10.0)), "mean")
SQUASHED = dataclasses.replace(BOX, actions=dataclasses.replace(BOX.actions, squash="tanh"))


def float32(*rows):
    return np.array(rows, np.float32)


def test_the_divergence_by_hand():
    p = np.array([0.25, 0.75])
    expected = float((p * np.log(p / 0.5)).sum())
    loss = policy_loss(Q, 0.5)
    targets = loss.targets(float32([0.0, 0.5 * np.log(3)]))
    np.testing.assert_allclose(targets, [p], rtol=1e-6)
    assert loss.value(float32([5.0, 5.0]), targets) == pytest.approx(expected, rel=1e-5)


def test_the_divergence_and_its_gradient_are_torchs():
    labels, outputs = (RNG.normal(0, 40, (500, 3)).astype(np.float32) for _ in range(2))
    variable = torch.from_numpy(outputs).requires_grad_()
    expected = functional.kl_div(
        functional.log_softmax(variable, 1),
        functional.log_softmax(torch.from_numpy(labels) / 0.7, 1),
        reduction="batchmean",
        log_target=True,
    )
    expected.backward()
    loss = policy_loss(LOGITS, 0.7)
    targets = loss.targets(labels)
    assert loss.value(outputs, targets) == pytest.approx(expected.item(), rel=1e-5)
    np.testing.assert_allclose(loss.gradient(outputs, targets), variable.grad, atol=1e-9)


def test_no_loss_where_teacher_and_student_saturate_on_the_same_side():
    loss = policy_loss(BOX, 1.0)
    targets = loss.targets(float32([9.0, -3.0]))
    same = float32([2.5, -50.0])
    assert loss.value(same, targets) == 0.0
    assert not loss.gradient(same, targets).any()
    other = float32([-2.0, 0.0])  # the first at the other end: 2 half ranges away
    assert loss.value(other, targets) == pytest.approx((2.0**2 + 0) / 2)
    inside = loss.targets(float32([0.0, 7.5]))
    assert loss.value(float32([1.0, 5.0]), inside) == pytest.approx((0.25 + 0.25) / 2)


def test_squashed_actions_are_compared_squashed():
    loss = policy_loss(SQUASHED, 1.0)
    expected = (np.tanh(0.5) ** 2 + (np.tanh(9) - np.tanh(8)) ** 2) / 2
    value = loss.value(float32([0.0, 9.0]), loss.targets(float32([0.5, 8.0])))
    assert value == pytest.approx(expected, rel=1e-5)
    clipped = policy_loss(dataclasses.replace(SQUASHED, output_clip=0.5), 1.0)
    targets = clipped.targets(float32([3.0, -3.0]))
    assert clipped.value(float32([0.5, -0.5]), targets) == pytest.approx(0.0, abs=1e-12)


@pytest.mark.parametrize("spec", [LOGITS, Q, BOX, SQUASHED])
def test_every_gradient_is_the_slope_of_its_value(spec):
    loss = policy_loss(spec, 0.5)
    labels, outputs = (RNG.normal(0, 2, (40, spec.n_outputs)).astype(np.float32) for _ in "ab")
    targets = loss.targets(labels)
    gradient = loss.gradient(outputs, targets)
    direction = RNG.normal(size=outputs.shape).astype(np.float32)
    step = np.float32(1e-3)
    slope = loss.value(outputs + step * direction, targets)
    slope -= loss.value(outputs - step * direction, targets)
    expected = slope / (2 * step)
    assert float((gradient * direction).sum()) == pytest.approx(expected, rel=0.02, abs=2e-4)


def filled(spec, inputs, outputs):
    buffer = ReplayBuffer(spec)
    buffer.add(inputs, outputs)
    return buffer


def torch_steps(arch, parameters, inputs, targets, batches, rate):
    """Adam on the divergence, by autograd."""
    network = to_torch(arch, parameters)
    optimiser = torch.optim.Adam(network.parameters(), lr=rate)
    wanted = torch.from_numpy(targets)
    for rows in batches:
        output = functional.log_softmax(network(torch.from_numpy(inputs[rows])), 1)
        optimiser.zero_grad()
        functional.kl_div(output, wanted[rows], reduction="batchmean").backward()
        optimiser.step()
    return [(m.weight.detach().numpy(), m.bias.detach().numpy()) for m in network.weighted()]


@pytest.mark.parametrize("activation", [name for name in ACTIVATIONS if name != "identity"])
@pytest.mark.parametrize("last", ["identity", "relu"])
def test_dense_updates_are_autograds_and_adams(activation, last):
    arch = NetArch((3,), 3, (9, 7), (activation, activation), output_activation=last)
    policy = random_policy(arch, LOGITS, scale=1.5)
    inputs = RNG.normal(size=(400, 3)).astype(np.float32)
    labels = RNG.normal(0, 2, (400, 3)).astype(np.float32)
    loss = policy_loss(LOGITS, 1.0)
    learner = new_learner(arch, policy.parameters, loss)
    assert isinstance(learner, DenseLearner)
    learner.study(filled(LOGITS, inputs, labels))
    batches = [RNG.integers(0, 400, 64) for _ in range(30)]
    expected = torch_steps(arch, policy.parameters, inputs, loss.targets(labels), batches, 3e-3)
    for rows in batches:
        learner.update(rows, 3e-3)
    moved = 0.0
    for (w, b), (x, c), (start, _) in zip(learner.parameters(), expected, policy.parameters):
        np.testing.assert_allclose(w, x, atol=2e-4)
        np.testing.assert_allclose(b, c, atol=2e-4)
        moved = max(moved, float(np.abs(w - start).max()))
    assert moved > 0.03


def test_a_dense_learner_reads_its_own_inputs_standardised():
    arch = NetArch((3,), 3, (6,), ("tanh",), inputs=(2, 0))
    policy = random_policy(arch, LOGITS)
    inputs = RNG.normal([50, 0, -3], [9, 1, 0.1], (300, 3)).astype(np.float32)
    scaling = Scaling.of(inputs)
    learner = new_learner(arch, policy.parameters, policy_loss(LOGITS, 1.0), scaling)
    labels = RNG.normal(0, 2, (300, 3)).astype(np.float32)
    learner.study(filled(LOGITS, inputs, labels))
    before = learner.loss(np.arange(300))
    loss = policy_loss(LOGITS, 1.0)
    assert before == pytest.approx(
        loss.value(policy.forward(inputs), loss.targets(labels)), rel=1e-4
    )
    for _ in range(200):
        learner.update(RNG.integers(0, 300, 64), 1e-2)
    student = random_policy(arch, LOGITS)
    student = type(student)(LOGITS, arch, learner.parameters())
    after = loss.value(student.forward(inputs), loss.targets(labels))
    assert learner.loss(np.arange(300)) == pytest.approx(after, rel=1e-3)
    assert after < before - 0.05


CONV = NetArch((2, 8, 8), 3, (10,), ("relu",), (Conv(6, 3, 2),))
IMAGE = PolicySpec((2, 8, 8), DiscreteActions(3), "logits")


def test_convolutional_updates_are_autograds_and_adams():
    policy = random_policy(CONV, IMAGE)
    images = RNG.normal(size=(200, 2, 8, 8)).astype(np.float32)
    labels = RNG.normal(0, 2, (200, 3)).astype(np.float32)
    loss = policy_loss(IMAGE, 1.0)
    learner = new_learner(CONV, policy.parameters, loss)
    assert isinstance(learner, ConvolutionalLearner)
    learner.study(filled(IMAGE, images, labels))
    batches = [RNG.integers(0, 200, 32) for _ in range(20)]
    expected = torch_steps(CONV, policy.parameters, images, loss.targets(labels), batches, 1e-3)
    for rows in batches:
        learner.update(rows, 1e-3)
    for (w, b), (x, c) in zip(learner.parameters(), expected):
        np.testing.assert_allclose(w, x, atol=2e-4)
        np.testing.assert_allclose(b, c, atol=2e-4)


DENSE = NetArch((3,), 3, (8,), ("relu",))


@pytest.mark.parametrize(
    ("arch", "spec", "batch_norm"),
    [(DENSE, LOGITS, False), (CONV, IMAGE, False), (CONV, IMAGE, True)],
)
def test_masked_weights_stay_at_zero_in_both_learners(arch, spec, batch_norm):
    policy = random_policy(arch, spec)
    loss = policy_loss(spec, 1.0)
    learner = new_learner(arch, policy.parameters, loss, batch_norm=batch_norm, threads=2)
    masks = [(RNG.random(w.shape) < 0.5).astype(np.float32) for w, _ in policy.parameters]
    learner.mask(masks)
    inputs = RNG.normal(size=(100, *arch.input_shape)).astype(np.float32)
    buffer = filled(spec, inputs, RNG.normal(size=(100, 3)).astype(np.float32))
    fit(
        learner,
        buffer,
        updates=10,
        batch_size=32,
        learning_rate=lambda _: 1e-2,
        rng=np.random.default_rng(0),
    )
    for weight, mask in zip(learner.weights(), masks):
        assert not weight[mask == 0].any()
        assert np.count_nonzero(weight) == mask.sum()
