"""ONNX files that are one chain of Gemm, MatMul, Add, Conv and activations."""

from __future__ import annotations

import math
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any, NoReturn

import numpy as np

from pops.errors import MissingPackage, TeacherError
from pops.spec import Array, Output
from pops.teacher.contents import Contents, Layer, check_chain, check_finite

_ACTIVATIONS = {
    "Relu": "relu",
    "Tanh": "tanh",
    "Elu": "elu",
    "LeakyRelu": "leaky_relu",
    "Sigmoid": "sigmoid",
    "Swish": "silu",
}
_ALPHAS = {"Elu": 1.0, "LeakyRelu": 0.01}
_NO_OPS = ("Identity", "Dropout", "Flatten", "Cast", "Reshape", "Squeeze", "Unsqueeze")
_ENDINGS = ("Softmax", "LogSoftmax", "ArgMax")
SUPPORTED = "Gemm, MatMul, Add, Conv, Relu, Tanh, Elu, LeakyRelu, Sigmoid, Flatten"


@dataclass
class _Chain:
    """The layers found so far, from the input on."""

    path: Path
    layers: list[Layer] = field(default_factory=list)
    scale: float = 1.0
    """What the input is multiplied by before the first layer."""
    endings: list[str] = field(default_factory=list)

    def refuse(self, node: Any, why: str) -> NoReturn:
        name = f" ({node.name})" if node.name else ""
        raise TeacherError(
            f"{self.path}: the operator {node.op_type}{name} {why}; expected one chain of "
            f"{SUPPORTED}. Export the actor alone, without value function and sampling."
        )


def read_onnx(path: Path, raw: bytes, activation: str | None = None) -> Contents:
    """Read an ONNX file; nothing is executed and no other file is opened.

    Raises:
        TeacherError: if it is damaged or not one chain of supported operators.
        MissingPackage: if onnx is not installed.
    """
    try:
        import onnx
    except ImportError as error:
        raise MissingPackage("onnx", "train", "Reading an ONNX file") from error
    try:
        graph = onnx.load_model_from_string(raw).graph
    except Exception as error:  # protobuf's DecodeError comes from one of several modules
        raise TeacherError(
            f"{path} is not a readable ONNX file ({error}). It is truncated, damaged or of another "
            "kind; export it again."
        ) from error
    if not graph.node or not graph.output:
        raise TeacherError(f"{path} is an ONNX file without operators; export the policy again.")
    constants = _constants(path, graph)
    output = graph.output[0].name
    chain = _Chain(path)
    for node, source in _walk(chain, graph, constants, output):
        _add(chain, node, source, constants)
    layers = tuple(chain.layers)
    check_chain(path, layers)
    check_finite(path, layers)
    by_255 = math.isclose(chain.scale, 1 / 255, rel_tol=1e-6)
    if chain.scale != 1.0 and not by_255:
        first = replace(layers[0], weight=(layers[0].weight * np.float32(chain.scale)))
        layers = (first, *layers[1:])
    hidden = [layer.activation for layer in layers[:-1]] or ["identity"]
    notes = [f"the final {name} is left out; actions stay the same" for name in chain.endings]
    if activation is not None:
        notes.append("the activation in the file counts, not the one given")
    return Contents(
        path=path,
        kind="ONNX",
        layers=layers,
        output=_output(output),
        # The file's own arithmetic counts: only a division by 255 that it holds is done.
        scale_images=by_255,
        activation=hidden[0],
        activation_source="operators of the file",
        notes=tuple(notes),
        extra={"input": graph.input[0].name if graph.input else "", "output": output},
    )


def _output(name: str) -> Output:
    lower = name.lower()
    return "q_values" if lower in ("q", "q_value", "q_values", "qvalues") else "logits"


