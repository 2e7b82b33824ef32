"""The generated C of an artifact: written, compiled on this machine, held to its oracle."""

from __future__ import annotations

import re
import shutil
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from pops.artifact import sha256_file, write_bytes
from pops.errors import ArtifactError, PopsError
from pops.policy import NumpyPolicy
from pops.spec import Array, FloatArray, PolicySpec
from pops_export.assemble import Assembly
from pops_export.stage import flat_observations, image_observations

if TYPE_CHECKING:
    from pops_export.c.compile import CompiledPolicy
    from pops_export.c.options import COptions
    from pops_export.int8.network import IntegerNetwork

ORACLE_INPUTS = 100_000
ORACLE_MACS = 10_000_000_000
"""Multiply-accumulates that the oracle may spend; bounds the inputs of convolutions."""
GOLDEN_IN_CODE = 8


def write_c_files(assembly: Assembly, policy_id: str, golden: Array) -> None:
    """Write `c/` and `arduino/`, as far as they were asked for.

    Args:
        assembly: its `core` must be there for int8.
        policy_id: the artifact's id, which the code carries.
        golden: observations that the self test replays; one of images draws its own.
    """
    from pops_export.c.generate import generate_float, generate_int8
    from pops_export.c.golden import takes_bytes
    from pops_export.c.images import drawn_images
    from pops_export.int8 import reference
    from pops_export.int8.read import read_integer_network

    config, policy = assembly.config, assembly.policy
    if takes_bytes(policy.spec):
        golden = drawn_images(policy.spec, GOLDEN_IN_CODE)
    golden = golden[np.linspace(0, len(golden) - 1, min(GOLDEN_IN_CODE, len(golden))).astype(int)]
    for kind in ("c", "arduino"):
        if kind not in config.formats:
            continue
        if assembly.core is not None and "static_wi8_ai8" in config.recipes:
            network = read_integer_network(assembly.core)
            outputs = reference.outputs(network, network_observations(policy.spec, golden))
            options = _options(assembly, config.c_prefix, policy_id, golden, outputs, kind)
            texts = generate_int8(network, policy.spec, options)
            key = "c_int8" if kind == "c" else "arduino_int8"
            _write(assembly, key, kind, texts, options.prefix, "static_wi8_ai8")
        if "fp32" in config.recipes:
            prefix = f"{config.c_prefix}_f32"
            outputs = policy.outputs(golden)
            options = _options(assembly, prefix, policy_id, golden, outputs, kind)
            texts = generate_float(policy, options)
            key = "c_f32" if kind == "c" else "arduino_f32"
            _write(assembly, key, kind, texts, prefix, "fp32")


def _options(
    assembly: Assembly,
    prefix: str,
    policy_id: str,
    golden: Array,
    outputs: FloatArray,
    kind: str,
) -> COptions:
    from pops_export.c.options import COptions, Golden

    spec, low, high = assembly.policy.spec, None, None
    if len(spec.input_shape) != 3:
        flat = flat_observations(spec, assembly.states)
        low = tuple(float(v) for v in flat.min(0))
        high = tuple(float(v) for v in flat.max(0))
    return COptions(
        prefix=prefix,
        layout=assembly.config.c_layout,
        policy_id=policy_id,
        golden=Golden(golden, outputs),
        calibration_min=low,
        calibration_max=high,
        arduino=kind == "arduino",
    )


def _write(
    assembly: Assembly, key: str, kind: str, texts: Mapping[str, str], prefix: str, recipe: str
) -> None:
    # An Arduino library is a folder of its own: int8 and float32 are two.
    within = kind if kind == "c" else f"{kind}/{prefix}"
    for name, text in texts.items():
        write_bytes(assembly.folder / within / name, text.encode())
    paths = {Path(name).name: f"{within}/{name}" for name in texts}
    source, header = paths[_source_name(paths, prefix)], paths[f"{prefix}.h"]
    text = texts[header[len(within) + 1 :]]
    assembly.add(
        key,
        source,
        recipe,
        {"input_dtype": "uint8" if _bytes_in(assembly.policy.spec) else "float32"},
        header=header,
        header_sha256=sha256_file(assembly.folder / header),
        prefix=prefix,
        layout=assembly.config.c_layout,
        scratch_bytes=_constant(text, prefix, "SCRATCH_BYTES"),
        scratch_align=_constant(text, prefix, "SCRATCH_ALIGN"),
        others={
            path: sha256_file(assembly.folder / path)
            for path in sorted(paths.values())
            if path not in (source, header)
        },
    )


