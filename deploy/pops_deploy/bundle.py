"""bundle(): artifacts, golden vectors and the code that runs them in one file, `policy.pyz`."""

from __future__ import annotations

import hashlib
import io
import json
import os
import zipfile
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

import pops
from pops.artifact import read_arrays, sha256_file, write_bytes
from pops.errors import ArtifactError, UsageError
from pops.spec import Array
from pops_deploy.bundle_config import BundleConfig
from pops_deploy.folder import KEYS, Artifact
from pops_deploy.pyz.contents import FORMAT, TYPECODES
from pops_deploy.remote.cross import (
    ARCHITECTURES,
    FLAGS,
    Architecture,
    compile_library,
    compiler_version,
)

if TYPE_CHECKING:
    from rich.console import Console

SHEBANG = b"#!/usr/bin/env python3\n"
PACKAGE = "pops_pyz"
RUNTIMES = {"onnx": "onnx", "tflite": "litert", "c": "c"}
"""The runtime that runs a file of each format."""
ZIP_TIME = (1980, 1, 1, 0, 0, 0)
MAX_VISITED = 512
MAX_VISITED_BYTES = 4 << 20


@dataclass(frozen=True)
class BundleResult:
    """What was written."""

    path: Path
    sha256: str
    bytes: int
    policies: tuple[dict[str, Any], ...]
    """As in bundle.json: name, id, files with their libraries and sizes."""
    architectures: tuple[str, ...]

    def to_json(self) -> dict[str, Any]:
        """JSON-ready."""
        return {
            "path": str(self.path),
            "sha256": self.sha256,
            "bytes": self.bytes,
            "architectures": list(self.architectures),
            "policies": [
                {"name": p["name"], "id": p["id"], "files": sorted(p["files"])}
                for p in self.policies
            ],
        }


class _Members:
    """What goes into the zip, by name, each with its hash."""

    def __init__(self) -> None:
        self.data: dict[str, bytes] = {}

    def add(self, name: str, data: bytes) -> str:
        self.data[name] = data
        return name

    def facts(self) -> dict[str, dict[str, Any]]:
        return {
            name: {"sha256": hashlib.sha256(data).hexdigest(), "bytes": len(data)}
            for name, data in sorted(self.data.items())
        }


def bundle(config: BundleConfig, visited: Mapping[Path, Array] | None = None) -> BundleResult:
    """Write `policy.pyz`.

    Args:
        config: which artifacts, for which architectures.
        visited: for an artifact's path, observations (N, *observation_shape) that the student
            visited, to measure with; those that the artifact carries if not given, and
            the golden observations where it carries none.

    Returns:
        The file and what is in it. The same artifacts and compilers give the same bytes.

    Raises:
        UsageError: if no artifact is named.
        ArtifactError: if an artifact is damaged or holds no file that a device can run.
        PopsError: if a cross compiler is missing; names the package.
    """
    if not config.artifacts:
        raise UsageError("Nothing to bundle: name an artifact, a folder `pops export` wrote.")
    architectures = [ARCHITECTURES[name] for name in config.architecture_names]
    members = _Members()
    policies: list[dict[str, Any]] = []
    for path in config.artifacts:
        artifact = Artifact(path)
        name = _free_name(artifact.role, [str(policy["name"]) for policy in policies])
        policies.append(_policy(artifact, name, members, architectures))
        states = (visited or {}).get(path, _own_states(artifact))
        if states is not None:
            _add_array(members, policies[-1], "visited", _thinned(states))
    facts = {
        "format": FORMAT,
        "made_by": f"pops {pops.__version__}",
        "policies": policies,
        "members": members.facts(),
    }
    members.add("bundle.json", _json_bytes(facts))
    for name, data in _code():
        members.add(name, data)
    data = SHEBANG + _zip(members.data)
    write_bytes(config.out, data)
    os.chmod(config.out, 0o755)
    digest = hashlib.sha256(data).hexdigest()
    return BundleResult(
        config.out, digest, len(data), tuple(policies), tuple(a.name for a in architectures)
    )


def _free_name(role: str, taken: Sequence[str]) -> str:
    count = sum(name == role or name.startswith(f"{role}-") for name in taken)
    return role if count == 0 else f"{role}-{count + 1}"


def _policy(
    artifact: Artifact, name: str, members: _Members, architectures: Sequence[Architecture]
) -> dict[str, Any]:
    """Add one artifact's files to the members; its entry in bundle.json."""
    policy: dict[str, Any] = {
        "name": name,
        "role": artifact.role,
        "id": artifact.id,
        "spec": artifact.spec.to_json(),
        "net_arch": str(artifact.arch),
        "layers": len(artifact.arch.layers()),
        "num_parameters": artifact.arch.num_parameters,
        "macs": artifact.arch.macs,
        "files": {},
        "golden": {},
    }
    golden = artifact.golden()
    if "observations" not in golden or not len(golden["observations"]):
        raise ArtifactError(f"{artifact.path}: golden.npz holds no observations. Export again.")
    _add_array(members, policy, "observations", golden["observations"])
    for (kind, file), key in KEYS.items():
        if not artifact.has(kind, file):
            continue
        policy["files"][key] = _file(artifact, kind, file, name, members, architectures)
        for what in ("outputs", "actions"):
            found = golden.get(f"{key}.{what}")
            if found is None or len(found) != len(golden["observations"]):
                raise ArtifactError(
                    f"{artifact.path}: golden.npz holds no {what} for {key}. Export again."
                )
            _add_array(members, policy, f"{key}/{what}", found)
    if not policy["files"]:
        raise ArtifactError(
            f"{artifact.path} holds no file that a device can run, only: "
            f"{', '.join(sorted(artifact.files)) or 'nothing'}. Export again with --format "
            "onnx,tflite,c."
        )
    return policy


