"""Generated C under many compilers, sanitizers and cppcheck: not one warning."""

from __future__ import annotations

import functools
import subprocess
from pathlib import Path

import numpy as np
import pytest
from c_networks import float_policy, observations_of, options_of, random_network, spec_of

from pops.arch import Conv, NetArch
from pops.spec import ContinuousActions, PolicySpec
from pops_export.c.generate import generate_float, generate_int8
from pops_export.c.harness import harness
from pops_export.c.options import COptions, Golden
from pops_export.int8.network import FloatStage

WARNINGS = ("-Wall", "-Wextra", "-Wpedantic", "-Wconversion", "-Werror")
STANDARDS = {
    "gcc c99": ("gcc", "-std=c99"),
    "gcc gnu99": ("gcc", "-std=gnu99"),
    "gcc c++": ("g++", "-x", "c++", "-std=c++11"),
    "clang c99": ("clang", "-std=c99"),
    "clang gnu99": ("clang", "-std=gnu99"),
    "clang c++": ("clang++", "-x", "c++", "-std=c++11"),
}
ARM = {
    "cortex-m0": ("-mcpu=cortex-m0",),
    "cortex-m3": ("-mcpu=cortex-m3",),
    "cortex-m4": ("-mcpu=cortex-m4", "-mfloat-abi=hard", "-mfpu=fpv4-sp-d16"),
    "cortex-m4 soft": ("-mcpu=cortex-m4",),
    "cortex-m7": ("-mcpu=cortex-m7", "-mfloat-abi=hard", "-mfpu=fpv5-d16"),
    "cortex-m33": ("-mcpu=cortex-m33", "-mfloat-abi=hard", "-mfpu=fpv5-sp-d16"),
    "cortex-m55": ("-mcpu=cortex-m55", "-mfloat-abi=hard", "-mfpu=auto"),
}
OPTIMISED = ("-O0", "-Og", "-O1", "-Os", "-O2", "-O3", "-O2 -flto", "-O2 -fno-omit-frame-pointer")


FEW = ("registers speed", "loops size", "tanh speed", "images size", "in place size", "stages size",
       "float")  # fmt: skip


@functools.lru_cache(maxsize=1)
def policies() -> dict[str, dict[str, str]]:
    """Every shape of generated file, under one prefix."""
    rng = np.random.default_rng(7)
    networks = {
        "registers": random_network(rng, [8, 8, 4]),
        "registers odd": random_network(rng, [5, 7, 3], input_zero_point=-7, input_scale=0.0113),
        "loops": random_network(rng, [11, 18, 6, 5]),
        "tanh": random_network(rng, [11, 18, 5], "tanh", input_scale=0.0113),
        "stages": random_network(
            rng, [4, 6, 3], stages=(FloatStage("sub", np.float32([1, 2, 3, 4])),)
        ),
        "images": random_network(
            rng, [6], image=(12, 12, 2), convs=[(5, 3, 2, True)], input_scale=1.0,
            input_zero_point=-128,
        ),
        "in place": random_network(
            rng, [3], "relu", (11, 13, 4), [(5, 4, 1, False), (7, 3, 2, False), (2, 2, 1, False)],
            input_scale=1.0, input_zero_point=-128,
        ),
        "floats images": random_network(rng, [6], "tanh", (9, 9, 2), [(5, 3, 2, True)]),
    }  # fmt: skip
    result = {}
    for name, network in networks.items():
        for layout in ("size", "speed"):
            dtype = "uint8" if name in ("images", "in place") else "float32"
            spec = spec_of(network, dtype=dtype, continuous="tanh" if layout == "size" else "")
            x = observations_of(rng, network, 8, dtype)[-4:]
            sources = generate_int8(network, spec, options_of(network, x, layout))
            result[f"{name} {layout}"] = sources
    arch = NetArch((2, 9, 9), 3, (5,), ("tanh",), (Conv(4, 3, 2, 1, "elu"),))
    box = ContinuousActions((-1.0,) * 3, (1.0,) * 3, "tanh")
    policy = float_policy(rng, arch, PolicySpec((9, 9, 2), box, "mean", channels_last=True))
    x = rng.normal(size=(3, 9, 9, 2)).astype(np.float32)
    ends = tuple(3.0 + i for i in range(162))
    options = COptions(
        golden=Golden(x, policy.outputs(x)),
        calibration_min=tuple(-e for e in ends),
        calibration_max=ends,
    )
    result["float"] = generate_float(policy, options)
    return result


