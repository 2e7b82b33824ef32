"""Images for the self test, drawn by a few lines of C instead of stored: one is 28 KB of flash."""

from __future__ import annotations

import numpy as np

from pops.spec import Array, PolicySpec

RECTANGLES = 40


def drawn_images(spec: PolicySpec, count: int) -> Array:
    """The first `count` images that the generated self test draws, (count, *observation_shape).

    The first is black, the second white, and each further one is a field of one value with
    rectangles on it, in one channel each: what a linear congruential generator (Numerical Recipes'
    constants) makes of the image's number.
    """
    channels, height, width = spec.input_shape
    drawn = np.stack([_draw(number, height, width, channels) for number in range(count)])
    return drawn if spec.channels_last else np.ascontiguousarray(np.moveaxis(drawn, -1, 1))


def _draw(number: int, height: int, width: int, channels: int) -> Array:
    state = number

    def below(limit: int) -> int:
        nonlocal state
        state = (state * 1664525 + 1013904223) & 0xFFFFFFFF
        return ((state >> 16) * limit) >> 16

    image = np.full((height, width, channels), 255 if number == 1 else 0, np.uint8)
    if number < 2:
        return image
    image[:] = below(256)
    for _ in range(RECTANGLES):
        channel, value = below(channels), below(256)
        top, left = below(height), below(width)
        bottom, right = top + 1 + below(height - top), left + 1 + below(width - left)
        image[top:bottom, left:right, channel] = value
    return image
