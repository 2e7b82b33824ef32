from __future__ import annotations

import numpy as np
import onnx
import onnxruntime
import pytest
from export_cases import CASES, cartpole_policy, onnx_files, random_policy

from pops.arch import Conv, NetArch
from pops.policy import NumpyPolicy
from pops.spec import DiscreteActions, Normaliser, PolicySpec
from pops_export.bound import output_bound
from pops_export.chatter import to_log
from pops_export.onnx_file import onnx_observations, quantise_onnx, write_onnx
from pops_export.runtimes import OnnxPolicy
from pops_export.stage import for_integers, plain

pytestmark = pytest.mark.slow


@pytest.fixture(scope="session")
def files(tmp_path_factory):
    return onnx_files(tmp_path_factory.getbasetemp())


@pytest.mark.parametrize("name", CASES)
@pytest.mark.parametrize("ending", ["onnx", "int8.onnx"])
def test_the_file_is_portable(files, name, ending):
    model = onnx.load(files / f"{name}.{ending}")
    onnx.checker.check_model(model, full_check=True)
    assert model.ir_version <= 9
    assert [(o.domain, o.version) for o in model.opset_import] == [("", 18)]
    (observation,), outputs = model.graph.input, model.graph.output
    assert observation.name == "observation"
    assert [o.name for o in outputs] == ["outputs", "action"]
    assert observation.type.tensor_type.shape.dim[0].dim_param == "batch"
    assert b"/" + b"site-packages" not in model.SerializeToString()
    assert not model.metadata_props
    assert not any(node.metadata_props or node.doc_string for node in model.graph.node)


@pytest.mark.parametrize("name", CASES)
def test_float32_outputs_lie_within_the_bound_for_any_batch(files, name):
    policy, states = CASES[name]()
    file = OnnxPolicy(files / f"{name}.onnx", policy.spec)
    outputs, actions = file.infer(states)
    assert np.all(np.abs(outputs - policy.outputs(states)) <= output_bound(policy, states))
    assert actions.dtype == policy.act(states).dtype
    np.testing.assert_allclose(actions, policy.act(states), atol=1e-5)
    assert np.array_equal(file.infer(states[:1])[1], actions[:1])


@pytest.mark.parametrize("name", CASES)
def test_int8_is_static_per_channel_and_close(files, name):
    policy, states = CASES[name]()
    path = files / f"{name}.int8.onnx"
    model = onnx.load(path)
    kinds = [node.op_type for node in model.graph.node]
    layers = len(policy.arch.layers())
    assert kinds.count("QuantizeLinear") >= layers
    weights = [t for t in model.graph.initializer if t.data_type == onnx.TensorProto.UINT8]
    matrices = [t for t in weights if len(t.dims) > 1]
    assert len(matrices) == layers
    scales = {t.name: t for t in model.graph.initializer}
    for node in model.graph.node:
        if node.op_type == "DequantizeLinear" and node.input[0] in {m.name for m in matrices}:
            channels = {n for m in matrices for n in (m.dims[0], m.dims[-1])}
            assert scales[node.input[1]].dims[0] in channels
    outputs, _ = OnnxPolicy(path, policy.spec).infer(states)
    reference = policy.outputs(states)
    if isinstance(policy.spec.actions, DiscreteActions):
        reference = reference - reference.mean(1, keepdims=True)
    assert np.abs(outputs - reference).max() < 0.05 * np.ptp(reference)


