"""Instructions, bytes, loads, divisions and branches of generated C on emulated Cortex-M cores.

    python benchmarks/mcu.py [--json FILE]

Random networks go the way of every student: folded scales, int8 .tflite, C; gcc -O3 for each
core, counted under `qemu-system-arm -icount`, from float observation to action. Printed beside
the figures of other generators for the same networks, compiler and emulator.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import json
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import numpy as np

from pops.arch import NetArch
from pops.policy import NumpyPolicy
from pops.spec import Array, DiscreteActions, PolicySpec
from pops_deploy.targets.mcu.cores import core_facts
from pops_deploy.targets.mcu.measure import GCC, measure
from pops_deploy.targets.mcu.profile import profile
from pops_export.c.generate import generate_float, generate_int8
from pops_export.c.options import COptions, Golden, Layout
from pops_export.int8 import reference
from pops_export.int8.network import IntegerNetwork
from pops_export.int8.read import parse_integer_network

OTHERS = {
    "8-64-64-4": (
        ("onnx2c, float32", 25_437, 354_386, 20_428),
        ("CMSIS-NN (2026), int8", 16_276, 23_075, None),
    ),
    "8-8-4": (
        ("onnx2c, float32", 356, 7_792, 1_800),
        ("CMSIS-NN (2026), int8", 1_947, 3_039, None),
    ),
}
"""Name, instructions on Cortex-M4 and on Cortex-M3, bytes on Cortex-M4."""
TARGETS = {
    ("8-64-64-4", "speed", "cortex-m4"): 8_500,
    ("8-64-64-4", "size", "cortex-m4"): 12_000,
    ("8-64-64-4", "speed", "cortex-m3"): 21_000,
    ("8-64-64-4", "size", "cortex-m3"): 21_000,
    ("8-8-4", "speed", "cortex-m4"): 220,
    ("4-8-2", "speed", "cortex-m4"): 300,
    ("4-8-2", "size", "cortex-m0"): 1_500,
}


BELOW_128, ABOVE_128 = 5.0, 6.0
"""Binary logarithms of the largest deviation; a feature above 128 is too large for registers."""


def policy(inputs: int, widths: tuple[int, ...], outputs: int, activation: str) -> NumpyPolicy:
    """A random network of sensible scale."""
    rng = np.random.default_rng(3)
    arch = NetArch((inputs,), outputs, widths, (activation,) * len(widths))
    parameters = []
    for layer in arch.layers():
        bound = 1 / np.sqrt(layer.weight[1])
        shape = layer.weight
        weight = rng.uniform(-1.7 * bound, 1.7 * bound, shape).astype(np.float32)
        parameters.append((weight, rng.uniform(-bound, bound, shape[0]).astype(np.float32)))
    spec = PolicySpec((inputs,), DiscreteActions(outputs), "logits")
    return NumpyPolicy(spec, arch, parameters)


def states(inputs: int, largest: float) -> Array:
    """Calibration states whose features differ in size, as those of real environments do."""
    rng = np.random.default_rng(4)
    size = np.exp2(rng.uniform(-6, largest, inputs))
    return (rng.normal(size=(512, inputs)) * size).astype(np.float32)


def integer_network(student: NumpyPolicy, visited: Array) -> IntegerNetwork:
    """The student's int8 .tflite, read back."""
    from pops_export import stage, tflite_file

    network = stage.for_integers(student, visited)
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        model = tflite_file.convert(network)
        quantised = tflite_file.quantise(model, network, "static_wi8_ai8", visited)
    return parse_integer_network(quantised)


def act_bytes(sources: dict[str, str], core: str) -> int:
    """Code and constants of `policy_act` and all that it calls, linked by itself."""
    facts = core_facts(core)
    with tempfile.TemporaryDirectory() as name:
        for file, text in sources.items():
            (Path(name) / file).write_text(text)
        flags = ["-std=c99", "-O3", f"-mcpu={facts.cpu}", "-mthumb", *facts.flags]
        link = ["-nostartfiles", "-Wl,--entry=policy_act", "-Wl,--gc-sections", "-lm", "-lgcc"]
        command = [GCC, *flags, "-DPOLICY_NO_SELF_TEST", "-ffunction-sections", "-fdata-sections"]
        command += ["policy.c", *link, "-lc", "-o", "policy.elf"]
        subprocess.run(command, cwd=name, check=True)
        listing = subprocess.run(
            ["arm-none-eabi-size", "policy.elf"], cwd=name, check=True, capture_output=True
        )
    return int(listing.stdout.split()[6])


