"""What lies on disk: policy files, runs and artifacts; written whole or not at all."""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from pops.arch import NetArch
from pops.errors import ArtifactError, PopsError
from pops.policy import NumpyPolicy
from pops.spec import Array, FloatArray, PolicySpec

POLICY_FORMAT = "pops-policy-1"
RUN_FORMAT = "pops-run-1"
ARTIFACT_FORMAT = "pops-artifact-1"
MAX_POLICY_BYTES = 1 << 30


@contextlib.contextmanager
def atomic_path(path: Path | str) -> Iterator[Path]:
    """Yield a temporary path beside `path` that takes its place only if the block succeeds.

    Raises:
        ArtifactError: if the file system refuses (a full disk, no permission).
    """
    path = Path(path)
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        handle, name = tempfile.mkstemp(prefix=f".{path.name}.", dir=path.parent)
        os.close(handle)
    except OSError as error:
        raise ArtifactError(f"Cannot write {path}: {error.strerror}.") from error
    beside = Path(name)
    try:
        yield beside
        with beside.open("rb") as file:
            os.fsync(file.fileno())
        os.chmod(beside, 0o644)
        os.replace(beside, path)
    except OSError as error:
        raise ArtifactError(
            f"Cannot write {path}: {error.strerror or error}. Nothing was changed; free space "
            "or choose another folder, then run the command again."
        ) from error
    finally:
        beside.unlink(missing_ok=True)


def write_bytes(path: Path | str, data: bytes) -> None:
    """Write `data` to `path`, whole or not at all."""
    with atomic_path(path) as beside:
        beside.write_bytes(data)


def write_json(path: Path | str, data: Any) -> None:
    """Write JSON with sorted keys, whole or not at all. NaN is refused."""
    text = json.dumps(data, indent=2, sort_keys=True, allow_nan=False) + "\n"
    write_bytes(path, text.encode())


def read_json(path: Path | str) -> dict[str, Any]:
    """Read a JSON object.

    Raises:
        ArtifactError: if the file is missing, damaged or not an object.
    """
    try:
        data = json.loads(Path(path).read_bytes())
    except OSError as error:
        raise ArtifactError(f"Cannot read {path}: {error.strerror}.") from error
    except ValueError as error:
        raise ArtifactError(
            f"{path} is not valid JSON ({error}). It was damaged after it was written; "
            "make it again."
        ) from error
    if not isinstance(data, dict):
        raise ArtifactError(f"{path} holds a {type(data).__name__}, expected a JSON object.")
    return data


def sha256_file(path: Path | str) -> str:
    """Hexadecimal SHA-256 of a file's bytes."""
    digest = hashlib.sha256()
    with Path(path).open("rb") as file:
        for block in iter(lambda: file.read(1 << 20), b""):
            digest.update(block)
    return digest.hexdigest()


def write_arrays(path: Path | str, arrays: dict[str, Array]) -> None:
    """Write named arrays as a compressed .npz, the same bytes for the same arrays."""
    with atomic_path(path) as beside, beside.open("wb") as file:
        np.savez_compressed(file, allow_pickle=False, **arrays)


def read_arrays(path: Path | str) -> dict[str, Array]:
    """Read a .npz without unpickling.

    Raises:
        ArtifactError: if the file is missing or damaged.
    """
    try:
        with np.load(path, allow_pickle=False) as data:
            return {name: data[name] for name in data.files}
    except OSError as error:
        raise ArtifactError(f"Cannot read {path}: {error}.") from error
    except Exception as error:  # zipfile and numpy raise several kinds on damaged files
        raise ArtifactError(f"{path} is damaged ({error}). Make it again.") from error


