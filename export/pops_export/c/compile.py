"""Compile generated C on this machine and call it from Python."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path

from pops.spec import Array, FloatArray, PolicySpec
from pops_export.int8.network import IntArray

FLAGS = ("-std=c99", "-O2", "-ffp-contract=off")


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
    raise NotImplementedError


class CompiledPolicy:
    """Generated C as a Policy, called in batches through ctypes."""

    def __init__(self, library: Path | str, spec: PolicySpec, prefix: str = "policy") -> None:
        raise NotImplementedError

    def outputs(self, observations: Array) -> FloatArray:
        """Observations (N, *observation_shape) to raw outputs (N, n_outputs) float32."""
        raise NotImplementedError

    def act(self, observations: Array) -> Array:
        """Observations (N, *observation_shape) to actions (N, *act_shape)."""
        raise NotImplementedError

    def statuses(self, observations: Array) -> IntArray:
        """The status that `policy_act` returns for each observation, (N,) int32."""
        raise NotImplementedError

    def codes(self, inputs: IntArray) -> IntArray:
        """Input codes (N, inputs) int8 to output codes (N, outputs) int8; int8 code only."""
        raise NotImplementedError

    def quantise(self, observations: Array) -> IntArray:
        """Observations to the codes (N, inputs) int8 that enter the network; int8 code only."""
        raise NotImplementedError

    def self_test(self) -> int:
        """The status that `policy_self_test` returns."""
        raise NotImplementedError
