"""More screening episodes where returns vary so much that a mean over the usual number says little.

What is chosen by screening returns is chosen by luck unless the error of a mean is as small as
the margin that the gate allows.
"""

from __future__ import annotations

import dataclasses
import math

from pops.config import CompressConfig

MOST = 5
"""Times the configured number of episodes, at most."""


def times_more(deviation: float, allowed: float, episodes: int) -> int:
    """By how much to multiply `episodes` for a standard error of the margin's size; 1 to MOST.

    Args:
        deviation: standard deviation of the teacher's returns.
        allowed: the gate's margin; where nothing may be lost, returns do not vary.
        episodes: what validation plays as configured.
    """
    if allowed <= 0:
        return 1
    return min(MOST, max(1, math.ceil((deviation / allowed) ** 2 / episodes)))


def with_more_episodes(config: CompressConfig, times: int) -> CompressConfig:
    """The configuration with `times` as many screening episodes everywhere."""
    screen = config.screen
    return dataclasses.replace(
        config,
        prune=dataclasses.replace(config.prune, guard_episodes=times * config.prune.guard_episodes),
        search=dataclasses.replace(config.search, episodes=times * config.search.episodes),
        screen=dataclasses.replace(
            screen,
            distilled=times * screen.distilled,
            validation=times * screen.validation,
            confirmation=times * screen.confirmation,
        ),
    )