def save_policy(path: Path | str, policy: NumpyPolicy, extra: dict[str, Any] | None = None) -> None:
    """Write a policy as safetensors: weights, and spec and architecture in the metadata.

    `extra`: further JSON-ready facts (algorithm, how it was trained), under the key "extra".
    """
    from safetensors.numpy import save

    tensors = {}
    for index, (weight, bias) in enumerate(policy.parameters):
        tensors[f"{index}.weight"] = np.ascontiguousarray(weight)
        tensors[f"{index}.bias"] = np.ascontiguousarray(bias)
    metadata = {
        "format": POLICY_FORMAT,
        "spec": json.dumps(policy.spec.to_json(), sort_keys=True),
        "net_arch": json.dumps(policy.arch.to_json(), sort_keys=True),
        "extra": json.dumps(extra or {}, sort_keys=True),
    }
    # One metadata key: safetensors writes several in an order that changes from run to run.
    write_bytes(path, save(tensors, {"pops": json.dumps(metadata, sort_keys=True)}))


def load_policy(path: Path | str) -> tuple[NumpyPolicy, dict[str, Any]]:
    """Read what `save_policy` wrote: the policy and its `extra` facts.

    Raises:
        ArtifactError: if the file is missing, damaged, or not a policy of this format.
    """
    from safetensors import SafetensorError, safe_open

    path = Path(path)
    try:
        if path.stat().st_size > MAX_POLICY_BYTES:
            raise ArtifactError(f"{path} is larger than {MAX_POLICY_BYTES >> 20} MiB; refused.")
        with safe_open(path, framework="np") as file:
            metadata = (file.metadata() or {}).get("pops")
            tensors: dict[str, FloatArray] = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    except OSError as error:
        raise ArtifactError(f"Cannot read {path}: {error}.") from error
    except SafetensorError as error:
        raise ArtifactError(
            f"{path} is not a readable safetensors file ({error}). It is truncated or of another "
            "kind; expected a policy written by pops."
        ) from error
    if metadata is None:
        raise ArtifactError(
            f"{path} is a safetensors file without a pops spec; expected one written by "
            "`pops train` or `pops compress`."
        )
    try:
        facts = json.loads(metadata)
        if facts["format"] != POLICY_FORMAT:
            raise ArtifactError(
                f"{path} has format {facts['format']!r}, this version reads {POLICY_FORMAT!r}. "
                "Use the pops version that wrote it, or make it again."
            )
        spec = PolicySpec.from_json(json.loads(facts["spec"]))
        arch = NetArch.from_json(json.loads(facts["net_arch"]))
        parameters = [
            (tensors[f"{i}.weight"], tensors[f"{i}.bias"]) for i in range(len(arch.layers()))
        ]
        return NumpyPolicy(spec, arch, parameters), dict(json.loads(facts["extra"]))
    except (KeyError, TypeError, ValueError) as error:
        raise ArtifactError(f"{path} is damaged ({error!r}). Make it again.") from error
    except PopsError as error:
        raise ArtifactError(f"{path}: {error}") from error


class Run:
    """A finished `pops compress` on disk.

    Files: `manifest.json`, `student.safetensors`, `teacher.safetensors` (the teacher's policy,
    for exports and benches), `states.npz` (array `observations`: states that the student itself
    visits, as the environment returns them), `iterations/`, `ladder/`, `figures/`.
    """

    def __init__(self, path: Path | str) -> None:
        self.path = Path(path)
        if not (self.path / "manifest.json").is_file():
            raise ArtifactError(
                f"{path} is not a finished run: it has no manifest.json. Expected a folder that "
                "`pops compress --out` wrote; if it was interrupted, add --resume to that command."
            )
        self.manifest = read_json(self.path / "manifest.json")
        if self.manifest.get("format") != RUN_FORMAT:
            raise ArtifactError(
                f"{path} was written in format {self.manifest.get('format')!r}, this version "
                f"reads {RUN_FORMAT!r}. Use the pops version that wrote it, or compress again."
            )

    @property
    def student(self) -> NumpyPolicy:
        """The student, from its file."""
        return load_policy(self.path / "student.safetensors")[0]

    @property
    def teacher(self) -> NumpyPolicy:
        """The teacher's policy, from the run's own copy."""
        return load_policy(self.path / "teacher.safetensors")[0]

    def states(self) -> Array:
        """Observations (N, *observation_shape) that the student visited: calibration states."""
        return read_arrays(self.path / "states.npz")["observations"]