def test_products_are_added_without_saturation_on_any_processor(tmp_path):
    """Signed weights and AVX2 without VNNI: sums of two products stuck at 32,767."""
    spec = PolicySpec(
        (12, 12, 4),
        DiscreteActions(2),
        "logits",
        "uint8",
        channels_last=True,
        normaliser=Normaliser((0.0,), (255.0,)),
    )
    arch = NetArch((4, 12, 12), 2, convs=(Conv(4, 8, 4),))
    rng = np.random.default_rng(0)
    parameters = [
        (rng.uniform(0.9, 1.0, layer.weight).astype(np.float32), np.zeros(layer.weight[0], "f4"))
        for layer in arch.layers()
    ]
    policy = NumpyPolicy(spec, arch, parameters)
    states = rng.integers(0, 256, (200, 12, 12, 4)).astype(np.uint8)
    states[:4] = 255
    path = tmp_path / "q.onnx"
    with to_log(tmp_path / "log"):
        quantise_onnx(plain(policy), path, states, tmp_path)
    model = onnx.load(path)
    points = [onnx.numpy_helper.to_array(t) for t in model.graph.initializer]
    points = [p for p, t in zip(points, model.graph.initializer) if "weight_zero_point" in t.name]
    assert [p.dtype for p in points] == [np.uint8, np.uint8]
    assert set(np.concatenate(points).tolist()) <= {127, 128}
    outputs = {}
    for level in ("ORT_ENABLE_ALL", "ORT_DISABLE_ALL"):  # integer kernels, and float ones
        options = onnxruntime.SessionOptions()
        options.graph_optimization_level = getattr(onnxruntime.GraphOptimizationLevel, level)
        session = onnxruntime.InferenceSession(path, options, ["CPUExecutionProvider"])
        inputs = {"observation": onnx_observations(spec, states)}
        outputs[level] = session.run(["outputs"], inputs)[0]
    step = np.ptp(outputs["ORT_DISABLE_ALL"]) / 255
    difference = np.abs(outputs["ORT_ENABLE_ALL"] - outputs["ORT_DISABLE_ALL"]).max()
    assert difference <= 1.01 * step
    largest = np.abs(policy.outputs(states)).max()
    assert np.abs(outputs["ORT_ENABLE_ALL"] - policy.outputs(states)).max() < 0.02 * largest


def test_selected_inputs_and_discrete_observations(tmp_path):
    spec = PolicySpec((2, 2), DiscreteActions(3, start=1), "logits")
    policy = random_policy(spec, NetArch((4,), 3, (5,), ("silu",), inputs=(3, 1)))
    states = np.random.default_rng(0).normal(size=(50, 2, 2)).astype(np.float32)
    discrete = random_policy(
        PolicySpec((), DiscreteActions(2), "logits", "int64", one_hot=6), NetArch((6,), 2)
    )
    for name, case, seen in (("a", policy, states), ("b", discrete, np.arange(6))):
        with to_log(tmp_path / "log"):
            io = write_onnx(plain(case), tmp_path / f"{name}.onnx")
        assert io["input_shape"] == ["batch", *case.spec.observation_shape]
        outputs, actions = OnnxPolicy(tmp_path / f"{name}.onnx", case.spec).infer(seen)
        assert np.all(np.abs(outputs - case.outputs(seen)) <= output_bound(case, seen))
        assert np.array_equal(actions, case.act(seen))


def test_a_small_feature_beside_a_large_one_is_not_quantised_away(tmp_path):
    """0.01 rad beside 100 m: the action hangs on the angle alone."""
    spec = PolicySpec((2,), DiscreteActions(2), "q_values")
    weight = np.array([[0.0, -50.0], [0.0, 50.0]], np.float32)
    policy = NumpyPolicy(spec, NetArch((2,), 2), [(weight, np.full(2, 100.0, np.float32))])
    rng = np.random.default_rng(0)
    states = (rng.uniform(-1, 1, (2000, 2)) * [100.0, 0.01]).astype(np.float32)
    with to_log(tmp_path / "log"):
        quantise_onnx(for_integers(policy, states), tmp_path / "with.onnx", states, tmp_path)
        quantise_onnx(plain(policy), tmp_path / "without.onnx", states, tmp_path)
    expected = policy.act(states)
    changed = [
        float((OnnxPolicy(tmp_path / name, spec).act(states) != expected).mean())
        for name in ("with.onnx", "without.onnx")
    ]
    assert changed[0] < 0.02
    assert changed[1] > 0.2


def test_values_near_100_that_differ_by_little_do_not_fall_on_one_code(tmp_path):
    policy = cartpole_policy(0, offset=100.0)
    states = np.random.default_rng(0).uniform(-0.2, 0.2, (2000, 4)).astype(np.float32)
    with to_log(tmp_path / "log"):
        quantise_onnx(for_integers(policy, states), tmp_path / "q.onnx", states, tmp_path)
    outputs, actions = OnnxPolicy(tmp_path / "q.onnx", policy.spec).infer(states)
    assert (outputs[:, 0] == outputs[:, 1]).mean() < 0.03
    assert (actions != policy.act(states)).mean() < 0.03


def test_the_pinned_runtime_is_the_one_in_use():
    assert int(onnxruntime.__version__.split(".")[1]) >= 17
