"""Small dense networks on cores with DSP instructions: all values stay in registers.

Up to eight inputs and eight units a layer, two values in each register. The same codes as the
loops of the other kernels give; tables hold each row as it is loaded, by one instruction.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from pops_export.c.layers import bias_of_bytes, sums_range
from pops_export.c.options import COptions
from pops_export.c.quantise import QuantisePlan
from pops_export.c.steps import OneStep, one_step
from pops_export.c.text import c_table
from pops_export.int8.network import DenseLayer, IntArray, IntegerNetwork

WIDEST = 8
REGISTERS = ("r4", "r5", "r6", "r8", "r9", "r10", "r11")
"""Where a row is loaded to; not r7, which unoptimised code keeps for itself."""


@dataclass(frozen=True)
class TinyPlan:
    """What the template needs."""

    table: str
    groups: tuple[Group, ...]
    hidden: tuple[TinyLayer, ...]
    output: TinyLayer
    centred: bool
    """The input codes' zero point is 0: they stay signed."""
    offset: str
    """The pair that is added to input codes otherwise."""
    pairs: int
    """Registers that hold values."""


@dataclass(frozen=True)
class Group:
    """Up to four observation features, loaded at once."""

    assembly: tuple[str, ...]
    features: int
    clobbers: str
    pairs: tuple[int, ...]
    """Which registers of values it fills."""


@dataclass(frozen=True)
class TinyLayer:
    """One dense layer."""

    inputs: int
    """Pairs of inputs."""
    rows: int
    assembly: tuple[tuple[str, ...], ...]
    """Of one pair of rows for hidden layers, of each row for the output layer."""
    clobbers: str
    added: int | None = None
    """What the output layer's rows add, where it is the same for all."""


