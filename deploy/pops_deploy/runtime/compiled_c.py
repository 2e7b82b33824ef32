"""The generated C, compiled on the spot with the local compiler and loaded into this process.

Where Python's headers are installed the policy becomes a CPython extension (binding.c), whose
call costs little more than the policy itself; elsewhere a shared library loaded with ctypes.
"""

from __future__ import annotations

import ctypes
import importlib.machinery
import importlib.util
import os
import pkgutil
import shlex
import shutil
import subprocess
import sysconfig
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

from pops.errors import PopsError
from pops.spec import Array, DiscreteActions, FloatArray
from pops_deploy.folder import Artifact
from pops_deploy.runtime.base import Phases, Runtime

NAME = "c"
FORMAT = "c"
FLAGS = ("-O3", "-std=gnu99", "-ffp-contract=off", "-fPIC")
STATUSES = ("ok", "out_of_range", "not_finite", "bad_argument", "self_test_failed")
PHASE_RUNS = 51
PHASE_NS = 500_000.0


class CompiledPolicy(Runtime):
    """What both ways of loading share: batches, and the types at the C boundary."""

    placed_anew = False  # code and constants begin at a page, wherever that lies

    def __init__(self, artifact: Artifact, file: str) -> None:
        super().__init__()
        source = artifact.file("c", file)
        header = artifact.header(file)
        self.spec, self.name, self.file = artifact.spec, NAME, file
        self.prefix = str(source.facts["prefix"])
        self.source, self.header = source.path, header
        self.sha256 = source.sha256
        self.discrete = isinstance(self.spec.actions, DiscreteActions)
        io = dict(source.facts.get("io") or {})
        self.input_dtype: type = np.uint8 if io.get("input_dtype") == "uint8" else np.float32
        # Images go in with their channels last, whatever order the environment has.
        self.moves = len(self.spec.input_shape) == 3 and not self.spec.channels_last
        self.output_dtype: type = np.int32 if self.discrete else np.float32

    def prepare(self, observation: Any) -> Any:
        """The observation itself, which C reads where it lies; images with channels last."""
        if self.moves:
            return np.ascontiguousarray(np.moveaxis(observation, 0, -1))
        return observation

    def run(self, prepared: Any) -> Any:
        """The whole call."""
        return self.call(prepared)

    def finish(self, raw: Any) -> Any:
        """Nothing is left to do."""
        return raw

    def _batch(self, observations: Array) -> Array:
        x = np.moveaxis(observations, 1, -1) if self.moves else np.asarray(observations)
        return np.ascontiguousarray(x.reshape(len(x), -1), self.input_dtype)

    def use(self, call: Callable[[Any], Any]) -> None:
        """Set the function that takes a prepared observation; directly as `step` where it can."""
        self.call = call
        self.step = self._step_in_parts if self.moves else call


