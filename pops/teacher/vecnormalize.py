"""VecNormalize statistics from a pickle, with every name in it replaced by an inert stand-in."""

from __future__ import annotations

import io
import math
import pickle
import pickletools
import re
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from pops.errors import TeacherError
from pops.spec import Array
from pops.teacher.archive import read_file

MAX_PICKLE_BYTES = 256 << 20
_MAX_MEMO = 1_000_000
_DTYPE = re.compile(r"[<>|=]?[biuf][1248]")
_STAND_IN_MODULES = (
    "gym.spaces.",
    "gymnasium.spaces.",
    "numpy.random.",
    "stable_baselines3.common.running_mean_std",
    "stable_baselines3.common.vec_env.",
)
_STAND_IN_NAMES = {
    "collections.OrderedDict",
    "collections.deque",
    "builtins.object",
    "builtins.set",
    "copyreg._reconstructor",
    "copy_reg._reconstructor",
    "numpy.bool_",
    *(f"numpy.{kind}{bits}" for kind in ("int", "uint", "float") for bits in (8, 16, 32, 64)),
}
_NUMPY_ROOTS = ("numpy.core.", "numpy._core.")


@dataclass(frozen=True)
class Statistics:
    """What VecNormalize knows about observations."""

    path: Path
    mean: Array | None
    """float64, in the shape of one observation; None if observations are not normalised."""
    var: Array | None
    epsilon: float
    clip_obs: float
    norm_obs: bool

    @property
    def features(self) -> int:
        """Number of features that have statistics."""
        return 0 if self.mean is None else int(self.mean.size)


class _StandIn:
    """Takes the place of every object in the pickle: keeps state, does nothing."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.state: Any = None

    def __setstate__(self, state: Any) -> None:
        self.state = state

    def __setitem__(self, key: Any, value: Any) -> None:
        pass

    def append(self, value: Any) -> None:
        pass

    def extend(self, values: Any) -> None:
        pass

    def add(self, value: Any) -> None:
        pass


class _VecNormalize(_StandIn):
    pass


class _RunningMeanStd(_StandIn):
    pass


class _Dtype(_StandIn):
    def __init__(self, *args: Any, **kwargs: Any) -> None:
        name = str(args[0]) if args else ""
        self.name = name
        self.order = "="

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) > 1 and state[1] in ("<", ">", "|", "="):
            self.order = state[1]

    def real(self) -> np.dtype[Any]:
        name = self.name.lstrip("<>|=")
        if not _DTYPE.fullmatch(name):
            raise ValueError(f"arrays of dtype {self.name!r}")
        return np.dtype(name).newbyteorder("=" if self.order == "|" else self.order)  # type: ignore[arg-type]


class _Array(_StandIn):
    """What numpy calls `_reconstruct`: an empty array that gets its bytes from `__setstate__`."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        self.value: Array | None = None

    def __setstate__(self, state: Any) -> None:
        if isinstance(state, tuple) and len(state) == 5:
            _, shape, dtype, fortran, raw = state
            # Arrays of other kinds (objects, strings) stay empty; only statistics are wanted.
            if isinstance(dtype, _Dtype) and isinstance(raw, bytes):
                self.value = _array(raw, dtype, shape, "F" if fortran else "C")


def _array(raw: bytes | bytearray, dtype: _Dtype, shape: Any, order: Any) -> Array:
    kind = dtype.real()
    sizes = tuple(int(n) for n in shape)
    if any(n < 0 for n in sizes) or math.prod(sizes) * kind.itemsize != len(raw):
        raise ValueError(f"{len(raw)} bytes for an array of shape {sizes}")
    return np.frombuffer(bytes(raw), dtype=kind).reshape(sizes, order="F" if order == "F" else "C")


def _scalar(dtype: Any, raw: Any = b"") -> Any:
    """What numpy calls `scalar`: a number of a dtype from its bytes."""
    if not isinstance(dtype, _Dtype) or not isinstance(raw, bytes):
        return None
    return _array(raw, dtype, (1,), "C")[0].item()


def _frombuffer(raw: Any, dtype: Any, shape: Any, order: Any, *_: Any) -> Any:
    """What numpy calls `_frombuffer` (pickle protocol 5)."""
    stand_in = _Array()
    if isinstance(dtype, _Dtype) and isinstance(raw, (bytes, bytearray)):
        stand_in.value = _array(raw, dtype, shape, order)
    return stand_in


