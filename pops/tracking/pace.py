"""How much longer: an estimate from the stages that have finished."""

from __future__ import annotations

import time
from typing import Callable

SHARES = {
    "load": 3.0,
    "rollout": 3.0,
    "prune": 8.0,
    "shrink": 0.0,
    "distil": 16.0,
    "search": 60.0,
    "polish": 10.0,
    "gate": 3.0,
}
"""What a stage takes in proportion to the others, on a usual run."""
USUAL_ITERATIONS = 3
SHORTEST = 0.3
"""Seconds. A stage under this was read from a resumed run and says nothing about the pace."""


class Pace:
    """Seconds left, from the seconds that finished stages took and the usual proportions."""

    def __init__(self, clock: Callable[[], float] = time.perf_counter) -> None:
        self._clock = clock
        self._stage: str | None = None
        self._iteration = 0
        self._since = clock()
        self._total: float | None = None
        self._amount = 0.0
        self._seconds = 0.0
        self._share = 0.0

    def begin(self, stage: str, iteration: int | None, total: float | None) -> None:
        """The stage before has ended, this one begins."""
        seconds = self._clock() - self._since
        if self._stage is not None and seconds >= SHORTEST:
            self._seconds += seconds
            self._share += SHARES.get(self._stage, 0.0)
        self._stage, self._total, self._amount = stage, total, 0.0
        self._iteration = iteration or self._iteration
        self._since = self._clock()

    def advance(self, amount: float) -> None:
        """Progress within the stage, in the units of its total."""
        self._amount += amount

    @property
    def fraction(self) -> float | None:
        """Share of the stage that is done, None if the stage has no total."""
        if not self._total:
            return None
        return min(1.0, self._amount / self._total)

    def left(self) -> float | None:
        """Seconds until the run ends, None as long as nothing is known."""
        rate = self._seconds / self._share if self._share else None
        here = self._left_in_stage(rate)
        if here is None:
            return None
        if rate is None:
            done = self._clock() - self._since
            share = SHARES.get(self._stage or "", 0.0)
            rate = (done + here) / share if share else 0.0
        return here + rate * self._share_ahead()

    def _left_in_stage(self, rate: float | None) -> float | None:
        done, fraction = self._clock() - self._since, self.fraction
        if fraction is not None and fraction > 0.05:
            return done * (1 - fraction) / fraction
        if rate is None:
            return None
        expected = rate * SHARES.get(self._stage or "", 0.0)
        # A stage that takes longer than usual is always about to end: never less than a tenth.
        return max(expected - done, 0.1 * expected)

    def _share_ahead(self) -> float:
        names = list(SHARES)
        if self._stage not in names:
            return 0.0
        position = names.index(self._stage)
        ahead = sum(SHARES[name] for name in names[position + 1 :])
        if position <= names.index("distil"):
            again = max(0, USUAL_ITERATIONS - max(1, self._iteration))
            ahead += again * (SHARES["prune"] + SHARES["distil"])
        return ahead
