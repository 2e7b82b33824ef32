"""TFLite files: litert_torch converts, ai_edge_quantizer quantises, no TensorFlow."""

from __future__ import annotations

import importlib.util
import math
from pathlib import Path
from typing import Any

import numpy as np

from pops.errors import MissingPackage, UsageError
from pops.spec import Array, FloatArray, PolicySpec
from pops_export.stage import Network, flat_observations, image_observations
from pops_export.tflite_surgery import first_layer_input

CALIBRATION_ROWS = 256
CALIBRATION_IMAGES = 1024
TINY = 2.0**-100
INTEGER_ACTIVATIONS = ("relu", "tanh", "identity")


def require_tflite() -> None:
    """Raise unless what TFLite exports need is installed.

    Raises:
        MissingPackage: naming the package and the extra that brings it.
    """
    for package in ("torch", "litert_torch", "ai_edge_quantizer", "ai_edge_litert"):
        if importlib.util.find_spec(package) is None:
            raise MissingPackage(package.replace("_", "-"), "export", "Exporting to TFLite")


def tflite_observations(spec: PolicySpec, observations: Array) -> FloatArray:
    """Observations (N, *observation_shape) as the TFLite files take them, channel last."""
    if len(spec.input_shape) == 3:
        return image_observations(spec, observations, channels_last=True)
    return flat_observations(spec, observations)


def convert(network: Network) -> bytes:
    """The float32 file: batch of one, input `observation`, outputs `outputs` and `action`."""
    import tempfile

    import litert_torch
    import torch

    from pops_export.network import PolicyModule

    module = PolicyModule(network, channels_last=True, select=False)
    example = {"observation": torch.zeros(1, *input_shape(network))}
    edge = litert_torch.convert(module, sample_kwargs=example)
    with tempfile.TemporaryDirectory() as folder:
        path = Path(folder) / "policy.tflite"
        edge.export(str(path))
        return path.read_bytes()


def quantise(float_model: bytes, network: Network, recipe: str, states: Array) -> bytes:
    """Quantise a converted file; float32 in and out, the core between in integers.

    Args:
        float_model: what `convert` made of `network`.
        network: prepared by `for_integers` where the recipe is static.
        recipe: static_wi8_ai8, static_wi8_ai16 or dynamic_wi8_afp32.
        states: calibration states (N, *observation_shape).

    Raises:
        UsageError: if the network has an activation without an integer form.
    """
    from ai_edge_quantizer import calibrator, qtyping, quantizer, recipe_manager
    from ai_edge_quantizer.utils import qsv_utils

    check_activations(network, recipe)
    steps = _recipe(recipe)
    manager = recipe_manager.RecipeManager()
    manager.load_quantization_recipe(steps)
    statistics: dict[str, qtyping.QSV] = {}
    if manager.need_calibration():
        # The default is a moving average, which forgets the extremes.
        calibration = calibrator.Calibrator(
            float_model, num_threads=1, qsv_update_func=qsv_utils.min_max_update
        )
        rows = calibration_rows(network, states)
        observations = tflite_observations(network.spec, states[rows])
        data = [{"observation": observations[i : i + 1]} for i in range(len(observations))]
        calibration.calibrate({"serving_default": data}, manager)
        statistics = calibration.get_model_qsvs()
        seen = statistics[first_layer_input(float_model)]
        if network.pixels_are_codes(states):
            _set_ends(seen, 0.0, 255.0)
        elif recipe == "static_wi8_ai8" and not network.image and not network.stage.one_hot:
            low, high = float(seen["min"].min()), float(seen["max"].max())
            _set_ends(seen, *power_of_two_range(low, high))
    result = quantizer.Quantizer(float_model, steps).quantize(
        statistics or None, enable_progress_bar=False, enable_progress_report=False
    )
    return bytes(result.quantized_model)


def power_of_two_range(low: float, high: float) -> tuple[float, float]:
    """Ends of the 256 codes that hold [low, high], a power of two apart.

    Quantising an observation then only moves its exponent: generated C needs no division, and
    every runtime rounds alike. Where it can be, the ends are [-2^k, 2^k), so that 0 is code 0;
    2^k itself saturates by one step.
    """
    low, high = min(low, 0.0), max(high, 0.0)
    fraction, power = math.frexp(max(high - low, TINY))
    step = math.ldexp(1.0, power - (9 if fraction == 0.5 else 8))
    fits = low >= -128 * step and high <= 128 * step
    first = -128 if fits else round(low / step)
    return first * step, (first + 255) * step


