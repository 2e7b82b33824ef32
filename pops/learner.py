"""A network in training. Dense ones learn here in numpy, convolutional ones in torch.

A student of a hundred parameters spends nine tenths of an autograd step on
bookkeeping. Backpropagation through dense layers is a dozen matrix products;
written out, a step takes a quarter of the time and no process needs torch.
"""

from __future__ import annotations

from typing import Protocol

import numpy as np

from pops.arch import NetArch
from pops.loss import PolicyLoss
from pops.policy import Parameters, activate
from pops.replay import ReplayBuffer
from pops.spec import Array, FloatArray
from pops.weights import Scaling, fold, standardise

BETA_1, BETA_2, EPSILON = 0.9, 0.999, 1e-8
"""Adam's constants (Kingma and Ba 2015, arXiv 1412.6980)."""


class Learner(Protocol):
    """A network in training, with its optimiser and the masks of pruned weights."""

    arch: NetArch

    def study(self, buffer: ReplayBuffer) -> None:
        """Learn from these states from now on."""
        ...

    def update(self, rows: Array, learning_rate: float) -> None:
        """One step of Adam on the states at `rows` (batch,); masked weights stay zero."""
        ...

    def loss(self, rows: Array) -> float:
        """Mean loss on the states at `rows` (batch,)."""
        ...

    def weights(self) -> list[FloatArray]:
        """Each layer's weights as they are trained, biases left out; not to be written to."""
        ...

    def mask(self, masks: list[FloatArray]) -> None:
        """Set weights to zero where a mask is zero, now and after every update."""
        ...

    def parameters(self) -> list[tuple[FloatArray, FloatArray]]:
        """(weight, bias) of each layer for inputs as the policy's spec preprocesses them."""
        ...


def new_learner(
    arch: NetArch,
    parameters: Parameters,
    loss: PolicyLoss,
    scaling: Scaling | None = None,
    device: str = "cpu",
    *,
    batch_norm: bool = False,
    fresh: bool = False,
    threads: int = 1,
) -> Learner:
    """A learner that starts at `parameters`.

    Args:
        arch: the network.
        parameters: for inputs as the policy's spec preprocesses them.
        loss: of outputs against the teacher's labels.
        scaling: standardises dense inputs for training; None trains on them as they are.
        device: where a convolutional network trains.
        batch_norm: a convolutional network learns with batch normalisation.
        fresh: the parameters are random; batch normalisation need not keep what they compute.
        threads: that a convolutional network trains on; the bits of the result depend on it.
    """
    if len(arch.input_shape) == 3:
        from pops.convolutional import ConvolutionalLearner

        return ConvolutionalLearner(
            arch,
            parameters,
            loss,
            device,
            batch_norm=batch_norm,
            fresh=fresh,
            threads=threads,
        )
    return DenseLearner(arch, parameters, loss, scaling)


class Adam:
    """Adam on one flat vector (n,) float32."""

    def __init__(self, size: int) -> None:
        self._mean = np.zeros(size, np.float32)
        self._square = np.zeros(size, np.float32)
        self._scratch = np.empty(size, np.float32)
        self._steps = 0

    def step(self, vector: FloatArray, gradient: FloatArray, learning_rate: float) -> None:
        """Move `vector` (n,) against `gradient` (n,), in place; the gradient is spent."""
        self._steps += 1
        scratch, mean, square = self._scratch, self._mean, self._square
        mean *= BETA_1
        np.multiply(gradient, 1 - BETA_1, out=scratch)
        mean += scratch
        square *= BETA_2
        gradient *= gradient
        gradient *= 1 - BETA_2
        square += gradient
        correction = (1 - BETA_2**self._steps) ** 0.5
        np.sqrt(square, out=scratch)
        scratch += EPSILON * correction
        np.divide(mean, scratch, out=scratch)
        scratch *= learning_rate * correction / (1 - BETA_1**self._steps)
        vector -= scratch


