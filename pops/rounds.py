"""How a polish by policy gradient is divided: rounds, and segments of them."""

from __future__ import annotations

import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class Segment:
    """Steps after which learning can go on in another process."""

    number: int
    """0 is the critic alone."""
    steps: int
    done: int
    """Steps of the polish before it."""
    done_in_round: int
    round_steps: int

    @property
    def opens_round(self) -> bool:
        """Whether the policy begins anew with it."""
        return self.number == 0 or (self.number > 1 and self.done_in_round == 0)

    @property
    def closes_round(self) -> bool:
        """Whether a round's student comes out of it."""
        return self.number > 0 and self.done_in_round + self.steps == self.round_steps

    def progress(self, more: int) -> float:
        """The share of the round that is done after some steps of this."""
        return (self.done_in_round + more) / self.round_steps


def segments(critic_steps: int, steps: int, segment: int, most: int) -> Iterator[Segment]:
    """The critic alone, then rounds of segments.

    Args:
        critic_steps: of the critic alone.
        steps: of all rounds together.
        segment: steps of a segment, but for the last one.
        most: steps of a round; all have as many segments, or one fewer.
    """
    lengths = [min(segment, steps - done) for done in range(0, steps, segment)]
    rounds = np.array_split(lengths, math.ceil(steps / most))
    number = done = 0
    for lengths_of_round in rounds:
        done_in_round, round_steps = 0, int(lengths_of_round.sum())
        if number == 0:
            yield Segment(0, critic_steps, 0, 0, round_steps)
        for steps in map(int, lengths_of_round):
            number += 1
            yield Segment(number, steps, done, done_in_round, round_steps)
            done, done_in_round = done + steps, done_in_round + steps
