"""Batch normalisation while a convolutional network learns (Ioffe and Szegedy 2015).

A small convolutional network hardly learns as it stands: an image's background outweighs what
moves on it, and units die. Normalised behind every hidden layer it learns; what the normalisation
does is folded into weights and biases when they leave training, so that no policy knows of it.
"""

from __future__ import annotations

from typing import cast

import numpy as np
import torch
from torch import nn

from pops.arch import NetArch
from pops.network import PolicyNetwork, biases
from pops.spec import FloatArray


class NormalisedNetwork(PolicyNetwork):
    """A network with batch normalisation between each hidden layer and its activation."""

    def __init__(self, arch: NetArch) -> None:
        super().__init__(arch)
        shapes = arch.layers()[:-1]
        kinds = [nn.BatchNorm2d] * len(arch.convs) + [nn.BatchNorm1d] * len(arch.widths)
        self.norms = nn.ModuleList(kind(shape.weight[0]) for kind, shape in zip(kinds, shapes))
        for layer in self.weighted()[:-1]:
            biases(layer).requires_grad_(False)  # what they add, the normalisation takes off

    def normalised(self, index: int, sums: torch.Tensor) -> torch.Tensor:
        """By the batch's statistics in training, by the settled ones in evaluation."""
        if index == len(self.norms):
            return sums
        normalised: torch.Tensor = self.norms[index](sums)
        return normalised

    @torch.no_grad()
    def settle(self, x: torch.Tensor, *, unchanged: bool = False) -> None:
        """Take the statistics of these inputs, exactly, layer by layer (Wu and Johnson 2021).

        Args:
            x: (N, *input_shape).
            unchanged: choose scale and shift so that the network computes what it would without
                normalisation.
        """
        self.eval()
        for index, (norm, shape) in enumerate(zip(self._typed_norms(), self.arch.layers())):
            if index == len(self.arch.convs):
                x = x.flatten(1)
            x = self.layers[index](x)
            axes = [axis for axis in range(x.dim()) if axis != 1]
            variance, mean = torch.var_mean(x, axes, correction=0)
            _set(norm.running_mean, mean)
            _set(norm.running_var, variance)
            if unchanged:
                _set(norm.weight, torch.sqrt(variance + norm.eps))
                _set(norm.bias, mean)
            x = self.activated(shape.activation, norm(x))

    def _typed_norms(self) -> list[nn.BatchNorm2d]:
        return [cast("nn.BatchNorm2d", norm) for norm in self.norms]

    def folded(self) -> list[tuple[FloatArray, FloatArray]]:
        """(weight, bias) of each layer with the normalisation folded in, computed in float64."""
        pairs = super().folded()
        for index, norm in enumerate(self._typed_norms()):
            weight, bias = pairs[index]
            mean, variance, scale, shift = (
                cast("torch.Tensor", part).detach().cpu().numpy().astype(np.float64)
                for part in (norm.running_mean, norm.running_var, norm.weight, norm.bias)
            )
            factor = scale / np.sqrt(variance + norm.eps)
            folded = weight * factor.reshape(-1, *[1] * (weight.ndim - 1))
            moved = shift + (bias - mean) * factor
            pairs[index] = folded.astype(np.float32), moved.astype(np.float32)
        return pairs


def _set(tensor: torch.Tensor | None, value: torch.Tensor) -> None:
    assert tensor is not None
    tensor.copy_(value)