def _constants(path: Path, graph: Any) -> dict[str, Array]:
    """Initializers and Constant nodes by name, as arrays."""
    from onnx import TensorProto, numpy_helper

    tensors = {tensor.name: tensor for tensor in graph.initializer}
    for node in graph.node:
        if node.op_type == "Constant":
            for attribute in node.attribute:
                if attribute.name == "value":
                    tensors[node.output[0]] = attribute.t
    arrays: dict[str, Array] = {}
    for name, tensor in tensors.items():
        if tensor.data_location == TensorProto.EXTERNAL:
            raise TeacherError(
                f"{path} keeps its weights in another file, which is not read; expected them "
                "inside. Save it again with onnx.save(model, path, save_as_external_data=False)."
            )
        try:
            arrays[name] = numpy_helper.to_array(tensor)
        except Exception as error:  # onnx raises TypeError, ValueError and its own
            raise TeacherError(
                f"{path}: the tensor {name!r} cannot be read ({error}); export the file again."
            ) from error
    return arrays


def _walk(
    chain: _Chain, graph: Any, constants: dict[str, Array], output: str
) -> list[tuple[Any, str]]:
    """The operators from input to output, each with the name of the value that it reads."""
    producers = {name: node for node in graph.node for name in node.output}
    inputs = {value.name for value in graph.input} - set(constants)
    steps: list[tuple[Any, str]] = []
    value = output
    while value not in inputs:
        node = producers.get(value)
        if node is None or len(steps) > 10_000:
            raise TeacherError(
                f"{chain.path}: no chain of operators leads from the input to {output!r}. Export "
                "the actor alone."
            )
        sources = [name for name in node.input if name and name not in constants]
        if node.op_type == "Reshape":
            sources = sources[:1]
        if node.op_type == "Mul" and len(sources) == 2:
            value = _silu_source(chain, producers, node, sources)
        elif len(sources) == 1:
            value = sources[0]
        else:
            chain.refuse(node, f"reads {len(sources)} values that are not constant")
        steps.append((node, value))
    return steps[::-1]


def _silu_source(chain: _Chain, producers: dict[str, Any], node: Any, sources: list[str]) -> str:
    for one, other in (sources, sources[::-1]):
        gate = producers.get(one)
        if gate is not None and gate.op_type == "Sigmoid" and gate.input[0] == other:
            return other
    chain.refuse(node, "multiplies two values")


def _add(chain: _Chain, node: Any, source: str, constants: dict[str, Array]) -> None:
    """Take one operator into the chain."""
    kind = node.op_type
    if chain.endings:
        chain.refuse(node, f"follows {chain.endings[-1]}")
    if kind in _NO_OPS:
        return
    if kind in _ENDINGS:
        chain.endings.append(kind)
    elif kind in ("Gemm", "MatMul"):
        chain.layers.append(_dense(chain, node, source, constants))
    elif kind == "Conv":
        chain.layers.append(_conv(chain, node, constants))
    elif kind == "Transpose":
        perm = list(_attributes(node).get("perm", []))
        if chain.layers or perm != [0, 3, 1, 2]:
            chain.refuse(node, f"permutes {perm}, which is no channels-last input")
    elif kind in ("Add", "Sub"):
        _shift(chain, node, source, constants)
    elif kind in ("Mul", "Div") and any(name in constants for name in node.input):
        _scale(chain, node, source, constants)
    elif kind in _ACTIVATIONS or kind == "Mul":
        _activate(chain, node, "silu" if kind == "Mul" else _ACTIVATIONS[kind])
    else:
        chain.refuse(node, "is not supported")


def _activate(chain: _Chain, node: Any, name: str) -> None:
    if not chain.layers or chain.layers[-1].activation != "identity":
        chain.refuse(node, "does not follow a layer")
    expected = _ALPHAS.get(node.op_type, 0.0)
    alpha = float(_attributes(node).get("alpha", expected))
    if expected and not math.isclose(alpha, expected, rel_tol=1e-6):
        chain.refuse(node, f"has alpha {alpha:g} instead of {expected:g}")
    chain.layers[-1] = replace(chain.layers[-1], activation=name)


