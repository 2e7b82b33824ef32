"""The self test's vectors as C tables."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from pops.errors import UsageError
from pops.spec import Array, DiscreteActions, PolicySpec
from pops_export.c.images import RECTANGLES, drawn_images
from pops_export.c.options import COptions, Golden
from pops_export.c.text import c_float, c_table

MAX_VECTORS = 64


@dataclass(frozen=True)
class GoldenTables:
    """What the template needs."""

    tables: str
    vectors: int
    compare: str
    """A C condition on `difference` that holds for a right output."""
    compare_action: str
    rectangles: int
    """How many the C draws on an image; 0 where observations are stored."""
    shape: tuple[int, ...]
    """(height, width, channels) of such an image."""


def golden_tables(golden: Golden, spec: PolicySpec, options: COptions, exact: bool) -> GoldenTables:
    """Tables of observations, outputs and actions.

    Raises:
        UsageError: if there are none or too many vectors, or their shapes do not fit.
    """
    p = options.prefix
    observations = channel_last(np.asarray(golden.observations), spec)
    outputs = np.asarray(golden.outputs, dtype=np.float32)
    n = len(observations)
    if not 1 <= n <= MAX_VECTORS or outputs.shape != (n, spec.n_outputs):
        raise UsageError(
            f"A self test carries 1 to {MAX_VECTORS} golden vectors with {spec.n_outputs} outputs "
            f"each, found {n} with outputs {outputs.shape}."
        )
    actions = spec.decode(outputs).reshape(n, -1)
    bytes_in = takes_bytes(spec)
    tables = ""
    if not bytes_in:
        flat = [c_float(float(v)) for v in observations.reshape(-1)]
        tables = c_table(f"float {p}_golden_observations", flat)
    elif not np.array_equal(observations, channel_last(drawn_images(spec, n), spec)):
        raise UsageError(
            "The self test of a policy that takes bytes draws its images itself; give those that "
            "`drawn_images` makes, and what the policy puts out for them."
        )
    tables += c_table(f"float {p}_golden_outputs", [c_float(float(v)) for v in outputs.reshape(-1)])
    if isinstance(spec.actions, DiscreteActions):
        tables += c_table(f"int32_t {p}_golden_actions", [str(int(a)) for a in actions.reshape(-1)])
    else:
        tables += c_table(
            f"float {p}_golden_actions", [c_float(float(a)) for a in actions.reshape(-1)]
        )
    limit = c_float(0.0 if exact else 1e-4 * max(1.0, float(np.abs(outputs).max())))
    near = "!(difference > 0.0f) && !(difference < 0.0f)"
    near = near if exact else f"difference <= {limit} && difference >= -{limit}"
    wide = c_float(0.0 if exact else 1e-4 * max(1.0, float(np.abs(actions).max())))
    near_action = near if exact else f"difference <= {wide} && difference >= -{wide}"
    channels, height, width = spec.input_shape if bytes_in else (0, 0, 0)
    return GoldenTables(
        tables, n, near, near_action, RECTANGLES * bytes_in, (height, width, channels)
    )


def takes_bytes(spec: PolicySpec) -> bool:
    """Whether the C takes uint8 observations: images do, all else is float32."""
    return spec.observation_dtype == "uint8" and len(spec.input_shape) == 3


def channel_last(observations: Array, spec: PolicySpec) -> Array:
    """Observations as the C takes them: images channel-last, uint8 or float32."""
    x = np.asarray(observations, dtype=np.uint8 if takes_bytes(spec) else np.float32)
    if len(spec.observation_shape) == 3 and not spec.channels_last:
        x = np.moveaxis(x, 1, -1)
    return np.ascontiguousarray(x)
