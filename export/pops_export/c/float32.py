"""The context of the float32 template."""

from __future__ import annotations

from typing import Any

import numpy as np

from pops.errors import UsageError
from pops.policy import NumpyPolicy
from pops.spec import Array, ContinuousActions, DiscreteActions, FloatArray, PolicySpec
from pops_export.c.decode import DecodePlan
from pops_export.c.golden import takes_bytes
from pops_export.c.int8 import shared_context
from pops_export.c.options import COptions
from pops_export.c.text import c_float, c_table, column

ACTIVATIONS = {
    "relu": "x > 0.0f ? x : 0.0f",
    "tanh": "tanhf(x)",
    "elu": "x > 0.0f ? x : expm1f(x)",
    "leaky_relu": "x > 0.0f ? x : 0.01f * x",
    "silu": "x / (1.0f + expf(-x))",
    "sigmoid": "1.0f / (1.0f + expf(-x))",
}
LIBM = {"tanh": "tanhf", "elu": "expm1f", "silu": "expf", "sigmoid": "expf"}
NOT_FINITE = (
    "a feature that is NaN\n   counts as 0 after the normaliser; an infinite one as the "
    "normaliser's clip, where it has one,\n   or else as {infinite}."
)


def float_context(policy: NumpyPolicy, options: COptions) -> dict[str, Any]:
    """Everything that the float32 template needs."""
    spec, p = policy.spec, options.prefix
    bytes_in = takes_bytes(spec)
    pixels = _pixels(spec) if bytes_in and policy.arch.convs else None
    layers = _Layers(policy, options, pixels is not None)
    used = {layer.activation for layer in policy.arch.layers()} - {"identity"}
    squash = isinstance(spec.actions, ContinuousActions) and spec.actions.squash == "tanh"
    libm = sorted({LIBM[a] for a in used if a in LIBM} | ({"tanhf"} if squash else set()))
    discrete = isinstance(spec.actions, DiscreteActions)
    out = DecodePlan("floats" if discrete else "continuous", "", 0, "", "", (), False, "", ())
    action_tables, action_lines = ("", []) if discrete else _actions(spec)
    start = spec.actions.start if isinstance(spec.actions, DiscreteActions) else 0
    prepare = _prepare(policy, options)
    ranged = options.calibration_min is not None and not bytes_in and not spec.one_hot
    infinite = "the end of its calibrated range" if prepare["infinite_is_kept"] else "0"
    return {
        **shared_context(spec, options, out, exact=False),
        **prepare,
        "arithmetic": "float32",
        "network": str(policy.arch),
        "scratch_bytes": 4 * layers.total,
        "parameters": policy.arch.num_parameters,
        "macs": policy.arch.macs,
        "not_finite": "cannot be." if bytes_in else NOT_FINITE.format(infinite=infinite),
        "out_of_range": "a feature lies outside of the range that it took during calibration."
        if ranged
        else "never.",
        "calls": ", ".join(["memcpy", *libm]),
        "uses_libm": bool(libm),
        "bytes_in": bytes_in,
        "bytes_in_place": pixels is not None,
        "byte_table": "" if pixels is None else c_table(f"float {p}_pixels", pixels),
        "tables": prepare["tables"] + "".join(layers.tables),
        "activations": sorted((a, ACTIVATIONS[a]) for a in used),
        "windows": sorted(layers.windows),
        "calls_text": layers.calls,
        "output_offset": layers.output_offset,
        "action_tables": action_tables,
        "action_lines": action_lines,
        "start": f" + {start}" if start else "",
        "P": p.upper(),
        "p": p,
    }


def _pixels(spec: PolicySpec) -> list[str] | None:
    """What each value of a pixel is to the network, where all pixels are scaled alike."""
    if spec.normaliser is not None and len(spec.normaliser.mean) != 1:
        return None
    small = PolicySpec((1, 1, 1), spec.actions, spec.output, "uint8", 0, True, spec.normaliser)
    values = small.preprocess(np.arange(256, dtype=np.uint8).reshape(256, 1, 1, 1))
    return [c_float(float(v)) for v in values.reshape(-1)]