def _encode(text: Any, encoding: Any = "latin1") -> bytes:
    """How protocol 2 writes bytes: as latin-1 text."""
    if not isinstance(text, str) or encoding != "latin1":
        raise ValueError("bytes that are not written as latin-1 text")
    return text.encode("latin1")


class _InertUnpickler(pickle.Unpickler):
    """Looks nothing up: every allowed name is one of the stand-ins above."""

    def find_class(self, module: str, name: str) -> Any:
        full = f"{module}.{name}"
        if module.startswith(_NUMPY_ROOTS):
            special = {"_reconstruct": _Array, "scalar": _scalar, "_frombuffer": _frombuffer}
            if name in special:
                return special[name]
        if full == "_codecs.encode":
            return _encode
        if full == "numpy.dtype":
            return _Dtype
        if name == "VecNormalize" and module.startswith("stable_baselines3."):
            return _VecNormalize
        if name == "RunningMeanStd" and module.startswith("stable_baselines3."):
            return _RunningMeanStd
        if full == "numpy.ndarray" or full in _STAND_IN_NAMES:
            return _StandIn
        if f"{module}.".startswith(_STAND_IN_MODULES):
            return _StandIn
        raise pickle.UnpicklingError(f"it names {full!r}")


def read_vecnormalize(path: Path) -> Statistics:
    """Read observation statistics from what `VecNormalize.save()` wrote.

    Raises:
        TeacherError: if the file is damaged, names anything that statistics do not need
            (nothing of it is run), or is not a VecNormalize.
    """
    raw = read_file(path, MAX_PICKLE_BYTES)
    try:
        _check_opcodes(raw)
        loaded = _InertUnpickler(io.BytesIO(raw)).load()
    except Exception as error:  # a damaged pickle can raise nearly anything
        raise TeacherError(
            f"{path} is not a readable VecNormalize file ({error}). Nothing of it was run. "
            "Expected what VecNormalize.save() writes; save it again."
        ) from error
    if not isinstance(loaded, _VecNormalize) or not isinstance(loaded.state, dict):
        raise TeacherError(
            f"{path} is a pickle, but not of a VecNormalize. Expected what VecNormalize.save() "
            "writes."
        )
    return _statistics(path, loaded.state)


def _check_opcodes(raw: bytes) -> None:
    """Bound what the unpickler would allocate: lengths must lie in the file, memos be small."""
    for opcode, arg, _ in pickletools.genops(raw):
        if "PUT" in opcode.name and isinstance(arg, int) and arg > _MAX_MEMO:
            raise pickle.UnpicklingError(f"memo index {arg}")


def _statistics(path: Path, state: dict[str, Any]) -> Statistics:
    norm_obs = bool(state.get("norm_obs", True))
    epsilon, clip = state.get("epsilon", 1e-8), state.get("clip_obs", 10.0)
    if not all(
        isinstance(v, (int, float)) and math.isfinite(v) and v >= 0 for v in (epsilon, clip)
    ):
        raise TeacherError(f"{path}: epsilon {epsilon!r} or clip_obs {clip!r} is not a number.")
    if not norm_obs:
        return Statistics(path, None, None, float(epsilon), float(clip), False)
    rms = state.get("obs_rms")
    if isinstance(rms, dict):
        raise TeacherError(
            f"{path} normalises Dict observations; expected a Box. Flatten the observation with a "
            "wrapper and train on that."
        )
    inner = rms.state if isinstance(rms, _RunningMeanStd) else None
    values = [inner.get(key) for key in ("mean", "var")] if isinstance(inner, dict) else []
    arrays = [value.value for value in values if isinstance(value, _Array)]
    mean, var = (*arrays, None, None)[:2]
    if mean is None or var is None or mean.shape != var.shape:
        raise TeacherError(
            f"{path} holds no mean and variance of observations (obs_rms). Expected what "
            "VecNormalize.save() writes; save it again."
        )
    if not (np.isfinite(mean).all() and np.isfinite(var).all() and (var >= 0).all()):
        raise TeacherError(
            f"{path} holds NaN, infinite or negative statistics; expected finite ones. Save them "
            "again."
        )
    return Statistics(
        path,
        mean.astype(np.float64),
        var.astype(np.float64),
        float(epsilon),
        float(clip),
        True,
    )
