"""The interval beside a mean return."""

from __future__ import annotations

import math
from typing import Any

_Z = 1.959963985


def half_width(evaluation: dict[str, Any]) -> float:
    """Half of the 95 % interval of a mean return, from `mean`, `std` and `episodes`.

    Student's t, its quantile by the Cornish-Fisher expansion (Abramowitz and Stegun 26.7.5),
    which is exact to three digits from five episodes on. `std` is the population's, as
    `EvalResult` gives it. Fewer than two episodes have no interval: 0.
    """
    episodes = int(evaluation.get("episodes") or 0)
    if episodes < 2:
        return 0.0
    n = episodes - 1
    t = _Z + (_Z**3 + _Z) / (4 * n) + (5 * _Z**5 + 16 * _Z**3 + 3 * _Z) / (96 * n**2)
    return t * float(evaluation["std"]) / math.sqrt(n)
