"""From non-zeros per layer to a smaller dense network, as Livne and Cohen 2020 propose.

Pure functions: the same non-zeros always give the same architecture.
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import numpy as np

from pops.arch import NetArch
from pops.errors import PopsError


def shrink(initial: NetArch, previous: NetArch, nonzeros_per_layer: Sequence[int]) -> NetArch:
    """A dense network whose layers have about as many weights as the pruned ones had non-zeros.

    A layer between n and m units has n·m·(kernel area) weights, so its units
    are a product of two unknowns: the sizes solve the least-squares problem of
    the logarithms, in which the fixed inputs and outputs take part. Each size is
    rounded and held between one and its size in `previous`.

    Args:
        initial: the first student, against which redundancy is measured; it fixes
            kernels, strides, inputs and outputs.
        previous: the network that was pruned.
        nonzeros_per_layer: weights other than zero in each of its layers.

    Returns:
        `previous` itself where nothing is redundant (converged), otherwise a
        network with fewer parameters and no layer larger than in `previous`.

    Raises:
        PopsError: if the number of layers does not fit.
    """
    layers = previous.layers()
    if len(initial.layers()) < len(layers) or len(nonzeros_per_layer) != len(layers):
        raise PopsError(
            f"Found non-zeros of {len(nonzeros_per_layer)} layers, expected {len(layers)}."
        )
    targets = [min(max(1, n), layer.weights) for n, layer in zip(nonzeros_per_layer, layers)]
    hidden = [layer.weight[0] for layer in layers[:-1]]
    if not hidden or all(t == layer.weights for t, layer in zip(targets, layers)):
        return previous
    solution = _least_squares_sizes(previous, targets)
    sizes = [min(old, max(1, round(size))) for size, old in zip(solution, hidden)]
    if sizes == hidden:
        sizes = _drop_one_unit(previous, hidden, targets)
    convs = len(previous.convs)
    return previous.with_widths(tuple(sizes[convs:]), tuple(sizes[:convs]))


def _least_squares_sizes(previous: NetArch, targets: Sequence[int]) -> list[float]:
    """Minimise Σ (log(weights of layer i) - log(target i))² over the hidden sizes."""
    layers = previous.layers()
    unknowns = len(layers) - 1
    matrix = np.zeros((len(layers), unknowns))
    rest = np.zeros(len(layers))
    for index, (layer, target) in enumerate(zip(layers, targets)):
        weights_per_pair = layer.weights / layer.weight[0]
        if index > 0:
            matrix[index, index - 1] = 1.0
            # A unit of the layer before brings this many weights into each unit here:
            # a kernel's area, or after the flattening one weight for each position.
            weights_per_pair /= layers[index - 1].weight[0]
        if index < unknowns:
            matrix[index, index] = 1.0
        else:
            weights_per_pair *= layer.weight[0]
        rest[index] = math.log(target) - math.log(weights_per_pair)
    solution = np.linalg.lstsq(matrix, rest, rcond=None)[0]
    return [float(size) for size in np.exp(solution)]


def _drop_one_unit(previous: NetArch, hidden: list[int], targets: Sequence[int]) -> list[int]:
    """One unit less where most weights are redundant; there is progress until none can go.

    Nothing goes where the redundancy is under half of what a unit would free:
    the network has converged.
    """
    layers = previous.layers()
    convs = len(previous.convs)
    free = [layer.weights - target for layer, target in zip(layers, targets)]
    best, best_ratio = -1, 0.5
    for index, size in enumerate(hidden):
        if size == 1:
            continue
        smaller = [*hidden[:index], size - 1, *hidden[index + 1 :]]
        arch = previous.with_widths(tuple(smaller[convs:]), tuple(smaller[:convs]))
        freed = previous.num_weights - arch.num_weights
        ratio = (free[index] + free[index + 1]) / freed
        if ratio > best_ratio:
            best, best_ratio = index, ratio
    if best < 0:
        return hidden
    return [*hidden[:best], hidden[best] - 1, *hidden[best + 1 :]]
