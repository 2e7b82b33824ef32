"""ONNX Runtime on one thread of the CPU."""

from __future__ import annotations

from typing import Any

import numpy as np

from pops.errors import ArtifactError
from pops.spec import Array, DiscreteActions, FloatArray
from pops_deploy.folder import Artifact
from pops_deploy.runtime.base import Runtime, missing_package
from pops_deploy.runtime.layout import arrange

NAME = "onnx"
FORMAT = "onnx"

_DTYPES = {
    "tensor(float)": np.float32,
    "tensor(double)": np.float64,
    "tensor(uint8)": np.uint8,
    "tensor(int8)": np.int8,
    "tensor(int64)": np.int64,
    "tensor(int32)": np.int32,
}


class OnnxPolicy(Runtime):
    """An .onnx file whose second output is the action."""

    def __init__(self, artifact: Artifact, file: str) -> None:
        super().__init__()
        try:
            import onnxruntime
        except ImportError as error:
            raise missing_package("onnxruntime", "Running policy.onnx") from error
        policy_file = artifact.file("onnx", file)
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                str(policy_file.path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime raises kinds of its own that share no base
            raise ArtifactError(
                f"{policy_file.path} does not load in onnxruntime {onnxruntime.__version__} "
                f"({error}). Export again, or update onnxruntime."
            ) from error
        self.spec, self.name, self.file = artifact.spec, NAME, file
        self.bytes, self.sha256 = policy_file.path.stat().st_size, policy_file.sha256
        self.versions = {"onnxruntime": str(onnxruntime.__version__)}
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        self._input = str(inputs[0].name)
        io = dict(policy_file.facts.get("io") or {})
        self._arrange = arrange(self.spec, io, _DTYPES[inputs[0].type])
        self._outputs = [str(outputs[0].name)]
        self._action = [str(outputs[-1].name)]
        self._discrete = isinstance(self.spec.actions, DiscreteActions)

    def prepare(self, observation: Any) -> Any:
        """(*observation_shape) to the session's feed."""
        return {self._input: self._arrange(np.asarray(observation)[None])}

    def run(self, prepared: Any) -> Any:
        """The session, asked for the action alone."""
        return self._session.run(self._action, prepared)

    def finish(self, raw: Any) -> Any:
        """The first row: int, or an array of the action's shape."""
        return int(raw[0][0]) if self._discrete else raw[0][0]

    def outputs(self, observations: Array) -> FloatArray:
        """Observations (N, *observation_shape) to raw outputs (N, n_outputs) float32."""
        feed = {self._input: self._arrange(observations)}
        result = np.asarray(self._session.run(self._outputs, feed)[0], np.float32)
        return result.reshape(len(observations), -1)

    def act(self, observations: Array) -> Array:
        """Observations (N, *observation_shape) to deterministic actions (N, *act_shape)."""
        feed = {self._input: self._arrange(observations)}
        raw = self._session.run(self._action, feed)[0]
        return np.asarray(raw, self.action_dtype).reshape(len(observations), *self.action_shape)


def open_file(artifact: Artifact, file: str) -> Runtime:
    """Load the artifact's policy.onnx or policy.int8.onnx."""
    return OnnxPolicy(artifact, file)
