"""How many environment steps a piece of work played, in this process and in its workers.

Every episode of a compression runs in an `EpisodeTable`, which reports its steps here, or in a
library's training (`pops.reinforce`), which tells how many it took; a stage asks for the sum.
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from contextvars import ContextVar
from typing import Callable, TypeVar

T = TypeVar("T")


class StepMeter:
    """Environment steps since a piece of work began."""

    def __init__(self) -> None:
        self.steps = 0


_METERS: ContextVar[tuple[StepMeter, ...]] = ContextVar("meters", default=())
"""The work under way, the outermost first; set and reset by `metered` alone."""


@contextlib.contextmanager
def metered() -> Iterator[StepMeter]:
    """Count the environment steps played while this is open; may be nested."""
    meter = StepMeter()
    token = _METERS.set((*_METERS.get(), meter))
    try:
        yield meter
    finally:
        _METERS.reset(token)


def report_steps(count: int) -> None:
    """Tell all the work under way that `count` steps were played for it."""
    for meter in _METERS.get():
        meter.steps += count


def with_steps(function: Callable[..., T], *arguments: object) -> tuple[T, int]:
    """What a function returns, and the environment steps that it played."""
    with metered() as meter:
        result = function(*arguments)
    return result, meter.steps
