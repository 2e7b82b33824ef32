"""Read and cut .tflite flatbuffers: the full-integer file from the one with float32 ends.

Both hold the same integer core, byte for byte; the cut removes QUANTIZE and
everything before it, DEQUANTIZE, and what decodes floats behind it. An ARG_MAX
reads the int8 outputs instead.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pops.errors import ArtifactError

INT8 = 9
QUANTIZE, DEQUANTIZE, ARG_MAX = 114, 6, 56
WEIGHTED = (3, 9)
"""CONV_2D and FULLY_CONNECTED."""
INTEGER_TYPES = (2, 4, 9, 7, 17)
"""INT32, INT64, INT8, INT16 and INT4 in the schema's TensorType."""


@dataclass(frozen=True)
class Ends:
    """Quantisation of the integer core's input and output: value = scale · (code - zero_point)."""

    input_scale: float
    input_zero_point: int
    output_scale: float
    output_zero_point: int
    bits: int = 8


def read(model: bytes) -> Any:
    """The flatbuffer as schema objects.

    From about a megabyte on, converters put weights behind the flatbuffer and leave offsets in
    it; writing the file anew moves them, so they are taken inside here.

    Raises:
        ArtifactError: if such an offset lies outside of the file.
    """
    from ai_edge_litert import schema_py_generated as schema

    parsed = schema.ModelT.InitFromObj(schema.Model.GetRootAs(model, 0))
    for buffer in parsed.buffers:
        if buffer.offset > 1:  # 0 and 1 stand for none
            if buffer.offset + buffer.size > len(model):
                raise ArtifactError("The TFLite file ends before its weights; write it again.")
            buffer.data = np.frombuffer(model, np.uint8, buffer.size, buffer.offset)
            buffer.offset = buffer.size = 0
    return parsed


def ends(model: bytes) -> Ends:
    """Scale and zero point where the integer core of a float32-ended file begins and ends.

    Raises:
        ArtifactError: if the file has no single integer core.
    """
    parsed = read(model)
    first, last = _boundary(parsed)
    tensors = parsed.subgraphs[0].tensors
    a, b = tensors[first.outputs[0]], tensors[last.inputs[0]]
    return Ends(
        float(a.quantization.scale[0]),
        int(a.quantization.zeroPoint[0]),
        float(b.quantization.scale[0]),
        int(b.quantization.zeroPoint[0]),
        8 if a.type == INT8 else 16,
    )


def operators(model: bytes) -> list[str]:
    """Names of the operators, in order."""
    from ai_edge_litert import schema_py_generated as schema

    names = {v: k for k, v in vars(schema.BuiltinOperator).items() if isinstance(v, int)}
    parsed = read(model)
    return [names[_code(parsed, op)] for op in parsed.subgraphs[0].operators]


def first_layer_input(model: bytes) -> str:
    """Name of the tensor that the first layer with weights of a converted file reads."""
    parsed = read(model)
    graph = parsed.subgraphs[0]
    first = next(op for op in graph.operators if _code(parsed, op) in WEIGHTED)
    name: str = graph.tensors[int(first.inputs[0])].name.decode()
    return name


def integer_ends(model: bytes) -> bytes:
    """The same integer core with integer input `observation` and output `outputs`.

    `action` stays where it is an argmax; continuous actions are decoded by the caller.

    Raises:
        ArtifactError: if the file has no single integer core.
    """
    parsed = read(model)
    graph = parsed.subgraphs[0]
    first, last = _boundary(parsed)
    start, stop = int(first.outputs[0]), int(last.inputs[0])
    reached, kept = {start}, []
    for op in graph.operators:
        if _code(parsed, op) in (QUANTIZE, DEQUANTIZE):
            continue
        if _code(parsed, op) == ARG_MAX and op.inputs[0] == last.outputs[0]:
            if graph.tensors[stop].type != INT8:
                continue  # ARG_MAX knows no int16; the caller takes the first of the largest.
            op.inputs = [stop, *op.inputs[1:]]
        if reached & {int(i) for i in op.inputs} and _integer(graph, op):
            kept.append(op)
            reached |= {int(o) for o in op.outputs}
    names = {m.name: int(m.tensorIndex) for m in parsed.signatureDefs[0].outputs}
    outputs = {b"outputs": stop}
    if names[b"action"] in reached:
        outputs[b"action"] = names[b"action"]
    graph.operators = kept
    graph.tensors[start].name = b"serving_default_observation"
    signature = parsed.signatureDefs[0]
    signature.inputs[0].tensorIndex = start
    signature.outputs = [m for m in signature.outputs if m.name in outputs]
    for entry in signature.outputs:
        entry.tensorIndex = outputs[entry.name]
        graph.tensors[outputs[entry.name]].name = b"serving_default_%s_output" % entry.name
    graph.inputs = [start]
    graph.outputs = list(outputs.values())
    _compact(parsed)
    return _write(parsed)