def _file(
    artifact: Artifact,
    kind: str,
    file: str,
    name: str,
    members: _Members,
    architectures: Sequence[Architecture],
) -> dict[str, Any]:
    source = artifact.file(kind, file)
    facts: dict[str, Any] = {
        "runtime": RUNTIMES[kind],
        "bytes": source.path.stat().st_size,
        "sha256": source.sha256,
        "io": source.facts.get("io"),
        "evaluation": source.facts.get("evaluation"),
    }
    if kind != "c":
        member = f"{name}/{source.path.name}"
        return {**facts, "member": members.add(member, source.path.read_bytes())}
    header = artifact.beside(str(source.facts["header"]))
    if source.facts.get("header_sha256") not in (None, sha256_file(header)):
        raise ArtifactError(
            f"{header} is damaged: its SHA-256 is not the one in artifact.json. Copy the artifact "
            "again, or export again."
        )
    prefix = str(source.facts["prefix"])
    libraries = {}
    for architecture in architectures:
        library = compile_library(architecture, source.path, header, prefix)
        libraries[architecture.name] = {
            "member": members.add(
                f"{name}/{architecture.name}/{source.path.stem}.so", library.data
            ),
            "bytes": len(library.data),
            "code_bytes": library.code_bytes,
            "compiler": compiler_version(architecture),
            "flags": " ".join([*architecture.flags, *FLAGS]),
        }
    return {**facts, "libraries": libraries}


def _add_array(members: _Members, policy: dict[str, Any], key: str, array: Array) -> None:
    """Add an array as plain little-endian bytes, which a device reads without numpy."""
    if array.dtype.name not in TYPECODES:
        raise ArtifactError(
            f"The golden array {key} holds {array.dtype.name}, expected one of: "
            f"{', '.join(TYPECODES)}. Export again."
        )
    little = np.ascontiguousarray(array, dtype=array.dtype.newbyteorder("<"))
    policy["golden"][key] = {
        "member": members.add(f"{policy['name']}/golden/{key}.bin", little.tobytes()),
        "dtype": array.dtype.name,
        "shape": list(array.shape),
    }


def _own_states(artifact: Artifact) -> Array | None:
    """The visited states that an artifact carries for its proof."""
    facts = (artifact.facts.get("proof") or {}).get("states")
    if not isinstance(facts, dict):
        return None
    path = artifact.beside(str(facts.get("path")))
    if not path.is_file() or sha256_file(path) != facts.get("sha256"):
        raise ArtifactError(f"{path} is missing or damaged. Copy the artifact again.")
    return read_arrays(path).get("observations")


def _thinned(observations: Array) -> Array:
    """At most some hundred observations, evenly over the whole; images fewer."""
    most = max(1, min(MAX_VISITED, MAX_VISITED_BYTES // max(1, observations[0].nbytes)))
    index = np.linspace(0, len(observations) - 1, min(most, len(observations))).astype(int)
    thinned: Array = observations[np.unique(index)]
    return thinned


def _code() -> Iterator[tuple[str, bytes]]:
    """The modules that run on the device, and the one that Python starts."""
    folder = Path(__file__).resolve().parent / "pyz"
    for path in sorted(folder.glob("*.py")):
        yield f"{PACKAGE}/{path.name}", path.read_bytes()
    yield "__main__.py", (folder / "main.py.in").read_bytes()


def _json_bytes(data: Any) -> bytes:
    return (json.dumps(data, indent=1, sort_keys=True, allow_nan=False) + "\n").encode()


def _zip(members: Mapping[str, bytes]) -> bytes:
    """A zip whose bytes depend on its members alone."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w") as archive:
        for name in sorted(members):
            info = zipfile.ZipInfo(name, ZIP_TIME)
            info.compress_type = zipfile.ZIP_DEFLATED
            info.create_system = 3
            info.external_attr = 0o644 << 16
            archive.writestr(info, members[name], compresslevel=9)
    return buffer.getvalue()


def print_bundle(result: BundleResult, console: Console | None = None) -> None:
    """Print what was bundled and how to use it."""
    from rich.console import Console
    from rich.table import Table

    console = console or Console()
    table = Table(box=None, pad_edge=False)
    for name in ("policy", "file", "runtime", "bytes"):
        table.add_column(name)
    for policy in result.policies:
        for key, facts in policy["files"].items():
            libraries = facts.get("libraries", {})
            carried = ", ".join(f"{n} {x['bytes']:,}" for n, x in libraries.items())
            size = carried if facts["runtime"] == "c" else f"{facts['bytes']:,}"
            table.add_row(policy["name"], key, facts["runtime"], size or "no library")
    console.print(table)
    console.print(f"{result.path}: {result.bytes:,} bytes, SHA-256 {result.sha256}")
    console.print(f"On the device: python3 {result.path.name} selftest | bench | serve")
