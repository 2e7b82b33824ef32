"""tflite-micro's int8 arithmetic in numpy: the oracle where its wheel does not run."""

from __future__ import annotations

import numpy as np

from pops.spec import Array, FloatArray
from pops_export.int8.fixed_point import requantise
from pops_export.int8.network import ConvLayer, DenseLayer, IntArray, IntegerNetwork

CHUNK_BYTES = 1 << 26


def run(network: IntegerNetwork, codes: IntArray) -> IntArray:
    """Input codes (N, *shape) int8 to output codes (N, outputs) int8, as tflite-micro."""
    flat = np.asarray(codes, dtype=np.int8).reshape(len(codes), network.inputs)
    widest = max(_working_bytes(layer) for layer in network.layers)
    chunk = max(1, CHUNK_BYTES // widest)
    parts = [_run(network, flat[i : i + chunk]) for i in range(0, len(flat), chunk)]
    return np.concatenate(parts) if parts else np.zeros((0, network.outputs), np.int8)


def _run(network: IntegerNetwork, x: IntArray) -> IntArray:
    for layer in network.layers:
        x = x.reshape(len(x), -1)
        x = _dense(layer, x) if isinstance(layer, DenseLayer) else _conv(layer, x)
        if layer.tanh is not None:
            x = layer.tanh[x.astype(np.int64) + 128]
    return x.reshape(len(x), -1)


def _working_bytes(layer: DenseLayer | ConvLayer) -> int:
    if isinstance(layer, DenseLayer):
        return 8 * (layer.inputs + 4 * layer.outputs)
    rows, columns, _ = layer.output_shape
    return int(8 * rows * columns * (layer.weight[0].size + 4 * layer.weight.shape[0]))


def _multiply(x: IntArray, weight: IntArray) -> IntArray:
    """Exact integer sums through float64 BLAS: every partial sum is far below 2^53."""
    return np.asarray(np.matmul(x.astype(np.float64), weight.astype(np.float64).T), dtype=np.int64)


def _dense(layer: DenseLayer, x: IntArray) -> IntArray:
    centred = x.astype(np.int32) - layer.input_zero_point
    return requantise(_multiply(centred, layer.weight) + layer.bias, layer.requantise)


def _conv(layer: ConvLayer, x: IntArray) -> IntArray:
    channels, kernel_height, kernel_width, depth = layer.weight.shape
    height, width, _ = layer.input_shape
    rows, columns, _ = layer.output_shape
    image = x.reshape(-1, height, width, depth).astype(np.int32) - layer.input_zero_point
    top, left = layer.padding
    below = max((rows - 1) * layer.stride[0] + kernel_height - height - top, 0)
    right = max((columns - 1) * layer.stride[1] + kernel_width - width - left, 0)
    image = np.pad(image, ((0, 0), (top, below), (left, right), (0, 0)))
    windows = np.lib.stride_tricks.sliding_window_view(image, (kernel_height, kernel_width), (1, 2))
    windows = windows[:, :: layer.stride[0], :: layer.stride[1]][:, :rows, :columns]
    # (n, rows, columns, depth, kernel height, kernel width) to the weights' order
    patches = windows.transpose(0, 1, 2, 4, 5, 3).reshape(len(x), rows * columns, -1)
    sums = _multiply(patches, layer.weight.reshape(channels, -1)) + layer.bias
    return requantise(sums, layer.requantise).reshape(len(x), -1)


def scaled(network: IntegerNetwork, observations: Array) -> FloatArray:
    """Observations (N, *input_shape) to what the quantising step sees, float32."""
    x = np.asarray(observations, dtype=np.float32).reshape(-1, *network.input_shape)
    if network.gather is not None:
        x = x[:, list(network.gather)]
    for stage in network.stages:
        x = stage.apply(x)
    return x


def quantise(network: IntegerNetwork, observations: Array) -> IntArray:
    """Observations (N, *input_shape) to the codes (N, inputs) int8 that enter the network.

    TFLite's QUANTIZE: the float32 quotient, rounded half away from zero. A NaN counts as
    zero, where TFLite's result is undefined.
    """
    x = scaled(network, observations)
    with np.errstate(all="ignore"):
        quotient = (x / np.float32(network.input_scale)).astype(np.float64)
    quotient = np.clip(np.where(np.isnan(quotient), 0.0, quotient), -1000.0, 1000.0)
    rounded = np.where(quotient < 0, np.ceil(quotient - 0.5), np.floor(quotient + 0.5))
    codes = np.clip(rounded + network.input_zero_point, -128, 127).astype(np.int8)
    result: IntArray = codes.reshape(len(codes), -1)
    return result


def dequantise(network: IntegerNetwork, codes: IntArray) -> FloatArray:
    """Output codes (N, outputs) int8 to outputs (N, outputs) float32."""
    centred = np.asarray(codes, dtype=np.int32) - network.output_zero_point
    x: FloatArray = centred.astype(np.float32) * np.float32(network.output_scale)
    for stage in network.output_stages:
        x = stage.apply(x)
    return x


def outputs(network: IntegerNetwork, observations: Array) -> FloatArray:
    """Observations to outputs: `dequantise(run(quantise(...)))`."""
    return dequantise(network, run(network, quantise(network, observations)))
