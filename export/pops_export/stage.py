"""What a file computes: an input stage, a network, and nothing hidden in between.

`Network` is what every writer takes. `plain` describes the student as it is;
`for_integers` describes the same function in the form that survives eight bits:
features scaled to a comparable range by powers of two (exact: only exponents
move), and the output layer centred where only the argmax counts.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass
from typing import Any

import numpy as np

from pops.arch import NetArch
from pops.errors import PopsError
from pops.policy import NumpyPolicy, Parameters
from pops.spec import Array, DiscreteActions, FloatArray, PolicySpec

MAX_EXPONENT = 60
BIAS_FLOOR = 2.0**-14
ROW_FLOOR = 2.0**-24
TINY = 1e-12


@dataclass(frozen=True)
class InputStage:
    """`min(max((x - mean) * scale, -limit), limit)` in float32, feature by feature.

    Each tuple is None (nothing to do), of length one, or one value a feature.
    With `one_hot` n the observation is one index and the features are n
    numbers, `max(0, 1 - |index - i|)`.
    """

    mean: tuple[float, ...] | None = None
    scale: tuple[float, ...] | None = None
    limit: tuple[float, ...] | None = None
    one_hot: int = 0

    def apply(self, x: Array) -> FloatArray:
        """Observations (N, features) float32 to network inputs, as the files compute them."""
        y = np.asarray(x, dtype=np.float32)
        if self.one_hot:
            index = np.arange(self.one_hot, dtype=np.float32)
            y = np.maximum(np.float32(0), np.float32(1) - np.abs(y.reshape(-1, 1) - index))
        if self.mean is not None:
            y = y - np.asarray(self.mean, np.float32)
        if self.scale is not None:
            y = y * np.asarray(self.scale, np.float32)
        if self.limit is not None:
            limit = np.asarray(self.limit, np.float32)
            y = np.minimum(np.maximum(y, -limit), limit)
        return y

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dictionary."""
        return dataclasses.asdict(self)

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> InputStage:
        """Read what `to_json` wrote."""

        def values(name: str) -> tuple[float, ...] | None:
            found = data.get(name)
            return None if found is None else tuple(float(v) for v in found)

        return cls(values("mean"), values("scale"), values("limit"), int(data.get("one_hot", 0)))


@dataclass(frozen=True)
class Network:
    """An input stage, the layers behind it, and the spec that decodes the outputs."""

    spec: PolicySpec
    arch: NetArch
    parameters: tuple[tuple[FloatArray, FloatArray], ...]
    stage: InputStage
    exponents: tuple[int, ...] | None = None
    """Powers of two that the stage multiplies the features by; None where none was added."""
    centred: bool = False
    """The mean over the outputs was taken out of the last layer; the argmax is the same."""

    @property
    def image(self) -> bool:
        """Whether the observation is an image (three axes)."""
        return len(self.arch.input_shape) == 3

    def pixels_are_codes(self, states: Array) -> bool:
        """Whether bytes enter the integer core as they are: scale 1, whatever was visited."""
        return self.image and self.stage == InputStage() and states.dtype == np.uint8


def plain(policy: NumpyPolicy) -> Network:
    """The student as it is: its own normaliser as the stage, its own weights."""
    return Network(policy.spec, policy.arch, policy.parameters, _own_stage(policy))


def for_integers(policy: NumpyPolicy, states: Array) -> Network:
    """The same function, prepared for an int8 core.

    Args:
        policy: the student.
        states: (N, *observation_shape) that the student visits.
    """
    stage, parameters = _own_stage(policy), list(policy.parameters)
    arch = policy.arch
    if len(arch.input_shape) == 3:
        if stage.mean is None and stage.limit is None and stage.scale is not None:
            # Pixels enter the integer core as they are; the scale moves into the weights.
            scale = np.float64(stage.scale[0])
            parameters[0] = (_f32(parameters[0][0] * scale), parameters[0][1])
            stage = InputStage()
        exponents = None
    else:
        parameters, stage, exponents = _scale_features(policy, stage, states)
    centred = (
        isinstance(policy.spec.actions, DiscreteActions)
        and arch.output_activation == "identity"
        and arch.outputs > 1
    )
    if centred:
        weight, bias = (p.astype(np.float64) for p in parameters[-1])
        parameters[-1] = (_f32(weight - weight.mean(0)), _f32(bias - bias.mean()))
    sound = tuple((_with_scale(weight, bias), bias) for weight, bias in parameters)
    return Network(policy.spec, arch, sound, stage, exponents, centred)


