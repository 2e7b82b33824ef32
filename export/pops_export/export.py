"""export(): one student to an artifact, proven file by file."""

from __future__ import annotations

import contextlib
import os
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from importlib import metadata
from pathlib import Path
from typing import Any

import numpy as np

from pops.artifact import (
    ARTIFACT_FORMAT,
    save_policy,
    sha256_file,
    write_arrays,
    write_bytes,
    write_json,
)
from pops.errors import ArtifactError, UsageError
from pops.policy import NumpyPolicy
from pops.spec import Array
from pops.workers import Workers, available_cores
from pops_export.assemble import (
    Assembly,
    artifact_id,
    check_request,
    write_files,
)
from pops_export.chatter import to_log
from pops_export.closed_loop import failed, quietly
from pops_export.config import ExportConfig
from pops_export.qat import mend
from pops_export.readme import readme
from pops_export.source import Source, load_source
from pops_export.verify import prove

STATES_BYTES = 32 << 20
"""Visited states that an artifact carries for its own proof, uncompressed."""
STATES_MOST = 20_000
GOLDEN_VISITED = 48
PACKAGES = (
    "pops-rl",
    "numpy",
    "torch",
    "onnx",
    "onnxruntime",
    "litert-torch",
    "ai-edge-quantizer",
    "ai-edge-litert",
    "tflite-micro",
)


@dataclass(frozen=True)
class ExportResult:
    """What `export` left on disk."""

    path: Path
    """The artifact's folder."""
    artifact: dict[str, Any]
    """The content of artifact.json."""

    @property
    def failures(self) -> tuple[str, ...]:
        """Files whose verdict or proof is negative."""
        unproven = [k for k, f in self.artifact["files"].items() if not f["verified"]["passed"]]
        return tuple(sorted({*failed(self.artifact["files"]), *unproven}))

    @property
    def exit_code(self) -> int:
        """0 if every file passed its proof and the gate, 3 otherwise."""
        return 3 if self.failures else 0


def export(config: ExportConfig, begin: Callable[[str], None] = quietly) -> ExportResult:
    """Write an artifact and prove it.

    The folder appears whole, or not at all. Where a file fails its gate the
    artifact is kept and marked; see `ExportResult.exit_code`.

    Args:
        config: what to write.
        begin: told each stage as it begins.

    Raises:
        PopsError: of a kind that says what to do: the run's gate failed, the folder exists, a
            package or the C compiler is missing, a format lacks an activation.
    """
    source = load_source(config)
    out = _destination(config)
    check_request(config, source.policy)
    with (
        _building(out) as folder,
        tempfile.TemporaryDirectory(prefix="pops-export-") as scratch,
        Workers(config.workers or available_cores()) as workers,
    ):
        assembly = Assembly(folder, config, source.policy, _kept(source.states), Path(scratch))
        begin(f"write {', '.join(config.formats)}")
        write_files(assembly, workers)
        quantisation = mend(assembly, source, workers, begin)
        facts = _finish(assembly, source, quantisation)
        prove(folder, facts, config.episodes, workers, begin)
        facts["passed"] = not failed(facts["files"]) and all(
            f["verified"]["passed"] for f in facts["files"].values()
        )
        _write_golden(assembly, facts, workers)
        write_bytes(folder / "README.md", readme(facts).encode())
        write_json(folder / "artifact.json", facts)
    return ExportResult(out, facts)


def _finish(
    assembly: Assembly, source: Source, quantisation: dict[str, Any] | None
) -> dict[str, Any]:
    """Write C and the proof's inputs; everything in artifact.json but the proof itself."""
    from pops_export.c_files import write_c_files

    folder, config, policy = assembly.folder, assembly.config, assembly.policy
    proof = {}
    save_policy(folder / "proof" / "student.safetensors", policy)
    save_policy(folder / "proof" / "teacher.safetensors", source.teacher)
    write_arrays(folder / "proof" / "states.npz", {"observations": assembly.states})
    if assembly.core is not None:
        shutil.copyfile(assembly.core, folder / "proof" / "core.tflite")
    for path in sorted((folder / "proof").iterdir()):
        name = f"proof/{path.name}"
        proof[path.stem] = {"path": name, "sha256": sha256_file(path)}
    identity = artifact_id(assembly.files, proof["student"]["sha256"], assembly.core)
    write_c_files(assembly, identity, golden_observations(policy, assembly.states))
    return {
        "format": ARTIFACT_FORMAT,
        "id": identity,
        "role": source.role,
        "spec": policy.spec.to_json(),
        "net_arch": policy.arch.to_json(),
        "num_parameters": policy.arch.num_parameters,
        "macs": policy.arch.macs,
        "recipes": list(config.recipes),
        "env": None if source.env is None else _env_json(source),
        "files": assembly.files,
        "proof": proof,
        "source": source.facts,
        "calibration": _calibration(policy, assembly.states),
        "quantisation_aware": quantisation,
        "gate": {"seed": source.gate_seed, "episodes": config.episodes},
        "seed": config.seed,
        "versions": _versions(),
    }