def _features(values: Any, spec: PolicySpec, gather: tuple[int, ...] | None) -> Array:
    """Values of the observation's order, one for each input of the C, channel-last."""
    n = int(np.prod(spec.input_shape))
    flat = np.asarray(values, dtype=np.float64).reshape(-1)
    flat = np.full(n, flat[0]) if flat.size == 1 else flat
    if len(spec.observation_shape) == 3 and not spec.channels_last:
        flat = np.moveaxis(flat.reshape(spec.observation_shape), 0, -1).reshape(-1)
    return flat if gather is None else flat[list(gather)]


def _prepare(policy: NumpyPolicy, options: COptions) -> dict[str, Any]:
    """Text for the normaliser and the range check."""
    spec, p = policy.spec, options.prefix
    gather = policy.arch.inputs
    n = len(gather) if gather is not None else int(np.prod(spec.input_shape))
    tables, lines, index = [], [], "i"
    result: dict[str, Any] = {"inputs": n, "range_checked": False, "low": "", "high": ""}
    if spec.one_hot:
        if gather is not None:
            raise UsageError("A discrete observation with unused inputs cannot be written as C.")
        return {
            **result,
            "tables": "",
            "prepare_lines": [],
            "index": "i",
            "infinite_is_kept": False,
        }
    if gather is not None and gather != tuple(range(int(np.prod(spec.input_shape)))):
        tables.append(c_table(f"int16_t {p}_feature", [str(i) for i in gather]))
        index = f"{p}_feature[i]"

    def place(values: Array, name: str) -> str:
        table, text = column([float(v) for v in values], "float", f"{p}_{name}", c_float)
        tables.append(table)
        return text

    normaliser = spec.normaliser
    clip = None if normaliser is None else normaliser.clip
    kept = clip is not None
    if options.calibration_min is not None and not takes_bytes(spec):
        low = place(_features(options.calibration_min, spec, gather), "low")
        high = place(_features(options.calibration_max, spec, gather), "high")
        result.update(range_checked=True, low=low, high=high)
        if not kept:
            lines.append(f"x = x > 3.402823466e+38f ? {high} : x;")
            lines.append(f"x = x < -3.402823466e+38f ? {low} : x;")
            kept = True
    if normaliser is not None:
        mean = _features(normaliser.mean, spec, gather)
        near = mean.astype(np.float32)
        rest = (mean - near).astype(np.float32)
        inverse = (1.0 / _features(normaliser.std, spec, gather)).astype(np.float32)
        lines.append(f"x = x - {place(near, 'mean')};")
        if np.any(rest != 0):  # the mean has more digits than a float32
            lines.append(f"x = x - {place(rest, 'mean_rest')};")
        lines.append(f"x = x * {place(inverse, 'inverse')};")
        if clip is not None:
            lines.append(f"x = x > {c_float(clip)} ? {c_float(clip)} : x;")
            lines.append(f"x = x < {c_float(-clip)} ? {c_float(-clip)} : x;")
    return {
        **result,
        "tables": "".join(tables),
        "prepare_lines": lines,
        "index": index,
        "infinite_is_kept": kept,
    }


def _actions(spec: PolicySpec) -> tuple[str, list[str]]:
    box = spec.actions
    assert isinstance(box, ContinuousActions)
    tables, lines = [], []
    low_values = np.asarray(box.low, dtype=np.float32)
    high_values = np.asarray(box.high, dtype=np.float32)

    def place(values: FloatArray, name: str) -> str:
        finite = np.clip(values, -3.4028234e38, 3.4028234e38)
        table, text = column([float(v) for v in finite], "float", name, c_float)
        tables.append("".join(f"    {line}\n" for line in table.splitlines()))
        return text

    low, high = place(low_values, "low"), place(high_values, "high")
    if spec.output_clip is not None:
        limit = c_float(spec.output_clip)
        lines.append(f"x = x > {limit} ? {limit} : x;")
        lines.append(f"x = x < -{limit} ? -{limit} : x;")
    if box.squash == "tanh":
        span = place(high_values - low_values, "span")
        lines.append(f"x = {low} + 0.5f * (tanhf(x) + 1.0f) * {span};")
    lines.append(f"x = x < {low} ? {low} : x;")
    lines.append(f"x = x > {high} ? {high} : x;")
    return "".join(tables), lines


