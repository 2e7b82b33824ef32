"""Small artifacts whose golden vectors were computed on this machine, and bundles of them."""

from __future__ import annotations

import functools
import tempfile
from pathlib import Path
from typing import Any

import numpy as np
import onnxruntime
from bench_fixtures import small_artifact, small_policy

from pops.artifact import read_arrays, read_json, sha256_file, write_arrays, write_json
from pops_deploy.bundle import BundleResult, bundle
from pops_deploy.bundle_config import BundleConfig
from pops_deploy.pyz.native import NativePolicy
from pops_deploy.remote.cross import ARCHITECTURES, compile_library

POLICY_ID = "0" * 64
"""The id that the hand-written C of the fixture carries."""


def golden_artifact(folder: Path, role: str = "student", continuous: bool = False) -> Path:
    """An artifact (ONNX fp32, C twice) with golden outputs and actions for each file."""
    policy = small_policy(hidden=16 if role == "teacher" else 8, continuous=continuous)
    small_artifact(folder, policy, role)
    facts = read_json(folder / "artifact.json")
    facts["id"] = POLICY_ID
    write_arrays(folder / "golden.npz", _golden(role, continuous))
    facts["golden"]["sha256"] = sha256_file(folder / "golden.npz")
    write_json(folder / "artifact.json", facts)
    return folder


@functools.cache
def _golden(role: str, continuous: bool) -> dict[str, np.ndarray]:
    """What the files of such an artifact compute here."""
    policy = small_policy(hidden=16 if role == "teacher" else 8, continuous=continuous)
    with tempfile.TemporaryDirectory() as name:
        folder = small_artifact(Path(name) / "artifact", policy, role)
        facts = read_json(folder / "artifact.json")
        arrays = {"observations": read_arrays(folder / "golden.npz")["observations"]}
        arrays["observations"][-1] *= 1000.0
        for key in facts["files"]:
            run = _onnx if key.startswith("onnx") else _c
            outputs, actions = run(folder, facts, key, arrays["observations"])
            arrays[f"{key}.outputs"], arrays[f"{key}.actions"] = outputs, actions
    return arrays


def _c(folder: Path, facts: dict[str, Any], key: str, x: np.ndarray) -> tuple[Any, Any]:
    entry = facts["files"][key]
    library = compile_library(
        ARCHITECTURES["x86_64"], folder / entry["path"], folder / entry["header"], entry["prefix"]
    )
    policy = NativePolicy(facts["spec"], library.data, POLICY_ID, {})
    outputs = np.array([policy.infer(row) for row in x], np.float32)
    return outputs, _actions([policy.step(row) for row in x])


def _onnx(folder: Path, facts: dict[str, Any], key: str, x: np.ndarray) -> tuple[Any, Any]:
    session = onnxruntime.InferenceSession(
        str(folder / facts["files"][key]["path"]), providers=["CPUExecutionProvider"]
    )
    rows = [session.run(None, {"observation": row[None]}) for row in x]
    return np.concatenate([r[0] for r in rows]), np.concatenate([r[1] for r in rows])


def _actions(actions: list[Any]) -> np.ndarray:
    discrete = isinstance(actions[0], int)
    return np.array(actions, np.int64 if discrete else np.float32)


def small_bundle(
    folder: Path, architectures: str = "x86_64", teacher: bool = False, continuous: bool = False
) -> BundleResult:
    """`policy.pyz` of one or two artifacts made in `folder`."""
    artifacts = [golden_artifact(folder / "student", continuous=continuous)]
    if teacher:
        artifacts.append(golden_artifact(folder / "teacher", "teacher"))
    return bundle(BundleConfig(tuple(artifacts), folder / "policy.pyz", architectures))
