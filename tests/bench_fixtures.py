"""A small artifact and a run written by hand: quick to make, and independent of the exporter."""

from __future__ import annotations

import hashlib
from pathlib import Path

import numpy as np
import onnx
from onnx import TensorProto, helper, numpy_helper

from pops.arch import NetArch
from pops.artifact import (
    ARTIFACT_FORMAT,
    RUN_FORMAT,
    save_policy,
    sha256_file,
    write_arrays,
    write_json,
)
from pops.policy import NumpyPolicy
from pops.spec import Actions, ContinuousActions, DiscreteActions, EnvSpec, PolicySpec

C_TEMPLATE = """\
#include "{prefix}.h"
const char {prefix}_id[] = "{id}";
{weights}
static int finite_(float v) {{ return v - v == 0.0f; }}
{prefix}_status {prefix}_infer(const float *o, float *y, void *scratch)
{{
    float h[{hidden}];
    (void)scratch;
    for (int i = 0; i < {inputs}; i++) if (!finite_(o[i])) return 2;
    for (int i = 0; i < {hidden}; i++) {{
        float sum = b0[i];
        for (int j = 0; j < {inputs}; j++) sum += w0[i * {inputs} + j] * o[j];
        h[i] = sum > 0.0f ? sum : 0.0f;
    }}
    for (int i = 0; i < {outputs}; i++) {{
        float sum = b1[i];
        for (int j = 0; j < {hidden}; j++) sum += w1[i * {hidden} + j] * h[j];
        y[i] = sum;
    }}
    return o[0] > 100.0f ? 1 : 0;
}}
{prefix}_status {prefix}_act(const float *o, {action} *a, void *scratch)
{{
    float y[{outputs}] = {{0}};
    int status = {prefix}_infer(o, y, scratch);
{decode}
    return status;
}}
{prefix}_status {prefix}_self_test(void *scratch) {{ (void)scratch; return 0; }}
"""

HEADER = """\
#include <stdint.h>
#define {upper}_OBSERVATION_SIZE {inputs}
#define {upper}_OUTPUT_SIZE {outputs}
#define {upper}_ACTION_SIZE {actions}
#define {upper}_SCRATCH_BYTES 16
#define {upper}_SCRATCH_ALIGN 4
#define {upper}_GOLDEN_VECTORS 0
#define {upper}_BYTES 0
#define {upper}_DISCRETE {discrete}
typedef int {prefix}_status;
extern const char {prefix}_id[];
{prefix}_status {prefix}_act(const float *, {action} *, void *);
{prefix}_status {prefix}_infer(const float *, float *, void *);
{prefix}_status {prefix}_self_test(void *);
"""

ARGMAX = """\
    int best = 0;
    for (int i = 1; i < {outputs}; i++) if (y[i] > y[best]) best = i;
    a[0] = best + {start};"""

CLIP = "    for (int i = 0; i < {outputs}; i++) a[i] = y[i] < -1 ? -1 : y[i] > 1 ? 1 : y[i];"


def small_policy(seed: int = 0, hidden: int = 8, continuous: bool = False) -> NumpyPolicy:
    """A random 4-hidden-2 policy; continuous actions are clipped to ±1, discrete start at 3."""
    actions: Actions = DiscreteActions(2, 3)
    if continuous:
        actions = ContinuousActions((-1.0, -1.0), (1.0, 1.0))
    env = EnvSpec("CartPole-v1")
    spec = PolicySpec((4,), actions, "mean" if continuous else "q_values", env=env)
    arch = NetArch((4,), 2, (hidden,), ("relu",))
    random = np.random.default_rng(seed)
    parameters = [
        (random.normal(size=layer.weight), random.normal(size=layer.weight[0]))
        for layer in arch.layers()
    ]
    return NumpyPolicy(spec, arch, parameters)


def observations(n: int = 64, seed: int = 1) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(n, 4)).astype(np.float32)


def write_c(policy: NumpyPolicy, folder: Path, prefix: str) -> None:
    """policy.c and policy.h with the API that generated code has."""
    discrete = isinstance(policy.spec.actions, DiscreteActions)
    weights = []
    for index, (weight, bias) in enumerate(policy.parameters):
        for name, values in ((f"w{index}", weight), (f"b{index}", bias)):
            numbers = ", ".join(f"{v:.9e}f" for v in values.reshape(-1))
            weights.append(f"static const float {name}[{values.size}] = {{{numbers}}};")
    facts = {
        "prefix": prefix,
        "upper": prefix.upper(),
        "id": "0" * 64,
        "discrete": int(discrete),
        "inputs": 4,
        "outputs": 2,
        "actions": 1 if discrete else 2,
        "hidden": policy.arch.widths[0],
        "action": "int32_t" if discrete else "float",
        "weights": "\n".join(weights),
        "start": getattr(policy.spec.actions, "start", 0),
    }
    facts["decode"] = (ARGMAX if discrete else CLIP).format(**facts)
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{prefix}.c").write_text(C_TEMPLATE.format(**facts))
    (folder / f"{prefix}.h").write_text(HEADER.format(**facts))


