"""PolicySpec: the contract between a policy and its environment.

Everything that turns an environment's observation into the network's input,
and the network's output into the environment's action, is stated here and
nowhere else. Numpy and the standard library only, so that a Raspberry Pi can
import it.
"""

from __future__ import annotations

import dataclasses
import math
from dataclasses import dataclass, field, replace
from typing import Any, Literal, Protocol, Union

import numpy as np
import numpy.typing as npt

from pops.errors import PopsError

FloatArray = npt.NDArray[np.float32]
Array = npt.NDArray[Any]

Output = Literal["logits", "q_values", "mean"]
Squash = Literal["clip", "tanh"]

OBSERVATION_DTYPES = ("float32", "float64", "uint8", "int64", "int32")


@dataclass(frozen=True)
class Normaliser:
    """`clip((observation - mean) / std, -clip, clip)`, feature by feature.

    `mean` and `std` are flat, in the order of the flattened observation, or of
    length one when every feature shares them (255 for images).
    """

    mean: tuple[float, ...]
    std: tuple[float, ...]
    clip: float | None = None

    def __post_init__(self) -> None:
        if len(self.mean) != len(self.std) or not self.mean:
            raise PopsError(
                f"A normaliser needs as many means as deviations, found {len(self.mean)} and "
                f"{len(self.std)}."
            )
        if not all(map(math.isfinite, self.mean)) or not all(
            math.isfinite(s) and s > 0 for s in self.std
        ):
            raise PopsError(
                "A normaliser's means must be finite and its deviations finite and positive; "
                "the statistics of this policy are damaged. Save them again."
            )


@dataclass(frozen=True)
class DiscreteActions:
    """Actions `start .. start + n - 1`; the network puts out one number for each."""

    n: int
    start: int = 0


@dataclass(frozen=True)
class ContinuousActions:
    """A box of actions. `low`, `high`: flat, in the environment's units.

    `squash="clip"`: action = clip(output, low, high), as PPO and A2C act.
    `squash="tanh"`: action = low + (tanh(output) + 1) / 2 * (high - low), as SAC and TD3 act.
    """

    low: tuple[float, ...]
    high: tuple[float, ...]
    squash: Squash = "clip"
    shape: tuple[int, ...] = ()

    def __post_init__(self) -> None:
        if not self.shape:
            object.__setattr__(self, "shape", (len(self.low),))


Actions = Union[DiscreteActions, ContinuousActions]


@dataclass(frozen=True)
class EnvSpec:
    """How to make the environment again: `id`, keyword arguments and named wrappers."""

    id: str
    kwargs: dict[str, Any] = field(default_factory=dict)
    wrappers: tuple[str, ...] = ()
    frame_stack: int = 0
    """Frames stacked on the last axis, zero-filled at reset as VecFrameStack does; 0 for none."""
    beside: dict[str, Any] = field(default_factory=dict)
    """Other keyword arguments under which returns are reported too; nothing is judged by those."""

    def like(self, known: EnvSpec | None) -> EnvSpec:
        """This environment, with what is not asked for as `known` has it.

        Frames are stacked as in `known`; where both have the same id, its keyword arguments
        and wrappers hold too unless others are given.
        """
        if known is None:
            return self
        asked = replace(self, frame_stack=self.frame_stack or known.frame_stack)
        if self.id.rpartition(":")[2] != known.id.rpartition(":")[2]:
            return asked
        return replace(
            asked,
            kwargs={**known.kwargs, **self.kwargs},
            wrappers=self.wrappers or known.wrappers,
            beside=self.beside or known.beside,
        )

    def variant(self) -> EnvSpec | None:
        """The environment under the keyword arguments `beside`; None if there are none."""
        if not self.beside:
            return None
        return replace(self, kwargs={**self.kwargs, **self.beside}, beside={})

    def __hash__(self) -> int:
        return hash(repr(self))