def write(sources: dict[str, str], folder: Path) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    for name, text in sources.items():
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).write_text(text)


def quiet(command: list[str], folder: Path) -> None:
    result = subprocess.run(command, cwd=folder, capture_output=True, text=True, check=False)
    assert (result.returncode, result.stderr) == (0, ""), f"{command}\n{result.stderr[:3000]}"


@pytest.mark.parametrize("standard", STANDARDS)
def test_no_warnings(standard: str, tmp_path: Path) -> None:
    names = tuple(policies()) if standard.endswith("c99") else FEW
    for name in names:
        folder = tmp_path / name
        write(policies()[name], folder)
        base = [*STANDARDS[standard], *WARNINGS, "-O1", "-c", "policy.c", "-o", "policy.o"]
        quiet(base, folder)
        if standard == "gcc c99" and name in FEW:
            for define in ("POLICY_NO_SELF_TEST", "POLICY_PLAIN_C", "POLICY_HALVES"):
                quiet([*base, f"-D{define}"], folder)


@pytest.mark.mcu
@pytest.mark.parametrize("core", ARM)
def test_no_warnings_for_arm(core: str, tmp_path: Path) -> None:
    for name in (*FEW, "registers odd speed"):
        folder = tmp_path / name
        write(policies()[name], folder)
        every = name.startswith(("registers", "in place")) and core in (
            "cortex-m4",
            "cortex-m7",
            "cortex-m33",
        )
        for level in OPTIMISED if every else ("-O2",):
            command = ["arm-none-eabi-gcc", "-std=c99", *WARNINGS, *level.split(), "-mthumb"]
            quiet([*command, *ARM[core], "-c", "policy.c", "-o", "policy.o"], folder)


@pytest.mark.parametrize("core", ["cortex-m0", "cortex-m4"])
def test_no_warnings_from_clang_for_arm(core: str, tmp_path: Path) -> None:
    write({"string.h": STRING}, tmp_path / "include")
    target = ["--target=arm-none-eabi", *ARM[core], "-mthumb", "-ffreestanding", "-std=c99"]
    for name in FEW[:-1]:  # not the float file, which wants math.h
        write(policies()[name], tmp_path / name)
        command = ["clang", *target, *WARNINGS, "-O2", "-I../include", "-c", "policy.c"]
        quiet([*command, "-o", "policy.o"], tmp_path / name)


STRING = """
#include <stddef.h>
void *memcpy(void *, const void *, size_t);
void *memset(void *, int, size_t);
"""

MAIN = """
#include <stdio.h>
#include <stdlib.h>
#include "harness.c"

int main(void)
{
    /* Exactly as large as asked for, so that the sanitizer sees a byte too far. */
    int32_t i, n, size = (int32_t)sizeof(pops_observation) * POLICY_OBSERVATION_SIZE;
    void *scratch = malloc(POLICY_SCRATCH_BYTES);
    pops_observation *x = (pops_observation *)malloc((size_t)size);
    pops_action *action = (pops_action *)malloc(sizeof(pops_action) * POLICY_ACTION_SIZE);
    float *outputs = (float *)malloc(sizeof(float) * POLICY_OUTPUT_SIZE);
    uint32_t random = 1;
    for (n = 0; n < 300; n++) {
        for (i = 0; i < size; i++) {
            random = random * 1664525u + 1013904223u;
            ((uint8_t *)x)[i] = (uint8_t)(random >> 24); /* NaN and infinities among them */
        }
        if ((int)policy_act(x, action, scratch) > 2 || (int)policy_infer(x, outputs, scratch) > 2)
            return 1;
    }
    i = pops_self_test(scratch);
    free(scratch);
    free(x);
    free(action);
    free(outputs);
    return (int)i;
}
"""


@pytest.mark.parametrize("cc", ["gcc", "clang"])
def test_sanitizers_find_nothing(cc: str, tmp_path: Path) -> None:
    flags = ["-std=c99", "-O1", "-g", "-fsanitize=address,undefined", "-fno-sanitize-recover=all"]
    if cc == "clang":
        flags.append("-fsanitize=implicit-integer-sign-change,float-cast-overflow")
    for name in policies() if cc == "gcc" else FEW:
        folder = tmp_path / name
        write({**policies()[name], "harness.c": harness("policy"), "main.c": MAIN}, folder)
        quiet([cc, *flags, "main.c", "-o", "main", "-lm"], folder)
        quiet(["./main"], folder)


