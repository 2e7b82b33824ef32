"""Plan the step from observations to input codes.

The float stages of the file are monotone in each feature, so clips commute with the rounding
and become bounds on codes. Powers of two at the end of the stages, and the quantising scale where
it is one, become an exponent for each feature: that part needs no float arithmetic at all.
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np

from pops.errors import UsageError
from pops.spec import FloatArray
from pops_export.c.options import COptions
from pops_export.c.text import c_float, c_table, column
from pops_export.int8.network import FloatStage, IntArray, IntegerNetwork

FAR = 16384
"""Where the rounding step saturates, in codes."""


@dataclass(frozen=True)
class QuantisePlan:
    """What the template needs."""

    inputs: int
    padded_inputs: int
    index: str
    tables: str
    float_lines: tuple[str, ...]
    fused: bool
    """A product is followed by a sum, which a compiler could contract."""
    divisor: str
    """In [0.5, 1): what is left of the quantising scale without its power of two."""
    reciprocal: int
    """2^30 / divisor, where multiplying is exact enough; 0 where nothing is left to divide by."""
    nudge: str
    least_shift: int
    power: str
    scale: str
    powers: tuple[int, ...]
    range_checked: bool
    lows: tuple[int, ...]
    """Smallest codes seen in calibration, without zero point; empty if not known."""
    highs: tuple[int, ...]
    low: str
    high: str
    minimum: str
    maximum: str
    zero_point: int


def plan_quantise(network: IntegerNetwork, options: COptions) -> QuantisePlan:
    """Plan for a network whose observations are floats.

    Raises:
        UsageError: if a stage is not increasing, which the exporter never writes.
    """
    n, p = network.inputs, options.prefix
    stages = _per_feature(network)
    if any(s.kind in ("mul", "div") and np.any(s.values <= 0) for s in stages):
        raise UsageError(
            "The file scales its observations by a number that is not positive; the C generator "
            "needs increasing stages. Use a positive scale and fold the sign into the weights."
        )
    unclipped = [s for s in stages if s.kind not in ("minimum", "maximum")]
    # Powers of two commute with every rounding, the division's as well.
    divisor, power = math.frexp(network.input_scale)
    powers = np.full(n, -power, dtype=np.int64)
    reciprocal = None
    if divisor == 0.5:
        powers += 1
    else:
        reciprocal = find_reciprocal(divisor, 128 + abs(network.input_zero_point))
    while unclipped and unclipped[-1].kind in ("mul", "div"):
        fraction, exponent = np.frexp(unclipped[-1].values)
        if not np.all(fraction == 0.5):
            break
        powers += (exponent - 1) * (1 if unclipped.pop().kind == "mul" else -1)
    if divisor != 0.5 and reciprocal is None:
        unclipped.append(_full("div", divisor, n))
    if np.any(np.abs(powers) > 100):
        raise UsageError("The file scales an observation by more than 2^100; normalise it first.")
    tables, lines = [], []
    for number, stage in enumerate(unclipped):
        table, value = column(
            [float(v) for v in stage.values], "float", f"{p}_stage{number}", c_float
        )
        tables.append(table)
        sign = {"add": "+", "sub": "-", "mul": "*", "div": "/"}[stage.kind]
        lines.append(f"x = x {sign} {value};")
    kinds = [s.kind for s in unclipped]
    bounds = [_round(network, stages, np.full(n, x, np.float32)) for x in (-np.inf, np.inf)]
    zero = network.input_zero_point
    columns = [
        column([int(v) for v in powers], "int8_t", f"{p}_power", str),
        column([math.ldexp(1.0, int(v)) for v in powers], "float", f"{p}_scale", c_float),
        column([int(v) for v in np.maximum(bounds[0] + zero, -128)], "int8_t", f"{p}_least", str),
        column([int(v) for v in np.minimum(bounds[1] + zero, 127)], "int8_t", f"{p}_most", str),
    ]
    guarded = _guard(tables=columns[:2], p=options.prefix.upper())
    low = high = ""
    seen: list[tuple[int, ...]] = []
    if options.calibration_min is not None and options.calibration_max is not None:
        free = [s for s in stages if s.kind not in ("minimum", "maximum")]
        for values, name in ((options.calibration_min, "low"), (options.calibration_max, "high")):
            picked = _pick(network, np.asarray(values, dtype=np.float32))
            codes = np.clip(_round(network, free, picked), 1 - FAR, FAR - 1)
            seen.append(tuple(int(v) for v in codes))
            table, value = column([int(v) for v in codes], "int16_t", f"{p}_{name}", str)
            tables.append(table)
            low, high = (value, high) if name == "low" else (low, value)
    index = "i"
    if network.gather is not None and network.gather != tuple(range(network.input_shape[0])):
        tables.append(c_table(f"int16_t {p}_feature", [str(i) for i in network.gather]))
        index = f"{p}_feature[i]"
    tables += [guarded, columns[2][0], columns[3][0]]
    return QuantisePlan(
        inputs=n,
        padded_inputs=-(-n // 4) * 4,
        index=index,
        tables="".join(tables),
        float_lines=tuple(lines),
        fused=any(a in ("mul", "div") and b in ("add", "sub") for a, b in zip(kinds, kinds[1:])),
        power=columns[0][1],
        divisor=c_float(divisor),
        reciprocal=reciprocal[0] if reciprocal else 0,
        nudge=f" {reciprocal[1]:+d}".replace("+", "+ ").replace("-", "- ")
        if reciprocal and reciprocal[1]
        else "",
        least_shift=13 if reciprocal else 8,
        scale=columns[1][1],
        powers=tuple(int(v) for v in powers),
        range_checked=bool(low),
        lows=seen[0] if seen else (),
        highs=seen[1] if seen else (),
        low=low,
        high=high,
        minimum=columns[2][1],
        maximum=columns[3][1],
        zero_point=zero,
    )


def find_reciprocal(divisor: float, codes: int) -> tuple[int, int] | None:
    """(R, nudge) with which a product of integers rounds as the float32 quotient does.

    The quotient's rounded value and the product's are both monotone in the observation, so they
    agree everywhere if they agree on both sides of each of their steps.

    Args:
        divisor: a float32 in (0.5, 1).
        codes: largest result, in codes, that must be right.

    Returns:
        R, about 2^30 / divisor, and what is added to the product beside half of the quotient's
        last place; None if no pair works: then the C divides.
    """
    halves = np.arange(1, codes + 1) - 0.5
    single = np.float32(divisor)
    step = (halves * divisor).astype(np.float32)
    for _ in range(3):  # the smallest float32 whose rounded quotient reaches the half
        before = np.nextafter(step, np.float32(0))
        step = np.where((before / single).astype(np.float64) >= halves, before, step)
        short = (step / single).astype(np.float64) < halves
        step = np.where(short, np.nextafter(step, np.float32(np.inf)), step)
    below = np.nextafter(step, np.float32(0))
    wanted = np.arange(1, codes + 1)
    nearest = round((1 << 30) / divisor)
    candidates = [(nearest + extra, nudge) for extra in range(-3, 4) for nudge in (0, 1, -1)]
    for candidate in sorted(candidates, key=lambda c: abs(c[0] - nearest) + abs(c[1])):
        right = _integer_round(step, candidate) == wanted
        right &= _integer_round(below, candidate) == wanted - 1
        if candidate[0] < 1 << 31 and right.all():
            return candidate
    return None


def _integer_round(x: FloatArray, how: tuple[int, int]) -> IntArray:
    """What the generated code computes for positive x and power 0."""
    bits = x.astype(np.float32).view(np.int32).astype(np.int64)
    significand = (((bits & 0x7FFFFF) | 0x800000) << 7) * how[0] >> 32
    significand += (16 << (significand >> 29)) + how[1]  # half of the quotient's last place
    shift = np.minimum(np.maximum(141 - (bits >> 23), 0) + 13, 31)
    result: IntArray = (np.minimum(significand >> shift, 32767) + 1) >> 1
    return result


def _guard(tables: list[tuple[str, str]], p: str) -> str:
    """Both forms of the exponents' table, each compiled only where it is used."""
    if not tables[0][0]:
        return ""
    return f"#if {p}_VCVT\n{tables[1][0]}#else\n{tables[0][0]}#endif\n"


def _full(kind: str, value: float, n: int) -> FloatStage:
    return FloatStage(kind, np.full(n, value, dtype=np.float32))


def _per_feature(network: IntegerNetwork) -> list[FloatStage]:
    """The stages with one value for each input, flattened."""
    shape = (network.inputs,) if network.gather is not None else network.input_shape
    return [
        FloatStage(s.kind, np.broadcast_to(s.values, shape).reshape(-1).astype(np.float32))
        for s in network.stages
    ]


def _pick(network: IntegerNetwork, values: FloatArray) -> FloatArray:
    flat = values.reshape(-1)
    return flat if network.gather is None else flat[list(network.gather)]


def _round(network: IntegerNetwork, stages: list[FloatStage], x: FloatArray) -> FloatArray:
    """Codes without zero point, before any saturation but the rounding step's."""
    for stage in stages:
        x = stage.apply(x)
    with np.errstate(all="ignore"):
        quotient = (x / np.float32(network.input_scale)).astype(np.float64)
    quotient = np.clip(quotient, -FAR, FAR)
    result: FloatArray = np.where(
        quotient < 0, np.ceil(quotient - 0.5), np.floor(quotient + 0.5)
    ).astype(np.int64)
    return result