def rows() -> list[dict[str, Any]]:
    """One measured line for each network, arithmetic, layout and core."""
    networks = (
        ("8-64-64-4", policy(8, (64, 64), 4, "relu"), BELOW_128),
        ("8-64-64-4 tanh", policy(8, (64, 64), 4, "tanh"), BELOW_128),
        ("8-8-4", policy(8, (8,), 4, "relu"), BELOW_128),
        ("8-8-4 large", policy(8, (8,), 4, "relu"), ABOVE_128),
        ("4-8-2", policy(4, (8,), 2, "relu"), BELOW_128),
        ("8-4", policy(8, (), 4, "relu"), BELOW_128),
    )
    layouts: tuple[Layout, ...] = ("size", "speed")
    result = []
    for name, student, largest in networks:
        visited = states(student.arch.input_shape[0], largest)
        network = integer_network(student, visited)
        observations = visited[:64] * np.float32(1.1)
        for layout in layouts:
            options = options_for(visited, layout, reference.outputs(network, visited[:4]))
            sources = generate_int8(network, student.spec, options)
            for core in ("cortex-m0", "cortex-m3", "cortex-m4", "cortex-m7", "cortex-m55"):
                result.append(row(name, f"int8 {layout}", core, sources, observations))
        options = options_for(visited, "size", student.outputs(visited[:4]))
        sources = generate_float(student, options)
        for core in ("cortex-m3", "cortex-m4"):
            result.append(row(name, "float32", core, sources, observations))
    return result


def options_for(visited: Array, layout: Layout, outputs: Array) -> COptions:
    """Options with the self test and the range check that an artifact has."""
    return COptions(
        layout=layout,
        golden=Golden(visited[:4], outputs),
        calibration_min=tuple(float(v) for v in visited.min(0)),
        calibration_max=tuple(float(v) for v in visited.max(0)),
    )


def row(
    name: str, what: str, core: str, sources: dict[str, str], observations: Array
) -> dict[str, Any]:
    """Measure one file on one core."""
    measured = measure(sources, core, observations)
    kinds = profile(sources, core, observations[2])
    if measured.self_test != 0:
        raise SystemExit(f"{name} {what} on {core}: the self test failed")
    return {
        "network": name,
        "what": what,
        "core": core,
        "instructions_min": measured.minimum,
        "instructions": measured.maximum,
        "loaded_words": kinds.loaded_words,
        "divisions": kinds.divisions,
        "branches": kinds.branches,
        "bytes_act": act_bytes(sources, core),
        "bytes_all": measured.text + measured.rodata,
        "stack": measured.stack,
        "scratch": measured.scratch,
    }


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0] if __doc__ else None)
    parser.add_argument("--json", type=Path, help="also write the figures here")
    arguments = parser.parse_args()
    found = rows()
    line = "{:<17}{:<24}{:<11}{:>10}{:>8}{:>8}{:>5}{:>7}{:>8}{:>8}{:>7}{:>8}{:>9}"
    heads = ("network", "what", "core", "instr", "spread", "words", "div", "branch")
    print(line.format(*heads, "B act", "B all", "stack", "scratch", "target"))
    for name, others in OTHERS.items():
        for what, m4, m3, size in others:
            for core, count in (("cortex-m4", m4), ("cortex-m3", m3)):
                shown = size if size and core == "cortex-m4" else ""
                print(line.format(name, what, core, count, *[""] * 4, shown, *[""] * 4))
    missed = 0
    for r in found:
        target = TARGETS.get((r["network"], r["what"].split()[-1], r["core"]))
        missed += target is not None and r["instructions"] > target
        spread = r["instructions"] - r["instructions_min"]
        cells = (r["instructions"], spread, r["loaded_words"], r["divisions"], r["branches"])
        sizes = (r["bytes_act"], r["bytes_all"], r["stack"], r["scratch"])
        print(line.format(r["network"], r["what"], r["core"], *cells, *sizes, target or ""))
    if arguments.json:
        arguments.json.write_text(json.dumps(found, indent=2) + "\n")
    sys.exit(1 if missed else 0)


if __name__ == "__main__":
    main()
