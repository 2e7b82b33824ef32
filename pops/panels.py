"""Pictures for `pops play`: what the environment draws, who plays and how it stands."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from pops.errors import MissingPackage
from pops.spec import Array

if TYPE_CHECKING:
    from PIL import Image

BACKGROUND, BRIGHT, DIM = (20, 22, 26), (240, 240, 240), (150, 155, 160)
SMALLEST_FONT, LARGEST_FONT = 8, 18
GAP = 4
"""Pixels between panels and round captions."""


def require_pillow() -> Any:
    """The modules that draw.

    Raises:
        MissingPackage: if Pillow is not installed.
    """
    try:
        from PIL import Image, ImageDraw, ImageFont
    except ImportError as error:
        raise MissingPackage("pillow", "play", "Recording an episode") from error
    return Image, ImageDraw, ImageFont


class Panels:
    """Lays pictures of one size side by side, each over two lines of text.

    Args:
        shape: (height, width, 3) of what the environment draws.
        width: pixels that each picture gets; 0 for its own width.
        titles: the first line below each picture; tells the size of the font.
    """

    def __init__(self, shape: tuple[int, ...], width: int, titles: Sequence[str]) -> None:
        self._image, self._draw, fonts = require_pillow()
        self.width = width or shape[1]
        self.height = max(1, round(shape[0] * self.width / shape[1]))
        self._titles = tuple(titles)
        self._font = _fitting(fonts, self._titles, self.width - 2 * GAP)
        self._line = sum(self._font.getmetrics())
        self.count = len(self._titles)
        rows = self.height + 2 * self._line + 2 * GAP
        columns = self.count * self.width + (self.count - 1) * GAP
        # H.264 halves the resolution of colour, so both sides have to be even.
        self.size = (columns + columns % 2, rows + rows % 2)
        """(width, height) of the whole, in pixels."""

    def compose(self, pictures: Sequence[Array], states: Sequence[str]) -> Array:
        """Pictures (height, width, 3) uint8 and the second lines to (rows, columns, 3) uint8."""
        whole = self._image.new("RGB", self.size, BACKGROUND)
        draw = self._draw.Draw(whole)
        for index, (picture, state) in enumerate(zip(pictures, states)):
            left = index * (self.width + GAP)
            whole.paste(self._fitted(picture), (left, 0))
            top = self.height + GAP
            title = self._titles[index]
            draw.text((left + GAP, top), title, fill=BRIGHT, font=self._font)
            draw.text((left + GAP, top + self._line), state, fill=DIM, font=self._font)
        return np.asarray(whole)

    def _fitted(self, picture: Array) -> Image.Image:
        image: Image.Image = self._image.fromarray(np.ascontiguousarray(picture, np.uint8))
        if image.size == (self.width, self.height):
            return image
        # Whole multiples keep the pixels of old games sharp.
        whole = self.width % image.width == 0 and self.height % image.height == 0
        how = self._image.Resampling.NEAREST if whole else self._image.Resampling.BOX
        return image.resize((self.width, self.height), how)


def _fitting(fonts: Any, titles: Sequence[str], width: int) -> Any:
    """Pillow's own font, as large as lets every title fit."""
    for size in range(LARGEST_FONT, SMALLEST_FONT, -1):
        font = fonts.load_default(size)
        if all(font.getlength(title) <= width for title in titles):
            return font
    return fonts.load_default(SMALLEST_FONT)
