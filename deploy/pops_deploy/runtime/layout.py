"""How a file wants its observations: what `io` in artifact.json says, applied to arrays."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np

from pops.errors import ArtifactError
from pops.spec import Array, PolicySpec

LAYOUTS = ("flat", "index", "channels_first", "channels_last")


def arrange(spec: PolicySpec, io: dict[str, Any], dtype: type) -> Callable[[Array], Array]:
    """The function that turns observations (N, *observation_shape) into a file's input.

    Args:
        spec: of the policy.
        io: the file's entry in artifact.json; `layout` is one of LAYOUTS, "flat" by default.
        dtype: of the file's input, before any quantisation.

    Raises:
        ArtifactError: if the layout is unknown.
    """
    layout = io.get("layout", "flat")
    if layout not in LAYOUTS:
        raise ArtifactError(
            f"artifact.json states the input layout {layout!r}, expected one of: "
            f"{', '.join(LAYOUTS)}. Use the pops version that wrote it, or export again."
        )
    moves = layout in ("channels_first", "channels_last") and spec.channels_last != (
        layout == "channels_last"
    )
    source, destination = (1, -1) if layout == "channels_last" else (-1, 1)

    def flat(observations: Array) -> Array:
        x: Array = np.asarray(observations, dtype)
        return x.reshape(x.shape[0] if x.ndim else 1, -1)

    def image(observations: Array) -> Array:
        x = np.asarray(observations)
        if moves:
            x = np.moveaxis(x, source, destination)
        return np.ascontiguousarray(x, dtype)

    return image if layout.startswith("channels") else flat