def tidy(model: bytes) -> bytes:
    """The same file with a true signature and without inner names, which only converters read.

    ai_edge_quantizer leaves the signature at the integer tensor where it puts a
    DEQUANTIZE behind an output.
    """
    parsed = read(model)
    graph = parsed.subgraphs[0]
    floats = {
        int(op.inputs[0]): int(op.outputs[0])
        for op in graph.operators
        if _code(parsed, op) == DEQUANTIZE
    }
    for index, tensor in enumerate(graph.tensors):
        if index not in {int(i) for i in (*graph.inputs, *graph.outputs)}:
            tensor.name = b""
    for entry in parsed.signatureDefs[0].outputs:
        if int(entry.tensorIndex) not in graph.outputs:
            entry.tensorIndex = floats[int(entry.tensorIndex)]
        graph.tensors[int(entry.tensorIndex)].name = b"serving_default_%s_output" % entry.name
    return _write(parsed)


def _boundary(parsed: Any) -> tuple[Any, Any]:
    ops = parsed.subgraphs[0].operators
    first = [op for op in ops if _code(parsed, op) == QUANTIZE]
    last = [op for op in ops if _code(parsed, op) == DEQUANTIZE]
    if len(first) != 1 or len(last) != 1:
        raise ArtifactError(
            f"The quantised TFLite file has {len(first)} QUANTIZE and {len(last)} DEQUANTIZE "
            "operators, expected one of each round an integer core. Export it again with pops."
        )
    return first[0], last[0]


def _integer(graph: Any, op: Any) -> bool:
    """Whether every tensor that the operator writes is of an integer type."""
    return all(graph.tensors[int(o)].type in INTEGER_TYPES for o in op.outputs)


def _code(parsed: Any, op: Any) -> int:
    entry = parsed.operatorCodes[op.opcodeIndex]
    return max(int(entry.builtinCode), int(entry.deprecatedBuiltinCode))


def _compact(parsed: Any) -> None:
    """Drop tensors, buffers and operator codes that nothing uses any more."""
    graph = parsed.subgraphs[0]
    used = {int(i) for i in (*graph.inputs, *graph.outputs)}
    for op in graph.operators:
        used |= {int(i) for i in (*op.inputs, *op.outputs) if i >= 0}
    tensors = _renumber(sorted(used))
    for op in graph.operators:
        op.inputs = [tensors.get(int(i), -1) for i in op.inputs]
        op.outputs = [tensors[int(i)] for i in op.outputs]
    graph.inputs = [tensors[int(i)] for i in graph.inputs]
    graph.outputs = [tensors[int(i)] for i in graph.outputs]
    for entry in (*parsed.signatureDefs[0].inputs, *parsed.signatureDefs[0].outputs):
        entry.tensorIndex = tensors[int(entry.tensorIndex)]
    graph.tensors = [graph.tensors[i] for i in sorted(used)]
    metadata = parsed.metadata or []
    wanted = {0} | {int(t.buffer) for t in graph.tensors} | {int(m.buffer) for m in metadata}
    buffers = _renumber(sorted(wanted))
    for holder in (*graph.tensors, *metadata):
        holder.buffer = buffers[int(holder.buffer)]
    parsed.buffers = [parsed.buffers[i] for i in sorted(wanted)]
    codes = _renumber(sorted({int(op.opcodeIndex) for op in graph.operators}))
    parsed.operatorCodes = [parsed.operatorCodes[i] for i in sorted(codes)]
    for op in graph.operators:
        op.opcodeIndex = codes[int(op.opcodeIndex)]


def _renumber(kept: list[int]) -> dict[int, int]:
    return {old: new for new, old in enumerate(kept)}


def _write(parsed: Any) -> bytes:
    import flatbuffers  # type: ignore[import-untyped,unused-ignore]

    builder = flatbuffers.Builder(1024)
    builder.Finish(parsed.Pack(builder), b"TFL3")
    return bytes(np.frombuffer(builder.Output(), np.uint8))
