"""Generated C on emulated Cortex-M cores: the same codes, counted instructions, bytes."""

from __future__ import annotations

import subprocess
from pathlib import Path

import numpy as np
import pytest
from c_networks import (
    converted,
    float_policy,
    observations_of,
    options_of,
    random_network,
    spec_of,
)

from pops.arch import NetArch
from pops.errors import PopsError, UsageError
from pops_deploy.targets.mcu import measure as mcu
from pops_deploy.targets.mcu.cores import CORES, core_facts
from pops_deploy.targets.mcu.measure import measure
from pops_deploy.targets.mcu.profile import profile
from pops_export.c.generate import generate_float, generate_int8
from pops_export.c.options import COptions, Golden
from pops_export.int8 import reference
from pops_export.int8.network import FloatStage, IntegerNetwork
from pops_export.int8.read import parse_integer_network

pytestmark = [pytest.mark.mcu, pytest.mark.slow]

# (network, layout, core): most instructions that one call may take.
TARGETS = {
    ("8-64-64-4", "speed", "cortex-m4"): 8_500,
    ("8-64-64-4", "size", "cortex-m4"): 12_000,
    ("8-64-64-4", "speed", "cortex-m3"): 21_000,
    ("8-64-64-4", "size", "cortex-m3"): 21_000,
    ("8-8-4", "speed", "cortex-m4"): 220,
    ("4-8-2", "speed", "cortex-m4"): 300,
    ("4-8-2", "size", "cortex-m0"): 1_500,
    ("4-8-2", "speed", "cortex-m0"): 1_500,
}
ARCHITECTURES = {
    "8-64-64-4": (8, (64, 64), 4),
    "8-8-4": (8, (8,), 4),
    "4-8-2": (4, (8,), 2),
}


def student(name: str) -> IntegerNetwork:
    inputs, widths, outputs = ARCHITECTURES[name]
    return parse_integer_network(converted((inputs,), widths, outputs)[0])


def generated(network: IntegerNetwork, layout: str, count: int = 300):
    observations = observations_of(np.random.default_rng(5), network, count)
    golden = np.nan_to_num(observations[-4:], posinf=1, neginf=-1)
    sources = generate_int8(network, spec_of(network), options_of(network, golden, layout))
    return sources, observations


def hold(network: IntegerNetwork, layout: str, core: str, count: int = 300) -> mcu.McuMeasurement:
    sources, observations = generated(network, layout, count)
    measured = measure(sources, core, observations.reshape(count, -1))
    outputs = reference.outputs(network, observations)
    np.testing.assert_array_equal(measured.outputs, outputs)
    np.testing.assert_array_equal(measured.actions[:, 0], spec_of(network).decode(outputs))
    finite = np.isfinite(observations.reshape(count, -1)).all(axis=1)
    np.testing.assert_array_equal(measured.statuses == 2, ~finite)
    assert set(measured.statuses.tolist()) == {0, 1, 2}
    assert measured.self_test == 0
    assert (measured.data, measured.bss) == (0, 0)
    assert 0 < measured.stack < 256
    return measured


@pytest.mark.parametrize(("name", "layout", "core"), TARGETS)
def test_instruction_targets(name: str, layout: str, core: str) -> None:
    measured = hold(student(name), layout, core)
    assert measured.maximum <= TARGETS[name, layout, core]
    assert measured.minimum == measured.maximum  # NaN, infinities, ties and all


def test_bytes_of_a_small_network(tmp_path: Path) -> None:
    """8-8-4: code and constants of policy_act with all that it calls."""
    sources, _ = generated(student("8-8-4"), "speed")
    for name, text in sources.items():
        (tmp_path / name).write_text(text)
    core = core_facts("cortex-m4")
    flags = ["-std=c99", "-O3", "-mcpu=cortex-m4", "-mthumb", *core.flags, "-ffunction-sections"]
    link = ["-fdata-sections", "-nostartfiles", "-Wl,--entry=policy_act,--gc-sections"]
    command = ["arm-none-eabi-gcc", *flags, *link, "-DPOLICY_NO_SELF_TEST", "policy.c"]
    subprocess.run([*command, "-o", "policy.elf"], cwd=tmp_path, check=True)
    listing = subprocess.run(
        ["arm-none-eabi-size", "policy.elf"], cwd=tmp_path, check=True, capture_output=True
    ).stdout.split()
    assert int(listing[6]) < 900


