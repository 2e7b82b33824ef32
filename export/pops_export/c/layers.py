"""Lay out integer layers for the generated kernels: weights, requantising, scratch, calls."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from pops.errors import UsageError
from pops_export.c.conv import (
    Direct,
    direct_call,
    direct_context,
    direct_tables,
    plan_direct,
    work_bytes,
)
from pops_export.c.options import COptions
from pops_export.c.steps import INT32, OneStep, one_step
from pops_export.c.text import c_int, c_table
from pops_export.int8.network import ConvLayer, IntArray, IntegerNetwork, Layer

PAIR_ORDER = (0, 2, 1, 3)
"""The order in which int16 weights meet the even and the odd bytes of a word."""


@dataclass(frozen=True)
class Plan:
    """The integer part of a file."""

    tables: str
    calls: tuple[str, ...]
    scratch_bytes: int
    output_offset: int
    image_in_place: bool
    """The first convolution reads the caller's image."""
    uses_one_step: bool
    uses_exact: bool
    direct: dict[str, object]
    """What the template of convolutions that are read in place needs."""


def padded(n: int) -> int:
    """Bytes of a buffer of n codes."""
    return -(-n // 4) * 4


def bias_of_bytes(layer: Layer) -> IntArray:
    """(channels,) the bias for sums over `code + 128` instead of `code - zero point`.

    Raises:
        UsageError: if a sum could leave 32 bits.
    """
    weight = layer.weight.reshape(layer.weight.shape[0], -1).astype(np.int64)
    bias: IntArray = layer.bias - (128 + layer.input_zero_point) * weight.sum(axis=1)
    low, high = sums_range(layer)
    left = np.int64(1) << layer.requantise.left_shift
    reach = np.maximum(np.abs(low), np.abs(high)) + np.abs(bias)
    if int((reach * left).max()) > INT32:
        raise UsageError("A layer's sums can leave 32 bits; it has too many or too large weights.")
    return bias


def sums_range(layer: Layer) -> tuple[IntArray, IntArray]:
    """(channels,) smallest and largest sum of weight · byte that can occur, without bias."""
    weight = layer.weight.reshape(layer.weight.shape[0], -1).astype(np.int64)
    return 255 * np.minimum(weight, 0).sum(axis=1), 255 * np.maximum(weight, 0).sum(axis=1)


def plan_layers(network: IntegerNetwork, options: COptions, image_in_place: bool) -> Plan:
    """Tables and calls for every layer, in order."""
    sizes = [padded(network.inputs)] + [padded(layer.outputs) for layer in network.layers]
    if image_in_place and isinstance(network.layers[0], ConvLayer):
        sizes[0] = 0
    plans = [
        plan_direct(la, index == 0 and sizes[0] == 0) if isinstance(la, ConvLayer) else None
        for index, la in enumerate(network.layers)
    ]
    between = [_between(layer, plan) for layer, plan in zip(network.layers, plans)]
    # Ping-pong: buffers sit at the start and at the end in turn; what a layer needs beside its
    # input and output goes in between. The largest layer decides: no order of buffers needs less.
    total = max(a + b + c for a, b, c in zip(sizes, sizes[1:], between))
    total += 4 * any(plan is not None and plan.overread for plan in plans)
    offsets = [0 if i % 2 == 0 else total - size for i, size in enumerate(sizes)]
    tables, calls, forms = [], [], []
    for index, layer in enumerate(network.layers):
        form, plan = _form(layer, options), plans[index]
        forms.append(form)
        tables.append(_tables(index, layer, plan, form, options))
        source = f"scratch + {offsets[index]}" if offsets[index] else "scratch"
        source = "input" if index == 0 else source
        target = f"scratch + {offsets[index + 1]}" if offsets[index + 1] else "scratch"
        if isinstance(layer, ConvLayer):
            # Between the input at one end and the output at the other.
            middle = sizes[index] if index % 2 == 0 else sizes[index + 1]
            places = (source, f"scratch + {middle}", target)
            if plan is not None:
                calls += direct_call(index, layer, plan, form, options, places)
            else:
                calls += _conv_call(index, layer, form, options, places)
        else:
            calls.append(_dense_call(index, layer, form, options, source, target))
        for pad in range(layer.outputs, sizes[index + 1]):
            calls.append(f"scratch[{offsets[index + 1] + pad}] = 0;")
    return Plan(
        tables="\n".join(tables),
        calls=tuple(calls),
        scratch_bytes=total,
        output_offset=offsets[-1],
        image_in_place=sizes[0] == 0,
        uses_one_step=any(form is not None for form in forms),
        uses_exact=any(form is None for form in forms),
        direct=direct_context(network, plans, forms),
    )


def _between(layer: Layer, plan: Direct | None) -> int:
    """Bytes of scratch that a layer needs beside its input and output."""
    if not isinstance(layer, ConvLayer):
        return 0
    return padded(_row(layer)) if plan is None else padded(work_bytes(layer, plan))


def _row(layer: Layer) -> int:
    """Weights of one output channel."""
    return int(layer.weight[0].size)


def _form(layer: Layer, options: COptions) -> OneStep | None:
    if layer.tanh is not None:
        return None
    low, high = sums_range(layer)
    return one_step(layer.requantise, bias_of_bytes(layer), low, high, max_lift=8)


def pack(weight: IntArray, lift: int, wide: bool) -> list[int]:
    """Weights (rows, columns) in the order in which the kernels read them."""
    rows, columns = weight.shape
    full = np.zeros((rows, padded(columns)), dtype=np.int64)
    full[:, :columns] = weight.astype(np.int64) << lift
    quads = full.reshape(rows, -1, 4)
    if wide:
        quads = quads[:, :, PAIR_ORDER]
    blocks = rows & ~3
    by_four = quads[:blocks].reshape(blocks // 4, 4, quads.shape[1], 4).transpose(0, 2, 1, 3)
    return [int(w) for w in np.concatenate([by_four.reshape(-1), quads[blocks:].reshape(-1)])]


def _tables(
    index: int, layer: Layer, plan: Direct | None, form: OneStep | None, options: COptions
) -> str:
    p, P = options.prefix, options.prefix.upper()
    if plan is not None and isinstance(layer, ConvLayer):
        text = direct_tables(index, layer, plan, options)
    else:
        wide = options.layout == "speed"
        lift = form.lift if form is not None and wide else 0
        weight = layer.weight.reshape(layer.weight.shape[0], -1)
        words = [str(w) for w in pack(weight, lift, wide)]
        text = c_table(f"{p}_weight {p}_weights{index}", words)
        text = text.replace("] = {", f"] {P}_ALIGNED = {{", 1)
    if form is not None:
        rows = [f"{{{c_int(o)}, {m}}}" for o, m in zip(form.offset, form.multiplier)]
        return text + c_table(f"{p}_step {p}_steps{index}", rows)
    how = layer.requantise
    rows = [
        f"{{{c_int(int(b))}, {m}, {left}, {right}}}"
        for b, m, left, right in zip(
            bias_of_bytes(layer), how.multiplier, how.left_shift, how.right_shift
        )
    ]
    text += c_table(f"{p}_channel {p}_channels{index}", rows)
    if layer.tanh is not None:
        codes = [str(int(c) + 128) for c in layer.tanh]
        text += c_table(f"uint8_t {p}_tanh{index}", codes)
    return text


def _dense_call(
    index: int, layer: Layer, form: OneStep | None, options: COptions, source: str, target: str
) -> str:
    p = options.prefix
    quads, rows = padded(_row(layer)) // 4, int(layer.weight.shape[0])
    if form is not None:
        return (
            f"{p}_dense_relu({source}, {p}_weights{index}, {p}_steps{index}, {quads}, {rows}, "
            f"{form.lift}, {form.shift}, {form.base + 128}, {form.span}, {target});"
        )
    how = layer.requantise
    table = f"{p}_tanh{index}" if layer.tanh is not None else "0"
    return (
        f"{p}_dense_exact({source}, {p}_weights{index}, {p}_channels{index}, {quads}, {rows}, "
        f"{how.zero_point}, {how.minimum}, {how.maximum}, {table}, {target});"
    )


def _conv_call(
    index: int,
    layer: ConvLayer,
    form: OneStep | None,
    options: COptions,
    places: Sequence[str],
) -> list[str]:
    p = options.prefix
    source, column, target = places
    height, width, depth = layer.input_shape
    rows, columns, channels = layer.output_shape
    kernel_height, kernel_width = layer.weight.shape[1:3]
    numbers = (height, width, depth, kernel_height, kernel_width, *layer.stride, *layer.padding)
    call = _dense_call(index, layer, form, options, "x", "y")
    size = _row(layer)
    return [
        "{",
        f"    static const {p}_window window = {{{', '.join(map(str, numbers))}, "
        f"{rows}, {columns}, {channels}}};",
        f"    uint8_t *x = {column}, *y = {target};",
        "    int32_t row, at;",
        *(f"    x[{i}] = 0;" for i in range(size, padded(size))),
        f"    for (row = 0; row < {rows}; row++)",
        f"        for (at = 0; at < {columns}; at++, y += {channels}) {{",
        f"            {p}_column({source}, &window, row, at, {128 + layer.input_zero_point}, x);",
        f"            {call}",
        "        }",
        "}",
    ]