def test_cppcheck_finds_nothing(tmp_path: Path) -> None:
    for name in FEW:
        folder = tmp_path / name
        write(policies()[name], folder)
        checks = ["--enable=warning,performance,portability", "--std=c99", "--quiet"]
        rest = ["--error-exitcode=1", "--inline-suppr", "--force", "policy.c"]
        quiet(["cppcheck", *checks, *rest], folder)


def test_no_mutable_variables_and_no_allocation(tmp_path: Path) -> None:
    for name in FEW:
        folder = tmp_path / name
        write(policies()[name], folder)
        quiet(["gcc", "-std=c99", "-O2", "-c", "policy.c", "-o", "policy.o"], folder)
        listing = subprocess.run(
            ["nm", "policy.o"], cwd=folder, capture_output=True, text=True, check=True
        ).stdout
        symbols = [line.split()[-2:] for line in listing.splitlines()]
        assert not [s for kind, s in symbols if kind in "dDbBC"], name
        called = {s for kind, s in symbols if kind == "U"}
        allowed = {"memcpy", "memset", "__stack_chk_fail", "_GLOBAL_OFFSET_TABLE_"}
        allowed |= {"tanhf", "expm1f"} if name == "float" else set()
        assert called <= allowed, name


def test_avr_is_refused_in_words(tmp_path: Path) -> None:
    write(policies()["loops size"], tmp_path)
    result = subprocess.run(
        ["gcc", "-D__AVR__", "-fsyntax-only", "policy.c"],
        cwd=tmp_path, capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert result.returncode != 0
    assert "8-bit AVR boards (Uno, Mega, Nano) cannot run it" in result.stderr


STUB = """
#include <stdint.h>
struct {
    void begin(long) {}
    template <class T> void print(T) {}
    template <class T> void println(T) {}
} Serial;
static unsigned long micros() { return 0; }
static void delay(int) {}
"""


def test_arduino_library(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    network = random_network(rng, [8, 8, 4])
    options = options_of(network, np.zeros((2, 8), np.float32), "speed", arduino=True)
    sources = generate_int8(network, spec_of(network), options)
    assert sorted(sources) == [
        "examples/PolicyExample/PolicyExample.ino",
        "library.json",
        "library.properties",
        "src/policy.c",
        "src/policy.h",
    ]
    write(sources, tmp_path)
    properties = dict(line.split("=", 1) for line in sources["library.properties"].splitlines())
    needed = "name version author maintainer sentence paragraph category url architectures"
    assert set(needed.split()) <= set(properties)
    assert "avr" not in properties["architectures"].split(",")
    (tmp_path / "sketch.cpp").write_text(STUB + sources["examples/PolicyExample/PolicyExample.ino"])
    quiet(["g++", "-std=c++11", "-Isrc", "-c", "sketch.cpp", "-o", "sketch.o"], tmp_path)


def test_both_arithmetics_link_into_one_program(tmp_path: Path) -> None:
    rng = np.random.default_rng(3)
    policy = float_policy(rng, NetArch((4,), 2, (3,), ("relu",)))
    network = random_network(rng, [4, 3, 2])
    write(generate_int8(network, spec_of(network), COptions()), tmp_path)
    write(generate_float(policy, COptions(prefix="policy_f32")), tmp_path)
    (tmp_path / "main.c").write_text(
        '#include "policy.h"\n#include "policy_f32.h"\nint main(void) {\n'
        "    static uint32_t s[64];\n    float x[4] = {0, 0, 0, 0};\n    int32_t a = 9, b = 9;\n"
        "    return policy_act(x, &a, s) != POLICY_OK || policy_f32_act(x, &b, s) != POLICY_F32_OK"
        " || a > 1 || b > 1;\n}\n"
    )
    files = ["main.c", "policy.c", "policy_f32.c"]
    quiet(["gcc", "-std=c99", *WARNINGS, *files, "-o", "main"], tmp_path)
    quiet(["./main"], tmp_path)
