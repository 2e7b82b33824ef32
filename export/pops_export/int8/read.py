"""Read an int8 .tflite into an IntegerNetwork."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pops.errors import ArtifactError, MissingPackage
from pops_export.int8.fixed_point import quantise_multiplier, tanh_table
from pops_export.int8.network import (
    ConvLayer,
    DenseLayer,
    FloatArray,
    FloatStage,
    IntArray,
    IntegerNetwork,
    Layer,
    Requantiser,
)

MAX_BYTES = 1 << 30
DTYPES = {0: np.float32, 2: np.int32, 3: np.uint8, 4: np.int64, 9: np.int8}
FLOAT_STAGES = {
    "ADD": "add",
    "SUB": "sub",
    "MUL": "mul",
    "DIV": "div",
    "MINIMUM": "minimum",
    "MAXIMUM": "maximum",
}
FLOAT, INT8 = 0, 9
NONE, RELU, RELU_N1_TO_1, RELU6 = 0, 1, 2, 3


def read_integer_network(path: Path | str) -> IntegerNetwork:
    """Read an int8 .tflite.

    Raises:
        ArtifactError: if the file is missing, damaged, or holds an operation, a type or an order
            of operations that the integer arithmetic here does not cover.
    """
    path = Path(path)
    try:
        size = path.stat().st_size
        if size > MAX_BYTES:
            raise ArtifactError(f"{path} has {size:,} bytes, more than {MAX_BYTES:,}; refused.")
        data = path.read_bytes()
    except OSError as error:
        raise ArtifactError(f"Cannot read {path}: {error.strerror}.") from error
    try:
        return parse_integer_network(data)
    except ArtifactError as error:
        raise ArtifactError(f"{path}: {error}") from error


def parse_integer_network(data: bytes) -> IntegerNetwork:
    """As `read_integer_network`, from the file's bytes."""
    try:
        from ai_edge_litert import schema_py_generated as schema
    except ImportError as error:
        raise MissingPackage("ai-edge-litert", "export", "Reading a .tflite file") from error
    if data[4:8] != b"TFL3":
        raise ArtifactError("not a .tflite file: its identifier is not TFL3.")
    try:
        model = schema.ModelT.InitFromPackedBuf(data, 0)
        return _Reader(model, schema).network()
    except ArtifactError:
        raise
    except Exception as error:  # flatbuffers raise whatever damaged offsets lead to
        raise ArtifactError(
            f"the .tflite is damaged or of an unknown kind ({error!r}). Export it again."
        ) from error