class DenseLearner:
    """Backpropagation through dense layers, features along the rows: (features, batch)."""

    def __init__(
        self, arch: NetArch, parameters: Parameters, loss: PolicyLoss, scaling: Scaling | None
    ) -> None:
        self.arch = arch
        self._scaling = scaling
        self._loss = loss
        self._activations = [layer.activation for layer in arch.layers()]
        start = standardise(arch, parameters, scaling)
        self._vector = np.concatenate([part.ravel() for pair in start for part in pair])
        self._gradient = np.zeros_like(self._vector)
        self._layers = _views(self._vector, start)
        self._slopes = _views(self._gradient, start)
        self._adam = Adam(self._vector.size)
        self._masks: list[FloatArray] | None = None
        self._inputs: FloatArray = np.zeros((0, 0), np.float32)
        self._targets: FloatArray = np.zeros((0, 0), np.float32)

    def study(self, buffer: ReplayBuffer) -> None:
        """Standardise the inputs that the network reads, once."""
        states, labels = buffer.arrays()
        inputs = np.asarray(states).reshape(len(states), -1)
        if self.arch.inputs is not None:
            inputs = inputs[:, list(self.arch.inputs)]
        if self._scaling is not None:
            inputs = self._scaling.select(self.arch.inputs).apply(inputs)
        self._inputs = np.ascontiguousarray(inputs, np.float32)
        self._targets = self._loss.targets(labels)

    def update(self, rows: Array, learning_rate: float) -> None:
        """Forward, backward, one step of Adam."""
        sums, outputs = self._forward(rows)
        slope = self._loss.gradient(outputs[-1].T, self._targets.take(rows, axis=0)).T
        for index in range(len(self._layers) - 1, -1, -1):
            if self._activations[index] != "identity":
                slope = slope * derivative(
                    self._activations[index], sums[index], outputs[index + 1]
                )
            weight, bias = self._slopes[index]
            np.matmul(slope, outputs[index].T, out=weight)
            slope.sum(axis=1, out=bias)
            if index:
                slope = self._layers[index][0].T @ slope
        self._adam.step(self._vector, self._gradient, learning_rate)
        self._remask()

    def _forward(self, rows: Array) -> tuple[list[FloatArray], list[FloatArray]]:
        """Each layer's sums, and its inputs with the network's outputs after them."""
        outputs: list[FloatArray] = [self._inputs.take(rows, axis=0).T]
        sums: list[FloatArray] = []
        for (weight, bias), name in zip(self._layers, self._activations):
            total: FloatArray = weight @ outputs[-1]
            total += bias[:, None]
            sums.append(total)
            outputs.append(total if name == "identity" else activate(name, total))
        return sums, outputs

    def loss(self, rows: Array) -> float:
        """Mean loss on the states at `rows` (batch,)."""
        return self._loss.value(self._forward(rows)[1][-1].T, self._targets.take(rows, axis=0))

    def weights(self) -> list[FloatArray]:
        """Views of the standardised weights."""
        return [weight for weight, _ in self._layers]

    def mask(self, masks: list[FloatArray]) -> None:
        """Set weights to zero where a mask is zero, now and after every update."""
        self._masks = masks
        self._remask()

    def _remask(self) -> None:
        if self._masks is not None:
            for (weight, _), mask in zip(self._layers, self._masks):
                weight *= mask

    def parameters(self) -> list[tuple[FloatArray, FloatArray]]:
        """Copies, with the scaling folded in."""
        return fold(self.arch, self._layers, self._scaling)


def _views(vector: FloatArray, like: Parameters) -> list[tuple[FloatArray, FloatArray]]:
    """The (weight, bias) pairs within a flat vector."""
    result, at = [], 0
    for weight, bias in like:
        middle, end = at + weight.size, at + weight.size + bias.size
        result.append((vector[at:middle].reshape(weight.shape), vector[middle:end]))
        at = end
    return result


def derivative(name: str, x: FloatArray, y: FloatArray) -> FloatArray:
    """The slope of an activation at `x`, where it is `y`, in float32."""
    one = np.float32(1.0)
    if name == "relu":
        return (y > 0).astype(np.float32)
    if name == "tanh":
        return one - y * y
    if name == "elu":
        elu: FloatArray = np.where(x > 0, one, y + one)
        return elu
    if name == "leaky_relu":
        leaky: FloatArray = np.where(x > 0, one, np.float32(0.01)).astype(np.float32)
        return leaky
    if name == "sigmoid":
        return y * (one - y)
    if name == "silu":
        gate = activate("sigmoid", x)
        return np.asarray(gate * (one + x * (one - gate)), np.float32)
    return np.ones_like(x)
