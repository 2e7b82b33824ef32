"""Convolutions of the generated int8 C that are read in place, on this machine and on cores."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from c_networks import codes_of, observations_of, options_of, random_network, spec_of

from pops.errors import UsageError
from pops_deploy.targets.mcu.measure import measure
from pops_export.c.compile import CompiledPolicy, compile_shared
from pops_export.c.conv import even_blocks, plan_direct
from pops_export.c.generate import generate_int8
from pops_export.c.options import COptions, Golden
from pops_export.int8 import reference
from pops_export.int8.network import ConvLayer, IntegerNetwork

PIXELS = {"input_scale": 1.0, "input_zero_point": -128}


def network_of(seed: int, activation: str = "relu", pixels: bool = True) -> IntegerNetwork:
    """Two or three convolutions without padding, of random shapes."""
    rng = np.random.default_rng(seed)
    image = (int(rng.integers(17, 22)), int(rng.integers(17, 22)), int(rng.choice([1, 3, 4])))
    convs = [
        (int(rng.integers(1, 10)), int(rng.integers(2, 5)), int(rng.integers(1, 3)), False)
        for _ in range(int(rng.integers(2, 4)))
    ]
    places = PIXELS if pixels else {}
    return random_network(rng, [int(rng.integers(1, 9)), 3], activation, image, convs, **places)


def sources_of(network: IntegerNetwork, layout: str, dtype: str, count: int):
    x = observations_of(np.random.default_rng(5), network, count, dtype)
    golden = np.nan_to_num(x[-4:], posinf=1, neginf=-1).astype(x.dtype)
    options = options_of(network, golden, layout)
    return generate_int8(network, spec_of(network, dtype=dtype), options), x


def plans(network: IntegerNetwork) -> list[object]:
    layers = [la for la in network.layers if isinstance(la, ConvLayer)]
    return [plan_direct(la, index == 0) for index, la in enumerate(layers)]


def test_channels_are_divided_evenly() -> None:
    expected = [(1,), (2,), (3,), (4,), (3, 2), (3, 3), (4, 3), (4, 4), (3, 3, 3), (4, 3, 3)]
    assert [even_blocks(n) for n in range(1, 11)] == expected
    assert even_blocks(64) == (4,) * 16


def test_what_is_read_in_place() -> None:
    """Whole words anywhere; a filled-up row where it costs little and nothing lies beyond."""
    rng = np.random.default_rng(0)

    def layer(depth: int, kernel: int, padded: bool) -> ConvLayer:
        network = random_network(rng, [2], "relu", (12, 12, depth), [(5, kernel, 1, padded)])
        found = network.layers[0]
        assert isinstance(found, ConvLayer)
        return found

    whole = plan_direct(layer(4, 3, False), True)
    assert whole is not None
    assert (whole.quads, whole.overread, whole.unroll, whole.blocks) == (3, 0, 3, (3, 2))
    filled = plan_direct(layer(7, 3, False), False)
    assert filled is not None
    assert (filled.quads, filled.overread) == (6, 3)
    assert plan_direct(layer(7, 3, False), True) is None  # would read behind the caller's image
    assert plan_direct(layer(1, 5, False), False) is None  # 40 bytes where 25 are
    assert plan_direct(layer(4, 3, True), False) is None  # reaches outside of the image


def test_random_shapes_are_of_both_kinds() -> None:
    found = [plan is not None for seed in range(12) for plan in plans(network_of(seed))]
    assert 4 < sum(found) < len(found) - 4


@pytest.mark.parametrize("seed", range(12))
def test_random_shapes(seed: int, tmp_path: Path) -> None:
    activation = ("relu", "tanh")[seed % 2]
    dtype = ("uint8", "float32")[seed // 6]
    network = network_of(seed, activation, dtype == "uint8")
    sources, x = sources_of(network, ("size", "speed")[seed // 3 % 2], dtype, 300)
    library = compile_shared(sources, tmp_path / "policy.so")
    policy = CompiledPolicy(library, spec_of(network, dtype=dtype))
    codes = codes_of(np.random.default_rng(6), network, 300)
    assert (policy.codes(codes) != reference.run(network, codes)).sum() == 0
    np.testing.assert_array_equal(policy.outputs(x), reference.outputs(network, x))
    assert policy.self_test() == 0
    assert policy._scratch[-1] == 0  # nothing was written behind the scratch that is asked for


CORES = ("cortex-m0", "cortex-m3", "cortex-m4", "cortex-m7", "cortex-m55")


@pytest.mark.mcu
@pytest.mark.slow
@pytest.mark.parametrize("core", CORES)
def test_cores_compute_the_same(core: str) -> None:
    for seed in range(2 if core in ("cortex-m0", "cortex-m3") else 12):
        network = network_of(20 + seed, ("relu", "tanh")[seed % 4 == 3])
        sources, x = sources_of(network, "size", "uint8", 12)
        flags = ("-O3",) if seed % 3 else ("-O1",)
        measured = measure(sources, core, x.reshape(len(x), -1), flags=flags)
        np.testing.assert_array_equal(measured.outputs, reference.outputs(network, x))
        assert measured.self_test == 0
        assert measured.minimum == measured.maximum


@pytest.mark.mcu
@pytest.mark.slow
@pytest.mark.parametrize("core", ["cortex-m7", "cortex-m55"])
def test_frames_of_the_atari_papers(core: str) -> None:
    """84×84×4 and about 12,000 weights: instructions, scratch and flash that were promised."""
    rng = np.random.default_rng(3)
    convs = [(4, 8, 4, False), (8, 4, 2, False)]
    network = random_network(rng, [16, 3], "relu", (84, 84, 4), convs, **PIXELS)
    sources, x = sources_of(network, "size", "uint8", 6)
    measured = measure(sources, core, x.reshape(len(x), -1))
    np.testing.assert_array_equal(measured.outputs, reference.outputs(network, x))
    assert measured.minimum == measured.maximum < 440_000  # 461,488 products
    assert measured.scratch < 4_000
    assert 84 * 84 * 4 + measured.scratch + measured.stack < 40 << 10
    assert measured.rodata < 12_400
    assert measured.self_test == 0
    # No stored image: weights are the file.
    assert len(sources["policy.c"]) < 6 * (measured.rodata + 4_000)


def test_stored_images_are_refused(tmp_path: Path) -> None:
    network = network_of(1)
    x = observations_of(np.random.default_rng(5), network, 4, "uint8")
    options = COptions(golden=Golden(x, reference.outputs(network, x)))
    with pytest.raises(UsageError, match="draws its images itself"):
        generate_int8(network, spec_of(network, dtype="uint8"), options)
