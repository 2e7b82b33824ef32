"""Runtime: one policy, loaded and ready to act; what every runtime module hands back."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

from pops.errors import PopsError
from pops.spec import Array, DiscreteActions, FloatArray, PolicySpec


class Phases(NamedTuple):
    """Nanoseconds of one call: before, inside and after the network."""

    before: float
    inside: float
    after: float


class Runtime:
    """A Policy whose single call can be timed in its three parts.

    A subclass sets the attributes below and implements `prepare`, `run`, `finish` and `outputs`.
    `step` is what a control loop calls; it defaults to the three parts in a row.
    """

    placed_anew: bool = True
    """Whether opening it again puts what it computes with elsewhere in memory."""
    spec: PolicySpec
    name: str
    """The runtime's name, for example "onnx"."""
    file: str
    """"fp32" or "int8"."""
    bytes: int
    """Size of the policy's file; for C of its compiled code and constants."""
    sha256: str
    """Of the policy's file; empty where there is none."""
    versions: dict[str, str]
    """The libraries that run it, and for compiled code the compiler and its flags."""
    step: Callable[[Any], Any]
    """One observation, as the environment returns it, to one action for the environment."""

    def __init__(self) -> None:
        self.step = self._step_in_parts

    def prepare(self, observation: Any) -> Any:
        """One observation to what the runtime takes."""
        raise NotImplementedError

    def run(self, prepared: Any) -> Any:
        """The network itself."""
        raise NotImplementedError

    def finish(self, raw: Any) -> Any:
        """What the network put out to one action for the environment."""
        raise NotImplementedError

    def outputs(self, observations: Array) -> FloatArray:
        """Observations (N, *observation_shape) to raw outputs (N, n_outputs) float32."""
        raise NotImplementedError

    def act(self, observations: Array) -> Array:
        """Observations (N, *observation_shape) to deterministic actions (N, *act_shape)."""
        step = self.step
        actions = [step(observation) for observation in observations]
        return np.asarray(actions, self.action_dtype).reshape(len(actions), *self.action_shape)

    def phases(self, observations: list[Any]) -> Phases | None:
        """The parts of a call where the runtime measures them itself; None: time the methods."""
        return None

    @property
    def action_dtype(self) -> type:
        """int64 for discrete actions, float32 otherwise."""
        return np.int64 if isinstance(self.spec.actions, DiscreteActions) else np.float32

    @property
    def action_shape(self) -> tuple[int, ...]:
        """Shape of one action: () where they are discrete."""
        actions = self.spec.actions
        return () if isinstance(actions, DiscreteActions) else actions.shape

    def _step_in_parts(self, observation: Any) -> Any:
        return self.finish(self.run(self.prepare(observation)))


def missing_package(package: str, purpose: str) -> PopsError:
    """The error for a runtime whose library is not installed; the caller raises it."""
    return PopsError(
        f"{purpose} needs the package {package!r}, which is not installed here. "
        f"Install it with: pip install {package}"
    )
