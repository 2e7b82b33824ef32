"""Compile generated C on this machine and call it from Python."""

from __future__ import annotations

import ctypes
import subprocess
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from pops.artifact import atomic_path
from pops.errors import PopsError
from pops.spec import Array, DiscreteActions, FloatArray, PolicySpec
from pops_export.c.golden import channel_last
from pops_export.c.harness import harness
from pops_export.int8.network import IntArray

FLAGS = ("-std=c99", "-O3", "-ffp-contract=off")
"""From -O3 on gcc vectorises sums of products: images take a sixth of the time."""


def compile_shared(
    sources: Mapping[str, str],
    out: Path | str,
    cc: str = "cc",
    flags: Sequence[str] = FLAGS,
    prefix: str = "policy",
) -> Path:
    """Compile generated files and the batch harness into one shared library.

    Args:
        sources: file name to text, as `generate_int8` and `generate_float` return them.
        out: the shared library to write.
        cc: the compiler.
        flags: given to the compiler before `-shared -fPIC`.
        prefix: the prefix that the sources were generated with.

    Raises:
        PopsError: if there is no compiler or it refuses the sources.
    """
    with tempfile.TemporaryDirectory(prefix="pops-c-") as folder, atomic_path(out) as beside:
        for name, text in sources.items():
            (Path(folder) / Path(name).name).write_text(text)
        main = Path(folder) / "pops_harness.c"
        main.write_text(harness(prefix))
        command = [cc, *flags, "-shared", "-fPIC", str(main), "-o", str(beside), "-lm"]
        try:
            result = subprocess.run(command, capture_output=True, text=True, check=False)
        except OSError as error:
            raise PopsError(
                f"Cannot run the C compiler {cc!r} ({error.strerror}). Install one, for example "
                "with `apt install gcc`, or name yours."
            ) from error
        if result.returncode != 0:
            raise PopsError(f"{cc} refuses the generated C:\n{result.stderr.strip()[:2000]}")
    return Path(out)


class CompiledPolicy:
    """Generated C as a Policy, called in batches through ctypes.

    Each object has scratch of its own; one object must not be called from two threads at once.
    """

    def __init__(self, library: Path | str, spec: PolicySpec) -> None:
        self.spec = spec
        try:
            self._library = ctypes.CDLL(str(Path(library).resolve()))
        except OSError as error:
            raise PopsError(f"Cannot load {library}: {error}. Compile it again.") from error
        sizes = (ctypes.c_int32 * 5).in_dll(self._library, "pops_sizes")
        self.observation_size, self.output_size, self.action_size, scratch, codes = sizes
        self.input_codes = codes
        self.scratch_bytes = scratch
        # One word more than asked for, so that writing past the end would be seen.
        self._scratch = np.zeros(scratch // 4 + 2, dtype=np.uint32)
        self._discrete = isinstance(spec.actions, DiscreteActions)

    def outputs(self, observations: Array) -> FloatArray:
        """Observations (N, *observation_shape) to raw outputs (N, n_outputs) float32."""
        x = self._input(observations)
        result = np.empty((len(x), self.output_size), dtype=np.float32)
        self._call("pops_infer", x, len(x), result, np.empty(len(x), dtype=np.int32))
        return result

    def act(self, observations: Array) -> Array:
        """Observations (N, *observation_shape) to actions (N, *act_shape)."""
        return self._act(observations)[0]

    def statuses(self, observations: Array) -> IntArray:
        """The status that `policy_act` returns for each observation, (N,) int32."""
        return self._act(observations)[1]

    def codes(self, inputs: IntArray) -> IntArray:
        """Input codes (N, inputs) int8 to output codes (N, outputs) int8; int8 code only."""
        x = np.ascontiguousarray(inputs, dtype=np.int8).reshape(len(inputs), -1)
        given = (x.view(np.uint8) ^ 0x80).astype(np.uint8)
        result = np.empty((len(x), self.output_size), dtype=np.uint8)
        self._call("pops_codes", given, len(x), result)
        return (result ^ 0x80).view(np.int8)

    def quantise(self, observations: Array) -> IntArray:
        """Observations to the codes (N, inputs) int8 that enter the network; int8 code only."""
        x = self._input(observations)
        result = np.empty((len(x), self.input_codes), dtype=np.uint8)
        self._call("pops_quantise", x, len(x), result)
        return (result ^ 0x80).view(np.int8)

    def self_test(self) -> int:
        """The status that `policy_self_test` returns; 0 where no golden vectors are embedded."""
        function = self._library.pops_self_test
        function.restype = ctypes.c_int32
        return int(function(self._scratch.ctypes.data_as(ctypes.c_void_p)))

    def _act(self, observations: Array) -> tuple[Array, IntArray]:
        x = self._input(observations)
        kind: Any = np.int32 if self._discrete else np.float32
        actions = np.empty((len(x), self.action_size), dtype=kind)
        statuses = np.empty(len(x), dtype=np.int32)
        self._call("pops_act", x, len(x), actions, statuses)
        if self._discrete:
            return actions[:, 0].astype(np.int64), statuses
        return actions.reshape(len(x), *self.spec.actions.shape), statuses  # type: ignore[union-attr]

    def _input(self, observations: Array) -> Array:
        x = channel_last(observations, self.spec)
        return x.reshape(len(x), self.observation_size)

    def _call(self, name: str, *arguments: Any) -> None:
        converted = [
            a.ctypes.data_as(ctypes.c_void_p) if isinstance(a, np.ndarray) else ctypes.c_int32(a)
            for a in (*arguments, self._scratch)
        ]
        function = getattr(self._library, name)
        function.restype = None
        function(*converted)
