"""NetArch: the layers of a feed-forward network, and what they cost. No torch here."""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any, NamedTuple

from pops.errors import PopsError

ACTIVATIONS = ("relu", "tanh", "elu", "leaky_relu", "silu", "sigmoid", "identity")
MAX_PARAMETERS = 200_000_000


class LayerShape(NamedTuple):
    """One layer with weights: its weight shape, what precedes it, and its cost."""

    weight: tuple[int, ...]
    """(out, in) for dense, (out, in, kernel, kernel) for convolutions."""
    activation: str
    macs: int
    """Multiply-accumulates for one input."""
    output_shape: tuple[int, ...]
    """Shape of one output of this layer: (features,) or (channels, height, width)."""

    @property
    def weights(self) -> int:
        """Number of weights, biases not counted."""
        return math.prod(self.weight)


@dataclass(frozen=True)
class Conv:
    """A square two-dimensional convolution."""

    channels: int
    kernel: int
    stride: int
    padding: int = 0
    activation: str = "relu"


@dataclass(frozen=True)
class NetArch:
    """Convolutions, then dense layers, then one linear output layer.

    `widths` are the hidden dense layers and may be empty: a linear policy is a
    legal student. Between the last convolution and the first dense layer the
    activations are flattened channel first. Every layer has a bias.
    """

    input_shape: tuple[int, ...]
    """(features,) or (channels, height, width)."""
    outputs: int
    widths: tuple[int, ...] = ()
    activations: tuple[str, ...] = ()
    """One for each hidden dense layer."""
    convs: tuple[Conv, ...] = ()
    output_activation: str = "identity"
    inputs: tuple[int, ...] | None = None
    """Indices of the input features that the network reads; None for all. Dense inputs only."""

    def __post_init__(self) -> None:
        if len(self.activations) != len(self.widths):
            raise PopsError(
                f"A network with {len(self.widths)} hidden layers needs as many activations, "
                f"found {len(self.activations)}."
            )
        sizes = (*self.input_shape, *self.widths, self.outputs, *(c.channels for c in self.convs))
        if not self.input_shape or any(n < 1 for n in sizes):
            raise PopsError(f"Every layer needs at least one unit, found sizes {sizes}.")
        names = (*self.activations, self.output_activation, *(c.activation for c in self.convs))
        unknown = sorted(set(names) - set(ACTIVATIONS))
        if unknown:
            raise PopsError(
                f"Activation {unknown[0]!r} is not supported, expected one of: "
                f"{', '.join(ACTIVATIONS)}."
            )
        if self.convs and len(self.input_shape) != 3:
            raise PopsError(f"Convolutions need a (C, H, W) input, found {self.input_shape}.")
        if self.inputs is not None and (
            len(self.input_shape) != 1
            or not self.inputs
            or len(set(self.inputs)) != len(self.inputs)
            or not all(0 <= i < self.input_shape[0] for i in self.inputs)
        ):
            raise PopsError(f"Inputs {self.inputs} do not select from {self.input_shape}.")
        if self.num_parameters > MAX_PARAMETERS:
            raise PopsError(
                f"The network has {self.num_parameters:,} parameters; at most "
                f"{MAX_PARAMETERS:,} are supported."
            )

    def layers(self) -> list[LayerShape]:
        """The layers with weights, in order."""
        shape = self.input_shape
        result = []
        for conv in self.convs:
            height, width = (
                (size + 2 * conv.padding - conv.kernel) // conv.stride + 1 for size in shape[1:]
            )
            if height < 1 or width < 1:
                raise PopsError(
                    f"A {conv.kernel}×{conv.kernel} convolution does not fit on an input of "
                    f"{shape[1]}×{shape[2]}."
                )
            weight = (conv.channels, shape[0], conv.kernel, conv.kernel)
            shape = (conv.channels, height, width)
            macs = math.prod(weight) * height * width
            result.append(LayerShape(weight, conv.activation, macs, shape))
        fan_in = math.prod(shape) if self.inputs is None else len(self.inputs)
        sizes = (*self.widths, self.outputs)
        for size, activation in zip(sizes, (*self.activations, self.output_activation)):
            result.append(LayerShape((size, fan_in), activation, size * fan_in, (size,)))
            fan_in = size
        return result

    @property
    def num_weights(self) -> int:
        """Weights without biases (the paper's measure)."""
        return sum(layer.weights for layer in self.layers())

    @property
    def num_parameters(self) -> int:
        """Weights and biases."""
        return sum(layer.weights + layer.weight[0] for layer in self.layers())

    @property
    def macs(self) -> int:
        """Multiply-accumulates for one observation."""
        return sum(layer.macs for layer in self.layers())

    @property
    def activation(self) -> str:
        """The activation of the hidden layers, 'relu' where there are none."""
        if self.activations:
            return self.activations[0]
        return self.convs[0].activation if self.convs else "relu"

    def with_widths(
        self, widths: tuple[int, ...], channels: tuple[int, ...] | None = None
    ) -> NetArch:
        """The same kind of network with other dense widths and, if given, other channels."""
        activations = tuple(
            self.activations[i] if i < len(self.activations) else self.activation
            for i in range(len(widths))
        )
        convs = self.convs
        if channels is not None:
            convs = tuple(
                dataclasses.replace(conv, channels=n) for conv, n in zip(self.convs, channels)
            )
        return dataclasses.replace(self, widths=widths, activations=activations, convs=convs)

    def __str__(self) -> str:
        """For example 4-8-2, or conv 32x8/4 64x4/2 then 3136-512-6."""
        layers = self.layers()
        dense = "-".join(str(n) for n in (layers[len(self.convs)].weight[1], *self.widths))
        dense = f"{dense}-{self.outputs}"
        if not self.convs:
            return dense
        convs = " ".join(f"{c.channels}x{c.kernel}/{c.stride}" for c in self.convs)
        return f"conv {convs} then {dense}"

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dictionary; `from_json` reads it back."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> NetArch:
        """Read what `to_json` wrote.

        Raises:
            PopsError: if fields are missing or of the wrong kind.
        """
        try:
            raw = dict(data)
            inputs = raw.pop("inputs")
            return cls(
                input_shape=tuple(int(n) for n in raw.pop("input_shape")),
                widths=tuple(int(n) for n in raw.pop("widths")),
                activations=tuple(str(a) for a in raw.pop("activations")),
                convs=tuple(Conv(**conv) for conv in raw.pop("convs")),
                inputs=None if inputs is None else tuple(int(i) for i in inputs),
                **raw,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PopsError(
                f"The network's architecture cannot be read ({error!r}); expected the JSON that "
                "pops writes. Compress the policy again with this version."
            ) from error