def _dense(chain: _Chain, node: Any, source: str, constants: dict[str, Array]) -> Layer:
    attributes = _attributes(node)
    weight = constants.get(node.input[1])
    if node.input[0] != source or weight is None or weight.ndim != 2 or attributes.get("transA"):
        chain.refuse(node, "does not multiply its input by a constant matrix from the right")
    if not attributes.get("transB"):
        weight = weight.T
    bias: Array = np.zeros(weight.shape[0])
    if len(node.input) > 2 and node.input[2]:
        if node.input[2] not in constants:
            chain.refuse(node, "has a bias that is not constant")
        bias = bias + constants[node.input[2]].reshape(-1) * attributes.get("beta", 1.0)
    return _layer(chain, node, weight * attributes.get("alpha", 1.0), bias)


def _conv(chain: _Chain, node: Any, constants: dict[str, Array]) -> Layer:
    attributes = _attributes(node)
    weight = constants.get(node.input[1])
    strides, pads = attributes.get("strides", [1, 1]), attributes.get("pads", [0, 0, 0, 0])
    dilated = any(n != 1 for n in attributes.get("dilations", [1, 1]))
    automatic = attributes.get("auto_pad", b"NOTSET") not in (b"NOTSET", b"VALID")
    if weight is None or weight.ndim != 4:
        chain.refuse(node, "has no constant two-dimensional kernels")
    if attributes.get("group", 1) != 1 or dilated or automatic:
        chain.refuse(node, "is grouped, dilated or padded automatically")
    if len(set(strides)) != 1 or len(set(pads)) != 1:
        chain.refuse(node, f"has strides {list(strides)} and padding {list(pads)}, not equal ones")
    bias: Array = np.zeros(weight.shape[0])
    if len(node.input) > 2 and node.input[2]:
        if node.input[2] not in constants:
            chain.refuse(node, "has a bias that is not constant")
        bias = constants[node.input[2]]
    layer = _layer(chain, node, weight, bias)
    return replace(layer, stride=int(strides[0]), padding=int(pads[0]))


def _layer(chain: _Chain, node: Any, weight: Array, bias: Array) -> Layer:
    if weight.dtype.kind != "f" or bias.shape != (weight.shape[0],):
        chain.refuse(node, f"has {weight.dtype} weights {weight.shape} and biases {bias.shape}")
    name = node.name or f"{node.op_type} {len(chain.layers)}"
    return Layer(
        name,
        np.ascontiguousarray(weight, dtype=np.float32),
        np.ascontiguousarray(bias, dtype=np.float32),
    )


def _shift(chain: _Chain, node: Any, source: str, constants: dict[str, Array]) -> None:
    """A constant added to a layer's outputs is part of its bias."""
    other = next((name for name in node.input if name != source), "")
    if not chain.layers or node.op_type == "Sub" or other not in constants:
        chain.refuse(node, "is no bias of a layer before it")
    layer = chain.layers[-1]
    value = constants[other].reshape(-1)
    if layer.weight.ndim != 2 or layer.activation != "identity":
        chain.refuse(node, "is no bias of a dense layer before it")
    if value.size not in (1, layer.bias.size):
        chain.refuse(node, f"adds {value.size} values to {layer.bias.size}")
    chain.layers[-1] = replace(layer, bias=(layer.bias + value).astype(np.float32))


def _scale(chain: _Chain, node: Any, source: str, constants: dict[str, Array]) -> None:
    """A constant factor on the input: images divided by 255."""
    other = next((name for name in node.input if name != source), "")
    value = constants.get(other)
    if chain.layers or value is None or value.size != 1 or node.input[0] != source:
        chain.refuse(node, "scales anything but the input by one number")
    factor = float(value.reshape(-1)[0])
    if not math.isfinite(factor) or factor == 0:
        chain.refuse(node, f"scales by {factor}")
    chain.scale *= 1 / factor if node.op_type == "Div" else factor


def _attributes(node: Any) -> dict[str, Any]:
    import onnx

    return {a.name: onnx.helper.get_attribute_value(a) for a in node.attribute}
