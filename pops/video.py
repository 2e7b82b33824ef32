"""Frames to a GIF or an MP4, whole or not at all, the same bytes for the same frames."""

from __future__ import annotations

import zlib
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pops.errors import MissingPackage, PopsError, UsageError
from pops.panels import require_pillow
from pops.spec import Array

if TYPE_CHECKING:
    from PIL import Image

SUFFIXES = (".gif", ".mp4")
COLOURS = 127
"""Of a GIF whose frames hold more than the 256 that its palette can: fewer compress better."""
SAMPLED = 64
"""Frames, spread over a GIF, that its palette is made from."""
CRF = "20"
"""H.264's constant rate factor: 18 looks lossless, 23 is the encoder's default."""


def check_video(path: Path) -> None:
    """Raise unless a video of this name can be written with what is installed.

    Raises:
        UsageError: if the name ends in neither .gif nor .mp4.
        MissingPackage: if Pillow or imageio-ffmpeg is not installed.
    """
    if path.suffix.lower() not in SUFFIXES:
        raise UsageError(f"{path} names no video; expected a name that ends in .mp4 or .gif.")
    require_pillow()
    if path.suffix.lower() == ".mp4":
        _require_ffmpeg()


def open_writer(path: Path, kind: str, size: tuple[int, int], fps: float) -> GifWriter | Mp4Writer:
    """A writer of frames.

    Args:
        path: the file to write; its name need not tell its kind.
        kind: ".gif" or ".mp4".
        size: (width, height) of a frame.
        fps: frames a second.
    """
    return GifWriter(path, size, fps) if kind.lower() == ".gif" else Mp4Writer(path, size, fps)


class GifWriter:
    """Collects frames and writes them with one palette for all of them."""

    def __init__(self, path: Path, size: tuple[int, int], fps: float) -> None:
        self._path, self._shape, self._fps = path, (size[1], size[0], 3), fps
        self._image = require_pillow()[0]
        # A GIF's palette comes before its frames, so they wait; compressed, for they are alike.
        self._frames: list[bytes] = []

    def add(self, frame: Array) -> None:
        """Add a frame (height, width, 3) uint8."""
        self._frames.append(zlib.compress(np.ascontiguousarray(frame).tobytes(), 1))

    def finish(self) -> None:
        """Write the file."""
        palette = self._palette()
        indexed = (self._indexed(i, palette) for i in range(len(self._frames)))
        first = next(indexed)
        # In hundredths of a second; what rounding leaves goes to the next frame.
        ends = np.rint(100 * np.arange(1, len(self._frames) + 1) / self._fps).astype(int)
        durations = [10 * int(n) for n in np.maximum(1, np.diff(ends, prepend=0))]
        first.save(
            self._path,
            "GIF",
            save_all=True,
            append_images=indexed,
            duration=durations,
            loop=0,
            optimize=True,
            disposal=1,
        )

    def close(self) -> None:
        """Let go of the frames."""
        self._frames.clear()

    def _frame(self, index: int) -> Array:
        data = zlib.decompress(self._frames[index])
        return np.frombuffer(data, np.uint8).reshape(self._shape)

    def _indexed(self, index: int, palette: Image.Image) -> Image.Image:
        image: Image.Image = self._image.fromarray(self._frame(index))
        return image.quantize(palette=palette, dither=self._image.Dither.NONE)

    def _palette(self) -> Image.Image:
        """The colours themselves where they are few, else the median cut of some frames."""
        count = len(self._frames)
        chosen = np.unique(np.linspace(0, count - 1, min(count, SAMPLED)).astype(int))
        pixels = np.concatenate([self._frame(i).reshape(-1, 3) for i in chosen])
        colours = _distinct(pixels)
        if len(colours) > 255:
            image: Image.Image = self._image.fromarray(pixels[None])
            return image.quantize(COLOURS, method=self._image.Quantize.MEDIANCUT)
        palette: Image.Image = self._image.new("P", (1, 1))
        palette.putpalette(colours.astype(np.uint8).tobytes())
        return palette


class Mp4Writer:
    """Gives each frame to ffmpeg as it comes: H.264, which every browser plays."""

    def __init__(self, path: Path, size: tuple[int, int], fps: float) -> None:
        ffmpeg = _require_ffmpeg()
        # One thread and no names of encoders: the same bytes on every machine with this ffmpeg.
        exact = ["-f", "mp4", "-crf", CRF, "-threads", "1", "-movflags", "+faststart"]
        exact += ["-fflags", "+bitexact", "-flags:v", "+bitexact", "-map_metadata", "-1"]
        self._process: Any = ffmpeg.write_frames(
            str(path),
            size,
            fps=fps,
            codec="libx264",
            quality=None,
            macro_block_size=2,
            ffmpeg_log_level="error",
            output_params=exact,
        )
        self._process.send(None)

    def add(self, frame: Array) -> None:
        """Add a frame (height, width, 3) uint8.

        Raises:
            PopsError: if ffmpeg refuses it, for example for want of space.
        """
        try:
            self._process.send(np.ascontiguousarray(frame))
        except OSError as error:
            raise PopsError(f"ffmpeg stopped before the episode did: {error}.") from error

    def finish(self) -> None:
        """Let ffmpeg write what is left."""
        self._process.close()

    def close(self) -> None:
        """End ffmpeg."""
        self._process.close()


def _distinct(pixels: Array) -> Array:
    """The different colours among (N, 3) uint8, sorted."""
    values = pixels.astype(np.uint32) @ np.array([1 << 16, 1 << 8, 1], np.uint32)
    found = np.unique(values)
    return np.stack([found >> 16, found >> 8 & 255, found & 255], axis=1)


def _require_ffmpeg() -> Any:
    try:
        import imageio_ffmpeg
    except ImportError as error:
        raise MissingPackage("imageio-ffmpeg", "play", "Writing an MP4") from error
    return imageio_ffmpeg
