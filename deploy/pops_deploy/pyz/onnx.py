"""ONNX Runtime on one thread of the CPU. Needs numpy and onnxruntime on the device."""

from __future__ import annotations

import struct
from typing import Any

from .failure import DeviceError, RuntimeMissing
from .policy import DevicePolicy

INPUT_TYPES = {
    "tensor(float)": "float32",
    "tensor(double)": "float64",
    "tensor(uint8)": "uint8",
    "tensor(int64)": "int64",
    "tensor(int32)": "int32",
}


class OnnxPolicy(DevicePolicy):
    """An .onnx file whose first output is raw and whose last is the action."""

    name = "onnx"

    def __init__(self, spec: dict[str, Any], model: bytes) -> None:
        super().__init__(spec)
        try:
            import numpy as np
            import onnxruntime
        except ImportError as error:
            raise missing() from error
        options = onnxruntime.SessionOptions()
        options.intra_op_num_threads = 1
        options.inter_op_num_threads = 1
        options.execution_mode = onnxruntime.ExecutionMode.ORT_SEQUENTIAL
        options.log_severity_level = 3
        try:
            self._session = onnxruntime.InferenceSession(
                model, options, providers=["CPUExecutionProvider"]
            )
        except Exception as error:  # onnxruntime raises kinds of its own that share no base
            raise DeviceError(
                f"The ONNX file does not load in onnxruntime {onnxruntime.__version__} ({error}). "
                "Version 1.17 or newer is expected; update it, or use another runtime."
            ) from error
        self._np = np
        self.versions = {
            "onnxruntime": str(onnxruntime.__version__),
            "numpy": str(np.__version__),
        }
        inputs, outputs = self._session.get_inputs(), self._session.get_outputs()
        self._input = str(inputs[0].name)
        self._dtype = np.dtype(INPUT_TYPES[inputs[0].type])
        self._raw, self._action = [str(outputs[0].name)], [str(outputs[-1].name)]

    def convert(self, values: Any) -> Any:
        """A numpy array of the observation's shape, as the environment returns it."""
        flat = self._np.array(values, dtype=self.observation_dtype)
        return flat.reshape(self.observation_shape)

    def prepare(self, observation: Any) -> Any:
        """The session's feed: a batch of one."""
        return {self._input: self._np.asarray(observation, self._dtype)[None]}

    def run(self, prepared: Any) -> Any:
        """The session, asked for the action alone."""
        return self._session.run(self._action, prepared)[0]

    def finish(self, raw: Any) -> Any:
        """The first row: int, or a list of floats."""
        return int(raw[0]) if self.discrete else raw[0].reshape(-1).tolist()

    def infer(self, observation: Any) -> list[float]:
        """The raw outputs for one observation."""
        raw = self._session.run(self._raw, self.prepare(observation))[0]
        result: list[float] = self._np.asarray(raw, "float32").reshape(-1).tolist()
        return result


def missing() -> RuntimeMissing:
    """The error where onnxruntime or numpy is not installed."""
    if struct.calcsize("P") == 4:
        return RuntimeMissing(
            "onnxruntime",
            "There is no onnxruntime package for 32-bit ARM. Use the bundle's C library "
            "(runtime c), which needs no package.",
        )
    return RuntimeMissing(
        "onnxruntime",
        "Running the ONNX file needs the package 'onnxruntime', which this Python does not have. "
        "Install it on the device with: pip install onnxruntime",
    )