def _set_ends(seen: dict[str, Any], low: float, high: float) -> None:
    """Replace calibrated ends."""
    for name, value in (("min", low), ("max", high)):
        seen[name] = np.full_like(seen[name], value)


def check_activations(network: Network, recipe: str) -> None:
    """Raise if a layer's activation has no integer form in the recipe.

    Raises:
        UsageError: naming the activation and what to do.
    """
    if not recipe.startswith("static"):
        return
    for layer in network.arch.layers():
        if layer.activation not in INTEGER_ACTIVATIONS:
            raise UsageError(
                f"The activation {layer.activation!r} has no form in {recipe} for TFLite and C; "
                "expected relu, tanh or identity. Use --recipe fp32 (with --format onnx,tflite), "
                "or compress to a student with ReLU."
            )


def calibration_rows(network: Network, states: Array) -> Array:
    """Indices of the states to calibrate on: every layer's extremes, and some more.

    Minima and maxima over all states come from few of them; only those need to
    run through the interpreter.
    """
    from pops.policy import activate

    most = CALIBRATION_IMAGES if network.image else CALIBRATION_ROWS
    rows = set(np.linspace(0, len(states) - 1, min(len(states), most), dtype=int))
    if network.image:
        return np.array(sorted(rows))
    x = network.stage.apply(flat_observations(network.spec, states))
    first = True
    for layer, (weight, bias) in zip(network.arch.layers(), network.parameters):
        rows |= {int(x.min(1).argmin()), int(x.max(1).argmax())}
        if first and network.arch.inputs is not None:
            x = x[:, list(network.arch.inputs)]
        first = False
        y = x @ weight.T + bias
        rows |= {int(y.min(1).argmin()), int(y.max(1).argmax())}
        x = activate(layer.activation, y)
    rows |= {int(x.min(1).argmin()), int(x.max(1).argmax())}
    return np.array(sorted(rows))


def input_shape(network: Network) -> tuple[int, ...]:
    """Shape of one observation as the file takes it, without the batch axis."""
    if network.stage.one_hot:
        return (1,)
    if not network.image:
        return network.arch.input_shape
    channels, height, width = network.arch.input_shape
    return (height, width, channels)


def float_io(model: bytes, network: Network) -> dict[str, Any]:
    """How to call a file with float32 input and output."""
    from ai_edge_litert.interpreter import Interpreter

    interpreter = Interpreter(model_content=model)
    runner = interpreter.get_signature_runner("serving_default")
    inputs, outputs = runner.get_input_details(), runner.get_output_details()
    return {
        "signature": "serving_default",
        "input_name": "observation",
        "input_tensor": inputs["observation"]["name"],
        "input_dtype": "float32",
        "input_shape": [int(n) for n in inputs["observation"]["shape"]],
        "layout": "channels_last"
        if network.image
        else "index"
        if network.stage.one_hot
        else "flat",
        "output_names": ["outputs", "action"],
        "output_tensors": {name: outputs[name]["name"] for name in ("outputs", "action")},
        "action_dtype": np.dtype(outputs["action"]["dtype"]).name,
        "outputs_centred": network.centred,
    }


def _recipe(name: str) -> list[dict[str, Any]]:
    """ai_edge_quantizer's recipe, for the layers of the core alone.

    The normaliser before it and the action's decoding behind it stay in float32,
    so that one QUANTIZE and one DEQUANTIZE enclose everything that is integer.
    """
    from ai_edge_quantizer import qtyping, recipe

    base = getattr(recipe, name)()[0]
    names = qtyping.TFLOperationName
    everywhere = [names.FULLY_CONNECTED, names.CONV_2D]
    inside = [names.TANH, names.RESHAPE, names.PAD] if name.startswith("static") else []
    return [{**base, "operation": op, "regex": ".*"} for op in everywhere] + [
        {**base, "operation": op, "regex": ".*_core.*"} for op in inside
    ]
