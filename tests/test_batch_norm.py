"""Batch normalisation in training: what is folded computes what the network computed."""

import numpy as np
import pytest
import torch
from core_cases import random_policy

from pops.arch import Conv, NetArch
from pops.batch_norm import NormalisedNetwork
from pops.distill import cosine, fit
from pops.learner import new_learner
from pops.loss import policy_loss
from pops.policy import NumpyPolicy
from pops.replay import ReplayBuffer
from pops.spec import DiscreteActions, Normaliser, PolicySpec
from pops.weights import initialise

ARCH = NetArch((2, 12, 12), 3, (10,), ("relu",), (Conv(6, 3, 2), Conv(5, 3, 1)))
SPEC = PolicySpec(
    (2, 12, 12), DiscreteActions(3), "logits", "uint8", normaliser=Normaliser((0.0,), (255.0,))
)
LOSS = policy_loss(SPEC, 1.0)


def ball_on_grey(count, seed=0):
    """Images (count, 2, 12, 12) of a bright pixel on grey, and logits of the third it is in."""
    rng = np.random.default_rng(seed)
    images = np.full((count, 2, 12, 12), 110, np.uint8)
    rows, columns = rng.integers(0, 12, (2, count))
    images[range(count), :, rows, columns] = 240
    labels = np.full((count, 3), -2.0, np.float32)
    labels[range(count), columns // 4] = 2.0
    return images, labels


def lessons(count=600, seed=0):
    buffer = ReplayBuffer(SPEC)
    buffer.add(*ball_on_grey(count, seed))
    return buffer


def trained(batch_norm, *, fresh=True, updates=150, seed=1):
    learner = new_learner(ARCH, initialise(ARCH, seed), LOSS, batch_norm=batch_norm, fresh=fresh)
    rng = np.random.default_rng(0)
    loss = fit(
        learner,
        lessons(),
        updates=updates,
        batch_size=64,
        learning_rate=cosine(3e-3, updates),
        rng=rng,
    )
    return learner, loss


def test_the_folded_network_computes_what_the_settled_one_does():
    torch.manual_seed(0)
    network = NormalisedNetwork(ARCH)
    network.load(initialise(ARCH, 3))
    for norm in network.norms:
        torch.nn.init.normal_(norm.weight)
        torch.nn.init.normal_(norm.bias)
    inputs = torch.rand(200, 2, 12, 12)
    network.settle(inputs)
    with torch.no_grad():
        expected = network(inputs).numpy()
    folded = NumpyPolicy(SPEC, ARCH, network.folded()).forward(inputs.numpy())
    assert np.abs(expected).max() > 0.1
    np.testing.assert_allclose(folded, expected, atol=1e-5)


def test_settled_statistics_are_those_of_training_on_the_same_batch():
    network = NormalisedNetwork(ARCH)
    network.load(initialise(ARCH, 3))
    inputs = torch.rand(300, 2, 12, 12)
    network.settle(inputs)
    with torch.no_grad():
        settled = network(inputs)
        network.train()
        in_training = network(inputs)
    np.testing.assert_allclose(settled.numpy(), in_training.numpy(), atol=1e-5)


def test_a_warm_start_begins_with_what_it_was_given():
    policy = random_policy(ARCH, SPEC)
    learner = new_learner(ARCH, policy.parameters, LOSS, batch_norm=True)
    buffer = lessons()
    learner.study(buffer)
    rows = np.arange(600)
    images, labels = buffer.batch(rows)
    expected = LOSS.value(policy.forward(images), LOSS.targets(labels))
    assert learner.loss(rows) == pytest.approx(expected, rel=1e-4)
    for (w, b), (x, c) in zip(policy.parameters, learner.parameters()):
        assert w.tobytes() == x.tobytes()
        assert b.tobytes() == c.tobytes()
    learner.update(rows[:64], 0.0)
    again = NumpyPolicy(SPEC, ARCH, learner.parameters())
    np.testing.assert_allclose(again.forward(images), policy.forward(images), atol=2e-5)


def test_what_training_reports_is_the_loss_of_the_policy_that_leaves_it():
    learner, _ = trained(batch_norm=True, updates=500)
    rows = np.arange(600)
    images, labels = lessons().batch(rows)
    policy = NumpyPolicy(SPEC, ARCH, learner.parameters())
    loss = LOSS.value(policy.forward(images), LOSS.targets(labels))
    assert learner.loss(rows) == pytest.approx(loss, rel=1e-4)
    unseen = ball_on_grey(500, seed=9)
    chosen = policy.act(unseen[0])
    assert (chosen == unseen[1].argmax(1)).mean() > 0.9


@pytest.mark.parametrize("seed", [1, 2, 3])
def test_it_learns_what_a_plain_network_does_not(seed):
    _, plain = trained(batch_norm=False, seed=seed)
    _, normalised = trained(batch_norm=True, seed=seed)
    assert normalised < 0.5 * plain


def test_the_same_bytes_twice():
    first, again = trained(batch_norm=True)[0], trained(batch_norm=True)[0]
    for (w, b), (x, c) in zip(first.parameters(), again.parameters()):
        assert w.tobytes() == x.tobytes()
        assert b.tobytes() == c.tobytes()
