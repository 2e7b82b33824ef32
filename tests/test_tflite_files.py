from __future__ import annotations

import dataclasses

import numpy as np
import pytest
from ai_edge_litert.interpreter import Interpreter, OpResolverType
from export_cases import CASES, RECIPES, dense_case, random_policy, tflite_files

from pops.arch import NetArch
from pops.errors import ArtifactError, UsageError
from pops.spec import DiscreteActions, PolicySpec
from pops_export.assemble import integer_facts, integer_io
from pops_export.bound import output_bound
from pops_export.int8 import reference
from pops_export.int8.read import read_integer_network
from pops_export.runtimes import LiteRtPolicy, from_codes, to_codes
from pops_export.stage import for_integers, plain
from pops_export.tflite_file import (
    calibration_rows,
    check_activations,
    float_io,
    power_of_two_range,
    tflite_observations,
)
from pops_export.tflite_surgery import ends, integer_ends, operators

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    return tflite_files(tmp_path_factory.getbasetemp())


def open_file(files, name, recipe, integer=False):
    policy, states = CASES[name]()
    network = plain(policy) if recipe == "fp32" else for_integers(policy, states)
    model = (files / f"{name}.{recipe}").read_bytes()
    io = float_io(model, network)
    path = files / f"{name}.{recipe}"
    if integer:
        io.update(integer_facts(model, network))
        model = integer_ends(model)
        io.update(integer_io(model, io))
        path = files / f"{name}.{recipe}.integer"
        path.write_bytes(model)
    return LiteRtPolicy(path, policy.spec, io), policy, states


@pytest.mark.parametrize("name", CASES)
def test_float32_lies_within_the_bound(files, name):
    file, policy, states = open_file(files, name, "fp32")
    outputs, actions = file.infer(states)
    assert np.all(np.abs(outputs - policy.outputs(states)) <= output_bound(policy, states))
    np.testing.assert_allclose(actions, policy.act(states), atol=1e-5)


def test_there_is_no_stray_transpose_round_convolutions(files):
    assert operators((files / "image.fp32").read_bytes()) == [
        "CONV_2D",
        "CONV_2D",
        "RESHAPE",
        "FULLY_CONNECTED",
        "FULLY_CONNECTED",
        "ARG_MAX",
    ]


@pytest.mark.parametrize("name", CASES)
def test_everything_between_one_quantize_and_one_dequantize_is_integer(files, name):
    ops = operators((files / f"{name}.static_wi8_ai8").read_bytes())
    assert ops.count("QUANTIZE") == ops.count("DEQUANTIZE") == 1
    inside = ops[ops.index("QUANTIZE") + 1 : ops.index("DEQUANTIZE")]
    assert set(inside) <= {"FULLY_CONNECTED", "CONV_2D", "RESHAPE", "TANH"}
    interpreter = Interpreter(model_content=(files / f"{name}.static_wi8_ai8").read_bytes())
    runner = interpreter.get_signature_runner("serving_default")
    assert runner.get_input_details()["observation"]["dtype"] is np.float32
    assert runner.get_output_details()["outputs"]["dtype"] is np.float32


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize(
    ("recipe", "worst"),
    [("static_wi8_ai8", 0.05), ("static_wi8_ai16", 0.03), ("dynamic_wi8_afp32", 0.03)],
)
def test_quantised_outputs_are_close(files, name, recipe, worst):
    file, policy, states = open_file(files, name, recipe)
    reference = policy.outputs(states)
    if isinstance(policy.spec.actions, DiscreteActions):
        reference = reference - reference.mean(1, keepdims=True)
    assert np.abs(file.outputs(states) - reference).max() < worst * np.ptp(reference)


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("recipe", RECIPES[:2])
def test_the_full_integer_file_holds_the_same_core(files, name, recipe):
    whole, policy, states = open_file(files, name, recipe)
    integer, _, _ = open_file(files, name, recipe, integer=True)
    model = integer_ends((files / f"{name}.{recipe}").read_bytes())
    assert set(operators(model)) <= {
        "FULLY_CONNECTED",
        "CONV_2D",
        "RESHAPE",
        "TANH",
        "ARG_MAX",
        "ADD",
    }
    outputs, actions = whole.infer(states)
    codes, decoded = integer.infer(states)
    # LiteRT's own QUANTIZE multiplies by the inverse scale, so a rare tie falls elsewhere.
    step = ends((files / f"{name}.{recipe}").read_bytes()).output_scale
    assert np.abs(outputs - codes).max() <= 2.01 * step
    assert (outputs == codes).all(1).mean() > 0.98
    if isinstance(policy.spec.actions, DiscreteActions):
        assert (actions == decoded).mean() > 0.99
    else:
        np.testing.assert_allclose(actions, decoded, atol=4 * step)


