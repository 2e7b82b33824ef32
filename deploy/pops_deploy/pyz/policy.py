"""DevicePolicy: one policy file, loaded and ready to act, on any runtime."""

from __future__ import annotations

from typing import Any, Callable

from .contents import TYPECODES


class DevicePolicy:
    """What every runtime module hands back.

    A subclass implements `convert`, `prepare`, `run`, `finish` and `infer`. `step`
    is what a control loop calls: one observation to one action.
    """

    name: str
    """The runtime: "c", "onnx" or "litert"."""
    versions: dict[str, str]
    """Of the library that runs it, or how the C was compiled."""
    code_bytes = 0
    """Machine code and constants of a compiled policy; 0 where a library runs a file."""
    step: Callable[[Any], Any]

    def __init__(self, spec: dict[str, Any]) -> None:
        self.discrete = spec["actions"]["kind"] == "discrete"
        self.observation_shape = tuple(int(n) for n in spec["observation_shape"])
        self.observation_dtype = str(spec["observation_dtype"])
        self.observation_size = 1
        for size in self.observation_shape:
            self.observation_size *= size
        if self.observation_dtype not in TYPECODES:
            raise ValueError(f"observation dtype {self.observation_dtype!r}")
        self.step = self._step_in_parts

    def convert(self, values: Any) -> Any:
        """A flat observation (array or list) to the container that this runtime likes best."""
        raise NotImplementedError

    def prepare(self, observation: Any) -> Any:
        """What `convert` returned to what the network takes."""
        raise NotImplementedError

    def run(self, prepared: Any) -> Any:
        """The network itself."""
        raise NotImplementedError

    def finish(self, raw: Any) -> Any:
        """What the network put out to one action: an int, or a list of floats."""
        raise NotImplementedError

    def infer(self, observation: Any) -> list[float]:
        """The raw outputs for one observation; each value is a float32."""
        raise NotImplementedError

    def self_test(self) -> None:
        """Replay what the file itself carries to check it; most carry nothing.

        Raises:
            SelfTestFailed: if it does not come out.
        """

    def inside_ns(self, observations: list[Any]) -> float | None:
        """Nanoseconds of the network alone where the runtime has its own loop; None: time `run`."""
        return None

    def _step_in_parts(self, observation: Any) -> Any:
        return self.finish(self.run(self.prepare(observation)))
