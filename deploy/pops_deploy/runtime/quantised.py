"""Codes: the map from observations to int8 and from int8 to outputs of a full-integer file."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np

from pops.errors import ArtifactError
from pops.spec import Array, FloatArray, PolicySpec


@dataclass(frozen=True)
class Codes:
    """What `io` in artifact.json states where input and output are int8.

    `encode`: x = clip((observation - mean) * scale, ±limit) feature by feature, then
    round(x / input_scale) + input_zero, clipped to int8. `decode`: (code - output_zero) *
    output_scale.
    """

    mean: FloatArray | None
    scale: FloatArray | None
    limit: FloatArray | None
    one_hot: int
    input_scale: float
    input_zero: int
    output_scale: float
    output_zero: int

    @classmethod
    def of(cls, spec: PolicySpec, io: dict[str, Any]) -> Codes | None:
        """The codes of a file; None where it takes floats.

        Raises:
            ArtifactError: if the file is full-integer and the map is not stated.
        """
        if io.get("input_dtype") != "int8":
            return None
        try:
            stage = dict(io.get("input_stage") or {})
            return cls(
                _vector(stage.get("mean")),
                _vector(stage.get("scale")),
                _vector(stage.get("limit")),
                int(stage.get("one_hot", 0) or 0),
                float(io["input_scale"]),
                int(io["input_zero_point"]),
                float(io["output_scale"]),
                int(io["output_zero_point"]),
            )
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(
                f"artifact.json does not say how observations become int8 ({error!r}). "
                "Export again with --io int8."
            ) from error

    def encode(self, observations: Array) -> Array:
        """Float observations as arranged for the file to int8 codes of the same shape."""
        x = observations
        if self.one_hot:
            index = np.arange(self.one_hot, dtype=np.float32)
            x = np.maximum(np.float32(0), np.float32(1) - np.abs(x.reshape(-1, 1) - index))
        if self.mean is not None:
            x = x - self.mean
        if self.scale is not None:
            x = x * self.scale
        if self.limit is not None:
            x = np.minimum(np.maximum(x, -self.limit), self.limit)
        y = x / np.float32(self.input_scale)
        # Half away from zero, as TFLite's QUANTIZE rounds.
        rounded = np.trunc(y + np.copysign(np.float32(0.5), y)) + self.input_zero
        return np.asarray(np.clip(rounded, -128, 127), np.int8)

    def decode(self, codes: Array) -> FloatArray:
        """int8 codes to float32 outputs."""
        scaled = (codes.astype(np.float32) - self.output_zero) * np.float32(self.output_scale)
        return np.asarray(scaled, np.float32)


def _vector(values: Any) -> FloatArray | None:
    return None if values is None else np.asarray(values, np.float32)
