"""A Policy that remembers what it sees."""

from __future__ import annotations

import numpy as np

from pops.spec import Array, FloatArray, Policy


class Recorder:
    """A Policy that keeps what it sees."""

    def __init__(self, policy: Policy) -> None:
        self.spec = policy.spec
        self._policy = policy
        self._seen: list[Array] = []
        self.count = 0
        """Observations seen so far."""

    def outputs(self, observations: Array) -> FloatArray:
        """As the policy."""
        return self._policy.outputs(observations)

    def act(self, observations: Array) -> Array:
        """As the policy; the observations are kept."""
        self._seen.append(np.array(observations))
        self.count += len(observations)
        return self._policy.act(observations)

    def states(self, most: int) -> Array:
        """At most `most` of the observations seen, spread evenly."""
        states: Array = np.concatenate(self._seen)
        index = np.linspace(0, len(states) - 1, min(most, len(states))).astype(int)
        chosen: Array = states[index]
        return chosen