class _Layers:
    """Weights in the kernels' order, and one call for each layer."""

    def __init__(self, policy: NumpyPolicy, options: COptions, bytes_in_place: bool) -> None:
        self.p = options.prefix
        self.tables: list[str] = []
        self.calls: list[str] = []
        self.windows: set[str] = set()
        arch = policy.arch
        layers = arch.layers()
        first = int(np.prod(arch.input_shape)) if arch.inputs is None else len(arch.inputs)
        sizes = [0 if bytes_in_place else first]
        sizes += [int(np.prod(layer.output_shape)) for layer in layers]
        columns = [int(np.prod(la.weight[1:])) if len(la.weight) == 4 else 0 for la in layers]
        self.total = max(a + b + c for a, b, c in zip(sizes, sizes[1:], columns))
        offsets = [0 if i % 2 == 0 else self.total - size for i, size in enumerate(sizes)]
        self.output_offset = offsets[-1]
        shape: tuple[int, ...] = arch.input_shape
        for index, (layer, (weight, bias)) in enumerate(zip(layers, policy.parameters)):
            source = f"scratch + {offsets[index]}" if index else "input"
            target = f"scratch + {offsets[index + 1]}"
            if len(layer.weight) == 4:
                column = sizes[index] if index % 2 == 0 else sizes[index + 1]
                conv = arch.convs[index]
                numbers = (shape[1], shape[2], shape[0], conv.kernel, conv.stride, conv.padding)
                self._table(index, weight.transpose(0, 2, 3, 1).reshape(len(weight), -1), bias)
                kind = "uint8_t" if index == 0 and bytes_in_place else "float"
                places = (source, f"scratch + {column}", target)
                self._conv(index, numbers, layer.output_shape, places, kind)
            else:
                if len(shape) == 3 and arch.inputs is None:  # flattened channel first in torch
                    order = np.arange(weight.shape[1]).reshape(shape).transpose(1, 2, 0)
                    weight = weight[:, order.reshape(-1)]
                self._table(index, weight, bias)
                self.calls.append(self._dense(index, weight.shape, source, target))
            if layer.activation != "identity":
                self.calls.append(f"{self.p}_{layer.activation}({target}, {sizes[index + 1]});")
            shape = layer.output_shape

    def _table(self, index: int, weight: FloatArray, bias: FloatArray) -> None:
        blocks = len(weight) & ~3
        by_four = weight[:blocks].reshape(blocks // 4, 4, weight.shape[1]).transpose(0, 2, 1)
        flat = np.concatenate([by_four.reshape(-1), weight[blocks:].reshape(-1)])
        self.tables.append(c_table(f"float {self.p}_weights{index}", [c_float(w) for w in flat]))
        self.tables.append(c_table(f"float {self.p}_bias{index}", [c_float(b) for b in bias]))

    def _dense(self, index: int, shape: tuple[int, ...], source: str, target: str) -> str:
        return (
            f"{self.p}_dense({source}, {self.p}_weights{index}, {self.p}_bias{index}, "
            f"{shape[1]}, {shape[0]}, {target});"
        )

    def _conv(
        self,
        index: int,
        numbers: tuple[int, ...],
        output_shape: tuple[int, ...],
        places: tuple[str, str, str],
        kind: str,
    ) -> None:
        source, column, target = places
        channels, rows, columns = output_shape
        size = numbers[3] * numbers[3] * numbers[2]
        self.windows.add(kind)
        self.calls += [
            "{",
            f"    static const {self.p}_window_{kind} window = {{{', '.join(map(str, numbers))}}};",
            f"    float *x = {column}, *y = {target};",
            "    int32_t row, at;",
            f"    for (row = 0; row < {rows}; row++)",
            f"        for (at = 0; at < {columns}; at++, y += {channels}) {{",
            f"            {self.p}_column_{kind}({source}, &window, row, at, x);",
            f"            {self._dense(index, (channels, size), 'x', 'y')}",
            "        }",
            "}",
        ]
