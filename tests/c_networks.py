"""Integer networks for tests of the generated C: random, and through the converter."""

from __future__ import annotations

import contextlib
import functools
import io
from collections.abc import Sequence

import numpy as np

from pops.arch import Conv, NetArch
from pops.policy import NumpyPolicy
from pops.spec import Array, ContinuousActions, DiscreteActions, PolicySpec
from pops_export.c.options import COptions, Golden
from pops_export.int8 import reference
from pops_export.int8.fixed_point import quantise_multiplier, tanh_table
from pops_export.int8.network import (
    ConvLayer,
    DenseLayer,
    FloatStage,
    IntArray,
    IntegerNetwork,
    Layer,
    Requantiser,
)


def requantiser(rng: np.random.Generator, spread: float, channels: int, relu: bool) -> Requantiser:
    """Multipliers that spread sums over about all codes, another for each channel."""
    reals = rng.uniform(60, 160, channels) / max(spread, 1.0)
    pairs = [quantise_multiplier(float(real)) for real in reals]
    exponents = np.array([e for _, e in pairs], dtype=np.int64)
    zero = -128 if relu else int(rng.integers(-100, 100))
    return Requantiser(
        np.array([m for m, _ in pairs], dtype=np.int64),
        np.maximum(exponents, 0),
        np.maximum(-exponents, 0),
        zero,
        zero if relu else -128,
        127,
    )


def _weights(rng: np.random.Generator, shape: tuple[int, ...]) -> tuple[IntArray, IntArray, float]:
    weight = rng.integers(-127, 128, shape).astype(np.int8)
    spread = 73.0 * 60.0 * float(np.sqrt(np.prod(shape[1:])))
    bias = rng.normal(0, spread / 4, shape[0]).astype(np.int32)
    return weight, bias, spread


