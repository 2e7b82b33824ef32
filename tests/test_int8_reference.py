"""The numpy model of tflite-micro's arithmetic against the pinned wheel: no mismatch."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from c_networks import codes_of, converted

from pops.arch import Conv
from pops.errors import ArtifactError
from pops_export.int8 import reference
from pops_export.int8.fixed_point import quantise_multiplier, requantise
from pops_export.int8.network import IntArray, Requantiser
from pops_export.int8.read import parse_integer_network, read_integer_network

NETWORKS = {
    "relu": (((8,), (64, 64), 4, "relu"), 50_000),
    "tanh": (((8,), (33, 7), 3, "tanh"), 50_000),
    "linear": (((6,), (), 3), 20_000),
    "convolutions": (((2, 13, 13), (10,), 4, "relu", (Conv(8, 4, 2), Conv(5, 3, 1, 1))), 1_500),
    "tanh convolution": (((3, 9, 9), (), 2, "tanh", (Conv(4, 3, 2, 0, "tanh"),)), 1_500),
}


def wheel(model: bytes, codes: IntArray, shape: tuple[int, ...]) -> IntArray:
    from tflite_micro import runtime

    interpreter = runtime.Interpreter.from_bytes(model)
    results = []
    for row in codes.reshape(-1, 1, *shape):
        interpreter.set_input(row, 0)
        interpreter.invoke()
        results.append(interpreter.get_output(0).reshape(-1).copy())
    return np.array(results)


@pytest.mark.parametrize("name", NETWORKS)
def test_equals_the_wheel(name: str) -> None:
    arguments, count = NETWORKS[name]
    _, model = converted(*arguments)  # type: ignore[arg-type]
    network = parse_integer_network(model)
    codes = codes_of(np.random.default_rng(1), network, count)
    ours = reference.run(network, codes)
    theirs = wheel(model, codes, network.input_shape)
    assert (ours != theirs).sum() == 0
    assert len(np.unique(ours)) > 50  # a network that says the same always proves nothing


def test_both_files_hold_the_same_integer_network() -> None:
    outer, inner = (parse_integer_network(m) for m in converted((8,), (64, 64), 4))
    codes = codes_of(np.random.default_rng(2), inner, 1000)
    np.testing.assert_array_equal(reference.run(outer, codes), reference.run(inner, codes))
    assert (outer.int8_io, inner.int8_io) == (False, True)
    assert outer.input_scale == inner.input_scale


def test_float_input_is_rounded_half_away_from_zero() -> None:
    network = parse_integer_network(converted((6,), (), 3)[0])
    scale = network.input_scale
    x = np.zeros((8, 6), np.float32)
    first = network.stages[0].values.reshape(-1)[0] if network.stages else np.float32(1)
    x[:, 0] = np.array([0.5, -0.5, 1.5, -1.5, 2.4999, -2.4999, 1e9, -1e9]) * scale / first
    codes = reference.quantise(network, x)[:, 0].astype(int) - network.input_zero_point
    assert codes[:6].tolist() == [1, -1, 2, -2, 2, -2]
    assert reference.quantise(network, x)[6:, 0].tolist() == [127, -128]


def test_nan_counts_as_zero_and_infinity_saturates() -> None:
    network = parse_integer_network(converted((6,), (), 3)[0])
    x = np.full((3, 6), np.nan, np.float32)
    x[1], x[2] = np.inf, -np.inf
    codes = reference.quantise(network, x)
    assert (codes[0] == network.input_zero_point).all()
    assert (codes[1] == 127).all()
    assert (codes[2] == -128).all()


@pytest.mark.parametrize("real", [0.3, 0.0007, 1.7, 0.5, 0.25, 2.0**-20, 1.0 - 2**-40])
def test_requantising_rounds_twice(real: float) -> None:
    multiplier, exponent = quantise_multiplier(real)
    left, right = max(exponent, 0), max(-exponent, 0)
    how = Requantiser(
        *(np.array([v], dtype=np.int64) for v in (multiplier, left, right)), 3, -128, 127
    )
    sums = np.arange(-3000, 3000, dtype=np.int64)[:, None]
    for total, code in zip(sums[:, 0].tolist(), requantise(sums, how)[:, 0].tolist()):
        scaled = ((total << left) * multiplier + (1 << 30)) >> 31
        magnitude = (abs(scaled) + ((1 << right) >> 1)) >> right
        expected = (magnitude if scaled >= 0 else -magnitude) + 3
        assert code == min(max(expected, -128), 127)


def test_damaged_and_foreign_files_are_refused(tmp_path: Path) -> None:
    model = converted((8,), (64, 64), 4)[1]
    cases = {
        "short": model[:200],
        "other": b"not a flatbuffer at all",
        "empty": b"",
        "cut": model[: len(model) // 2],
    }
    for name, data in cases.items():
        path = tmp_path / f"{name}.tflite"
        path.write_bytes(data)
        with pytest.raises(ArtifactError, match=name):
            read_integer_network(path)
    with pytest.raises(ArtifactError, match="Cannot read"):
        read_integer_network(tmp_path / "missing.tflite")


def test_a_float_file_is_refused() -> None:
    from c_networks import float_policy

    from pops.arch import NetArch
    from pops_export import stage, tflite_file

    policy = float_policy(np.random.default_rng(0), NetArch((4,), 2, (3,), ("relu",)))
    with pytest.raises(ArtifactError, match="FULLY_CONNECTED on floats"):
        parse_integer_network(tflite_file.convert(stage.plain(policy)))
