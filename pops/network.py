"""The torch network that a NetArch describes, and the way there and back.

Students train on standardised inputs. The scaling is folded into the first
layer when weights leave torch and unfolded when they enter, so a policy on
disk always reads what its spec's preprocessing gives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Union, cast

import numpy as np
import torch
from torch import nn

from pops.arch import NetArch
from pops.errors import PopsError
from pops.policy import Parameters
from pops.spec import Array, FloatArray

Weighted = Union[nn.Linear, nn.Conv2d]

_ACTIVATIONS = {
    "relu": torch.relu,
    "tanh": torch.tanh,
    "elu": nn.functional.elu,
    "leaky_relu": nn.functional.leaky_relu,
    "silu": nn.functional.silu,
    "sigmoid": torch.sigmoid,
}


@dataclass(frozen=True)
class Scaling:
    """Standardisation of dense inputs: (features,) float64 mean and deviation."""

    mean: Array
    std: Array

    @classmethod
    def identity(cls, features: int) -> Scaling:
        """No scaling."""
        return cls(np.zeros(features), np.ones(features))

    @classmethod
    def of(cls, inputs: FloatArray) -> Scaling:
        """Mean and deviation of inputs (N, features); a constant feature is left as it is."""
        wide = inputs.astype(np.float64)
        std = wide.std(axis=0)
        mean = np.where(std > 1e-6, wide.mean(axis=0), 0.0)
        return cls(mean, np.where(std > 1e-6, std, 1.0))

    def select(self, inputs: tuple[int, ...] | None) -> Scaling:
        """The scaling of the input features that a network reads."""
        if inputs is None:
            return self
        return Scaling(self.mean[list(inputs)], self.std[list(inputs)])


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

    def weights(self) -> list[torch.Tensor]:
        """The weight of each layer, biases left out."""
        return [layer.weight for layer in self.weighted()]


def initialise(network: PolicyNetwork, seed: int) -> PolicyNetwork:
    """Fresh weights, He-uniform (He et al. 2015), from `seed` alone; the output layer small."""
    generator = torch.Generator().manual_seed(seed)
    layers = network.weighted()
    for layer in layers:
        fan_in = math.prod(layer.weight.shape[1:])
        gain = 0.1 if layer is layers[-1] and len(layers) > 1 else 1.0
        bound = gain * math.sqrt(3.0 / fan_in)
        with torch.no_grad():
            layer.weight.uniform_(-bound, bound, generator=generator)
            biases(layer).uniform_(-bound / 3, bound / 3, generator=generator)
    return network


def to_torch(arch: NetArch, parameters: Parameters, scaling: Scaling) -> PolicyNetwork:
    """A network whose inputs are standardised, computing what `parameters` compute."""
    network = PolicyNetwork(arch)
    scaling = scaling.select(arch.inputs)
    with torch.no_grad():
        for index, (weight, bias) in enumerate(parameters):
            wide_weight, wide_bias = weight.astype(np.float64), bias.astype(np.float64)
            if index == 0 and not arch.convs:
                wide_bias = wide_bias + wide_weight @ scaling.mean
                wide_weight = wide_weight * scaling.std
            layer = network.weighted()[index]
            layer.weight.copy_(torch.from_numpy(wide_weight.astype(np.float32)))
            biases(layer).copy_(torch.from_numpy(wide_bias.astype(np.float32)))
    return network


def to_numpy(network: PolicyNetwork, scaling: Scaling) -> list[tuple[FloatArray, FloatArray]]:
    """The parameters with the input scaling folded into the first layer.

    Raises:
        PopsError: if training diverged to weights that are not finite.
    """
    scaling = scaling.select(network.arch.inputs)
    result = []
    for index, layer in enumerate(network.weighted()):
        weight = layer.weight.detach().cpu().numpy().astype(np.float64)
        bias = biases(layer).detach().cpu().numpy().astype(np.float64)
        if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
            raise PopsError(
                f"Training a {network.arch} student diverged: layer {index} is no longer finite. "
                "Use a smaller --distill.learning-rate."
            )
        if index == 0 and not network.arch.convs:
            weight = weight / scaling.std
            bias = bias - weight @ scaling.mean
        result.append((weight.astype(np.float32), bias.astype(np.float32)))
    return result


def nonzeros(parameters: Parameters) -> tuple[int, ...]:
    """Weights that are not zero in each layer, biases not counted."""
    return tuple(int(np.count_nonzero(weight)) for weight, _ in parameters)
