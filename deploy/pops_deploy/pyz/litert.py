"""TFLite files on one thread of the CPU: ai-edge-litert, or tflite-runtime where it is that."""

from __future__ import annotations

import contextlib
import importlib
import os
import struct
import sys
from collections.abc import Iterator
from typing import Any

from .failure import DeviceError, RuntimeMissing
from .policy import DevicePolicy

MODULES = (
    ("ai_edge_litert.interpreter", "ai-edge-litert"),
    ("tflite_runtime.interpreter", "tflite-runtime"),
)
INT8_MIN, INT8_MAX = -128, 127


class LitertPolicy(DevicePolicy):
    """A .tflite file with float32 or int8 input and output."""

    name = "litert"

    def __init__(self, spec: dict[str, Any], model: bytes, io: dict[str, Any]) -> None:
        super().__init__(spec)
        interpreter_class, package, version = _interpreter()
        import numpy as np

        self._np = np
        self.versions = {package: version, "numpy": str(np.__version__)}
        try:
            with _quiet():
                self._interpreter = interpreter_class(model_content=model, num_threads=1)
                self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            raise DeviceError(
                f"The TFLite file does not load in {package} {version} ({error}). Update the "
                "package, or use another runtime."
            ) from error
        self._details = self._interpreter.get_input_details()[0]
        self._input = int(self._details["index"])
        self._shape = tuple(int(n) for n in self._details["shape"])
        self._dtype = np.dtype(self._details["dtype"])
        self._scale, self._zero = self._details["quantization"]
        self._stage = io.get("input_stage") or {}
        details = self._interpreter.get_output_details()
        named = io.get("output_tensors") or {}
        by_name = {str(detail["name"]): detail for detail in details}
        action = by_name.get(str(named.get("action")))
        self._raw = by_name.get(str(named.get("outputs")), details[0])
        self._action = self._raw if action is None else action
        # A full-integer file may put out the outputs alone; the action is decoded from them.
        self._decode = action is None
        self._spec = spec
        image = len(self.observation_shape) == 3
        self._to_channels_last = image and not spec.get("channels_last")

    def convert(self, values: Any) -> Any:
        """A numpy array as the environment returns it; images with their channels last."""
        flat = self._np.array(values, dtype=self.observation_dtype)
        shaped = flat.reshape(self.observation_shape)
        if self._to_channels_last:
            shaped = self._np.ascontiguousarray(self._np.moveaxis(shaped, 0, -1))
        return shaped

    def prepare(self, observation: Any) -> Any:
        """The input tensor: a batch of one."""
        if self._dtype.kind == "i":
            return self._to_int8(observation)
        return self._np.asarray(observation, self._dtype).reshape(self._shape)

    def _to_int8(self, observation: Any) -> Any:
        """The map from observation to int8 that artifact.json states under `map`."""
        np, stage = self._np, self._stage
        x = np.asarray(observation, "float32")
        if stage.get("one_hot"):
            index = np.arange(stage["one_hot"], dtype="float32")
            x = np.maximum(np.float32(0), np.float32(1) - np.abs(x.reshape(-1, 1) - index))
        if stage.get("mean") is not None:
            x = x - np.asarray(stage["mean"], "float32")
        if stage.get("scale") is not None:
            x = x * np.asarray(stage["scale"], "float32")
        if stage.get("limit") is not None:
            limit = np.asarray(stage["limit"], "float32")
            x = np.minimum(np.maximum(x, -limit), limit)
        y = x / np.float32(self._scale)
        codes = np.trunc(y + np.copysign(np.float32(0.5), y)) + self._zero
        return np.clip(codes, INT8_MIN, INT8_MAX).astype(self._dtype).reshape(self._shape)

    def run(self, prepared: Any) -> Any:
        """The interpreter; its action tensor."""
        self._interpreter.set_tensor(self._input, prepared)
        self._interpreter.invoke()
        return self._interpreter.get_tensor(self._action["index"])

    def finish(self, raw: Any) -> Any:
        """An int, or a list of floats."""
        if self._decode:
            raw = self._decoded(self._dequantised(raw, self._action))
        flat = raw.reshape(-1)
        return int(flat[0]) if self.discrete else flat.tolist()

    def infer(self, observation: Any) -> list[float]:
        """The raw outputs for one observation."""
        self._interpreter.set_tensor(self._input, self.prepare(observation))
        self._interpreter.invoke()
        raw = self._interpreter.get_tensor(self._raw["index"])
        result: list[float] = self._dequantised(raw, self._raw).reshape(-1).tolist()
        return result

    def _dequantised(self, raw: Any, details: dict[str, Any]) -> Any:
        if self._np.dtype(details["dtype"]).kind != "i":
            return raw
        scale, zero = details["quantization"]
        return (raw.astype("int32") - zero).astype("float32") * self._np.float32(scale)

    def _decoded(self, outputs: Any) -> Any:
        """`PolicySpec.decode` for one row."""
        np, actions = self._np, self._spec["actions"]
        if self.discrete:
            return np.asarray([int(np.argmax(outputs)) + int(actions["start"])])
        low, high = (np.asarray(actions[name], "float32") for name in ("low", "high"))
        y = outputs.reshape(-1)
        limit = self._spec.get("output_clip")
        if limit is not None:
            y = np.clip(y, -limit, limit)
        if actions["squash"] == "tanh":
            y = low + np.float32(0.5) * (np.tanh(y) + np.float32(1.0)) * (high - low)
        return np.clip(y, low, high).astype("float32")


@contextlib.contextmanager
def _quiet() -> Iterator[None]:
    """Keep off the terminal what the library writes to file descriptor 2 while it starts."""
    sys.stderr.flush()
    saved, sink = os.dup(2), os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(sink)
        os.close(saved)


def _interpreter() -> tuple[Any, str, str]:
    """The interpreter class, its package and version.

    Raises:
        RuntimeMissing: naming the package for this Python.
    """
    for module, package in MODULES:
        try:
            found = importlib.import_module(module)
            importlib.import_module("numpy")
        except ImportError:
            continue
        return found.Interpreter, package, _version(module.split(".")[0], package)
    if struct.calcsize("P") == 4:
        raise RuntimeMissing(
            "ai-edge-litert",
            "There is no LiteRT package for 32-bit ARM and this Python. Use the bundle's C "
            "library (runtime c), which needs no package.",
        )
    package = "ai-edge-litert" if sys.version_info >= (3, 10) else "tflite-runtime"
    raise RuntimeMissing(
        package,
        f"Running the TFLite file needs the package {package!r}, which this Python does not have. "
        f"Install it on the device with: pip install {package}",
    )


def _version(module: str, package: str) -> str:
    try:
        from importlib.metadata import version

        return version(package)
    except Exception:  # unpacked without its metadata
        return str(getattr(importlib.import_module(module), "__version__", "unknown"))
