"""Smaller convolutional networks to try: what is left of a larger one, and a compact kind."""

from __future__ import annotations

import dataclasses

import numpy as np

from pops.arch import Conv, NetArch

PROPORTIONS = (2, 3, 5)
"""Channels of the first convolution, of each further one, and hidden units of a compact kind."""
NARROW = 3
"""Kernel of the convolution behind the last map of a compact kind."""


def compact(base: NetArch) -> NetArch:
    """The kind that learns most with few weights and few multiplications (docs/pixels.md).

    The first convolution, which sees the finest map, reads every pixel once: its kernel is as
    wide as its stride. The last map is made small by one convolution more, not by a larger
    stride, and few hidden units read it. Channels grow from the first convolution on.
    """
    first = base.convs[0]
    if NARROW <= first.stride < first.kernel:
        first = Conv(first.channels, first.stride, first.stride)
    kind = dataclasses.replace(base, convs=(first, *base.convs[1:]))
    if min(kind.layers()[len(kind.convs) - 1].output_shape[1:]) >= 2 * NARROW - 1:
        kind = dataclasses.replace(kind, convs=(*kind.convs, Conv(1, NARROW, 2)))
    # As many units as the base's widest layer has.
    unit = max(conv.channels for conv in base.convs) / PROPORTIONS[1]
    channels = (PROPORTIONS[0], *[PROPORTIONS[1]] * (len(kind.convs) - 1))
    return kind.with_widths(
        (round(unit * PROPORTIONS[2]),), tuple(max(1, round(unit * share)) for share in channels)
    )


def levelled(base: NetArch, target: int) -> NetArch:
    """At most `target` parameters: units leave the layer that holds most weights.

    What is left of `base` is its lean layers; its heaviest, nearly always the dense one behind
    the last map, goes down to their size.
    """
    arch = base
    while arch.num_parameters > target:
        units = [*(conv.channels for conv in arch.convs), *arch.widths]
        weights = [layer.weights for layer in arch.layers()[:-1]]
        heavy = [index for index, count in enumerate(units) if count > 1]
        if not heavy:
            break
        heaviest = max(heavy, key=lambda index: weights[index])
        units[heaviest] = min(units[heaviest] - 1, int(0.97 * units[heaviest]))
        arch = arch.with_widths(tuple(units[len(arch.convs) :]), tuple(units[: len(arch.convs)]))
    return arch


def with_parameters(kind: NetArch, target: int) -> NetArch:
    """The largest network of this kind, all layers narrowed by one factor, of at most `target`.

    The smallest, if none is that small.
    """
    narrowed = [_narrowed(kind, float(factor)) for factor in np.geomspace(1.0, 0.01, 240)]
    fitting = [arch for arch in narrowed if arch.num_parameters <= target]
    if not fitting:
        return min(narrowed, key=lambda arch: arch.num_parameters)
    return max(fitting, key=lambda arch: arch.num_parameters)


def _narrowed(kind: NetArch, factor: float) -> NetArch:
    channels = tuple(max(1, round(conv.channels * factor)) for conv in kind.convs)
    return kind.with_widths(tuple(max(1, round(w * factor)) for w in kind.widths), channels)
