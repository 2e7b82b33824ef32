"""The fixed-point arithmetic of tflite-micro: multipliers, requantising, Tanh.

Sources: tflite-micro's `kernels/internal/common.h` and `quantization_util.cc`, gemmlowp's
`fixedpoint.h`, with the double rounding that the wheel is built with.
"""

from __future__ import annotations

import math

import numpy as np

from pops_export.int8.network import IntArray, Requantiser

INT32_MAX = (1 << 31) - 1
INT32_MIN = -(1 << 31)


def quantise_multiplier(real: float) -> tuple[int, int]:
    """A positive real as (multiplier in [2^30, 2^31), exponent): real ≈ m · 2^(exponent - 31)."""
    if real == 0.0:
        return 0, 0
    fraction, exponent = math.frexp(real)
    multiplier = _round_half_away(fraction * (1 << 31))
    if multiplier == 1 << 31:
        multiplier //= 2
        exponent += 1
    if exponent < -31:
        return 0, 0
    return multiplier, exponent


def requantise(sums: IntArray, how: Requantiser) -> IntArray:
    """32-bit sums (..., channels) to int8 codes of the same shape."""
    left = np.int64(1) << how.left_shift
    shifted = np.asarray(sums, dtype=np.int64) * left
    scaled = (shifted * how.multiplier + (1 << 30)) >> 31
    right = how.right_shift
    half = np.where(right > 0, np.int64(1) << np.maximum(right - 1, 0), 0)
    away = np.where(right > 0, scaled >> 63, 0)
    codes = ((scaled + half + away) >> right) + how.zero_point
    result: IntArray = np.clip(codes, how.minimum, how.maximum).astype(np.int8)
    return result


def tanh_table(input_scale: float, input_zero_point: int) -> IntArray:
    """tflite-micro's int8 Tanh of each code -128 .. 127: (256,) int8 codes of scale 1/128."""
    multiplier, left = quantise_multiplier(float(np.float32(input_scale)) * (1 << 27))
    radius = math.floor(((1 << 4) - 1) * (1 << 27) / 2.0**left)
    codes = []
    for code in range(-128, 128):
        centred = code - input_zero_point
        if centred <= -radius:
            codes.append(-128)
        elif centred >= radius:
            codes.append(127)
        else:
            rescaled = _high_mul(_saturate(centred << max(left, 0)), multiplier)
            rounded = _round_shift(_tanh(rescaled), 24)
            codes.append(max(-128, min(127, rounded)))
    return np.asarray(codes, dtype=np.int8)


def _round_half_away(x: float) -> int:
    return math.floor(x + 0.5) if x >= 0 else math.ceil(x - 0.5)


def _saturate(x: int) -> int:
    return max(INT32_MIN, min(INT32_MAX, x))


def _high_mul(a: int, b: int) -> int:
    """gemmlowp's SaturatingRoundingDoublingHighMul."""
    if a == b == INT32_MIN:
        return INT32_MAX
    product = a * b
    nudged = product + ((1 << 30) if product >= 0 else 1 - (1 << 30))
    return nudged >> 31 if nudged >= 0 else -((-nudged) >> 31)


def _round_shift(x: int, exponent: int) -> int:
    """gemmlowp's RoundingDivideByPOT."""
    remainder = x & ((1 << exponent) - 1)
    threshold = ((1 << exponent) - 1) // 2 + (1 if x < 0 else 0)
    return (x >> exponent) + (1 if remainder > threshold else 0)


def _shift_left(x: int, exponent: int) -> int:
    return _saturate(x << exponent)


def _half_sum(a: int, b: int) -> int:
    """gemmlowp's RoundingHalfSum: half away from zero."""
    total = a + b
    sign = 1 if total >= 0 else -1
    return sign * (abs(total + sign) // 2)


def _exp_on_quarter(a: int) -> int:
    """exp of a in [-1/4, 0), Q0.31 in and out."""
    x = a + (1 << 28)
    x2 = _high_mul(x, x)
    x3 = _high_mul(x2, x)
    x4 = _high_mul(x2, x2)
    series = _round_shift(_high_mul(_round_shift(x4, 2) + x3, 715827883) + x2, 1)
    term = 1895147668
    return term + _high_mul(term, x + series)


def _exp_negative(a: int) -> int:
    """exp of a <= 0 in Q5.26 to Q0.31."""
    bits = 26
    quarter = 1 << (bits - 2)
    mask = quarter - 1
    fraction = (a & mask) - quarter
    result = _exp_on_quarter(_shift_left(fraction, 5))
    remainder = fraction - a
    factors = (
        (-2, 1672461947),
        (-1, 1302514674),
        (0, 790015084),
        (1, 290630308),
        (2, 39332535),
        (3, 720401),
        (4, 242),
    )
    for exponent, factor in factors:
        if remainder & (1 << (bits + exponent)):
            result = _high_mul(result, factor)
    return INT32_MAX if a == 0 else result


def _one_minus_over_one_plus(a: int) -> int:
    """(1 - a) / (1 + a) for a in [0, 1], Q0.31, by three Newton steps."""
    half_denominator = _half_sum(a, INT32_MAX)
    x = 1515870810 + _high_mul(half_denominator, -1010580540)
    for _ in range(3):
        error = (1 << 29) - _high_mul(half_denominator, x)
        x = _saturate(x + _shift_left(_high_mul(x, error), 2))
    return _shift_left(_saturate(x - (1 << 29)), 2)


def _tanh(a: int) -> int:
    """Tanh of a in Q4.27 to Q0.31."""
    if a == 0:
        return 0
    magnitude = -abs(a)
    # exp(2x): the same bits read with one integer bit more.
    result = _one_minus_over_one_plus(_exp_negative(magnitude))
    return -result if a < 0 else result
