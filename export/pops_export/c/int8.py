"""The context of the int8 templates."""

from __future__ import annotations

from typing import Any

import numpy as np

from pops.errors import UsageError
from pops.spec import DiscreteActions, PolicySpec
from pops_export.c.decode import DecodePlan, plan_decode
from pops_export.c.golden import golden_tables, takes_bytes
from pops_export.c.layers import padded, plan_layers
from pops_export.c.options import COptions
from pops_export.c.quantise import plan_quantise
from pops_export.c.text import c_table
from pops_export.c.tiny import plan_tiny
from pops_export.int8 import reference
from pops_export.int8.network import ConvLayer, IntArray, IntegerNetwork

UNROLL_NONE = """#if defined(__GNUC__) && !defined(__clang__)
#pragma GCC unroll 1
#endif"""
NOT_FINITE_INT8 = (
    "a feature that is NaN\n   counts as 0 after scaling, an infinite one as the largest or "
    "smallest that the network can see."
)
OUT_OF_RANGE_INT8 = (
    "a feature lies further than one quantisation step outside of the range\n   that it took "
    "during calibration, that is, outside of what was verified."
)


def int8_context(network: IntegerNetwork, spec: PolicySpec, options: COptions) -> dict[str, Any]:
    """Everything that the int8 templates need."""
    check_network(network, spec)
    p, P = options.prefix, options.prefix.upper()
    bytes_in = takes_bytes(spec)
    table = byte_codes(network) if bytes_in else None
    in_place = table is not None and np.array_equal(table, np.arange(256))
    plan = plan_layers(network, options, image_in_place=in_place)
    quantise = None if bytes_in else plan_quantise(network, options)
    tiny = None if quantise is None else plan_tiny(network, quantise, options)
    out = plan_decode(network, spec, p)
    byte_table, byte_code = "", "observation[i]"
    if table is not None and not in_place:
        byte_table = c_table("uint8_t byte_code", [str(c) for c in table], "    ")
        byte_code = "byte_code[observation[i]]"
    return {
        **shared_context(spec, options, out, exact=True),
        "arithmetic": "int8",
        "network": describe(network),
        "scratch_bytes": max(4, plan.scratch_bytes),
        "parameters": sum(la.weight.size + la.bias.size for la in network.layers),
        "macs": sum(_macs(layer) for layer in network.layers),
        "not_finite": "cannot be." if bytes_in else NOT_FINITE_INT8,
        "out_of_range": "never for bytes." if bytes_in else OUT_OF_RANGE_INT8,
        "calls": "memcpy and memset",
        "bytes_in": bytes_in,
        "byte_table": byte_table,
        "byte_code": byte_code,
        "image_in_place": plan.image_in_place,
        "inputs": network.inputs,
        "padded_inputs": padded(network.inputs),
        "output_offset": plan.output_offset,
        "plan": quantise,
        "tiny": tiny,
        "unroll_none": UNROLL_NONE,
        "weight_type": "int16_t" if options.layout == "speed" else "int8_t",
        "second": 2 if options.layout == "speed" else 1,
        "third": 1 if options.layout == "speed" else 2,
        **plan.direct,
        "uses_one_step": plan.uses_one_step,
        "uses_exact": plan.uses_exact,
        "tables": plan.tables,
        "calls_text": plan.calls,
        "out": out,
        "P": P,
        "p": p,
    }


def shared_context(
    spec: PolicySpec, options: COptions, out: DecodePlan | None, exact: bool
) -> dict[str, Any]:
    """What headers, entry points and self tests need of any arithmetic."""
    discrete = isinstance(spec.actions, DiscreteActions)
    golden = None
    if options.golden is not None:
        golden = golden_tables(options.golden, spec, options, exact)
    where = f" of {spec.env.id}" if spec.env is not None else ""
    size = 1 if spec.one_hot else int(np.prod(spec.observation_shape))
    start = spec.actions.start if isinstance(spec.actions, DiscreteActions) else 0
    return {
        "title": f"A policy{where}.",
        "policy_id": options.policy_id,
        "layout": options.layout,
        "observation_size": size,
        "output_size": spec.n_outputs,
        "action_size": 1 if discrete else spec.n_outputs,
        "one_hot": spec.one_hot,
        "golden": golden,
        "golden_vectors": golden.vectors if golden else 0,
        "observation_type": "uint8_t" if takes_bytes(spec) else "float",
        "action_type": "int32_t" if discrete else "float",
        "action_comment": f", {start} .. {start + spec.n_outputs - 1}"
        if discrete
        else " of that many numbers, in the environment's units",
        "output_kind": spec.output.replace("_", " "),
        "out": out,
    }


def check_network(network: IntegerNetwork, spec: PolicySpec) -> None:
    """Raise unless the file's shapes are those of the spec.

    Raises:
        UsageError: naming the shapes found and expected.
    """
    expected = spec.input_shape
    if len(expected) == 3:
        expected = (expected[1], expected[2], expected[0])
    if network.input_shape != expected or network.outputs != spec.n_outputs:
        raise UsageError(
            f"The int8 file maps {network.input_shape} to {network.outputs} outputs, but the "
            f"policy's spec wants {expected} to {spec.n_outputs}."
        )


def byte_codes(network: IntegerNetwork) -> IntArray:
    """(256,) the byte (code + 128) that each value of a uint8 observation becomes.

    Raises:
        UsageError: if pixels are scaled differently from place to place.
    """
    if any(stage.values.size != 1 for stage in network.stages):
        raise UsageError("The C generator needs one scale for all the pixels of an image.")
    values = np.arange(256, dtype=np.float32).reshape(256, *([1] * len(network.input_shape)))
    images = np.broadcast_to(values, (256, *network.input_shape))[:, :1, :1, :1]
    small = IntegerNetwork(
        (1, 1, 1),
        network.stages,
        None,
        network.input_scale,
        network.input_zero_point,
        network.layers,
        network.output_scale,
        network.output_zero_point,
        network.output_stages,
        network.int8_io,
    )
    return reference.quantise(small, images).reshape(256).astype(np.int64) + 128


def describe(network: IntegerNetwork) -> str:
    """For example 4-8-2, or conv 8x8/4x4 32, dense 512-6."""
    parts = []
    for layer in network.layers:
        if isinstance(layer, ConvLayer):
            rows, columns = layer.weight.shape[1:3]
            parts.append(f"conv {rows}x{columns}x{layer.weight.shape[0]}")
        else:
            parts.append(f"{layer.inputs}-{layer.outputs}" if not parts else f"{layer.outputs}")
    if isinstance(network.layers[0], ConvLayer):
        return ", ".join(parts)
    return "-".join(parts)


def _macs(layer: Any) -> int:
    if isinstance(layer, ConvLayer):
        rows, columns, _ = layer.output_shape
        return int(layer.weight.size) * rows * columns
    return int(layer.weight.size)
