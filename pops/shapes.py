"""Smaller convolutional networks to try: fewer units, coarser maps, fewer layers.

Most weights of a small convolutional network read the last map. A larger stride in
front of it makes it smaller at once, and the hidden dense layer may not be needed at all.
"""

from __future__ import annotations

import dataclasses
import math

import numpy as np

from pops.arch import Conv, NetArch
from pops.errors import PopsError

SMALLEST = 0.02
"""The smallest network that is tried, as a share of the one to begin with."""


def coarser(arch: NetArch) -> NetArch | None:
    """The same layers with twice the stride in the last convolution that has room for it."""
    layers = arch.layers()
    for index in range(len(arch.convs) - 1, -1, -1):
        if min(layers[index].output_shape[1:]) < 4:
            continue
        conv = arch.convs[index]
        if conv.stride >= conv.kernel:  # it would leave pixels out
            continue
        stride = min(2 * conv.stride, conv.kernel)
        changed = _with_conv(arch, index, dataclasses.replace(conv, stride=stride))
        if changed is not None:
            return changed
    return None


def _with_conv(arch: NetArch, index: int, conv: Conv) -> NetArch | None:
    """The network with another convolution; None where the following ones no longer fit."""
    convs = (*arch.convs[:index], conv, *arch.convs[index + 1 :])
    try:
        changed = dataclasses.replace(arch, convs=convs)
        changed.layers()
    except PopsError:
        return None
    return changed


def skeletons(base: NetArch, fewer_layers: bool = True) -> list[NetArch]:
    """Kinds of network to try, each with as many units as `base` has."""
    kinds = [base]
    strided = coarser(base)
    if strided is not None:
        kinds.append(strided)
    if not fewer_layers:
        return kinds
    if base.widths:
        kinds += [kind.with_widths(()) for kind in list(kinds)]
    if len(base.convs) > 1:
        shallow = dataclasses.replace(base, convs=base.convs[:-1])
        coarse = coarser(shallow) or shallow
        kinds.append(coarse.with_widths(()))
    return list(dict.fromkeys(kinds))


def with_parameters(kind: NetArch, target: int) -> NetArch:
    """The network of this kind, all layers narrowed by one factor, nearest to `target`."""
    best = _narrowed(kind, 1.0)
    for factor in np.geomspace(1.0, 0.01, 120):
        arch = _narrowed(kind, float(factor))
        if abs(math.log(arch.num_parameters / target)) < abs(
            math.log(best.num_parameters / target)
        ):
            best = arch
    return best


def _narrowed(kind: NetArch, factor: float) -> NetArch:
    channels = tuple(max(1, round(conv.channels * factor)) for conv in kind.convs)
    return kind.with_widths(tuple(max(1, round(w * factor)) for w in kind.widths), channels)


def propose_convolutional(base: NetArch, count: int, fewer_layers: bool = True) -> list[NetArch]:
    """At most `count` networks with fewer parameters than `base`, largest first.

    Sizes fall by a constant ratio. Four of five are of the coarser kind, which learns most with
    the same number of weights (docs/pixels.md); the other kinds take turns at the rest.
    """
    kinds = skeletons(base, fewer_layers)
    coarse, others = kinds[min(1, len(kinds) - 1)], kinds[2:] or kinds[:1]
    found: dict[int, NetArch] = {}
    for index, share in enumerate(np.geomspace(0.7, SMALLEST, count)):
        target = max(1, round(base.num_parameters * float(share)))
        kind = others[index // 5 % len(others)] if index % 5 == 4 else coarse
        arch = with_parameters(kind, target)
        if arch.num_parameters < base.num_parameters:
            found.setdefault(arch.num_parameters, arch)
    return [found[size] for size in sorted(found, reverse=True)]