def write_onnx(policy: NumpyPolicy, path: Path) -> None:
    """Two outputs, as the exporter writes: outputs and action."""
    nodes, constants, last = [], [], "observation"
    for index, (weight, bias) in enumerate(policy.parameters):
        constants += [
            numpy_helper.from_array(weight, f"w{index}"),
            numpy_helper.from_array(bias, f"b{index}"),
        ]
        out = "outputs" if index else "hidden"
        nodes.append(helper.make_node("Gemm", [last, f"w{index}", f"b{index}"], [out], transB=1))
        if not index:
            nodes.append(helper.make_node("Relu", ["hidden"], ["active"]))
        last = "active"
    if isinstance(policy.spec.actions, DiscreteActions):
        constants.append(numpy_helper.from_array(np.int64(policy.spec.actions.start), "start"))
        nodes.append(helper.make_node("ArgMax", ["outputs"], ["best"], axis=1, keepdims=0))
        nodes.append(helper.make_node("Add", ["best", "start"], ["action"]))
        action = helper.make_tensor_value_info("action", TensorProto.INT64, ["batch"])
    else:
        constants += [
            numpy_helper.from_array(np.float32(v), n) for v, n in ((-1, "low"), (1, "high"))
        ]
        nodes.append(helper.make_node("Clip", ["outputs", "low", "high"], ["action"]))
        action = helper.make_tensor_value_info("action", TensorProto.FLOAT, ["batch", 2])
    graph = helper.make_graph(
        nodes,
        "policy",
        [helper.make_tensor_value_info("observation", TensorProto.FLOAT, ["batch", 4])],
        [helper.make_tensor_value_info("outputs", TensorProto.FLOAT, ["batch", 2]), action],
        constants,
    )
    opset = [helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opset, ir_version=8), path)


def small_artifact(folder: Path, policy: NumpyPolicy, role: str = "student") -> Path:
    """An artifact with ONNX fp32 and C in both files; what stands for int8 is the same code."""
    folder.mkdir(parents=True)
    write_onnx(policy, folder / "policy.onnx")
    write_c(policy, folder / "c", "policy")
    write_c(policy, folder / "c", "policy_f32")
    states = observations()
    actions = policy.act(states)
    golden = {"observations": states, "c_int8.actions": actions, "c_f32.actions": actions}
    write_arrays(folder / "golden.npz", golden)
    evaluation = {"episodes": 100, "mean": 480.0, "std": 50.0}
    files = {}
    for key, name in (
        ("onnx_fp32", "policy.onnx"),
        ("c_int8", "c/policy.c"),
        ("c_f32", "c/policy_f32.c"),
    ):
        path = folder / name
        files[key] = {
            "path": name,
            "bytes": path.stat().st_size,
            "sha256": sha256_file(path),
            "evaluation": evaluation if key != "c_f32" else None,
            "io": {"input_name": "observation", "input_dtype": "float32", "layout": "flat"},
        }
        if key.startswith("c_"):
            prefix = path.stem
            files[key].update(prefix=prefix, header=f"c/{prefix}.h", scratch_bytes=16)
    write_json(
        folder / "artifact.json",
        {
            "format": ARTIFACT_FORMAT,
            "id": hashlib.sha256(b"").hexdigest(),
            "spec": policy.spec.to_json(),
            "net_arch": policy.arch.to_json(),
            "num_parameters": policy.arch.num_parameters,
            "macs": policy.arch.macs,
            "role": role,
            "files": files,
            "golden": {"path": "golden.npz", "sha256": sha256_file(folder / "golden.npz")},
        },
    )
    return folder


def small_run(folder: Path, teacher: NumpyPolicy, student: NumpyPolicy) -> Path:
    """A finished run of two policies."""
    folder.mkdir(parents=True)
    save_policy(folder / "teacher.safetensors", teacher)
    save_policy(folder / "student.safetensors", student)
    write_arrays(folder / "states.npz", {"observations": observations(500)})
    evaluation = {"episodes": 100, "mean": 500.0, "std": 0.0}
    write_json(
        folder / "manifest.json",
        {"format": RUN_FORMAT, "evaluation": {"teacher": evaluation, "student": evaluation}},
    )
    return folder