def _source_name(paths: Mapping[str, str], prefix: str) -> str:
    return next(n for n in (f"{prefix}.c", f"{prefix}.cpp") if n in paths)


def _bytes_in(spec: PolicySpec) -> bool:
    return spec.observation_dtype == "uint8"


def _constant(header: str, prefix: str, name: str) -> int:
    found = re.search(rf"#\s*define\s+{prefix.upper()}_{name}\s+\(?(\d+)", header)
    if found is None:
        raise PopsError(f"The generated header does not define {prefix.upper()}_{name}.")
    return int(found.group(1))


def open_c(folder: Path, facts: dict[str, Any], spec: PolicySpec) -> CompiledPolicy:
    """Compile an artifact's C with the host compiler and load it.

    Raises:
        PopsError: if there is no C compiler.
        ArtifactError: if the sources are missing.
    """
    from pops_export.c.compile import CompiledPolicy, compile_shared

    try:
        sources = {
            Path(name).name: (folder / name).read_text()
            for name in (facts["path"], facts["header"])
        }
    except OSError as error:
        raise ArtifactError(f"Cannot read {error.filename}: {error.strerror}.") from error
    cc = find_compiler()
    with tempfile.TemporaryDirectory(prefix="pops-c-") as scratch:
        library = compile_shared(sources, Path(scratch) / "policy.so", cc, prefix=facts["prefix"])
        return CompiledPolicy(library, spec)


def find_compiler() -> str:
    """The host's C compiler: cc, gcc or clang.

    Raises:
        PopsError: if there is none.
    """
    for name in ("cc", "gcc", "clang"):
        if shutil.which(name):
            return name
    raise PopsError(
        "No C compiler was found (looked for cc, gcc and clang), and C is proven by compiling "
        "it. Install one, for example with `apt install gcc`, or leave C out: --format onnx,tflite."
    )


def network_observations(spec: PolicySpec, observations: Array) -> FloatArray:
    """Observations (N, *observation_shape) as the int8 .tflite takes them."""
    if len(spec.input_shape) == 3:
        return image_observations(spec, observations, channels_last=True)
    return flat_observations(spec, observations)