def golden_observations(policy: NumpyPolicy, states: Array) -> Array:
    """Observations to replay anywhere: visited ones, and the extremes of each feature."""
    index = np.linspace(0, len(states) - 1, min(GOLDEN_VISITED, len(states))).astype(int)
    chosen = [states[index]]
    if policy.spec.one_hot or len(policy.spec.input_shape) == 3:
        if states.dtype.kind in "iu" and not policy.spec.one_hot:
            low, high = np.iinfo(states.dtype).min, np.iinfo(states.dtype).max
            chosen += [np.full_like(states[:1], low), np.full_like(states[:1], high)]
        return np.concatenate(chosen)
    low, high = states.min(0), states.max(0)
    chosen += [np.zeros_like(states[:1]), low[None], high[None], low[None] * 4, high[None] * 4]
    flat = states.reshape(len(states), -1)
    for feature in range(min(flat.shape[1], 16)):
        chosen.append(states[[flat[:, feature].argmin(), flat[:, feature].argmax()]])
    return np.concatenate(chosen).astype(states.dtype)


def _write_golden(assembly: Assembly, facts: dict[str, Any], workers: Workers) -> None:
    """golden.npz: observations, and for the student and each file outputs and actions."""
    policy = assembly.policy
    observations = golden_observations(policy, assembly.states)
    arrays = {
        "observations": observations,
        "student.outputs": policy.outputs(observations),
        "student.actions": policy.act(observations),
    }
    files = {k: v for k, v in facts["files"].items() if not k.startswith("arduino")}
    tasks = [(assembly.folder, k, entry, policy, observations) for k, entry in files.items()]
    for key, (outputs, actions) in zip(files, workers.map(_golden_answers, tasks)):
        arrays[f"{key}.outputs"] = outputs
        arrays[f"{key}.actions"] = actions
    path = assembly.folder / "golden.npz"
    write_arrays(path, arrays)
    facts["golden"] = {
        "path": path.name,
        "sha256": sha256_file(path),
        "observations": len(observations),
    }


def _golden_answers(
    folder: Path, key: str, entry: dict[str, Any], policy: NumpyPolicy, observations: Array
) -> tuple[Array, Array]:
    from pops_export.proof import open_policy

    with to_log(Path(os.devnull)):
        file = open_policy(folder, key, entry, policy)
        return file.outputs(observations), file.act(observations)


def _destination(config: ExportConfig) -> Path:
    out = config.out
    if out is None:
        source = config.source
        out = (
            source / "artifact" if source.is_dir() else source.with_name(f"{source.stem}-artifact")
        )
    if not out.exists():
        return out
    if not (out / "artifact.json").is_file() and (not out.is_dir() or any(out.iterdir())):
        raise UsageError(
            f"{out} exists and is not an artifact, so it is left alone. Choose another --out."
        )
    if (out / "artifact.json").is_file() and not config.overwrite:
        raise UsageError(
            f"{out} holds an artifact already. Add --overwrite to replace it, or choose another "
            "--out."
        )
    return out


@contextlib.contextmanager
def _building(out: Path) -> Iterator[Path]:
    """Yield a folder beside `out` that takes its place only if the block succeeds."""
    try:
        out.parent.mkdir(parents=True, exist_ok=True)
        beside = Path(tempfile.mkdtemp(prefix=f".{out.name}.", dir=out.parent))
    except OSError as error:
        raise ArtifactError(f"Cannot write {out}: {error.strerror}.") from error
    old = beside.with_name(f"{beside.name}.old")
    try:
        os.chmod(beside, 0o755)
        yield beside
        if out.exists():
            os.replace(out, old)
        try:
            os.replace(beside, out)
        except OSError:
            if old.exists():
                os.replace(old, out)
            raise
    except OSError as error:
        raise ArtifactError(
            f"Cannot write {out}: {error.strerror or error}. Nothing was changed; free space or "
            "choose another folder, then run the command again."
        ) from error
    finally:
        shutil.rmtree(beside, ignore_errors=True)
        shutil.rmtree(old, ignore_errors=True)


def _kept(states: Array) -> Array:
    """The states that an artifact carries, spread evenly over the run's."""
    most = min(STATES_MOST, max(64, STATES_BYTES // max(1, states[0].nbytes)))
    index = np.linspace(0, len(states) - 1, min(most, len(states))).astype(int)
    return np.ascontiguousarray(states[index])


def _calibration(policy: NumpyPolicy, states: Array) -> dict[str, Any]:
    flat = states.reshape(len(states), -1).astype(np.float64)
    if len(policy.spec.input_shape) == 3:
        return {"n": len(states), "min": [float(flat.min())], "max": [float(flat.max())]}
    return {"n": len(states), "min": flat.min(0).tolist(), "max": flat.max(0).tolist()}


def _env_json(source: Source) -> dict[str, Any]:
    import dataclasses

    assert source.env is not None
    return dataclasses.asdict(source.env)


def _versions() -> dict[str, str]:
    found = {}
    for name in PACKAGES:
        with contextlib.suppress(metadata.PackageNotFoundError):
            found[name] = metadata.version(name)
    return found