def _with_scale(weight: FloatArray, bias: FloatArray) -> FloatArray:
    """Give rows without weights worth a scale one tiny weight.

    A channel's int8 scale comes from its largest weight, and its bias is stored
    in units of that scale: a unit whose weights were all pruned would lose its
    bias. The weight added moves the output by less than 2^-14 of the bias.
    """
    rows = weight.reshape(len(weight), -1).copy()
    largest = np.abs(rows).max(1)
    floor = np.maximum(np.abs(bias) * BIAS_FLOOR, max(float(largest.max()) * ROW_FLOOR, TINY))
    short = largest < floor
    rows[short, 0] = floor[short]
    return _f32(rows.reshape(weight.shape))


def flat_observations(spec: PolicySpec, observations: Array) -> FloatArray:
    """Observations (N, *observation_shape) as float32 (N, features), (N, 1) for an index."""
    x = np.asarray(observations)
    return np.ascontiguousarray(x.reshape(x.shape[0], -1), dtype=np.float32)


def image_observations(spec: PolicySpec, observations: Array, channels_last: bool) -> FloatArray:
    """Images (N, *observation_shape) as float32, channels first or last."""
    x = np.asarray(observations)
    if spec.channels_last != channels_last:
        x = np.moveaxis(x, 1, -1) if channels_last else np.moveaxis(x, -1, 1)
    return np.ascontiguousarray(x, dtype=np.float32)


def _own_stage(policy: NumpyPolicy) -> InputStage:
    spec = policy.spec
    if spec.one_hot:
        return InputStage(one_hot=spec.one_hot)
    if spec.normaliser is None:
        return InputStage()
    mean, std = spec.normaliser.mean, spec.normaliser.std
    if len(mean) > 1 and len(policy.arch.input_shape) == 3:
        raise PopsError(
            f"The policy normalises images with {len(mean)} means, one a pixel; expected one for "
            "all pixels. Train it with VecNormalize(norm_obs=False) for image observations."
        )
    clip = spec.normaliser.clip
    return InputStage(
        None if not any(mean) else mean,
        tuple(float(np.float32(1.0 / s)) for s in std),
        None if clip is None else (float(np.float32(clip)),),
    )


def _scale_features(
    policy: NumpyPolicy, stage: InputStage, states: Array
) -> tuple[list[tuple[FloatArray, FloatArray]], InputStage, tuple[int, ...] | None]:
    """Fold a power of two a feature into the stage, and its inverse into the first layer."""
    parameters = list(policy.parameters)
    seen = np.abs(stage.apply(flat_observations(policy.spec, states))).max(0)
    exponents = np.array([exponent(v) for v in seen])
    if stage.one_hot or np.all(exponents == exponents[0]):
        return parameters, stage, None
    factor = np.exp2(exponents)
    features = len(factor)

    def spread(values: tuple[float, ...] | None, default: float) -> Array:
        found = np.asarray((default,) if values is None else values, np.float64)
        return np.broadcast_to(found, (features,))

    scale = _f32(spread(stage.scale, 1.0) * factor)
    limit = None
    if stage.limit is not None:
        limit = tuple(float(v) for v in _f32(spread(stage.limit, 1.0) * factor))
    chosen = list(range(features) if policy.arch.inputs is None else policy.arch.inputs)
    weight, bias = parameters[0]
    parameters[0] = (_f32(weight * np.exp2(-exponents[chosen])), bias)
    new_stage = InputStage(stage.mean, tuple(float(v) for v in scale), limit)
    return parameters, new_stage, tuple(int(e) for e in exponents)


def exponent(largest: float) -> int:
    """The k for which largest·2^k lies in [0.5, 1); 0 for a feature that is always zero."""
    if not math.isfinite(largest) or largest <= 0:
        return 0
    return int(np.clip(-math.frexp(float(largest))[1], -MAX_EXPONENT, MAX_EXPONENT))


def all_columns(network: Network) -> Parameters:
    """Parameters whose first layer reads every feature, zero where it was not selected.

    TFLite gathers floats with operators that quantise badly; a zero weight adds
    nothing to an integer sum.
    """
    parameters = list(network.parameters)
    if network.arch.inputs is None:
        return parameters
    weight, bias = parameters[0]
    full = np.zeros((weight.shape[0], network.arch.input_shape[0]), np.float32)
    full[:, list(network.arch.inputs)] = weight
    parameters[0] = (full, bias)
    return parameters


def _f32(values: Array) -> FloatArray:
    return np.asarray(values, dtype=np.float32)
