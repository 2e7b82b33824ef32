"""Artifact: the folder that `pops export` writes, opened with its hashes checked."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pops.arch import NetArch
from pops.artifact import ARTIFACT_FORMAT, read_arrays, read_json, sha256_file
from pops.errors import ArtifactError
from pops.spec import Array, PolicySpec

KEYS = {
    ("onnx", "fp32"): "onnx_fp32",
    ("onnx", "int8"): "onnx_int8",
    ("tflite", "fp32"): "tflite_fp32",
    ("tflite", "int8"): "tflite_int8",
    ("c", "fp32"): "c_f32",
    ("c", "int8"): "c_int8",
}
"""(format, file) to the key in artifact.json's `files`."""


@dataclass(frozen=True)
class PolicyFile:
    """One file of an artifact."""

    path: Path
    sha256: str
    facts: dict[str, Any]
    """Its entry in artifact.json: bytes, io, verified, verdict, evaluation, for C also prefix."""


class Artifact:
    """An exported policy on disk. Read-only; every file is checked against its hash when opened."""

    def __init__(self, path: Path | str) -> None:
        """Read `artifact.json`.

        Raises:
            ArtifactError: if the folder is not an artifact of this format.
        """
        self.path = Path(path)
        if not (self.path / "artifact.json").is_file():
            raise ArtifactError(
                f"{path} is not an artifact: it has no artifact.json. Expected a folder that "
                "`pops export` wrote."
            )
        self.facts = read_json(self.path / "artifact.json")
        if self.facts.get("format") != ARTIFACT_FORMAT:
            raise ArtifactError(
                f"{path} was written in format {self.facts.get('format')!r}, this version reads "
                f"{ARTIFACT_FORMAT!r}. Use the pops version that wrote it, or export again."
            )
        try:
            self.id = str(self.facts["id"])
            self.spec = PolicySpec.from_json(self.facts["spec"])
            self.arch = NetArch.from_json(self.facts["net_arch"])
            self.role = str(self.facts.get("role", "student"))
            self.files: dict[str, dict[str, Any]] = dict(self.facts["files"])
        except (KeyError, TypeError, ValueError) as error:
            raise ArtifactError(
                f"{self.path / 'artifact.json'} is damaged ({error!r}). Export again."
            ) from error

    def has(self, kind: str, file: str) -> bool:
        """Whether the artifact holds this format ('onnx', 'tflite', 'c') as 'fp32' or 'int8'."""
        return KEYS[kind, file] in self.files

    def file(self, kind: str, file: str) -> PolicyFile:
        """The file of one format, its bytes checked against its hash.

        Raises:
            ArtifactError: if the artifact does not hold it, or its bytes do not match.
        """
        key = KEYS[kind, file]
        if key not in self.files:
            raise ArtifactError(
                f"{self.path} holds no {file} {kind} file, only: {', '.join(sorted(self.files))}. "
                f"Export again with --format {kind}."
            )
        facts = self.files[key]
        return PolicyFile(self._checked(facts), str(facts["sha256"]), facts)

    def header(self, file: str) -> Path:
        """The header of the C file, its bytes checked where its hash is on file.

        Raises:
            ArtifactError: if it is not there or its bytes do not match.
        """
        facts = self.files[KEYS["c", file]]
        expected = facts.get("header_sha256")
        if expected is None:
            return self.beside(str(facts["header"]))
        return self._checked({"path": facts["header"], "sha256": expected})

    def golden(self) -> dict[str, Array]:
        """The golden vectors: arrays by name, `observations` among them."""
        return read_arrays(self._checked(self.facts["golden"]))

    def beside(self, relative: str) -> Path:
        """A path inside the artifact's folder.

        Raises:
            ArtifactError: if it points outside of the folder.
        """
        root = self.path.resolve()
        path = (root / relative).resolve()
        if root != path and root not in path.parents:
            raise ArtifactError(
                f"{self.path / 'artifact.json'} names {relative!r}, which lies outside of the "
                "artifact; refused. Export again."
            )
        return path

    def _checked(self, facts: dict[str, Any]) -> Path:
        try:
            path, expected = self.beside(str(facts["path"])), str(facts["sha256"])
            found = sha256_file(path)
        except (KeyError, TypeError) as error:
            raise ArtifactError(
                f"{self.path / 'artifact.json'} is damaged ({error!r}). Export again."
            ) from error
        except OSError as error:
            raise ArtifactError(
                f"Cannot read {error.filename}: {error.strerror}. The artifact is incomplete; "
                "export again."
            ) from error
        if found != expected:
            raise ArtifactError(
                f"{path} is damaged: its SHA-256 is {found[:16]}…, artifact.json says "
                f"{expected[:16]}…. Copy the artifact again, or export again."
            )
        return path