class _Reader:
    """Walks the one path from the file's input to its raw outputs."""

    def __init__(self, model: Any, schema: Any) -> None:
        if len(model.subgraphs) != 1:
            raise ArtifactError(f"found {len(model.subgraphs)} subgraphs, expected 1.")
        self.model = model
        self.graph = model.subgraphs[0]
        self.names = {
            code: name
            for name, code in vars(schema.BuiltinOperator).items()
            if isinstance(code, int)
        }
        self.stages: list[FloatStage] = []
        self.output_stages: list[FloatStage] = []
        self.gather: tuple[int, ...] | None = None
        self.layers: list[Layer] = []

    def network(self) -> IntegerNetwork:
        path, first, last = self._path()
        code_in = first if self._type(first) == INT8 else None
        code_out = last if self._type(last) == INT8 else None
        for operator in path:
            name = self._name(operator)
            data = self._data_input(operator)
            result = int(operator.outputs[0])
            if name == "QUANTIZE" and self._type(data) == FLOAT and not self.layers:
                code_in = result
            elif name == "DEQUANTIZE" and self.layers:
                code_out = data
            elif name == "RESHAPE":
                continue
            elif self._type(data) == FLOAT:
                self._float_stage(name, operator, before=code_in is None)
            else:
                self._integer_layer(name, operator, data, result)
        if code_in is None or code_out is None or not self.layers:
            raise ArtifactError(
                "found no integer network: expected QUANTIZE, int8 layers and DEQUANTIZE, or int8 "
                "input and output. Export with the recipe static_wi8_ai8."
            )
        scale_in, zero_in = self._scale(code_in)
        scale_out, zero_out = self._scale(code_out)
        return IntegerNetwork(
            input_shape=tuple(int(n) for n in self.graph.tensors[first].shape[1:]),
            stages=tuple(self.stages),
            gather=self.gather,
            input_scale=scale_in,
            input_zero_point=zero_in,
            layers=tuple(self.layers),
            output_scale=scale_out,
            output_zero_point=zero_out,
            output_stages=tuple(self.output_stages),
            int8_io=self._type(first) == INT8,
        )

    def _path(self) -> tuple[list[Any], int, int]:
        """The operators from the input to the raw outputs: the shortest path that we cover."""
        producers = {int(out): op for op in self.graph.operators for out in op.outputs}
        inputs = [int(i) for i in self.graph.inputs]
        if len(inputs) != 1:
            raise ArtifactError(f"found {len(inputs)} inputs, expected 1.")
        paths = []
        for output in self.graph.outputs:
            tensor = int(output)
            path: list[Any] = []
            while tensor in producers and len(path) <= len(self.graph.operators):
                path.append(producers[tensor])
                tensor = self._data_input(producers[tensor])
            if tensor == inputs[0] and self._name(path[0]) != "ARG_MAX":
                paths.append((path[::-1], tensor, int(output)))
        if not paths:
            raise ArtifactError("found no path from the input to an output of numbers.")
        return min(paths, key=lambda item: len(item[0]))

    def _name(self, operator: Any) -> str:
        code = self.model.operatorCodes[operator.opcodeIndex]
        return str(self.names.get(max(code.builtinCode, code.deprecatedBuiltinCode), "CUSTOM"))

    def _type(self, tensor: int) -> int:
        return int(self.graph.tensors[tensor].type)

    def _data_input(self, operator: Any) -> int:
        """The operator's input that is not a constant."""
        for tensor in operator.inputs:
            if tensor >= 0 and self._buffer(int(tensor)) is None:
                return int(tensor)
        raise ArtifactError(f"{self._name(operator)} has constants only for its inputs.")

    def _buffer(self, tensor: int) -> Any:
        data = self.model.buffers[self.graph.tensors[tensor].buffer].data
        return None if data is None or len(data) == 0 else data

    def _constant(self, tensor: int) -> IntArray:
        described = self.graph.tensors[tensor]
        if described.type not in DTYPES:
            raise ArtifactError(f"a constant has type {described.type}, which is not supported.")
        flat = np.frombuffer(bytes(self._buffer(tensor)), dtype=DTYPES[described.type])
        shape = () if described.shape is None else tuple(int(n) for n in described.shape)
        return flat.reshape(shape)

    def _scale(self, tensor: int) -> tuple[float, int]:
        quantisation = self.graph.tensors[tensor].quantization
        if quantisation is None or quantisation.scale is None or len(quantisation.scale) != 1:
            raise ArtifactError("an activation has no quantisation scale of its own.")
        scale = float(quantisation.scale[0])
        if not (np.isfinite(scale) and scale > 0):
            raise ArtifactError(f"an activation has scale {scale}.")
        return scale, int(quantisation.zeroPoint[0])

    def _float_stage(self, name: str, operator: Any, before: bool) -> None:
        if name == "GATHER" and before and self.gather is None:
            index = self._constant(int(operator.inputs[1])).reshape(-1)
            self.gather = tuple(int(i) for i in index)
            self.stages = [
                FloatStage(s.kind, s.values if s.values.size == 1 else s.values[index])
                for s in self.stages
            ]
            return
        if name not in FLOAT_STAGES:
            raise ArtifactError(
                f"operation {name} on floats is not supported here; expected one of "
                f"{', '.join(FLOAT_STAGES)} with a constant."
            )
        first, second = (int(i) for i in operator.inputs)
        swapped = self._buffer(first) is not None
        fused = getattr(operator.builtinOptions, "fusedActivationFunction", NONE)
        if (swapped and name in ("SUB", "DIV")) or fused != NONE:
            raise ArtifactError(f"operation {name} has an order or an activation we lack.")
        values: FloatArray = self._constant(first if swapped else second).astype(np.float32)
        while values.ndim and values.shape[0] == 1:
            values = values[0]
        (self.stages if before else self.output_stages).append(
            FloatStage(FLOAT_STAGES[name], values)
        )

    def _integer_layer(self, name: str, operator: Any, data: int, result: int) -> None:
        if name == "FULLY_CONNECTED":
            self.layers.append(self._dense(operator, data, result))
        elif name == "CONV_2D":
            self.layers.append(self._conv(operator, data, result))
        elif name == "TANH" and self.layers and self.layers[-1].tanh is None:
            self._tanh(data, result)
        else:
            raise ArtifactError(
                f"operation {name} on int8 is not supported here; expected FULLY_CONNECTED, "
                "CONV_2D, TANH or RESHAPE. Export the policy with ReLU or Tanh."
            )

    def _tanh(self, data: int, result: int) -> None:
        if self._scale(result) != (1.0 / 128.0, 0):
            raise ArtifactError(f"TANH gives scale {self._scale(result)}, expected 1/128 and 0.")
        table = tanh_table(*self._scale(data))
        last = self.layers.pop()
        if isinstance(last, DenseLayer):
            self.layers.append(
                DenseLayer(last.weight, last.bias, last.input_zero_point, last.requantise, table)
            )
        else:
            self.layers.append(
                ConvLayer(
                    last.weight,
                    last.bias,
                    last.input_shape,
                    last.output_shape,
                    last.stride,
                    last.padding,
                    last.input_zero_point,
                    last.requantise,
                    table,
                )
            )

    def _dense(self, operator: Any, data: int, result: int) -> DenseLayer:
        weight, bias = self._weights(operator)
        return DenseLayer(
            weight=weight,
            bias=bias,
            input_zero_point=self._scale(data)[1],
            requantise=self._requantiser(operator, data, result),
        )

    def _conv(self, operator: Any, data: int, result: int) -> ConvLayer:
        weight, bias = self._weights(operator)
        options = operator.builtinOptions
        if (options.dilationHFactor, options.dilationWFactor) != (1, 1):
            raise ArtifactError("a convolution has a dilation, which is not supported.")
        height, width, channels = (int(n) for n in self.graph.tensors[data].shape[1:])
        rows, columns, outputs = (int(n) for n in self.graph.tensors[result].shape[1:])
        stride = (int(options.strideH), int(options.strideW))
        padding = (0, 0)
        if options.padding == 0:  # SAME: TFLite puts the odd one below and to the right
            top = max((rows - 1) * stride[0] + weight.shape[1] - height, 0) // 2
            left = max((columns - 1) * stride[1] + weight.shape[2] - width, 0) // 2
            padding = (top, left)
        return ConvLayer(
            weight=weight,
            bias=bias,
            input_shape=(height, width, channels),
            output_shape=(rows, columns, outputs),
            stride=stride,
            padding=padding,
            input_zero_point=self._scale(data)[1],
            requantise=self._requantiser(operator, data, result),
        )

    def _weights(self, operator: Any) -> tuple[IntArray, IntArray]:
        index = int(operator.inputs[1])
        weight = self._constant(index)
        if weight.dtype != np.int8:
            raise ArtifactError(f"weights have type {weight.dtype}, expected int8.")
        if np.any(np.asarray(self.graph.tensors[index].quantization.zeroPoint)):
            raise ArtifactError("weights have a zero point, expected symmetric weights.")
        bias = np.zeros(weight.shape[0], dtype=np.int32)
        if len(operator.inputs) > 2 and operator.inputs[2] >= 0:
            bias = self._constant(int(operator.inputs[2])).reshape(-1)
        if bias.dtype != np.int32 or bias.shape != weight.shape[:1]:
            raise ArtifactError(f"biases are {bias.dtype} {bias.shape}, expected int32, one each.")
        return weight, bias

    def _requantiser(self, operator: Any, data: int, result: int) -> Requantiser:
        scale_in, scale_out = self._scale(data)[0], self._scale(result)[0]
        index = int(operator.inputs[1])
        channels = int(self.graph.tensors[index].shape[0])
        scales = np.asarray(self.graph.tensors[index].quantization.scale, dtype=np.float32)
        if scales.size == 1:
            # Per tensor, TFLite multiplies the scales in float32; per channel, in double.
            product = float(np.float32(scale_in) * scales[0])
            reals = [product / scale_out] * channels
        elif scales.size == channels:
            reals = [scale_in * float(s) / scale_out for s in scales]
        else:
            raise ArtifactError(f"{scales.size} weight scales for {channels} channels.")
        pairs = [quantise_multiplier(real) for real in reals]
        minimum, maximum = self._range(operator.builtinOptions.fusedActivationFunction, result)
        exponents = np.asarray([e for _, e in pairs], dtype=np.int64)
        return Requantiser(
            multiplier=np.asarray([m for m, _ in pairs], dtype=np.int64),
            left_shift=np.maximum(exponents, 0),
            right_shift=np.maximum(-exponents, 0),
            zero_point=self._scale(result)[1],
            minimum=minimum,
            maximum=maximum,
        )

    def _range(self, activation: int, result: int) -> tuple[int, int]:
        scale, zero = self._scale(result)

        def code(x: float) -> int:
            return zero + int(np.floor(np.float32(x) / np.float32(scale) + np.float32(0.5)))

        if activation == NONE:
            return -128, 127
        if activation == RELU:
            return max(-128, zero), 127
        if activation == RELU6:
            return max(-128, zero), min(127, code(6.0))
        if activation == RELU_N1_TO_1:
            return max(-128, 2 * zero - code(1.0)), min(127, code(1.0))
        raise ArtifactError(f"fused activation {activation} is not supported; use ReLU or Tanh.")