@dataclass(frozen=True)
class PolicySpec:
    """What a policy sees and does."""

    observation_shape: tuple[int, ...]
    """Shape of one observation as the environment returns it; () for a discrete observation."""
    actions: Actions
    output: Output
    """What the network puts out."""
    observation_dtype: str = "float32"
    one_hot: int = 0
    """Number of values of a discrete observation, which the network sees one-hot; 0 for none."""
    channels_last: bool = False
    """The observation is (height, width, channels) and the network wants channels first."""
    normaliser: Normaliser | None = None
    output_clip: float | None = None
    """Clip outputs to ±this before squashing (gSDE's `clip_mean`)."""
    env: EnvSpec | None = None

    @property
    def n_outputs(self) -> int:
        """Number of values that the network puts out."""
        if isinstance(self.actions, DiscreteActions):
            return self.actions.n
        return len(self.actions.low)

    @property
    def input_shape(self) -> tuple[int, ...]:
        """Shape of one network input: (features,) or (channels, height, width)."""
        if self.one_hot:
            return (self.one_hot,)
        if self.channels_last:
            height, width, channels = self.observation_shape
            return (channels, height, width)
        if len(self.observation_shape) == 3:
            return self.observation_shape
        return (math.prod(self.observation_shape),)

    def preprocess(self, observations: Array) -> FloatArray:
        """Turn observations (N, *observation_shape) into inputs (N, *input_shape) float32.

        The arithmetic is Stable-Baselines3's: float64 for running statistics
        (VecNormalize), float32 for images.
        """
        if self.one_hot:
            eye = np.eye(self.one_hot, dtype=np.float32)
            result: FloatArray = eye[np.asarray(observations, dtype=np.int64).reshape(-1)]
            return result
        x = np.asarray(observations)
        if self.channels_last:
            x = np.moveaxis(x, -1, 1)
        n = x.shape[0]
        if self.normaliser is None:
            return np.ascontiguousarray(x.reshape(n, *self.input_shape), dtype=np.float32)
        wide = np.float32 if x.dtype == np.uint8 else np.float64
        mean = self._feature_array(self.normaliser.mean, wide)
        std = self._feature_array(self.normaliser.std, wide)
        y = (x.reshape(n, *self.input_shape).astype(wide) - mean) / std
        if self.normaliser.clip is not None:
            y = np.clip(y, -self.normaliser.clip, self.normaliser.clip)
        return np.ascontiguousarray(y, dtype=np.float32)

    def _feature_array(self, values: tuple[float, ...], dtype: type) -> Array:
        flat: Array = np.asarray(values, dtype=dtype)
        if flat.size == 1:
            return flat
        if self.channels_last:
            return np.moveaxis(flat.reshape(self.observation_shape), -1, 0)
        return flat.reshape(self.input_shape)

    def decode(self, outputs: FloatArray) -> Array:
        """Turn outputs (N, n_outputs) into deterministic actions (N, *act_shape).

        Discrete: argmax, the first of equals, int64. Continuous: float32 in the
        environment's units, clipped or squashed into its bounds.
        """
        if isinstance(self.actions, DiscreteActions):
            best: Array = np.argmax(outputs, axis=1).astype(np.int64)
            return best + self.actions.start
        box = self.actions
        low = np.asarray(box.low, dtype=np.float32)
        high = np.asarray(box.high, dtype=np.float32)
        y = outputs
        if self.output_clip is not None:
            y = np.clip(y, -self.output_clip, self.output_clip)
        if box.squash == "tanh":
            y = low + np.float32(0.5) * (np.tanh(y) + np.float32(1.0)) * (high - low)
        clipped: FloatArray = np.clip(y, low, high).astype(np.float32)
        return clipped.reshape(-1, *box.shape)

    def to_json(self) -> dict[str, Any]:
        """A JSON-ready dictionary; `from_json` reads it back."""
        data = dataclasses.asdict(self)
        kind = "discrete" if isinstance(self.actions, DiscreteActions) else "continuous"
        data["actions"] = {"kind": kind, **data["actions"]}
        return data

    @classmethod
    def from_json(cls, data: dict[str, Any]) -> PolicySpec:
        """Read what `to_json` wrote.

        Raises:
            PopsError: if fields are missing or of the wrong kind.
        """
        try:
            raw = dict(data)
            actions = dict(raw.pop("actions"))
            kind = actions.pop("kind")
            parsed: Actions
            if kind == "discrete":
                parsed = DiscreteActions(n=int(actions["n"]), start=int(actions.get("start", 0)))
            elif kind == "continuous":
                parsed = ContinuousActions(
                    low=_floats(actions["low"]),
                    high=_floats(actions["high"]),
                    squash=actions["squash"],
                    shape=tuple(int(n) for n in actions["shape"]),
                )
            else:
                raise ValueError(f"action kind {kind!r}")
            normaliser, env = raw.pop("normaliser"), raw.pop("env")
            if raw["observation_dtype"] not in OBSERVATION_DTYPES:
                raise ValueError(f"observation dtype {raw['observation_dtype']!r}")
            return cls(
                observation_shape=tuple(int(n) for n in raw.pop("observation_shape")),
                actions=parsed,
                normaliser=None
                if normaliser is None
                else Normaliser(
                    _floats(normaliser["mean"]), _floats(normaliser["std"]), normaliser["clip"]
                ),
                env=None if env is None else EnvSpec(**{**env, "wrappers": tuple(env["wrappers"])}),
                **raw,
            )
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            raise PopsError(
                f"The policy's spec cannot be read ({error!r}); expected the JSON that pops "
                "writes. Export or compress the policy again with this version."
            ) from error


def _floats(values: Any) -> tuple[float, ...]:
    return tuple(float(v) for v in values)


class Policy(Protocol):
    """Anything that acts: a torch network, an exported file in its runtime, a board."""

    spec: PolicySpec

    def outputs(self, observations: Array) -> FloatArray:
        """Observations (N, *observation_shape) to raw outputs (N, n_outputs) float32."""
        ...

    def act(self, observations: Array) -> Array:
        """Observations (N, *observation_shape) to deterministic actions (N, *act_shape)."""
        ...
