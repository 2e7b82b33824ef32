"""The mean of a network's parameters over part of its learning (Polyak and Juditsky 1992).

What one update of a policy gradient learns from some twenty rewards is mostly noise: the policy
wanders about one that is better than it ever is. Averaged weights of one run are near to that one
(Izmailov et al. 2018, arXiv 1803.05407).
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import numpy as np

from pops.policy import Parameters
from pops.spec import Array


class Average:
    """A running mean of (weight, bias) of each layer."""

    def __init__(self, arrays: Mapping[str, Any]) -> None:
        """Empty, or what `to_arrays` made of another."""
        found = sorted(key for key in arrays if key.startswith("average/"))
        self._sums: list[Array] = [np.array(arrays[key]) for key in found]
        self._count = int(np.asarray(arrays.get("averaged", 0)))

    def add(self, parameters: Parameters) -> None:
        """One more."""
        flat = [array.astype(np.float64) for pair in parameters for array in pair]
        self._sums = [a + b for a, b in zip(self._sums, flat)] if self._count else flat
        self._count += 1

    def parameters(self) -> Parameters | None:
        """The mean; None of nothing."""
        if not self._count:
            return None
        flat = [(total / self._count).astype(np.float32) for total in self._sums]
        return list(zip(flat[::2], flat[1::2]))

    def to_arrays(self) -> dict[str, Array]:
        """By name, float64."""
        sums = {f"average/{index:03d}": total for index, total in enumerate(self._sums)}
        return {**sums, "averaged": np.asarray(self._count)}
