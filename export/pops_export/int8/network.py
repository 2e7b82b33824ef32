"""IntegerNetwork: the tensors of an int8 .tflite as one frozen value."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Union

import numpy as np
import numpy.typing as npt

FloatArray = npt.NDArray[np.float32]
IntArray = npt.NDArray[Any]

STAGE_KINDS = ("add", "sub", "mul", "div", "minimum", "maximum")


@dataclass(frozen=True)
class FloatStage:
    """One element-wise float32 operation outside of the integer part: `x kind values`."""

    kind: str
    """One of `STAGE_KINDS`."""
    values: FloatArray
    """The constant operand: one value, or one for each feature."""

    def apply(self, x: FloatArray) -> FloatArray:
        """Apply to x (N, features) float32, in float32."""
        operation = {
            "add": np.add,
            "sub": np.subtract,
            "mul": np.multiply,
            "div": np.divide,
            "minimum": np.minimum,
            "maximum": np.maximum,
        }[self.kind]
        with np.errstate(all="ignore"):
            result: FloatArray = operation(x, self.values, dtype=np.float32)
        return result


@dataclass(frozen=True)
class Requantiser:
    """From 32-bit sums to int8 codes, channel by channel, as tflite-micro does it.

    `code = clamp(round(round(sum · multiplier / 2^31 · 2^left) / 2^right) + zero_point)`,
    where left shifts come before the product and both roundings are those of gemmlowp.
    """

    multiplier: IntArray
    """(channels,) int64, in [2^30, 2^31), or 0."""
    left_shift: IntArray
    """(channels,) int64, 0 or more."""
    right_shift: IntArray
    """(channels,) int64, 0 or more."""
    zero_point: int
    minimum: int
    """Smallest code: the activation's or int8's."""
    maximum: int


@dataclass(frozen=True)
class DenseLayer:
    """A fully connected layer."""

    weight: IntArray
    """(out, in) int8."""
    bias: IntArray
    """(out,) int32."""
    input_zero_point: int
    requantise: Requantiser
    tanh: IntArray | None = None
    """(256,) int8: the code that follows each code -128 .. 127, where a Tanh follows."""

    @property
    def inputs(self) -> int:
        """Number of inputs."""
        return int(self.weight.shape[1])

    @property
    def outputs(self) -> int:
        """Number of outputs."""
        return int(self.weight.shape[0])

    @property
    def output_zero_point(self) -> int:
        """Zero point of what leaves the layer, after its Tanh if it has one."""
        return 0 if self.tanh is not None else self.requantise.zero_point


@dataclass(frozen=True)
class ConvLayer:
    """A convolution on a channel-last image."""

    weight: IntArray
    """(out, kernel height, kernel width, in) int8."""
    bias: IntArray
    """(out,) int32."""
    input_shape: tuple[int, int, int]
    """(height, width, channels)."""
    output_shape: tuple[int, int, int]
    stride: tuple[int, int]
    padding: tuple[int, int]
    """Rows above and columns to the left that lie outside of the image."""
    input_zero_point: int
    requantise: Requantiser
    tanh: IntArray | None = None
    """As in `DenseLayer`."""

    @property
    def inputs(self) -> int:
        """Number of inputs."""
        return int(np.prod(self.input_shape))

    @property
    def outputs(self) -> int:
        """Number of outputs."""
        return int(np.prod(self.output_shape))

    @property
    def output_zero_point(self) -> int:
        """Zero point of what leaves the layer, after its Tanh if it has one."""
        return 0 if self.tanh is not None else self.requantise.zero_point


Layer = Union[DenseLayer, ConvLayer]


@dataclass(frozen=True)
class IntegerNetwork:
    """Everything that an int8 .tflite computes, float stages round it included."""

    input_shape: tuple[int, ...]
    """Shape of one input of the file: (features,) or (height, width, channels)."""
    stages: tuple[FloatStage, ...]
    """Float operations before the quantising step, in order."""
    gather: tuple[int, ...] | None
    """Features that the network reads, in order, taken before `stages`; None for all."""
    input_scale: float
    """A float32 value."""
    input_zero_point: int
    layers: tuple[Layer, ...]
    output_scale: float
    """A float32 value."""
    output_zero_point: int
    output_stages: tuple[FloatStage, ...]
    """Float operations after the last layer's codes became floats, in order."""
    int8_io: bool
    """The file itself takes and gives int8: the float steps are the runtime's."""

    @property
    def inputs(self) -> int:
        """Number of codes that enter the integer part."""
        return self.layers[0].inputs

    @property
    def outputs(self) -> int:
        """Number of outputs."""
        return self.layers[-1].outputs