@pytest.mark.parametrize("name", CASES)
def test_both_integer_files_run_in_tflite_micro(files, name):
    from tflite_micro import runtime

    whole, policy, states = open_file(files, name, "static_wi8_ai8")
    model = (files / f"{name}.static_wi8_ai8").read_bytes()
    cut = integer_ends(model)
    io = {
        **integer_facts(model, for_integers(policy, states)),
        "input_dtype": "int8",
    }
    observations = tflite_observations(policy.spec, states)
    floats, integers = (runtime.Interpreter.from_bytes(m) for m in (model, cut))
    fp32 = runtime.Interpreter.from_bytes((files / f"{name}.fp32").read_bytes())
    names = [d["name"] for d in Interpreter(model_content=model).get_output_details()]
    index = names.index("serving_default_outputs_output")
    outputs = whole.outputs(states)
    worst = 0.0
    for row, wanted in zip(observations, outputs):
        floats.set_input(row[None], 0)
        floats.invoke()
        integers.set_input(to_codes(row[None], io), 0)
        integers.invoke()
        found = floats.get_output(index)
        assert np.array_equal(found, from_codes(integers.get_output(0), io))
        worst = max(worst, float(np.abs(found - wanted).max()))
        fp32.set_input(row[None], 0)
        fp32.invoke()
    # LiteRT's fast kernels round otherwise; one step a layer, Tanh counted.
    assert worst <= 5.01 * io["output_scale"]


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("kernels", ["BUILTIN_REF", "BUILTIN_WITHOUT_DEFAULT_DELEGATES"])
def test_other_runtimes_stay_within_one_step_a_layer_on_identical_inputs(files, name, kernels):
    path = files / f"{name}.static_wi8_ai8"
    network = read_integer_network(path)
    policy, states = CASES[name]()
    interpreter = Interpreter(
        str(path),
        experimental_op_resolver_type=OpResolverType[kernels],
        experimental_preserve_all_tensors=True,
    )
    interpreter.allocate_tensors()
    index = interpreter.get_input_details()[0]["index"]
    steps = [
        (op["op_name"], int(op["inputs"][0]), int(op["outputs"][0]))
        for op in interpreter._get_ops_details()
        if op["op_name"] in ("FULLY_CONNECTED", "CONV_2D")
    ]
    assert len(steps) == len(network.layers)
    worst, different, total = 0, 0, 0
    for row in tflite_observations(policy.spec, states):
        interpreter.set_tensor(index, row[None])
        interpreter.invoke()
        for layer, (_, given, found) in zip(network.layers, steps):
            alone = dataclasses.replace(network, layers=(dataclasses.replace(layer, tanh=None),))
            wanted = reference.run(alone, interpreter.get_tensor(given))
            theirs = interpreter.get_tensor(found).reshape(wanted.shape)
            difference = np.abs(wanted.astype(int) - theirs)
            worst = max(worst, int(difference.max()))
            different, total = different + int((difference > 0).sum()), total + difference.size
    assert worst <= 1
    assert different / total < 0.01


def test_to_codes_rounds_half_away_from_zero_and_saturates():
    io = {
        "input_dtype": "int8",
        "input_scale": 0.5,
        "input_zero_point": 3,
        "input_stage": {"mean": None, "scale": None, "limit": None, "one_hot": 0},
    }
    x = np.array([[0.25, -0.25, 0.75, 0.2499999, 1e9, -1e9]], np.float32)
    assert to_codes(x, io).tolist() == [[4, 2, 5, 3, 127, -128]]


def test_calibration_keeps_every_layers_extremes():
    policy, _ = dense_case()
    many = np.random.default_rng(0).normal(size=(20_000, 3)).astype(np.float32)
    many *= np.array([100, 0.01, 1], np.float32)
    network = for_integers(policy, many)
    rows = calibration_rows(network, many)
    assert len(rows) < 300
    x = network.stage.apply(many)
    assert {x.min(1).argmin(), x.max(1).argmax()} <= set(rows)
    y = x @ network.parameters[0][0].T + network.parameters[0][1]
    assert {y.min(1).argmin(), y.max(1).argmax()} <= set(rows)


def test_ends_states_the_cores_scales(files):
    found = ends((files / "image.static_wi8_ai8").read_bytes())
    assert (found.input_scale, found.input_zero_point) == (1.0, -128)
    assert 0 < found.output_scale < 0.1
    with pytest.raises(ArtifactError, match="expected one of each"):
        ends((files / "image.fp32").read_bytes())


@pytest.mark.parametrize("name", ["dense", "selected"])
def test_observations_are_quantised_by_a_power_of_two(files, name):
    """In the file that runtimes read, not only in what the converter was asked for."""
    found = ends((files / f"{name}.static_wi8_ai8").read_bytes())
    assert np.frexp(found.input_scale)[0] == 0.5
    assert found.input_zero_point == 0
    policy, states = CASES[name]()
    seen = for_integers(policy, states).stage.apply(tflite_observations(policy.spec, states))
    # All states fit the codes, and at least half of the codes are used.
    assert 63.5 <= np.abs(seen).max() / found.input_scale <= 128


@pytest.mark.parametrize(
    ("low", "high", "expected"),
    [
        (-0.99, 0.98, (-1.0, 127 / 128)),
        (-1.0, 1.0, (-1.0, 127 / 128)),  # 1 saturates by one step
        (-3.3, 0.1, (-211 / 64, 44 / 64)),
        (0.0, 0.9, (0.0, 255 / 256)),  # one sign only: every code is used
        (0.2, 0.9, (0.0, 255 / 256)),
        (-0.1, 0.8, (-26 / 256, 229 / 256)),
        (-0.9, 0.0, (-230 / 256, 25 / 256)),
        (0.0, 0.0, (-(2.0**-101), 2.0**-101 * 127 / 128)),
    ],
)
def test_power_of_two_range(low, high, expected):
    assert power_of_two_range(low, high) == expected


def test_an_activation_without_an_integer_form_is_refused():
    spec = PolicySpec((4,), DiscreteActions(2), "logits")
    network = plain(random_policy(spec, NetArch((4,), 2, (3,), ("elu",))))
    check_activations(network, "fp32")
    with pytest.raises(UsageError, match="'elu' has no form in static_wi8_ai8"):
        check_activations(network, "static_wi8_ai8")
