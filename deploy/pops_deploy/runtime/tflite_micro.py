"""The tflite-micro interpreter in its Python wheel (x86-64): the oracle of the int8 arithmetic."""

from __future__ import annotations

from typing import Any

import numpy as np

from pops.errors import ArtifactError
from pops.spec import Array, DiscreteActions, FloatArray
from pops_deploy.folder import Artifact
from pops_deploy.runtime.base import Runtime, missing_package
from pops_deploy.runtime.layout import arrange
from pops_deploy.runtime.litert import quiet_start
from pops_deploy.runtime.quantised import Codes

NAME = "tflite-micro"
FORMAT = "tflite"


class TfliteMicroPolicy(Runtime):
    """A .tflite file in the microcontroller interpreter, on this computer."""

    def __init__(self, artifact: Artifact, file: str) -> None:
        super().__init__()
        try:
            from tflite_micro import runtime
        except ImportError as error:
            raise missing_package("tflite-micro", "Running policy.tflite as TFLM does") from error
        from importlib.metadata import version

        policy_file = artifact.file("tflite", file)
        try:
            with quiet_start():
                self._interpreter = runtime.Interpreter.from_file(str(policy_file.path))
        except (ValueError, RuntimeError) as error:
            raise ArtifactError(
                f"{policy_file.path} does not load in tflite-micro ({error}). It holds an "
                "operator that microcontrollers lack; run it in litert."
            ) from error
        self.spec, self.name, self.file = artifact.spec, NAME, file
        self.bytes, self.sha256 = policy_file.path.stat().st_size, policy_file.sha256
        self.versions = {"tflite-micro": version("tflite-micro")}
        io = dict(policy_file.facts.get("io") or {})
        given = self._interpreter.get_input_details(0)
        self._codes = Codes.of(self.spec, io)
        self._arrange = arrange(
            self.spec, io, np.float32 if self._codes is not None else given["dtype"]
        )
        self._discrete = isinstance(self.spec.actions, DiscreteActions)
        # Tensors have no names here: the raw outputs are float or int8 and n_outputs wide.
        self._raw = self._find_outputs()

    def _find_outputs(self) -> int:
        for index in range(8):
            try:
                detail = self._interpreter.get_output_details(index)
            except (IndexError, ValueError, RuntimeError):
                break
            if int(np.prod(detail["shape"])) == self.spec.n_outputs and detail["dtype"] in (
                np.float32,
                np.int8,
            ):
                return index
        return 0

    def prepare(self, observation: Any) -> Any:
        """(*observation_shape) to the interpreter's input, (1, ...)."""
        x = self._arrange(np.asarray(observation)[None])
        return x if self._codes is None else self._codes.encode(x)

    def run(self, prepared: Any) -> Any:
        """Copy in, invoke, copy the raw outputs out."""
        self._interpreter.set_input(prepared, 0)
        self._interpreter.invoke()
        return self._interpreter.get_output(self._raw)

    def finish(self, raw: Any) -> Any:
        """The action, decoded from the raw outputs."""
        action = self.spec.decode(self._floats(raw))[0]
        return int(action) if self._discrete else action

    def outputs(self, observations: Array) -> FloatArray:
        """Observations (N, *observation_shape) to raw outputs (N, n_outputs) float32."""
        rows = [self._floats(self.run(self.prepare(o)))[0] for o in observations]
        return np.asarray(rows, np.float32).reshape(len(rows), -1)

    def _floats(self, raw: Any) -> FloatArray:
        y = raw if self._codes is None else self._codes.decode(raw)
        return np.asarray(y, np.float32).reshape(1, -1)


def open_file(artifact: Artifact, file: str) -> Runtime:
    """Load the artifact's policy.tflite or policy.int8.tflite."""
    return TfliteMicroPolicy(artifact, file)