@pytest.mark.parametrize("core", CORES)
def test_every_core_computes_the_same(core: str) -> None:
    rng = np.random.default_rng(1)
    networks = {
        "registers": random_network(rng, [7, 5, 8, 3], input_zero_point=-9),
        "any scale": random_network(rng, [8, 8, 4], input_scale=0.0371, input_zero_point=12),
        "no hidden layer": random_network(rng, [6, 5]),
        "loops": random_network(rng, [11, 18, 6, 5]),
        "tanh": random_network(rng, [11, 18, 5], "tanh", input_scale=0.0113),
        "convolution": random_network(rng, [6], image=(8, 8, 2), convs=[(5, 3, 2, True)]),
    }
    for name, network in networks.items():
        layouts = ("size", "speed") if name in ("loops", "tanh") else ("speed",)
        for layout in layouts if core in ("cortex-m0", "cortex-m4") else ("speed",):
            measured = hold(network, layout, core, 200)
            assert measured.minimum == measured.maximum, (name, layout)


@pytest.mark.parametrize("layout", ["registers", "size", "speed"])
def test_dsp_instructions_over_many_inputs(layout: str) -> None:
    rng = np.random.default_rng(2)
    wide = layout != "registers"
    network = random_network(rng, [8, 24, 4] if wide else [8, 8, 4], input_zero_point=3)
    hold(network, layout if wide else "speed", "cortex-m4", 20_000)


def test_float_stages_without_a_float_unit_take_their_time() -> None:
    """Library float arithmetic branches on its operands: the one case without a constant count."""
    stages = (FloatStage("sub", np.float32([1, 2, 3])), FloatStage("mul", np.float32([0.3, 7, 1])))
    network = random_network(np.random.default_rng(3), [3, 5, 2], stages=stages)
    assert hold(network, "size", "cortex-m3").maximum > hold(network, "size", "cortex-m4").maximum
    measured = hold(network, "size", "cortex-m4")
    assert measured.minimum == measured.maximum


def test_float32_on_a_core(tmp_path: Path) -> None:
    policy = float_policy(np.random.default_rng(4), NetArch((8,), 4, (16,), ("relu",)))
    x = np.random.default_rng(5).normal(size=(100, 8)).astype(np.float32)
    options = COptions("policy_f32", golden=Golden(x[:4], policy.outputs(x[:4])))
    measured = measure(generate_float(policy, options), "cortex-m4", x, "policy_f32")
    np.testing.assert_allclose(measured.outputs, policy.outputs(x), rtol=1e-5, atol=1e-5)
    assert measured.self_test == 0


@pytest.mark.parametrize("core", ["cortex-m0", "cortex-m4"])
def test_the_count_is_exact(core: str) -> None:
    """SysTick's count equals a trace of every instruction."""
    network = student("4-8-2")
    sources, observations = generated(network, "size")
    measured = measure(sources, core, observations)
    kinds = profile(sources, core, observations[-1])
    assert kinds.instructions == measured.instructions[-1]
    assert sum(kinds.functions.values()) == kinds.instructions
    assert kinds.divisions == 0
    assert 0 < kinds.loads <= kinds.loaded_words
    assert 0 < kinds.branches < kinds.instructions


def test_what_cannot_be_measured_is_refused(monkeypatch: pytest.MonkeyPatch) -> None:
    sources, observations = generated(student("4-8-2"), "size")
    with pytest.raises(UsageError, match="'cortex-m1' is unknown"):
        measure(sources, "cortex-m1", observations)
    with pytest.raises(UsageError, match="takes 4 float32 values"):
        measure(sources, "cortex-m4", observations[:, :3])
    large = random_network(np.random.default_rng(6), [8, 512, 512, 4])
    with pytest.raises(PopsError, match="does not fit"):
        measure(generated(large, "size", 8)[0], "cortex-m0", observations_of(
            np.random.default_rng(5), large, 8))  # fmt: skip
    with pytest.raises(PopsError, match="arm-none-eabi-gcc failed"):
        measure({**sources, "policy.c": "this is not C"}, "cortex-m4", observations)
    monkeypatch.setenv("PATH", "")
    with pytest.raises(PopsError, match="apt install gcc-arm-none-eabi"):
        measure(sources, "cortex-m4", observations)
