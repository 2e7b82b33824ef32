"""Plan the step from output codes to outputs and to the action."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pops.spec import ContinuousActions, DiscreteActions, PolicySpec
from pops_export.c.text import c_float, c_table, column
from pops_export.int8 import reference
from pops_export.int8.network import IntArray, IntegerNetwork


@dataclass(frozen=True)
class DecodePlan:
    """What the template needs."""

    kind: str
    """"codes": the largest code; "floats": the largest output; "continuous"."""
    start: str
    zero_point: int
    """Zero point plus 128."""
    scale: str
    output_tables: str
    float_lines: tuple[str, ...]
    fused: bool
    action_tables: str
    action_lines: tuple[str, ...]


def plan_decode(network: IntegerNetwork, spec: PolicySpec, prefix: str) -> DecodePlan:
    """Plan for a network and its actions."""
    n = network.outputs
    tables, lines = [], []
    for number, stage in enumerate(network.output_stages):
        values = np.broadcast_to(stage.values, (n,))
        table, value = column([float(v) for v in values], "float", f"after{number}", c_float)
        tables.append(_indent(table))
        if stage.kind in ("minimum", "maximum"):
            lines.append(f"x = x {'>' if stage.kind == 'minimum' else '<'} {value} ? {value} : x;")
        else:
            sign = {"add": "+", "sub": "-", "mul": "*", "div": "/"}[stage.kind]
            lines.append(f"x = x {sign} {value};")
    by_code = _outputs_by_code(network)
    kind = "codes" if _ordered(by_code) else "floats"
    start, action_tables, action_lines = "", "", [""]
    if isinstance(spec.actions, DiscreteActions):
        start = f" + {spec.actions.start}" if spec.actions.start else ""
    else:
        kind = "continuous"
        action_tables, action_lines = _continuous(spec.actions, spec, by_code)
    return DecodePlan(
        kind=kind,
        start=start,
        zero_point=128 + network.output_zero_point,
        scale=c_float(network.output_scale),
        output_tables="".join(tables),
        float_lines=tuple(lines),
        fused=any(s.kind in ("add", "sub") for s in network.output_stages),
        action_tables=action_tables,
        action_lines=tuple(action_lines),
    )


def _outputs_by_code(network: IntegerNetwork) -> IntArray:
    """(256, outputs) float32: what each code 0 .. 255 (code + 128) of each output stands for."""
    codes = np.repeat(np.arange(-128, 128, dtype=np.int8)[:, None], network.outputs, axis=1)
    return reference.dequantise(network, codes)


def _ordered(by_code: IntArray) -> bool:
    """The order of any two codes is the order of their outputs, whichever outputs they are."""
    return bool(np.all(by_code == by_code[:, :1]) and np.all(np.diff(by_code[:, 0]) > 0))


def _continuous(
    box: ContinuousActions, spec: PolicySpec, by_code: IntArray
) -> tuple[str, list[str]]:
    """A table from code to action: the reference's own arithmetic, no libm."""
    actions = spec.decode(by_code).reshape(256, -1)
    if np.array_equal(actions, np.repeat(actions[:, :1], actions.shape[1], axis=1)):
        table = c_table("float actions", [c_float(a) for a in actions[:, 0]], "    ")
        return table, ["float x = actions[codes[i]];"]
    table = c_table("float actions", [c_float(a) for a in actions.T.reshape(-1)], "    ")
    return table, ["float x = actions[256 * i + codes[i]];"]


def _indent(table: str) -> str:
    return "".join(f"    {line}\n" for line in table.splitlines())
