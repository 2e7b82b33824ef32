"""The torch network that a NetArch describes: how convolutional networks learn."""

from __future__ import annotations

from typing import Union, cast

import numpy as np
import torch
from torch import nn

from pops.arch import NetArch
from pops.loss import PolicyLoss
from pops.policy import Parameters
from pops.rollout import ReplayBuffer
from pops.spec import Array, FloatArray
from pops.weights import fold

Weighted = Union[nn.Linear, nn.Conv2d]

_ACTIVATIONS = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "elu": nn.functional.elu,
    "leaky_relu": nn.functional.leaky_relu,
    "silu": nn.functional.silu,
    "sigmoid": torch.sigmoid,
}


def biases(layer: Weighted) -> torch.Tensor:
    """A layer's biases; every layer here has them."""
    return cast("torch.Tensor", layer.bias)


class PolicyNetwork(nn.Module):
    """Convolutions and dense layers of a NetArch; inputs (N, *input_shape)."""

    def __init__(self, arch: NetArch) -> None:
        super().__init__()
        self.arch = arch
        self.layers = nn.ModuleList()
        shapes = arch.layers()
        for conv, shape in zip(arch.convs, shapes):
            channels_in = shape.weight[1]
            self.layers.append(
                nn.Conv2d(channels_in, conv.channels, conv.kernel, conv.stride, conv.padding)
            )
        for shape in shapes[len(arch.convs) :]:
            self.layers.append(nn.Linear(shape.weight[1], shape.weight[0]))

    def forward(self, x: torch.Tensor) -> torch.Tensor:
        """Inputs (N, *input_shape), dense ones already selected, to outputs (N, n_outputs)."""
        for index, (layer, shape) in enumerate(zip(self.layers, self.arch.layers())):
            if index == len(self.arch.convs):
                x = x.flatten(1)
            x = layer(x)
            if shape.activation != "identity":
                x = _ACTIVATIONS[shape.activation](x)
        return x

    def weighted(self) -> list[Weighted]:
        """The layers, typed."""
        return [cast("Weighted", layer) for layer in self.layers]


def to_torch(arch: NetArch, parameters: Parameters) -> PolicyNetwork:
    """A network that computes what `parameters` compute."""
    network = PolicyNetwork(arch)
    with torch.no_grad():
        for layer, (weight, bias) in zip(network.weighted(), parameters):
            layer.weight.copy_(torch.from_numpy(np.ascontiguousarray(weight)))
            biases(layer).copy_(torch.from_numpy(np.ascontiguousarray(bias)))
    return network


class ConvolutionalLearner:
    """A `pops.learner.Learner` by torch's autograd, on the CPU or a GPU."""

    def __init__(
        self, arch: NetArch, parameters: Parameters, loss: PolicyLoss, device: str
    ) -> None:
        self.arch = arch
        self._loss = loss
        self._device = device
        # Channels last is what the CPU's convolutions are fast on: 1.4 times for NatureCNN.
        self._network = to_torch(arch, parameters).to(device)
        self._network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
        self._optimiser = torch.optim.Adam(self._network.parameters(), lr=1e-3, fused=True)
        self._masks: list[torch.Tensor] | None = None
        self._buffer: ReplayBuffer | None = None

    def study(self, buffer: ReplayBuffer) -> None:
        """Learn from these states from now on; images stay as they came until they are used."""
        self._buffer = buffer

    def _outputs(self, rows: Array) -> tuple[torch.Tensor, FloatArray, FloatArray]:
        """The network's outputs, and the same in numpy with their targets."""
        assert self._buffer is not None
        inputs, labels = self._buffer.batch(rows)
        images = torch.from_numpy(inputs).to(self._device, memory_format=torch.channels_last)
        outputs = self._network(images)
        return outputs, outputs.detach().cpu().numpy(), self._loss.targets(labels)

    def update(self, rows: Array, learning_rate: float) -> None:
        """Forward, backward, one step of Adam."""
        outputs, values, targets = self._outputs(rows)
        slope = torch.from_numpy(np.ascontiguousarray(self._loss.gradient(values, targets)))
        self._optimiser.zero_grad(set_to_none=True)
        outputs.backward(slope.to(self._device))  # type: ignore[no-untyped-call]
        self._optimiser.param_groups[0]["lr"] = learning_rate
        self._optimiser.step()
        self._remask()

    def loss(self, rows: Array) -> float:
        """Mean loss on the states at `rows` (batch,), 256 at a time."""
        total = 0.0
        with torch.no_grad():
            for start in range(0, len(rows), 256):
                part = rows[start : start + 256]
                _, values, targets = self._outputs(part)
                total += self._loss.value(values, targets) * len(part)
        return total / len(rows)

    def weights(self) -> list[FloatArray]:
        """Each layer's weights, biases left out."""
        return [layer.weight.detach().cpu().numpy() for layer in self._network.weighted()]

    def mask(self, masks: list[FloatArray]) -> None:
        """Set weights to zero where a mask is zero, now and after every update."""
        self._masks = [torch.from_numpy(mask).to(self._device) for mask in masks]
        self._remask()

    def _remask(self) -> None:
        if self._masks is not None:
            with torch.no_grad():
                for layer, mask in zip(self._network.weighted(), self._masks):
                    layer.weight.mul_(mask)

    def parameters(self) -> list[tuple[FloatArray, FloatArray]]:
        """Copies of (weight, bias) of each layer."""
        pairs = [
            (layer.weight.detach().cpu().numpy(), biases(layer).detach().cpu().numpy())
            for layer in self._network.weighted()
        ]
        return fold(self.arch, pairs, None)
