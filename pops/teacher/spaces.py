"""Space: an observation or action space as a file's readable strings or an environment tell it."""

from __future__ import annotations

import math
import re
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from pops.errors import EnvironmentFailure
from pops.spec import OBSERVATION_DTYPES, DiscreteActions, PolicySpec

if TYPE_CHECKING:
    from pops.envs import EnvSource

_NUMBER = re.compile(r"[-+]?(?:inf|nan|\d+\.?\d*(?:e[-+]?\d+)?|\.\d+(?:e[-+]?\d+)?)", re.IGNORECASE)
_CLASS = re.compile(r"'([\w.]+)'")
_SHAPE_LIMIT = 1 << 26


@dataclass(frozen=True)
class Space:
    """A Box, a Discrete, or the name of a kind that is not supported."""

    kind: str
    """The class name: "Box", "Discrete", "Dict", ..."""
    shape: tuple[int, ...] = ()
    dtype: str = "float32"
    low: tuple[float, ...] | None = None
    """Flat; None where the file does not tell."""
    high: tuple[float, ...] | None = None
    n: int = 0
    start: int = 0

    @property
    def size(self) -> int:
        """Number of values in one element."""
        return math.prod(self.shape)

    @property
    def is_image(self) -> bool:
        """Stable-Baselines3's own test: three dimensions of uint8 from 0 to 255."""
        if self.kind != "Box" or len(self.shape) != 3 or self.dtype != "uint8":
            return False
        return (self.low is None or not any(self.low)) and (
            self.high is None or all(value == 255 for value in self.high)
        )

    @property
    def policy_dtype(self) -> str:
        """The nearest dtype that a PolicySpec knows."""
        if self.dtype in OBSERVATION_DTYPES:
            return self.dtype
        return "int32" if self.dtype.startswith(("int", "uint", "bool")) else "float32"

    def __str__(self) -> str:
        if self.kind == "Discrete":
            return f"Discrete({self.n}{f', start={self.start}' if self.start else ''})"
        if self.kind == "Box":
            return f"Box{self.shape} {self.dtype}"
        return self.kind

    def to_json(self) -> dict[str, Any]:
        """A short JSON-ready description; bounds only where they are few and finite."""
        if self.kind == "Discrete":
            return {"kind": self.kind, "n": self.n, "start": self.start}
        data: dict[str, Any] = {"kind": self.kind}
        if self.kind == "Box":
            data.update(shape=list(self.shape), dtype=self.dtype)
            for name, values in (("low", self.low), ("high", self.high)):
                if values is not None and len(values) <= 64 and all(map(math.isfinite, values)):
                    data[name] = list(values)
        return data


def spaces_of(spec: PolicySpec) -> tuple[Space, Space]:
    """The observation and action spaces that a spec tells; it has no bounds of observations."""
    if spec.one_hot:
        observation = Space("Discrete", n=spec.one_hot)
    else:
        observation = Space("Box", spec.observation_shape, spec.observation_dtype)
    actions = spec.actions
    if isinstance(actions, DiscreteActions):
        return observation, Space("Discrete", n=actions.n, start=actions.start)
    return observation, Space("Box", actions.shape, low=actions.low, high=actions.high)


def space_from_strings(data: Any) -> Space | None:
    """Read a space from the readable strings in a Stable-Baselines3 file; None if there are none.

    Nothing is unpickled: the class is named by `:type:`, and Gymnasium's and
    gym's attributes are stored beside it as JSON or as numpy's text.
    """
    if not isinstance(data, dict):
        return None
    named = _CLASS.search(str(data.get(":type:", "")))
    if named is None:
        return None
    kind = named.group(1).rsplit(".", 1)[-1]
    if kind == "Discrete":
        n, start = _integer(data.get("n")), _integer(data.get("start"))
        return None if n is None or n < 1 else Space("Discrete", (), "int64", n=n, start=start or 0)
    if kind != "Box":
        return Space(kind)
    shape = _shape(data.get("_shape", data.get("shape")))
    if shape is None:
        return None
    size = math.prod(shape)
    dtype = str(data.get("dtype", "float32"))
    return Space(
        "Box",
        shape,
        dtype,
        low=_bounds(data.get("low"), size) or _bounds(data.get("low_repr"), size),
        high=_bounds(data.get("high"), size) or _bounds(data.get("high_repr"), size),
    )


def _integer(value: Any) -> int | None:
    try:
        return int(str(value))
    except ValueError:
        return None


def _shape(value: Any) -> tuple[int, ...] | None:
    if not isinstance(value, list) or not all(isinstance(n, int) and n > 0 for n in value):
        return None
    shape = tuple(value)
    return shape if math.prod(shape) <= _SHAPE_LIMIT else None


def _bounds(value: Any, size: int) -> tuple[float, ...] | None:
    """Bounds from numpy's text, which shortens long arrays: then only equal values count."""
    if not isinstance(value, (str, int, float)):
        return None
    values = [float(text) for text in _NUMBER.findall(str(value))]
    if len(values) == size:
        return tuple(values)
    if values and len(set(values)) == 1:
        return (values[0],) * size
    return None


def space_of(space: Any) -> Space:
    """Describe a space object of Gymnasium."""
    kind = type(space).__name__
    if kind == "Discrete":
        return Space("Discrete", (), "int64", n=int(space.n), start=int(space.start))
    if kind != "Box":
        return Space(kind)
    return Space(
        "Box",
        tuple(int(n) for n in space.shape),
        str(np.dtype(space.dtype)),
        low=tuple(float(v) for v in np.asarray(space.low).reshape(-1)),
        high=tuple(float(v) for v in np.asarray(space.high).reshape(-1)),
    )


def environment_spaces(env: EnvSource) -> tuple[Space, Space]:
    """Make the environment once and return its observation and action space.

    Raises:
        EnvironmentFailure: if it cannot be made.
    """
    try:
        from pops.envs import make_env
    except ImportError as error:
        from pops.errors import MissingPackage

        raise MissingPackage("gymnasium", "train", "Making an environment") from error
    made = make_env(env)
    try:
        return space_of(made.observation_space), space_of(made.action_space)
    finally:
        made.close()


def refuse_unsupported(where: str, observation: Space | None, action: Space | None) -> None:
    """Raise if a space is of a kind that pops does not compress.

    Raises:
        EnvironmentFailure: naming the space and what is supported.
    """
    if observation is not None and observation.kind not in ("Box", "Discrete"):
        raise EnvironmentFailure(
            f"{where}: found {observation.kind} observations; expected a Box or a Discrete "
            "observation. Flatten the observation with a wrapper "
            "(gymnasium.wrappers.FlattenObservation) and train on that."
        )
    if action is not None and action.kind not in ("Box", "Discrete"):
        raise EnvironmentFailure(
            f"{where}: found {action.kind} actions; expected Discrete or Box actions. "
            "Wrap the environment so that it takes one discrete or one continuous action."
        )
