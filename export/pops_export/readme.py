"""The README.md inside an artifact: how to call each file from Python and C."""

from __future__ import annotations

from typing import Any

from pops.arch import NetArch
from pops.spec import DiscreteActions, PolicySpec


def readme(facts: dict[str, Any]) -> str:
    """Markdown for the artifact that `facts` (artifact.json) describes."""
    spec, files = PolicySpec.from_json(facts["spec"]), facts["files"]
    env = (facts["env"] or {}).get("id", "an environment that is not stated")
    parts = [
        "# An exported policy",
        f"`{NetArch.from_json(facts['net_arch'])}`, {facts['num_parameters']:,} parameters, for "
        f"{env}. Every file takes the environment's own observation and gives the action: "
        "normalising and decoding happen inside.",
        _table(files),
    ]
    if not facts["passed"]:
        parts.append(
            "**Not every file passed its proof or the gate; see the table and artifact.json.**"
        )
    for key in ("onnx_fp32", "onnx_int8"):
        if key in files:
            parts.append(_onnx(spec, files[key]))
            break
    for key, entry in files.items():
        if key.startswith("tflite") and entry["io"]["input_dtype"] == "float32":
            parts.append(_tflite(entry))
            break
    integer = [e for e in files.values() if e["io"].get("input_dtype") in ("int8", "int16")]
    if integer:
        parts.append(_integer(integer[0]))
    parts += [_c(spec, files[key]) for key in ("c_int8", "c_f32") if key in files][:1]
    parts.append(
        "`golden.npz` holds observations with the outputs and actions that each file gives for "
        "them. `pops verify` on this folder repeats the proof."
    )
    return "\n\n".join(parts) + "\n"


def _table(files: dict[str, Any]) -> str:
    rows = ["| file | recipe | bytes | proof | closed loop |", "| --- | --- | --- | --- | --- |"]
    for entry in files.values():
        verdict, played = entry.get("verdict"), entry.get("evaluation")
        loop = "not run"
        if verdict and played:
            word = "passed" if verdict["passed"] else "failed"
            loop = f"{word}: {played['mean']:.2f} on {played['episodes']} episodes"
        proof = "passed" if entry["verified"]["passed"] else "failed"
        rows.append(
            f"| `{entry['path']}` | {entry['recipe']} | {entry['bytes']:,} | {proof} | {loop} |"
        )
    return "\n".join(rows)


def _onnx(spec: PolicySpec, entry: dict[str, Any]) -> str:
    shape = ", ".join(str(n) for n in spec.observation_shape)
    return f"""## Python, ONNX Runtime

Input `observation`, float32 (batch{", " if shape else ""}{shape}); outputs `outputs` and `action`.

```python
import numpy as np
import onnxruntime

session = onnxruntime.InferenceSession("{entry["path"]}")
observation = np.load("golden.npz")["observations"][0]
batch = np.asarray(observation, np.float32)[None]
outputs, action = session.run(["outputs", "action"], {{"observation": batch}})
print(action[0])
```"""


def _tflite(entry: dict[str, Any]) -> str:
    return f"""## Python, LiteRT

Input `observation`, float32 {tuple(entry["io"]["input_shape"])}; images channel last.

```python
import numpy as np
from ai_edge_litert.interpreter import Interpreter

policy = Interpreter("{entry["path"]}").get_signature_runner("serving_default")
observation = np.load("golden.npz")["observations"][0]
batch = np.asarray(observation, np.float32).reshape({entry["io"]["input_shape"]})
result = policy(observation=batch)
print(result["action"][0])
```"""


def _integer(entry: dict[str, Any]) -> str:
    io = entry["io"]
    return f"""## The full-integer TFLite file

`{entry["path"]}` takes and gives {io["input_dtype"]}. From observation to code and from code to
output, with the numbers under `io` in artifact.json:

    {io["map"]}"""


def _c(spec: PolicySpec, entry: dict[str, Any]) -> str:
    prefix, upper = entry["prefix"], entry["prefix"].upper()
    kind = "uint8_t" if entry["io"]["input_dtype"] == "uint8" else "float"
    discrete = isinstance(spec.actions, DiscreteActions)
    action = "int32_t action;" if discrete else f"float action[{upper}_ACTION_SIZE];"
    where = "&action" if discrete else "action"
    shown = '"%d\\n", (int)action' if discrete else '"%g\\n", (double)action[0]'
    header = entry["header"].split("/")[-1]
    return f"""## C

`{entry["path"]}` and `{entry["header"]}` need no library and no heap; the scratch memory is yours.

```c
#include <stdio.h>
#include "{header}"

static uint32_t scratch[({upper}_SCRATCH_BYTES + 3) / 4];

int main(void) {{
    const {kind} observation[{upper}_OBSERVATION_SIZE] = {{0}};
    {action}
    {prefix}_status status = {prefix}_act(observation, {where}, scratch);
    printf({shown});
    return (int)status;
}}
```"""
