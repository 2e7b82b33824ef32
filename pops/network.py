"""The torch network that a NetArch describes."""

from __future__ import annotations

from typing import Union, cast

import numpy as np
import torch
from torch import nn

from pops.arch import NetArch
from pops.policy import Parameters
from pops.spec import FloatArray

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
            x = self.activated(shape.activation, self.normalised(index, layer(x)))
        return x

    def normalised(self, index: int, sums: torch.Tensor) -> torch.Tensor:
        """A layer's sums on their way to its activation."""
        return sums

    @staticmethod
    def activated(name: str, x: torch.Tensor) -> torch.Tensor:
        """An activation by name."""
        return x if name == "identity" else _ACTIVATIONS[name](x)

    def weighted(self) -> list[Weighted]:
        """The layers, typed."""
        return [cast("Weighted", layer) for layer in self.layers]

    def load(self, parameters: Parameters) -> None:
        """Take (weight, bias) of each layer."""
        with torch.no_grad():
            for layer, (weight, bias) in zip(self.weighted(), parameters):
                layer.weight.copy_(torch.from_numpy(np.ascontiguousarray(weight)))
                biases(layer).copy_(torch.from_numpy(np.ascontiguousarray(bias)))

    def folded(self) -> list[tuple[FloatArray, FloatArray]]:
        """(weight, bias) of each layer; on the CPU they share the network's memory."""
        return [
            (layer.weight.detach().cpu().numpy(), biases(layer).detach().cpu().numpy())
            for layer in self.weighted()
        ]


def to_torch(arch: NetArch, parameters: Parameters) -> PolicyNetwork:
    """A network that computes what `parameters` compute."""
    network = PolicyNetwork(arch)
    network.load(parameters)
    return network