def random_network(
    rng: np.random.Generator,
    sizes: Sequence[int],
    activation: str = "relu",
    image: tuple[int, int, int] | None = None,
    convs: Sequence[tuple[int, int, int, bool]] = (),
    stages: tuple[FloatStage, ...] = (),
    input_scale: float = 1 / 16,
    input_zero_point: int = 0,
) -> IntegerNetwork:
    """A network without any converter.

    Args:
        rng: where weights come from.
        sizes: dense sizes; the first is the number of inputs where there are no convolutions.
        activation: relu or tanh.
        image: (height, width, channels) of the input, for convolutions.
        convs: (channels, kernel, stride, padded) of each.
        stages: float stages before the quantising step.
        input_scale: of the quantising step.
        input_zero_point: of the quantising step.
    """
    layers: list[Layer] = []
    zero, shape = input_zero_point, image
    for channels, kernel, stride, padded in convs:
        assert shape is not None
        weight, bias, spread = _weights(rng, (channels, kernel, kernel, shape[2]))
        pad = kernel // 2 if padded else 0
        out = [(n + 2 * pad - kernel) // stride + 1 for n in shape[:2]]
        how = requantiser(rng, spread, channels, activation == "relu")
        table = tanh_table(3.0 / 128, how.zero_point) if activation == "tanh" else None
        after = (out[0], out[1], channels)
        layers.append(
            ConvLayer(weight, bias, shape, after, (stride, stride), (pad, pad), zero, how, table)
        )
        zero, shape = layers[-1].output_zero_point, after
    dense = list(sizes) if shape is None else [int(np.prod(shape)), *sizes]
    for index, (inputs, outputs) in enumerate(zip(dense, dense[1:])):
        weight, bias, spread = _weights(rng, (outputs, inputs))
        hidden = index < len(dense) - 2
        how = requantiser(rng, spread, outputs, hidden and activation == "relu")
        tanh = hidden and activation == "tanh"
        table = tanh_table(3.0 / 128, how.zero_point) if tanh else None
        layers.append(DenseLayer(weight, bias, zero, how, table))
        zero = layers[-1].output_zero_point
    return IntegerNetwork(
        input_shape=image if image is not None else (dense[0],),
        stages=stages,
        gather=None,
        input_scale=float(np.float32(input_scale)),
        input_zero_point=input_zero_point,
        layers=tuple(layers),
        output_scale=float(np.float32(0.0371)),
        output_zero_point=zero,
        output_stages=(),
        int8_io=not stages,
    )


def spec_of(
    network: IntegerNetwork, continuous: str = "", dtype: str = "float32", start: int = 0
) -> PolicySpec:
    """A spec that fits; continuous: "clip" or "tanh"."""
    image = len(network.input_shape) == 3
    n = network.outputs
    actions: DiscreteActions | ContinuousActions = DiscreteActions(n, start)
    if continuous:
        low = tuple(-1.0 - 0.25 * i for i in range(n))
        actions = ContinuousActions(low, (2.0,) * n, continuous)  # type: ignore[arg-type]
    return PolicySpec(
        network.input_shape,
        actions,
        "mean" if continuous else "logits",
        observation_dtype=dtype,
        channels_last=image,
    )


def options_of(
    network: IntegerNetwork, observations: Array, layout: str = "size", **more: object
) -> COptions:
    """Options with golden vectors and, for floats, a calibrated range of ±3 for three features.

    With more features, ranges differ between them.
    """
    flat = int(np.prod(network.input_shape))
    ends = tuple(3.0 + (i % 5) * (flat > 3) for i in range(flat))
    image = observations.dtype == np.uint8
    return COptions(
        layout=layout,  # type: ignore[arg-type]
        golden=Golden(observations[:4], reference.outputs(network, observations[:4])),
        calibration_min=None if image else tuple(-e for e in ends),
        calibration_max=None if image else ends,
        **more,  # type: ignore[arg-type]
    )


def observations_of(
    rng: np.random.Generator, network: IntegerNetwork, count: int, dtype: str = "float32"
) -> Array:
    """Observations of all magnitudes, with NaN, infinities, denormals and rounding ties."""
    shape = (count, *network.input_shape)
    if dtype == "uint8":
        return rng.integers(0, 256, shape).astype(np.uint8)
    n = int(np.prod(network.input_shape))
    x = rng.normal(size=(count, n)) * rng.choice([0.03, 1.0, 4.0, 300.0], (count, 1))
    x = x.astype(np.float32)
    special = np.array(
        [np.nan, np.inf, -np.inf, 1e-45, -1e-45, 1e-39, 3.4e38, -3.4e38, 0.0, -0.0], np.float32
    )
    x[: count // 10, rng.integers(0, n)] = rng.choice(special, count // 10)
    ties = ((rng.integers(-140, 140, (count // 4, n)) + 0.5) * network.input_scale).astype("f4")
    ties = np.nextafter(ties, rng.choice(np.float32([-1e9, 1e9]), ties.shape))
    x[count // 4 : count // 4 + len(ties)] = ties
    exact = (rng.integers(-140, 140, (count // 4, n)) + 0.5) * network.input_scale
    x[count // 2 : count // 2 + len(exact)] = exact.astype(np.float32)
    return x.reshape(shape)


def codes_of(rng: np.random.Generator, network: IntegerNetwork, count: int) -> IntArray:
    """Input codes: over the full range, and saturated."""
    codes = rng.integers(-128, 128, (count, network.inputs)).astype(np.int8)
    ends = np.array([-128, 127], np.int8)
    codes[: count // 8] = rng.choice(ends, (count // 8, network.inputs))
    codes[0], codes[1] = -128, 127
    return codes


def float_policy(
    rng: np.random.Generator, arch: NetArch, spec: PolicySpec | None = None
) -> NumpyPolicy:
    """A random float policy."""
    spec = spec or PolicySpec(arch.input_shape, DiscreteActions(arch.outputs), "logits")
    parameters = []
    for layer in arch.layers():
        fan_in = int(np.prod(layer.weight[1:]))
        weight = (rng.normal(size=layer.weight) * 1.5 / np.sqrt(fan_in)).astype(np.float32)
        parameters.append((weight, rng.normal(0, 0.3, layer.weight[0]).astype(np.float32)))
    return NumpyPolicy(spec, arch, parameters)


@functools.lru_cache(maxsize=8)
def converted(
    inputs: tuple[int, ...],
    widths: tuple[int, ...],
    outputs: int,
    activation: str = "relu",
    convs: tuple[Conv, ...] = (),
) -> tuple[bytes, bytes]:
    """(float-ended, int8-ended) .tflite bytes of a random student, as `pops export` writes them."""
    from pops_export import stage, tflite_file, tflite_surgery

    rng = np.random.default_rng(11)
    arch = NetArch(inputs, outputs, widths, (activation,) * len(widths), convs)
    image = len(inputs) == 3
    spec = PolicySpec(
        (inputs[1], inputs[2], inputs[0]) if image else inputs,
        DiscreteActions(outputs),
        "logits",
        "uint8" if image else "float32",
        channels_last=image,
    )
    policy = float_policy(rng, arch, spec)
    if image:
        first = (policy.parameters[0][0] / np.float32(255), policy.parameters[0][1])
        policy = NumpyPolicy(spec, arch, [first, *policy.parameters[1:]])
    states = rng.normal(size=(256, *spec.observation_shape)).astype(np.float32)
    if image:
        states = rng.integers(0, 256, states.shape).astype(np.uint8)[:32]
    network = stage.for_integers(policy, states)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        model = tflite_file.convert(network)
        model = tflite_file.quantise(model, network, "static_wi8_ai8", states)
        model = tflite_surgery.tidy(model)
        return model, tflite_surgery.integer_ends(model)
