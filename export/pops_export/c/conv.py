"""Convolutions without padding, read where the image lies, a few channels at a time.

Each call widens the int8 weights of one block of channels to pairs of 16 bits, into scratch, and
takes them over the whole image: the unpacking that SMLAD needs (Lai et al. 2018, CMSIS-NN) is paid
once a block instead of once a place, and no patch is copied. Without DSP instructions the same
weights lie row by row, as compilers vectorise them.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pops_export.c.options import COptions
from pops_export.c.steps import OneStep
from pops_export.c.text import c_table
from pops_export.int8.network import ConvLayer, IntArray, IntegerNetwork

BLOCK = 4
"""Most channels at a time: sums, weights and pixels fill the registers."""
UNROLL = 8
PADDED_AT_MOST = 1.25
"""Kernel rows are filled up to words; where that adds more, patches are copied instead."""


@dataclass(frozen=True)
class Direct:
    """How a layer is read in place."""

    quads: int
    """Words of one kernel row, the last one filled up."""
    blocks: tuple[int, ...]
    """Channels of each block."""
    overread: int
    """Bytes behind the image that are read; their weights are 0."""

    @property
    def unroll(self) -> int:
        """Words of the image that a kernel takes without a branch: a divisor of `quads`."""
        return max(n for n in range(1, UNROLL + 1) if self.quads % n == 0)


def plan_direct(layer: ConvLayer, caller_owns_image: bool) -> Direct | None:
    """Plan, or None where patches have to be copied.

    Args:
        layer: a convolution.
        caller_owns_image: nothing may be read behind the image.
    """
    channels, height, width, depth = layer.weight.shape
    (rows, columns, _), (image_rows, image_columns, _) = layer.output_shape, layer.input_shape
    inside = (rows - 1) * layer.stride[0] + height <= image_rows
    inside &= (columns - 1) * layer.stride[1] + width <= image_columns
    if layer.padding != (0, 0) or not inside:
        return None
    quads = -(-width * depth // 4)
    overread = 4 * quads - width * depth
    copied = 4 * -(-height * width * depth // 4)
    if (overread and caller_owns_image) or 4 * quads * height > PADDED_AT_MOST * copied:
        return None
    return Direct(quads, even_blocks(channels), overread)


def even_blocks(channels: int) -> tuple[int, ...]:
    """At most four channels each, as even as can be: 5 is 3 and 2, not 4 and 1."""
    count = -(-channels // BLOCK)
    size, larger = divmod(channels, count)
    return (size + 1,) * larger + (size,) * (count - larger)


def work_bytes(layer: ConvLayer, plan: Direct) -> int:
    """Scratch beside input and output: a block's widened weights, and a patch for plain C."""
    words = plan.quads * int(layer.weight.shape[1])
    return 8 * words * max(plan.blocks) + 4 * words


def direct_tables(index: int, layer: ConvLayer, plan: Direct, options: COptions) -> str:
    """The weights of a layer as bytes, in the order in which they are widened."""
    p, P = options.prefix, options.prefix.upper()
    words = [str(w) for w in _pack(layer.weight, plan)]
    text = c_table(f"int8_t {p}_weights{index}", words)
    text = text.replace("] = {", f"] {P}_ALIGNED = {{", 1)
    return text + c_table(f"uint8_t {p}_blocks{index}", [*map(str, plan.blocks), "0"])


def _pack(weight: IntArray, plan: Direct) -> list[int]:
    channels, height, width, depth = weight.shape
    full = np.zeros((channels, height, 4 * plan.quads), np.int64)
    full[:, :, : width * depth] = weight.reshape(channels, height, width * depth)
    rows = full.reshape(channels, -1, 4)
    ends = np.cumsum(plan.blocks)
    parts = [
        rows[end - size : end].transpose(1, 0, 2).reshape(-1)
        for end, size in zip(ends, plan.blocks)
    ]
    return [int(w) for w in np.concatenate(parts)]


def direct_call(
    index: int,
    layer: ConvLayer,
    plan: Direct,
    form: OneStep | None,
    options: COptions,
    places: tuple[str, str, str],
) -> list[str]:
    """The call of one layer; places: its source, its work space and its target."""
    p = options.prefix
    source, work, target = places
    _, width, depth = layer.input_shape
    rows, columns, channels = layer.output_shape
    height = int(layer.weight.shape[1])
    line = width * depth
    numbers = (
        line,
        layer.stride[0] * line,
        layer.stride[1] * depth,
        height,
        4 * plan.quads,
        rows,
        columns,
        channels,
    )
    if form is not None:
        kind, table = "relu", f"{p}_steps{index}"
        tail = f"{form.lift}, {form.shift}, {form.base + 128}, {form.span}"
    else:
        how = layer.requantise
        kind, table = "exact", f"{p}_channels{index}"
        tanh = f"{p}_tanh{index}" if layer.tanh is not None else "0"
        tail = f"{how.zero_point}, {how.minimum}, {how.maximum}, {tanh}"
    return [
        "{",
        f"    static const {p}_grid grid = {{{', '.join(map(str, numbers))}}};",
        f"    {p}_conv_{kind}{plan.unroll}({source}, &grid, {p}_weights{index}, "
        f"{p}_blocks{index}, {table}, {tail},",
        f"        {work}, {target});",
        "}",
    ]


def direct_context(
    network: IntegerNetwork, plans: list[Direct | None], forms: list[OneStep | None]
) -> dict[str, object]:
    """What the template needs: which kernels there are."""
    used = [(plan, form) for plan, form in zip(plans, forms) if plan is not None]
    others = [form for plan, form in zip(plans, forms) if plan is None]
    return {
        "dense_one_step": any(form is not None for form in others),
        "dense_exact": any(form is None for form in others),
        "direct_kernels": sorted({(size, plan.unroll) for plan, _ in used for size in plan.blocks}),
        "direct_layers": sorted({("exact" if f is None else "relu", p.unroll) for p, f in used}),
        "direct_bytes": all(f is None or (f.base, f.span) == (-128, 255) for _, f in used),
        "columns_copied": any(
            isinstance(layer, ConvLayer) and plan is None
            for layer, plan in zip(network.layers, plans)
        ),
    }
