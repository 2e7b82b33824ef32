"""Weights on their way into training and out of it: fresh, standardised, folded. No torch here.

Students train on standardised inputs. The scaling is folded into the first
layer when weights leave training and taken out when they enter, so a policy on
disk always reads what its spec's preprocessing gives.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pops.arch import NetArch
from pops.errors import PopsError
from pops.policy import Parameters
from pops.spec import Array, FloatArray


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

    def apply(self, inputs: FloatArray) -> FloatArray:
        """Inputs (N, features) standardised, float32."""
        return ((inputs - self.mean) / self.std).astype(np.float32)


def initialise(arch: NetArch, seed: int) -> list[tuple[FloatArray, FloatArray]]:
    """Fresh weights, He-uniform (He et al. 2015), from `seed` alone; the output layer small."""
    rng = np.random.default_rng(seed)
    layers = arch.layers()
    result = []
    for index, layer in enumerate(layers):
        fan_in = math.prod(layer.weight[1:])
        gain = 0.1 if index == len(layers) - 1 and len(layers) > 1 else 1.0
        bound = gain * math.sqrt(3.0 / fan_in)
        weight = rng.uniform(-bound, bound, layer.weight)
        bias = rng.uniform(-bound / 3, bound / 3, layer.weight[0])
        result.append((weight.astype(np.float32), bias.astype(np.float32)))
    return result


def standardise(
    arch: NetArch, parameters: Parameters, scaling: Scaling | None
) -> list[tuple[FloatArray, FloatArray]]:
    """Parameters that compute on standardised inputs what `parameters` compute on raw ones.

    Convolutional networks have no scaling of their own and come back as they are.
    """
    result = [(weight.copy(), bias.copy()) for weight, bias in parameters]
    if scaling is not None and not arch.convs:
        chosen = scaling.select(arch.inputs)
        weight, bias = result[0]
        wide_bias = bias + weight.astype(np.float64) @ chosen.mean
        result[0] = ((weight * chosen.std).astype(np.float32), wide_bias.astype(np.float32))
    return result


def fold(
    arch: NetArch, parameters: Parameters, scaling: Scaling | None
) -> list[tuple[FloatArray, FloatArray]]:
    """The inverse of `standardise`: the scaling goes into the first layer.

    Raises:
        PopsError: if training diverged to weights that are not finite.
    """
    for index, (weight, bias) in enumerate(parameters):
        if not (np.isfinite(weight).all() and np.isfinite(bias).all()):
            raise PopsError(
                f"Training a {arch} student diverged: layer {index} is no longer finite. "
                "Use a smaller --distill.learning-rate."
            )
    result = [(weight.copy(), bias.copy()) for weight, bias in parameters]
    if scaling is not None and not arch.convs:
        chosen = scaling.select(arch.inputs)
        weight, bias = result[0]
        raw_weight = weight / chosen.std
        raw_bias = bias - raw_weight @ chosen.mean
        result[0] = (raw_weight.astype(np.float32), raw_bias.astype(np.float32))
    return result


def nonzeros(parameters: Parameters) -> tuple[int, ...]:
    """Weights that are not zero in each layer, biases not counted."""
    return tuple(int(np.count_nonzero(weight)) for weight, _ in parameters)
