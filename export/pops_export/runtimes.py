"""Each file as a Policy in its own runtime, for the proof: whole batches, one thread."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np

from pops.errors import ArtifactError
from pops.spec import Array, DiscreteActions, FloatArray, PolicySpec
from pops_export.onnx_file import onnx_observations
from pops_export.stage import InputStage
from pops_export.tflite_file import tflite_observations


class FilePolicy:
    """What the runtimes share: outputs and actions come from one call."""

    spec: PolicySpec

    def infer(self, observations: Array) -> tuple[FloatArray, Array]:
        """Observations (N, *observation_shape) to outputs (N, n_outputs) and actions."""
        raise NotImplementedError

    def outputs(self, observations: Array) -> FloatArray:
        """Observations (N, *observation_shape) to raw outputs (N, n_outputs) float32."""
        return self.infer(observations)[0]

    def act(self, observations: Array) -> Array:
        """Observations (N, *observation_shape) to deterministic actions (N, *act_shape)."""
        return self.infer(observations)[1]

    def _shaped(self, outputs: Any, actions: Any) -> tuple[FloatArray, Array]:
        wanted = np.asarray(outputs, np.float32).reshape(-1, self.spec.n_outputs)
        if isinstance(self.spec.actions, DiscreteActions):
            return wanted, np.asarray(actions).astype(np.int64).reshape(-1)
        return wanted, np.asarray(actions, np.float32).reshape(-1, *self.spec.actions.shape)


class OnnxPolicy(FilePolicy):
    """An .onnx file in ONNX Runtime."""

    def __init__(self, path: Path, spec: PolicySpec) -> None:
        import onnxruntime

        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = options.inter_op_num_threads = 1
        options.log_severity_level = 3
        self.spec = spec
        try:
            self._session = onnxruntime.InferenceSession(
                str(path), options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime's own kinds share no base
            raise ArtifactError(f"{path} does not load in ONNX Runtime ({error}).") from error

    def infer(self, observations: Array) -> tuple[FloatArray, Array]:
        """Observations (N, *observation_shape) to outputs (N, n_outputs) and actions."""
        feed = {"observation": onnx_observations(self.spec, observations)}
        return self._shaped(*self._session.run(["outputs", "action"], feed))


class LiteRtPolicy(FilePolicy):
    """A .tflite file in LiteRT, one observation a call; float32 or integer ends.

    Args:
        path: the file.
        spec: the policy's spec.
        io: the file's `io` of artifact.json.
        reference: run LiteRT's reference kernels instead of its fast ones.
    """

    def __init__(
        self, path: Path, spec: PolicySpec, io: dict[str, Any], reference: bool = False
    ) -> None:
        from ai_edge_litert.interpreter import Interpreter, OpResolverType

        kind = OpResolverType.BUILTIN_REF if reference else OpResolverType.AUTO
        self.spec = spec
        self._io = io
        self._integer = io["input_dtype"] != "float32"
        try:
            self._interpreter = Interpreter(
                str(path), num_threads=1, experimental_op_resolver_type=kind
            )
            self._interpreter.allocate_tensors()
        except ValueError as error:
            raise ArtifactError(f"{path} does not load in LiteRT ({error}).") from error
        self._input = self._interpreter.get_input_details()[0]["index"]
        details = {d["name"]: d["index"] for d in self._interpreter.get_output_details()}
        names = io["output_tensors"]
        self._outputs = details[names["outputs"]]
        self._action = details[names["action"]] if "action" in names else None

    def infer(self, observations: Array) -> tuple[FloatArray, Array]:
        """Observations (N, *observation_shape) to outputs (N, n_outputs) and actions."""
        x: Array = tflite_observations(self.spec, observations)
        if self._integer:
            x = to_codes(x, self._io)
        run = self._interpreter
        outputs, actions = [], []
        for i in range(len(x)):
            run.set_tensor(self._input, x[i : i + 1])
            run.invoke()
            outputs.append(run.get_tensor(self._outputs)[0])
            if self._action is not None:
                actions.append(run.get_tensor(self._action)[0])
        raw: Array = np.asarray(outputs)
        if self._integer:
            raw = from_codes(raw, self._io)
        return self._shaped(raw, actions if actions else self.spec.decode(raw))


def to_codes(observations: FloatArray, io: dict[str, Any]) -> Array:
    """Observations to the integers that a full-integer file takes, as its `io` states.

    The input stage in float32, then `round(v / scale) + zero_point`, half away
    from zero, saturating.
    """
    bits = np.dtype(io["input_dtype"])
    value = InputStage.from_json(io["input_stage"]).apply(observations)
    scaled = value / np.float32(io["input_scale"])
    wide = scaled.astype(np.float64)
    rounded = np.trunc(wide + np.copysign(0.5, wide))
    limits = np.iinfo(bits)
    codes: Array = np.clip(rounded + io["input_zero_point"], limits.min, limits.max).astype(bits)
    return codes


def from_codes(codes: Array, io: dict[str, Any]) -> FloatArray:
    """Integers of a full-integer file's `outputs` to float32."""
    scale, zero = np.float32(io["output_scale"]), int(io["output_zero_point"])
    values: FloatArray = (codes.astype(np.int32) - zero).astype(np.float32) * scale
    return values