def prove_integers(
    file: CompiledPolicy, core: Path, policy: NumpyPolicy, visited: Array, seed: int
) -> dict[str, Any]:
    """Hold the int8 C to tflite-micro's arithmetic, code by code.

    Inputs: visited states, codes drawn from the full range, saturated codes; and at the
    quantising step floats at rounding ties, denormals, NaN and infinities.

    Returns:
        JSON-ready facts; `passed` is False at the first mismatch.
    """
    from pops_export.int8 import reference
    from pops_export.int8.read import read_integer_network

    network = read_integer_network(core)
    count = int(np.clip(ORACLE_MACS // max(1, policy.arch.macs), 256, ORACLE_INPUTS))
    codes = _codes(network, network_observations(policy.spec, visited), count, seed)
    expected = reference.run(network, codes)
    mismatches = int((file.codes(codes) != expected).any(1).sum())
    floats = _floats(network, policy, visited, seed)
    entering = reference.quantise(network, network_observations(policy.spec, floats))
    wrong = int((file.quantise(floats) != entering).any(1).sum())
    wheel = _wheel(core, network, codes, expected)
    return {
        "oracle": "tflite-micro" if wheel is not None else "numpy model of tflite-micro",
        "oracle_inputs": len(codes),
        "oracle_mismatches": mismatches,
        "quantising_inputs": len(floats),
        "quantising_mismatches": wrong,
        **({} if wheel is None else {"wheel_inputs": wheel[0], "wheel_mismatches": wheel[1]}),
        "self_test": int(file.self_test()),
        "passed": not mismatches and not wrong and not (wheel and wheel[1]),
    }


def against_oracle(
    outputs: FloatArray, actions: Array, core: Path, policy: NumpyPolicy, visited: Array
) -> dict[str, Any]:
    """How another runtime's int8 results differ from tflite-micro's arithmetic."""
    from pops_export.int8 import reference
    from pops_export.int8.read import read_integer_network

    network = read_integer_network(core)
    wanted = reference.outputs(network, network_observations(policy.spec, visited))
    steps = np.abs(outputs - wanted) / np.float32(network.output_scale)
    expected = policy.spec.decode(wanted)
    changed = (actions != expected).reshape(len(expected), -1).any(1)
    return {
        "oracle_steps_at_most": int(np.rint(steps.max())),
        "oracle_outputs_share": float((steps > 0.5).mean()),
        **({"oracle_actions_share": float(changed.mean())} if actions.dtype.kind == "i" else {}),
    }


def _codes(network: IntegerNetwork, visited: FloatArray, count: int, seed: int) -> Array:
    """(count, inputs) int8: visited, random over the full range, and saturated."""
    from pops_export.int8 import reference

    rng = np.random.default_rng((seed, 5))
    seen = reference.quantise(network, visited)
    seen = seen[rng.integers(0, len(seen), count // 4)]
    ends = rng.choice(np.array([-128, 127], np.int8), (count // 8, network.inputs))
    rest = count - len(seen) - len(ends)
    return np.concatenate(
        [seen, ends, rng.integers(-128, 128, (rest, network.inputs)).astype(np.int8)]
    )


def _floats(network: IntegerNetwork, policy: NumpyPolicy, visited: Array, seed: int) -> Array:
    """Observations at the quantising step's edges: ties, denormals, huge, NaN, infinities."""
    rng = np.random.default_rng((seed, 7))
    base = visited[rng.integers(0, len(visited), 4096)]
    if base.dtype.kind != "f" or len(policy.spec.input_shape) == 3:
        return base
    flat = base.reshape(len(base), -1).astype(np.float32)
    features = flat.shape[1]
    ties = (rng.integers(-130, 130, flat.shape) + 0.5) * np.float64(network.input_scale)
    for stage in reversed(network.stages):
        if stage.kind == "mul":
            ties = ties / np.where(stage.values == 0, 1, stage.values.astype(np.float64))
        elif stage.kind == "sub":
            ties = ties + stage.values
    near = np.nextafter(ties.astype(np.float32), np.float32(np.inf))
    special = np.array(
        [0.0, -0.0, 1e-45, -1e-45, 1e-39, 3e38, -3e38, np.inf, -np.inf, np.nan], np.float32
    )
    odd = flat.copy()
    odd[np.arange(len(odd)), rng.integers(0, features, len(odd))] = rng.choice(special, len(odd))
    every = np.concatenate([flat, ties.astype(np.float32), near, odd])
    return every.reshape(-1, *policy.spec.observation_shape)


def _wheel(
    core: Path, network: IntegerNetwork, codes: Array, expected: Array
) -> tuple[int, int] | None:
    """The tflite-micro wheel's own answers, where it is installed: (inputs, mismatches)."""
    try:
        from tflite_micro import runtime
    except ImportError:
        return None
    from pops_export.tflite_surgery import integer_ends

    interpreter = runtime.Interpreter.from_bytes(integer_ends(core.read_bytes()))
    shape = (1, *interpreter.get_input_details(0)["shape"][1:])
    mismatches = 0
    for row, wanted in zip(codes, expected):
        interpreter.set_input(row.reshape(shape), 0)
        interpreter.invoke()
        mismatches += int(not np.array_equal(interpreter.get_output(0).reshape(-1), wanted))
    return len(codes), mismatches
