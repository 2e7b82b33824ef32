"""The oldest runtimes that boards still have: onnxruntime 1.17.3 and tflite-runtime 2.14."""

from __future__ import annotations

import json
import shutil
import subprocess
import sys

import numpy as np
import pytest
from export_cases import CASES, onnx_files, tflite_files

from pops.spec import DiscreteActions
from pops_export.bound import output_bound
from pops_export.onnx_file import onnx_observations
from pops_export.tflite_file import tflite_observations
from pops_export.tflite_surgery import integer_ends

pytestmark = pytest.mark.slow

PACKAGES = ("numpy==1.26.4", "onnxruntime==1.17.3", "tflite-runtime==2.14.0")
RUN = """
import json, sys
sys.path.insert(0, "packages")
import numpy as np, onnxruntime
from tflite_runtime.interpreter import Interpreter
results = {}
for name, (file, inputs) in json.loads(sys.argv[1]).items():
    x = np.load(inputs)
    if file.endswith("onnx"):
        session = onnxruntime.InferenceSession(file)
        results[name] = session.run(["outputs"], {"observation": x})[0]
    else:
        policy = Interpreter(file).get_signature_runner("serving_default")
        kind = policy.get_input_details()["observation"]["dtype"]
        results[name] = np.concatenate(
            [policy(observation=row[None].astype(kind))["outputs"] for row in x])
np.savez("results.npz", **results)
print(np.__version__, onnxruntime.__version__)
"""


def python_311() -> str:
    if sys.version_info[:2] == (3, 11):
        return sys.executable
    found = shutil.which("python3.11")
    assert found, "tflite-runtime 2.14 needs Python 3.11; install python3.11"
    return found


def test_every_file_loads_in_the_oldest_runtimes(tmp_path, tmp_path_factory):
    install = [python_311(), "-m", "pip", "install", "--quiet", "--no-deps", "--no-compile"]
    subprocess.run(
        [*install, "--target", str(tmp_path / "packages"), *PACKAGES], check=True, timeout=300
    )
    base = tmp_path_factory.getbasetemp()
    onnx, tflite = onnx_files(base), tflite_files(base)
    work: dict[str, tuple[str, str]] = {}
    for name, case in CASES.items():
        policy, states = case()
        np.save(tmp_path / f"{name}.onnx.npy", onnx_observations(policy.spec, states))
        np.save(tmp_path / f"{name}.tflite.npy", tflite_observations(policy.spec, states))
        integer = tmp_path / f"{name}.integer"
        integer.write_bytes(integer_ends((tflite / f"{name}.static_wi8_ai8").read_bytes()))
        for ending, file in (
            ("onnx", onnx / f"{name}.onnx"),
            ("int8.onnx", onnx / f"{name}.int8.onnx"),
            ("tflite", tflite / f"{name}.fp32"),
            ("int8.tflite", tflite / f"{name}.static_wi8_ai8"),
            ("integer", integer),
        ):
            kind = "onnx" if ending.endswith("onnx") else "tflite"
            work[f"{name}.{ending}"] = (str(file), f"{name}.{kind}.npy")
    done = subprocess.run(
        [python_311(), "-I", "-c", RUN, json.dumps(work)],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=120,
    )
    assert done.returncode == 0, done.stderr
    assert done.stdout.split() == ["1.26.4", "1.17.3"]
    results = np.load(tmp_path / "results.npz")
    for name, case in CASES.items():
        policy, states = case()
        reference, bound = policy.outputs(states), output_bound(policy, states)
        for ending in ("onnx", "tflite"):
            assert np.all(np.abs(results[f"{name}.{ending}"] - reference) <= bound), ending
        if isinstance(policy.spec.actions, DiscreteActions):
            reference = reference - reference.mean(1, keepdims=True)
        for ending in ("int8.onnx", "int8.tflite"):
            difference = np.abs(results[f"{name}.{ending}"] - reference)
            assert difference.max() < 0.05 * np.ptp(reference), ending
        assert results[f"{name}.integer"].dtype == np.int8