def plan_tiny(
    network: IntegerNetwork, quantise: QuantisePlan, options: COptions
) -> TinyPlan | None:
    """Plan, or None where the network is too large or of another kind."""
    layers = network.layers
    if options.layout != "speed" or quantise.float_lines or network.gather is not None:
        return None
    if any(not isinstance(la, DenseLayer) or la.tanh is not None for la in layers):
        return None
    if network.inputs > WIDEST or any(la.outputs > WIDEST for la in layers):
        return None
    if any(not 0 <= power <= 14 for power in quantise.powers):
        return None
    if quantise.minimum != "-128" or quantise.maximum != "127":
        return None
    centred = network.input_zero_point == 0
    words = _limits(quantise, network.inputs)
    hidden = []
    for index, layer in enumerate(layers[:-1]):
        low, high = sums_range(layer)
        form = one_step(layer.requantise, bias_of_bytes(layer), low, high, max_lift=8)
        if form is None or (form.base, form.span) != (-128, 255) or not 0 < form.shift < 32:
            return None
        words += _hidden_words(layer.weight, form, shifted=centred and index == 0)
        hidden.append(_hidden(layer.weight.shape, form.shift))
    last = layers[-1]
    assert isinstance(last, DenseLayer)
    output = _output(last, shifted=centred and len(layers) == 1)
    if output is None:
        return None
    words += output[0]
    p = options.prefix
    return TinyPlan(
        table=c_table(f"uint32_t {p}_rows", [f"{w & 0xFFFFFFFF}u" for w in words]),
        groups=_groups(quantise, network.inputs),
        hidden=tuple(hidden),
        output=output[1],
        centred=centred,
        pairs=max((n + 1) // 2 for n in (network.inputs, *(la.outputs for la in layers[:-1]))),
        offset=f"{_pair(network.input_zero_point + 128, network.input_zero_point + 128)}u",
    )


def _pair(low: int, high: int) -> int:
    return (low & 0xFFFF) | ((high & 0xFFFF) << 16)


def _row(weights: Sequence[int]) -> list[int]:
    full = [*weights, 0] if len(weights) % 2 else list(weights)
    return [_pair(a, b) for a, b in zip(full[::2], full[1::2])]


def _hidden_words(weight: IntArray, form: OneStep, shifted: bool) -> list[int]:
    words = []
    for row, offset, multiplier in zip(weight, form.offset, form.multiplier):
        lifted = [int(w) << form.lift for w in row]
        words += [*_row(lifted), offset + 128 * sum(lifted) * shifted, multiplier]
    if len(weight) % 2:  # a row of zeros gives zero
        words += [0] * (len(_row(lifted)) + 2)
    return words


def _sums(pairs: int, total: str) -> list[str]:
    return [f"smlad {total}, {REGISTERS[i]}, %[x{i}], {total}" for i in range(pairs)]


def _hidden(shape: tuple[int, ...], shift: int) -> TinyLayer:
    rows, columns = shape
    pairs = (columns + 1) // 2
    used = REGISTERS[: pairs + 2]
    total, multiplier = used[-2:]
    load = f"ldmia %[t]!, {{{', '.join(used)}}}"
    row = [load, *_sums(pairs, total), f"smmul {total}, {total}, {multiplier}"]
    assembly = [
        *row,
        f"usat %[y], #8, {total}, asr #{shift}",
        *row,
        f"usat {total}, #8, {total}, asr #{shift}",
        f"pkhbt %[y], %[y], {total}, lsl #16",
    ]
    return TinyLayer(pairs, (rows + 1) // 2, (tuple(assembly),), _clobbers(used))


def _output(layer: DenseLayer, shifted: bool) -> tuple[list[int], TinyLayer] | None:
    how = layer.requantise
    if (how.minimum, how.maximum) != (-128, 127) or how.left_shift.any():
        return None
    if how.right_shift.min() < 1 or how.right_shift.max() > 20:
        return None
    pairs = (layer.inputs + 1) // 2
    constants = [
        (1 << (int(right) - 1)) + ((how.zero_point + 128) << int(right))
        for right in how.right_shift
    ]
    if max(map(abs, constants)) >= 1 << 30:
        return None
    alike = len(set(constants)) == 1  # then a register holds it, not the table
    used = REGISTERS[: pairs + (2 if alike else 3)]
    total, multiplier = used[pairs : pairs + 2]
    added = used[0] if alike else used[-1]
    source = "%[added]" if alike else added
    words, assembly = [], []
    for row, bias, m, right, constant in zip(
        layer.weight, bias_of_bytes(layer), how.multiplier, how.right_shift, constants
    ):
        # Twice the sum times the multiplier: its upper half is the product shifted by 31.
        doubled = [2 * int(w) for w in row]
        words += [*_row(doubled), 2 * int(bias) + 128 * sum(doubled) * shifted, int(m)]
        words += [] if alike else [constant]
        assembly.append(
            (
                f"ldmia %[t]!, {{{', '.join(used)}}}",
                *_sums(pairs, total),
                # a half rounds away from zero: one less where the sum is negative
                f"add {added}, {source}, {total}, asr #31",
                f"smmlar {total}, {total}, {multiplier}, {added}",
                f"usat {total}, #8, {total}, asr #{int(right)}",
                f"str {total}, [%[codes]], #4",
            )
        )
    plan = TinyLayer(
        pairs, len(layer.weight), tuple(assembly), _clobbers(used), constants[0] if alike else None
    )
    return words, plan


def _clobbers(registers: Sequence[str]) -> str:
    return ", ".join(f'"{name}"' for name in registers)


def _limits(plan: QuantisePlan, inputs: int) -> list[int]:
    """For each pair: the smallest codes, and the largest less the smallest."""
    if not plan.range_checked:
        return []
    low = [*plan.lows, 0] if inputs % 2 else list(plan.lows)
    high = [*plan.highs, 0] if inputs % 2 else list(plan.highs)
    words = []
    for i in range(0, len(low), 2):
        words += [_pair(low[i], low[i + 1]), _pair(high[i] - low[i], high[i + 1] - low[i + 1])]
    return words


def _groups(plan: QuantisePlan, inputs: int) -> tuple[Group, ...]:
    groups = []
    for first in range(0, inputs, 4):
        n = min(4, inputs - first)
        last = f"-s{n - 1}" if n > 1 else ""
        lines = [f"vldmia %[x]!, {{s0{last}}}"]
        # NaN and infinity stay what they are; all else becomes next to nothing.
        lines.append(f"{'vfma' if first else 'vmul'}.f32 %[n], s0, %[tiny]")
        lines += [f"vfma.f32 %[n], s{i}, %[tiny]" for i in range(1, n)]
        if plan.reciprocal:
            lines += [f"vdiv.f32 s{i}, s{i}, %[divisor]" for i in range(n)]
        # One bit of fraction is kept for rounding; conversions saturate at 16 bits.
        powers = plan.powers[first : first + n]
        lines += [f"vcvt.s16.f32 s{i}, s{i}, #{power + 1}" for i, power in enumerate(powers)]
        pairs = tuple(first // 2 + k for k in range((n + 1) // 2))
        limits = REGISTERS[: 2 * len(pairs)] if plan.range_checked else ()
        if limits:
            lines.append(f"ldmia %[t]!, {{{', '.join(limits)}}}")
        for k, pair in enumerate(pairs):
            lines += _pair_lines(plan, pair, 2 * k, 2 * k + 1 < n, limits[2 * k : 2 * k + 2])
        clobbers = _clobbers((*(f"s{i}" for i in range(n)), *limits))
        groups.append(Group(tuple(lines), n, clobbers, pairs))
    return tuple(groups)


def _pair_lines(
    plan: QuantisePlan, pair: int, single: int, full: bool, limits: Sequence[str]
) -> list[str]:
    """Two converted values to one register of codes, checked against the calibrated range."""
    v = f"%[x{pair}]"
    if full:
        lines = [f"vmov {v}, %[a], s{single}, s{single + 1}", f"pkhbt {v}, {v}, %[a], lsl #16"]
    else:
        lines = [f"vmov {v}, s{single}", f"uxth {v}, {v}"]
    # Half away from zero: one more where not negative, then half of it.
    lines += [f"bic %[a], %[ones], {v}, lsr #15", f"shadd16 {v}, {v}, %[a]"]
    if limits:
        low, width = limits
        lines.append(f"ssub16 {low}, {v}, {low}")
        if pair == 0:
            lines.append(f"uqsub16 %[o], {low}, {width}")
        else:
            lines += [f"uqsub16 {low}, {low}, {width}", f"orr %[o], %[o], {low}"]
    if plan.zero_point == 0:
        return [*lines, f"ssat16 {v}, #8, {v}"]
    return [*lines, f"qadd16 {v}, {v}, %[offset]", f"usat16 {v}, #8, {v}"]
