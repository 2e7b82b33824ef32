"""One multiplication for the two roundings of a ReLU layer, proven equal step by step.

From sum to code, a layer with ReLU is a monotone step function: at most 255 steps, each at an
integer sum. `floor((sum · 2^lift + offset) · multiplier / 2^(32 + shift))` is monotone as well,
so the two agree on every sum if and only if they step at the same sums. For a given multiplier
that is an interval of offsets; where one exists the generated code needs a single product,
otherwise it keeps the exact form with its two roundings.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pops_export.int8.fixed_point import requantise
from pops_export.int8.network import IntArray, Requantiser

INT32 = (1 << 31) - 1


@dataclass(frozen=True)
class OneStep:
    """`code = base + clamp(floor((sum · 2^lift + offset) · multiplier / 2^(32 + shift)), 0, span)`.

    Sums are without bias: `offset` holds it.
    """

    offset: tuple[int, ...]
    multiplier: tuple[int, ...]
    lift: int
    shift: int
    base: int
    """Smallest code."""
    span: int
    """Largest code minus the smallest."""


def one_step(
    how: Requantiser, bias: IntArray, low: IntArray, high: IntArray, max_lift: int
) -> OneStep | None:
    """Find the one-product form of a layer, or None.

    Args:
        how: the layer's requantiser.
        bias: (channels,) added to each sum.
        low: (channels,) smallest sum without bias that can occur.
        high: (channels,) largest.
        max_lift: largest power of two that the sums can be scaled by.
    """
    if how.minimum < how.zero_point:
        return None  # codes on both sides of zero: halves round away from it
    with np.errstate(divide="ignore"):
        real = how.multiplier * 2.0 ** (how.left_shift - how.right_shift - 31.0)
    if not np.all(real > 0):
        return None
    first = how.minimum - how.zero_point
    counts = np.arange(first + 1, how.maximum - how.zero_point + 1)
    steps = _steps(how, bias, low, high, counts)
    magnitude = np.maximum(np.abs(low), np.abs(high)) + np.abs(bias.astype(np.int64))
    lift = int(min(max_lift, np.floor(np.log2((1 << 30) / max(1, int(magnitude.max()) + 600)))))
    if lift < 0:
        return None
    shift = int(np.floor(np.log2(INT32 / (real.max() * 2.0 ** (32 - lift)))))
    if not 0 <= shift <= 30:
        return None
    offsets, multipliers = [], []
    for channel in range(len(bias)):
        found = _fit(
            steps[channel],
            np.arange(1, len(counts) + 1),
            float(real[channel]),
            (int(low[channel]), int(high[channel])),
            (lift, shift),
        )
        if found is None:
            return None
        offsets.append(found[0])
        multipliers.append(found[1])
    return OneStep(
        tuple(offsets), tuple(multipliers), lift, shift, how.minimum, how.maximum - how.minimum
    )


def _steps(
    how: Requantiser, bias: IntArray, low: IntArray, high: IntArray, counts: IntArray
) -> IntArray:
    """(channels, counts): the smallest sum whose code reaches zero point + count.

    `high + 1` where no possible sum does. By bisection on the exact arithmetic.
    """
    unclamped = Requantiser(
        how.multiplier[:, None],
        how.left_shift[:, None],
        how.right_shift[:, None],
        how.zero_point,
        -128,
        127,
    )
    below = np.repeat(low[:, None].astype(np.int64) - 1, len(counts), axis=1)
    reached = np.repeat(high[:, None].astype(np.int64) + 1, len(counts), axis=1)
    wanted = counts[None, :] + how.zero_point
    for _ in range(int(np.ceil(np.log2(float((high - low).max()) + 3))) + 1):
        middle = (below + reached) >> 1
        up = requantise(middle + bias[:, None], unclamped) >= wanted
        open_ = reached - below > 1
        reached = np.where(open_ & up, middle, reached)
        below = np.where(open_ & ~up, middle, below)
    return reached


def _fit(
    steps: IntArray,
    counts: IntArray,
    real: float,
    sums: tuple[int, int],
    scale: tuple[int, int],
) -> tuple[int, int] | None:
    """(offset, multiplier) with which every step lies where the exact arithmetic has it.

    The width of the interval of offsets is a concave function of the multiplier, but for the
    rounding to integers: climb it.
    """
    best = round(real * 2.0 ** (32 + scale[1] - scale[0]))
    widest, stride = best, 1 << 12
    width = _width(_offsets(steps, counts, best, sums, scale))
    while stride:
        for multiplier in (widest - stride, widest + stride):
            found = _width(_offsets(steps, counts, multiplier, sums, scale))
            if found > width:
                widest, width = multiplier, found
                break
        else:
            stride >>= 1
    if width < 0:
        return None
    least, most = _offsets(steps, counts, widest, sums, scale)
    offset = min(max((least + most) // 2, -INT32), INT32)
    low, high = (total << scale[0] for total in sums)
    if not least <= offset <= most or max(abs(low + offset), abs(high + offset)) >= INT32:
        return None
    return offset, widest


def _width(offsets: tuple[int, int]) -> int:
    return offsets[1] - offsets[0]


def _offsets(
    steps: IntArray,
    counts: IntArray,
    multiplier: int,
    sums: tuple[int, int],
    scale: tuple[int, int],
) -> tuple[int, int]:
    """The least and the most offset with which every step lies right; none if least > most."""
    if not 0 < multiplier <= INT32:
        return INT32, -INT32
    low, high = sums
    lift, shift = scale
    # The lifted sum plus offset reaches edges[k] exactly from steps[k] on.
    edges = _ceil_divide(counts, 32 + shift, multiplier)
    inside = (steps > low) & (steps <= high)
    at_least = (edges - (steps << lift))[inside]
    below = (edges - 1 - ((steps - 1) << lift))[inside]
    least = int(at_least.max()) if at_least.size else -INT32
    most = int(below.min()) if below.size else INT32
    if np.any(steps <= low):  # steps that the smallest sum has already made
        least = max(least, int(edges[steps <= low].max()) - (low << lift))
    if np.any(steps > high):  # steps that no sum makes
        most = min(most, int(edges[steps > high].min()) - 1 - (high << lift))
    return least, most


def _ceil_divide(counts: IntArray, power: int, divisor: int) -> IntArray:
    """ceil(counts · 2^power / divisor) exactly, for counts of at most 8 bits and power < 63."""
    whole, rest = divmod(1 << power, divisor)
    # counts · 2^power = counts · (whole · divisor + rest); counts · rest has at most 39 bits.
    result: IntArray = counts * whole - (-(counts * rest) // divisor)
    return result
