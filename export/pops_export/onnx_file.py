"""ONNX files: float32 through torch's dynamo exporter, int8 as static QDQ."""

from __future__ import annotations

import importlib.util
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pops.errors import MissingPackage
from pops.spec import Array, FloatArray, PolicySpec
from pops_export.stage import Network
from pops_export.tflite_file import calibration_rows

if TYPE_CHECKING:
    import onnx

OPSET = 18
"""The dynamo exporter's lowest; onnxruntime 1.14 and later read it."""
IR_VERSION = 8
"""What goes with opset 18; onnxruntime 1.17 refuses 10, which the exporter writes."""
QUANTISED = ["Gemm", "MatMul", "Conv"]


def require_onnx() -> None:
    """Raise unless what ONNX exports need is installed.

    Raises:
        MissingPackage: naming the package and the extra that brings it.
    """
    for package in ("torch", "onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise MissingPackage(package, "export", "Exporting to ONNX")


def onnx_observations(spec: PolicySpec, observations: Array) -> FloatArray:
    """Observations (N, *observation_shape) as the ONNX files take them: only the dtype changes."""
    return np.ascontiguousarray(observations, dtype=np.float32)


def write_onnx(network: Network, path: Path) -> dict[str, Any]:
    """Write the float32 file.

    Args:
        network: what to write.
        path: where.

    Returns:
        How to call it: names, dtypes and shapes of its input and outputs.
    """
    import onnx
    import torch

    from pops_export.network import PolicyModule

    spec = network.spec
    shape = spec.observation_shape
    module = PolicyModule(network, channels_last=network.image and spec.channels_last)
    program = torch.onnx.export(
        module,
        (torch.zeros(2, *shape),),
        dynamo=True,
        opset_version=OPSET,
        input_names=["observation"],
        output_names=["outputs", "action"],
        dynamic_shapes={"observation": {0: torch.export.Dim("batch")}},
        verbose=False,
    )
    assert program is not None
    _finish(program.model_proto, path)
    return {
        "input_name": "observation",
        "input_dtype": "float32",
        "input_shape": ["batch", *shape],
        "layout": _layout(spec),
        "output_names": ["outputs", "action"],
        "action_dtype": _action_dtype(onnx.load(path)),
        "opset": OPSET,
        "ir_version": IR_VERSION,
    }


def quantise_onnx(network: Network, path: Path, states: Array, scratch: Path) -> dict[str, Any]:
    """Write the int8 file: static quantisation, per-channel weights.

    Args:
        network: prepared by `for_integers`.
        path: where.
        states: calibration states (N, *observation_shape).
        scratch: a folder for the float file in between.
    """
    import onnx
    from onnxruntime.quantization import QuantFormat, QuantType, quantize_static

    between = scratch / "prepared.onnx"
    io = write_onnx(network, between)
    convolutional = bool(network.arch.convs)
    if convolutional:
        grid = _grid_of_tflite(onnx.load(between), network, states)
        states = states[calibration_rows(network, states)]
    quantize_static(
        str(between),
        str(path),
        _Reader(onnx_observations(network.spec, states)),
        quant_format=QuantFormat.QDQ,
        per_channel=True,
        # With signed weights ONNX Runtime adds pairs of products in 16 bits where the CPU has AVX2
        # but no VNNI, and they saturate (its documentation, "Quantize ONNX models", on U8S8).
        activation_type=QuantType.QUInt8,
        weight_type=QuantType.QUInt8,
        extra_options={
            "WeightSymmetric": True,
            **({"TensorQuantOverrides": grid} if convolutional else {}),
        },
        op_types_to_quantize=[*QUANTISED, "Relu"] if convolutional else QUANTISED,
    )
    _finish(onnx.load(path), path)
    return {**io, "outputs_centred": network.centred}


def _grid_of_tflite(
    model: onnx.ModelProto, network: Network, states: Array
) -> dict[str, list[dict[str, Any]]]:
    """Weights and pixels on the codes that `bias_corrected` made up for."""
    from onnx import numpy_helper

    weights = {item.name: numpy_helper.to_array(item) for item in model.graph.initializer}
    grid: dict[str, list[dict[str, Any]]] = {}
    for node in model.graph.node:
        if node.op_type not in QUANTISED:
            continue
        weight = weights[node.input[1]]
        largest = np.abs(weight.reshape(len(weight), -1)).max(1).clip(1e-12)
        grid[node.input[1]] = [{"axis": 0, **_codes(value / 127, 128)} for value in largest]
    if network.pixels_are_codes(states):
        first = next(node for node in model.graph.node if node.op_type in QUANTISED)
        grid[first.input[0]] = [_codes(1.0, 0)]
    return grid


def _codes(scale: float, zero: int) -> dict[str, Any]:
    return {"scale": np.array(scale, np.float32), "zero_point": np.array(zero, np.uint8)}


class _Reader:
    """Calibration states for onnxruntime, some at a time."""

    def __init__(self, observations: FloatArray, block: int = 256) -> None:
        self._blocks: Iterator[FloatArray] = iter(
            observations[i : i + block] for i in range(0, len(observations), block)
        )

    def get_next(self) -> dict[str, FloatArray] | None:
        """The next batch, None at the end."""
        block = next(self._blocks, None)
        return None if block is None else {"observation": block}


def _finish(model: onnx.ModelProto, path: Path) -> None:
    """Set the IR version, drop the exporter's notes (they hold paths), check, write."""
    import onnx

    model.ir_version = IR_VERSION
    model.producer_name, model.producer_version, model.doc_string = "pops", "", ""
    del model.metadata_props[:]
    graph = model.graph
    graph.name = "policy"
    for item in (
        graph,
        *graph.node,
        *graph.input,
        *graph.output,
        *graph.value_info,
        *graph.initializer,
    ):
        item.doc_string = ""
        del item.metadata_props[:]
    onnx.checker.check_model(model, full_check=True)
    path.write_bytes(model.SerializeToString(deterministic=True))


def _layout(spec: PolicySpec) -> str:
    if spec.one_hot:
        return "index"
    if len(spec.input_shape) != 3:
        return "flat"
    return "channels_last" if spec.channels_last else "channels_first"


def _action_dtype(model: onnx.ModelProto) -> str:
    import onnx

    kind = {o.name: o.type.tensor_type.elem_type for o in model.graph.output}["action"]
    return str(np.dtype(onnx.helper.tensor_dtype_to_np_dtype(kind)))
