"""How decided a distilled student is while it learns from its return.

A student is judged by the likeliest action of each state, but a policy gradient improves a policy
that draws its actions. Distilled logits are the teacher's probabilities: drawn from as they are,
they lose most of the return, and what is learnt is to bear the student's own chance. A common
factor changes no likeliest action, so that the student is sharpened before it learns, and more
while it does.
"""

from __future__ import annotations

import math

import numpy as np
from scipy.optimize import brentq
from scipy.special import entr, softmax

from pops.spec import FloatArray

REACH = math.log(64)
"""Factors from one to the other end of this, up and down, are considered."""


def entropy_share(outputs: FloatArray) -> float:
    """Mean entropy of the softmax of outputs (N, n), as a share of that of random actions."""
    entropies = entr(softmax(outputs.astype(np.float64), axis=1)).sum(axis=1)
    return float(entropies.mean() / math.log(outputs.shape[1]))


def sharpening(outputs: FloatArray, share: float) -> float:
    """The factor on outputs (N, n) at which `entropy_share` is `share`; within 1/64 and 64."""

    def beyond(logarithm: float) -> float:
        return entropy_share(outputs * np.float32(math.exp(logarithm))) - share

    if beyond(-REACH) <= 0:
        return math.exp(-REACH)
    if beyond(REACH) >= 0:
        return math.exp(REACH)
    return math.exp(brentq(beyond, -REACH, REACH, xtol=1e-3))


def further(growth: float, progress: float) -> float:
    """What logits are multiplied by besides, from 1 to `growth` as progress goes from 0 to 1."""
    return 1 + (growth - 1) * min(progress, 1.0)