class ExtensionPolicy(CompiledPolicy):
    """The policy as a CPython extension."""

    def __init__(self, artifact: Artifact, file: str, include: Path) -> None:
        super().__init__(artifact, file)
        observation = "uint8_t" if self.input_dtype is np.uint8 else "float"
        defines = {
            "HEADER": f'"{self.header.name}"',
            "PREFIX": self.prefix,
            "UPPER": self.prefix.upper(),
            "OBSERVATION": observation,
            "DISCRETE": int(self.discrete),
        }
        with tempfile.TemporaryDirectory(prefix="pops-") as folder:
            binding = Path(folder) / "binding.c"
            binding.write_bytes(pkgutil.get_data(__package__, "binding.c") or b"")
            library = Path(folder) / "pops_policy.so"
            flags = [f"-I{include}", *(f"-DPOPS_{name}={value}" for name, value in defines.items())]
            self.bytes, code = compile_policy(self.source, Path(folder))
            self.versions = build([code, binding], self.header.parent, library, flags)
            loader = importlib.machinery.ExtensionFileLoader("pops_policy", str(library))
            spec = importlib.util.spec_from_file_location("pops_policy", library, loader=loader)
            assert spec is not None
            self._module: Any = importlib.util.module_from_spec(spec)
            loader.exec_module(self._module)
        self.versions["binding"] = "extension"
        self.id = str(self._module.id)
        self._shape = (self._module.actions,)
        self.use(self._module.act if self.discrete else self._act_continuous)

    def _act_continuous(self, observation: Any) -> Any:
        return self._module.act(observation, np.empty(self._shape, np.float32)).reshape(
            self.action_shape
        )

    def outputs(self, observations: Array) -> FloatArray:
        """Observations (N, *observation_shape) to raw outputs (N, n_outputs) float32."""
        out = np.empty((len(observations), self._module.outputs), np.float32)
        self._module.infer_batch(self._batch(observations), out)
        return out

    def act(self, observations: Array) -> Array:
        """Observations (N, *observation_shape) to deterministic actions (N, *act_shape)."""
        out = np.empty((len(observations), *self._shape), self.output_dtype)
        self._module.act_batch(self._batch(observations), out)
        return out.astype(self.action_dtype).reshape(len(out), *self.action_shape)

    def phases(self, observations: list[Any]) -> Phases | None:
        """Measured by loops in C, since Python's clock is slower than the policy."""
        observations = [self.prepare(observation) for observation in observations]
        chosen = observations[:1]
        once = sum(self._module.phases(chosen, 3))
        # Short runs and their median: another process costs a run, not the result.
        chosen = observations[: max(1, min(len(observations), int(PHASE_NS / max(once, 1.0))))]
        rounds = max(1, int(PHASE_NS / max(once, 1.0)) // len(chosen))
        runs = [self._module.phases(chosen, rounds) for _ in range(PHASE_RUNS)]
        return Phases(*(float(np.median(part)) for part in zip(*runs)))

    def statuses(self) -> dict[str, int]:
        """How many calls so far came back with each status."""
        return dict(zip(STATUSES, self._module.statuses()))

    def self_test(self) -> bool:
        """Whether the code computes its embedded golden vectors."""
        return int(self._module.self_test()) == 0


class CtypesPolicy(CompiledPolicy):
    """The policy as a shared library; needs no Python headers."""

    def __init__(self, artifact: Artifact, file: str) -> None:
        super().__init__(artifact, file)
        with tempfile.TemporaryDirectory(prefix="pops-") as folder:
            library = Path(folder) / "policy.so"
            self.bytes, code = compile_policy(self.source, Path(folder))
            self.versions = build([code], self.header.parent, library, [])
            self._library = ctypes.CDLL(str(library))
        self.versions["binding"] = "ctypes"
        self.id = ctypes.string_at(
            ctypes.addressof(ctypes.c_char.in_dll(self._library, f"{self.prefix}_id"))
        ).decode()
        self._act = getattr(self._library, f"{self.prefix}_act")
        self._infer = getattr(self._library, f"{self.prefix}_infer")
        # 64 to spare, so that any alignment a policy asks for can be met inside.
        size = int(artifact.file("c", file).facts["scratch_bytes"])
        self._memory = ctypes.create_string_buffer(size + 64)
        start = ctypes.addressof(self._memory)
        self._scratch = ctypes.c_void_p(start + -start % 64)
        self._pointer = ctypes.POINTER(
            ctypes.c_uint8 if self.input_dtype is np.uint8 else ctypes.c_float
        )
        width = 1 if self.discrete else self.spec.n_outputs
        self._out: Array = np.empty(width, self.output_dtype)
        self._out_address = ctypes.c_void_p(self._out.ctypes.data)
        self.use(self._act_ctypes)

    def _act_ctypes(self, observation: Any) -> Any:
        x: Array = np.ascontiguousarray(observation, self.input_dtype)
        self._check(self._act(ctypes.c_void_p(x.ctypes.data), self._out_address, self._scratch))
        if self.discrete:
            return int(self._out[0])
        return self._out.reshape(self.action_shape).copy()

    def outputs(self, observations: Array) -> FloatArray:
        """Observations (N, *observation_shape) to raw outputs (N, n_outputs) float32."""
        x = self._batch(observations)
        out = np.empty((len(x), self.spec.n_outputs), np.float32)
        for row, result in zip(x, out):
            self._check(
                self._infer(
                    ctypes.c_void_p(row.ctypes.data),
                    ctypes.c_void_p(result.ctypes.data),
                    self._scratch,
                )
            )
        return out

    @staticmethod
    def _check(status: int) -> None:
        if status >= STATUSES.index("bad_argument"):
            raise PopsError(f"The compiled policy refused its arguments ({STATUSES[status]}).")


def compiler() -> list[str]:
    """The local C compiler: $CC, else cc, gcc or clang.

    Raises:
        PopsError: if there is none; names the package.
    """
    chosen = shlex.split(os.environ.get("CC", ""))
    for command in [chosen] if chosen else [["cc"], ["gcc"], ["clang"]]:
        if shutil.which(command[0]):
            return command
    looked = f"$CC, which is {chosen[0]!r}" if chosen else "cc, gcc and clang"
    raise PopsError(
        f"The generated C is compiled here, and no C compiler was found (looked for {looked}). "
        "Install one: `apt install gcc libc6-dev` on Debian, Ubuntu and Raspberry Pi OS, "
        "`xcode-select --install` on macOS; or choose another runtime, for example litert."
    )


def compile_policy(source: Path, folder: Path) -> tuple[int, Path]:
    """Compile one file of generated C: the bytes of its code and constants, and the object file.

    Raises:
        PopsError: if there is no compiler, or it refuses the code.
    """
    code = folder / "policy.o"
    _compile([*FLAGS, "-c", f"-I{source.parent}", str(source), "-o", str(code)], source)
    tool = shutil.which("size")
    if tool is None:
        return code.stat().st_size, code
    done = subprocess.run([tool, str(code)], capture_output=True, text=True, timeout=60)
    numbers = [line.split()[:2] for line in done.stdout.splitlines()[1:2]]
    if done.returncode != 0 or not numbers:
        return code.stat().st_size, code
    return sum(int(n) for n in numbers[0]), code


def _compile(arguments: list[str], source: Path) -> None:
    command = compiler()
    done = subprocess.run([*command, *arguments], capture_output=True, text=True, timeout=600)
    if done.returncode != 0:
        lines = "\n".join((done.stderr or done.stdout).splitlines()[:5])
        raise PopsError(f"{command[0]} could not compile {source}:\n{lines}")


def build(sources: list[Path], include: Path, library: Path, flags: list[str]) -> dict[str, str]:
    """Compile sources into a shared library; returns the compiler's version and the flags.

    Raises:
        PopsError: if there is no compiler, or it refuses the code (its first lines are quoted).
    """
    command = compiler()
    math = [] if os.name == "nt" else ["-lm"]
    inputs = [f"-I{include}", *flags, *map(str, sources)]
    _compile([*FLAGS, "-shared", *inputs, "-o", str(library), *math], sources[0])
    version = subprocess.run([*command, "--version"], capture_output=True, text=True, timeout=60)
    first = version.stdout.splitlines()
    return {"compiler": first[0] if first else command[0], "flags": " ".join(FLAGS)}


def python_headers() -> Path | None:
    """The folder with Python.h, None where it is not installed."""
    folder = Path(sysconfig.get_paths()["include"])
    return folder if (folder / "Python.h").is_file() else None


def open_file(artifact: Artifact, file: str) -> Runtime:
    """Compile and load the artifact's c/policy.c (int8) or c/policy_f32.c (fp32)."""
    include = python_headers()
    if include is None or os.environ.get("POPS_C_BINDING") == "ctypes":
        return CtypesPolicy(artifact, file)
    return ExtensionPolicy(artifact, file, include)
