"""The interval beside a mean return."""

from __future__ import annotations

import math
from typing import Any

_Z = 1.959963985


def half_width(evaluation: dict[str, Any]) -> float:
    """Half of the 95 % interval of a mean return, from `mean`, `std` and `episodes`.

    Student's t, its quantile by the Cornish-Fisher expansion (Abramowitz and Stegun 26.7.5),
    which is within 0.5 % from five episodes on and 0.1 % from ten. `std` is the population's, as
    `EvalResult` gives it. Fewer than two episodes have no interval: 0.
    """
    episodes = int(evaluation.get("episodes") or 0)
    if episodes < 2:
        return 0.0
    n = episodes - 1
    t = (
        _Z
        + (_Z**3 + _Z) / (4 * n)
        + (5 * _Z**5 + 16 * _Z**3 + 3 * _Z) / (96 * n**2)
        + (3 * _Z**7 + 19 * _Z**5 + 17 * _Z**3 - 15 * _Z) / (384 * n**3)
    )
    return t * float(evaluation["std"]) / math.sqrt(n)
