"""A policy as one torch module: observation in; raw outputs and action out, both named."""

from __future__ import annotations

import math
from typing import Callable

import numpy as np
import torch
from torch import Tensor, nn

from pops.policy import Parameters
from pops.spec import ContinuousActions, DiscreteActions, FloatArray, PolicySpec
from pops_export.stage import InputStage, Network, all_columns

ACTIVATIONS: dict[str, Callable[[], nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "elu": nn.ELU,
    "leaky_relu": nn.LeakyReLU,
    "silu": nn.SiLU,
    "sigmoid": nn.Sigmoid,
}


class Stage(nn.Module):
    """`InputStage` in torch."""

    def __init__(self, stage: InputStage) -> None:
        super().__init__()
        self._one_hot = stage.one_hot
        self._index: Tensor
        self._mean: Tensor | None
        self._scale: Tensor | None
        self._limit: Tensor | None
        self.register_buffer("_index", torch.arange(max(1, stage.one_hot), dtype=torch.float32))
        self.register_buffer("_mean", _vector(stage.mean))
        self.register_buffer("_scale", _vector(stage.scale))
        self.register_buffer("_limit", _vector(stage.limit))

    def forward(self, x: Tensor) -> Tensor:
        """Observations as floats to network inputs."""
        if self._one_hot:
            x = torch.relu(1.0 - torch.abs(x - self._index))
        if self._mean is not None:
            x = x - self._mean
        if self._scale is not None:
            x = x * self._scale
        if self._limit is not None:
            x = torch.minimum(torch.maximum(x, -self._limit), self._limit)
        return x


class Tail(nn.Module):
    """From raw outputs to the action: argmax, or clip and squash (`PolicySpec.decode`)."""

    def __init__(self, spec: PolicySpec) -> None:
        super().__init__()
        self._spec = spec
        self._low: Tensor
        self._high: Tensor
        if isinstance(spec.actions, ContinuousActions):
            self.register_buffer("_low", _vector(spec.actions.low))
            self.register_buffer("_high", _vector(spec.actions.high))

    def forward(self, outputs: Tensor) -> Tensor:
        """Outputs (N, n_outputs) to actions: (N,) integers or (N, n_outputs) floats."""
        actions, y = self._spec.actions, outputs
        if isinstance(actions, DiscreteActions):
            best = torch.argmax(y, dim=1)
            return best + actions.start if actions.start else best
        if self._spec.output_clip is not None:
            y = torch.clamp(y, -self._spec.output_clip, self._spec.output_clip)
        if actions.squash == "tanh":
            y = self._low + 0.5 * (torch.tanh(y) + 1.0) * (self._high - self._low)
        if any(math.isfinite(v) for v in (*actions.low, *actions.high)):
            # TFLite's converter knows clips to [-1, 1], [0, 1] and [0, 6] as activations: it would
            # write the last layer twice, once with and once without. Twice the value is clipped to
            # twice the bounds instead, which is exact.
            if set(actions.low) <= {-1.0, 0.0}:
                y = torch.minimum(torch.maximum(y + y, 2 * self._low), 2 * self._high)
                return 0.5 * y
            y = torch.minimum(torch.maximum(y, self._low), self._high)
        return y


class Move(nn.Module):
    """A permutation of the axes."""

    def __init__(self, *order: int) -> None:
        super().__init__()
        self._order = order

    def forward(self, x: Tensor) -> Tensor:
        """Permute."""
        return x.permute(self._order)


class Select(nn.Module):
    """The input features that the network reads."""

    def __init__(self, indices: tuple[int, ...]) -> None:
        super().__init__()
        self._indices: Tensor
        self.register_buffer("_indices", torch.tensor(indices, dtype=torch.int64))

    def forward(self, x: Tensor) -> Tensor:
        """(N, features) to (N, selected)."""
        return torch.index_select(x, 1, self._indices)


class PolicyModule(nn.Module):
    """Observation (N, ...) float32 to outputs (N, n_outputs) and action.

    Images are (N, C, H, W), or (N, H, W, C) with `channels_last`; everything else
    is flattened, a discrete observation being its index.
    """

    def __init__(self, network: Network, channels_last: bool = False, select: bool = True) -> None:
        super().__init__()
        self._image = network.image
        self.stage = Stage(network.stage)
        self.core = core(network, channels_last, select)
        self.tail = Tail(network.spec)
        self.eval()

    def forward(self, observation: Tensor) -> dict[str, Tensor]:
        """Outputs and action, by name."""
        if not self._image:
            observation = observation.reshape(observation.shape[0], -1)
        outputs = self.core(self.stage(observation))
        return {"outputs": outputs, "action": self.tail(outputs)}


def core(network: Network, channels_last: bool = False, select: bool = True) -> nn.Sequential:
    """The layers alone, with the network's weights.

    Args:
        network: what to build.
        channels_last: take images as (N, H, W, C); the first dense layer's columns are
            permuted, so that converters find no transpose to keep.
        select: pick the selected input features; otherwise read all with zero weights.
    """
    arch = network.arch
    parameters: Parameters = network.parameters
    layers: list[nn.Module] = []
    if arch.inputs is not None:
        if select:
            layers.append(Select(arch.inputs))
        else:
            parameters = all_columns(network)
    if network.image:
        layers += _convolutions(network, channels_last)
    shapes = arch.layers()
    for index in range(len(arch.convs), len(shapes)):
        weight, bias = parameters[index]
        if index == len(arch.convs) and network.image and channels_last:
            shape = shapes[index - 1].output_shape if arch.convs else arch.input_shape
            weight = weight.reshape(-1, *shape).transpose(0, 2, 3, 1).reshape(weight.shape)
        dense = nn.Linear(weight.shape[1], weight.shape[0])
        _load(dense, weight, bias)
        layers.append(dense)
        if shapes[index].activation != "identity":
            layers.append(ACTIVATIONS[shapes[index].activation]())
    return nn.Sequential(*layers)


def _convolutions(network: Network, channels_last: bool) -> list[nn.Module]:
    layers: list[nn.Module] = []
    if channels_last and network.arch.convs:
        layers.append(Move(0, 3, 1, 2))
    channels = network.arch.input_shape[0]
    for conv, (weight, bias) in zip(network.arch.convs, network.parameters):
        module = nn.Conv2d(channels, conv.channels, conv.kernel, conv.stride, conv.padding)
        _load(module, weight, bias)
        layers.append(module)
        if conv.activation != "identity":
            layers.append(ACTIVATIONS[conv.activation]())
        channels = conv.channels
    if channels_last and network.arch.convs:
        layers.append(Move(0, 2, 3, 1))
    layers.append(nn.Flatten())
    return layers


def _load(module: nn.Linear | nn.Conv2d, weight: FloatArray, bias: FloatArray) -> None:
    assert module.bias is not None
    with torch.no_grad():
        module.weight.copy_(torch.from_numpy(np.ascontiguousarray(weight)))
        module.bias.copy_(torch.from_numpy(np.ascontiguousarray(bias)))


def _vector(values: tuple[float, ...] | None) -> Tensor | None:
    return None if values is None else torch.tensor(values, dtype=torch.float32)
