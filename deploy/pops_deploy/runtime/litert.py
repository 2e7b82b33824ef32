"""LiteRT on one thread: ai-edge-litert, or tflite-runtime where that is what the device has."""

from __future__ import annotations

import contextlib
import os
import sys
from collections.abc import Iterator
from typing import Any

import numpy as np

from pops.errors import ArtifactError
from pops.spec import Array, DiscreteActions, FloatArray
from pops_deploy.folder import Artifact
from pops_deploy.runtime.base import Runtime, missing_package
from pops_deploy.runtime.layout import arrange
from pops_deploy.runtime.quantised import Codes

NAME = "litert"
FORMAT = "tflite"


class LiteRtPolicy(Runtime):
    """A .tflite file behind the interpreter's public calls."""

    def __init__(self, artifact: Artifact, file: str) -> None:
        super().__init__()
        interpreter_class, self.versions = _interpreter()
        policy_file = artifact.file("tflite", file)
        try:
            with quiet_start():
                self._interpreter = interpreter_class(
                    model_path=str(policy_file.path), num_threads=1
                )
                self._interpreter.allocate_tensors()
        except (ValueError, RuntimeError) as error:
            package = next(iter(self.versions.items()))
            raise ArtifactError(
                f"{policy_file.path} does not load in {package[0]} {package[1]} ({error}). "
                "Export again, or update the package."
            ) from error
        self.spec, self.name, self.file = artifact.spec, NAME, file
        self.bytes, self.sha256 = policy_file.path.stat().st_size, policy_file.sha256
        io = dict(policy_file.facts.get("io") or {})
        given = self._interpreter.get_input_details()[0]
        details = self._interpreter.get_output_details()
        self._input = int(given["index"])
        raw = _output(details, io, "outputs")
        action = _output(details, io, "action")
        self._raw = int((raw or details[0])["index"])
        self._codes = Codes.of(self.spec, io)
        self._discrete = isinstance(self.spec.actions, DiscreteActions)
        # A full-integer file leaves the action to us; the others have it inside.
        self._decodes = self._codes is not None or action is None
        self._wanted = self._raw if self._decodes or action is None else int(action["index"])
        self._arrange = arrange(
            self.spec, io, np.float32 if self._codes is not None else given["dtype"]
        )

    def prepare(self, observation: Any) -> Any:
        """(*observation_shape) to the interpreter's input, (1, ...)."""
        x = self._arrange(np.asarray(observation)[None])
        return x if self._codes is None else self._codes.encode(x)

    def run(self, prepared: Any) -> Any:
        """Copy in, invoke, copy out."""
        interpreter = self._interpreter
        interpreter.set_tensor(self._input, prepared)
        interpreter.invoke()
        return interpreter.get_tensor(self._wanted)

    def finish(self, raw: Any) -> Any:
        """int, or an array of the action's shape."""
        if not self._decodes:
            return int(raw[0]) if self._discrete else raw.reshape(self.action_shape)
        y = raw if self._codes is None else self._codes.decode(raw)
        action = self.spec.decode(y)[0]
        return int(action) if self._discrete else action

    def outputs(self, observations: Array) -> FloatArray:
        """Observations (N, *observation_shape) to raw outputs (N, n_outputs) float32."""
        result = np.empty((len(observations), self.spec.n_outputs), np.float32)
        for row, observation in zip(result, observations):
            self._interpreter.set_tensor(self._input, self.prepare(observation))
            self._interpreter.invoke()
            y = self._interpreter.get_tensor(self._raw)
            row[:] = (y if self._codes is None else self._codes.decode(y)).reshape(-1)
        return result


def _interpreter() -> tuple[Any, dict[str, str]]:
    from importlib.metadata import version

    try:
        from ai_edge_litert.interpreter import Interpreter

        return Interpreter, {"ai-edge-litert": version("ai-edge-litert")}
    except ImportError:
        pass
    try:
        from tflite_runtime.interpreter import Interpreter as Older
    except ImportError as error:
        raise missing_package(
            "ai-edge-litert", "Running policy.tflite (with LiteRT, or the older tflite-runtime)"
        ) from error
    return Older, {"tflite-runtime": version("tflite-runtime")}


def _output(details: list[dict[str, Any]], io: dict[str, Any], name: str) -> dict[str, Any] | None:
    """The output tensor that artifact.json calls `name`."""
    tensor = (io.get("output_tensors") or {}).get(name)
    for detail in details:
        if tensor is not None and detail["name"] == tensor:
            return detail
    return None


@contextlib.contextmanager
def quiet_start() -> Iterator[None]:
    """Keep what the library writes to file descriptor 2 while it starts off the terminal."""
    sys.stderr.flush()
    saved = os.dup(2)
    sink = os.open(os.devnull, os.O_WRONLY)
    try:
        os.dup2(sink, 2)
        yield
    finally:
        os.dup2(saved, 2)
        os.close(sink)
        os.close(saved)


def open_file(artifact: Artifact, file: str) -> Runtime:
    """Load the artifact's policy.tflite or policy.int8.tflite."""
    return LiteRtPolicy(artifact, file)
