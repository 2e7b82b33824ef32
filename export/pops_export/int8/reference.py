"""tflite-micro's int8 arithmetic in numpy: the oracle where its wheel does not run."""

from __future__ import annotations

from pops.spec import Array, FloatArray
from pops_export.int8.network import IntArray, IntegerNetwork


def run(network: IntegerNetwork, codes: IntArray) -> IntArray:
    """Input codes (N, *shape) int8 to output codes (N, outputs) int8, as tflite-micro."""
    raise NotImplementedError


def quantise(network: IntegerNetwork, observations: Array) -> IntArray:
    """Observations (N, *input_shape) to the codes (N, inputs) int8 that enter the network."""
    raise NotImplementedError


def dequantise(network: IntegerNetwork, codes: IntArray) -> FloatArray:
    """Output codes (N, outputs) int8 to outputs (N, outputs) float32."""
    raise NotImplementedError


def outputs(network: IntegerNetwork, observations: Array) -> FloatArray:
    """Observations to outputs: `dequantise(run(quantise(...)))`."""
    return dequantise(network, run(network, quantise(network, observations)))
