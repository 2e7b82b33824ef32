"""ONNX chains: the same outputs as ONNX Runtime, and refusals in words."""

import gymnasium as gym
import numpy as np
import onnxruntime
import pytest
from onnx import TensorProto, helper, numpy_helper
from test_teacher_formats import CARTPOLE, OBSERVATIONS, assert_outputs, export, mlp, nature
from test_teacher_sb3 import TinyImage
from torch import nn

from pops.errors import TeacherError
from pops.spec import EnvSpec
from pops.teacher.info import info
from pops.teacher.load import load_teacher

if "PopsTinyImage-v0" not in gym.registry:
    gym.register("PopsTinyImage-v0", entry_point=TinyImage)


def run_onnx(path, observations):
    session = onnxruntime.InferenceSession(str(path))
    return session.run(None, {session.get_inputs()[0].name: observations})[0]


@pytest.mark.parametrize(
    "activation", [nn.ReLU, nn.Tanh, nn.ELU, nn.LeakyReLU, nn.SiLU, nn.Sigmoid]
)
def test_onnx_exported_by_torch(activation, tmp_path):
    path = tmp_path / "policy.onnx"
    export(mlp(4, 16, 8, 2, activation=activation), OBSERVATIONS, path, output_names=["q_values"])
    teacher = load_teacher(path, env=CARTPOLE)
    assert teacher.policy.spec.output == "q_values"
    assert teacher.facts["activation_source"] == "operators of the file"
    assert_outputs(teacher.policy, run_onnx(path, OBSERVATIONS))


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_onnx_with_convolutions_and_division(tmp_path):
    class Scaled(nn.Module):
        def __init__(self):
            super().__init__()
            self.net = nature()

        def forward(self, x):
            return self.net(x.float() / 255.0)

    path = tmp_path / "policy.onnx"
    images = np.random.default_rng(0).integers(0, 256, (20, 1, 84, 84), dtype=np.uint8)
    export(Scaled(), images, path)
    env = EnvSpec("PopsTinyImage-v0", kwargs={"channels_first": True})
    teacher = load_teacher(path, env=env)
    assert [conv.stride for conv in teacher.policy.arch.convs] == [4, 2, 1]
    assert teacher.policy.spec.normaliser.std == (255.0,)
    assert_outputs(teacher.policy, run_onnx(path, images), images)
    export(nature(), images.astype(np.float32), path)
    teacher = load_teacher(path, env=env)
    assert teacher.policy.spec.normaliser is None
    expected = run_onnx(path, images.astype(np.float32))
    np.testing.assert_allclose(teacher.policy.outputs(images), expected, rtol=1e-4, atol=1e-3)


def model_of(nodes, arrays, outputs=("y",)):
    info_of = helper.make_tensor_value_info
    graph = helper.make_graph(
        nodes,
        "policy",
        [info_of("x", TensorProto.FLOAT, ["n", 4])],
        [info_of(name, TensorProto.FLOAT, None) for name in outputs],
        [numpy_helper.from_array(np.asarray(a, np.float32), name) for name, a in arrays.items()],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 13)], ir_version=8)


def test_onnx_with_matmul_add_and_a_final_relu(tmp_path):
    """MatMul + Add, alpha and beta of Gemm, a constant node, a scaled input, a final ReLU."""
    rng = np.random.default_rng(0)
    arrays = {"w": rng.normal(size=(4, 8)), "b": rng.normal(size=8), "v": rng.normal(size=(8, 2))}
    half = helper.make_tensor("half", TensorProto.FLOAT, [], [0.5])
    nodes = [
        helper.make_node("Constant", [], ["h"], value=half),
        helper.make_node("Mul", ["x", "h"], ["s"]),
        helper.make_node("MatMul", ["s", "w"], ["m"]),
        helper.make_node("Add", ["b", "m"], ["a"]),
        helper.make_node("Tanh", ["a"], ["t"]),
        helper.make_node("Gemm", ["t", "v"], ["g"], alpha=0.7, beta=0.0),
        helper.make_node("Relu", ["g"], ["y"]),
    ]
    path = tmp_path / "policy.onnx"
    path.write_bytes(model_of(nodes, arrays).SerializeToString())
    teacher = load_teacher(path, env=CARTPOLE)
    assert teacher.policy.arch.output_activation == "relu"
    expected = run_onnx(path, OBSERVATIONS)
    assert (expected == 0).any()
    assert_outputs(teacher.policy, expected)


def test_onnx_with_a_final_softmax(tmp_path):
    nodes = [
        helper.make_node("Gemm", ["x", "w"], ["g"]),
        helper.make_node("Softmax", ["g"], ["y"], axis=-1),
    ]
    path = tmp_path / "policy.onnx"
    arrays = {"w": np.random.default_rng(0).normal(size=(4, 2))}
    path.write_bytes(model_of(nodes, arrays).SerializeToString())
    teacher = load_teacher(path, env=CARTPOLE)
    assert teacher.policy.arch.widths == ()
    assert "Softmax is left out" in teacher.facts["notes"][0]
    expected = run_onnx(path, OBSERVATIONS).argmax(axis=1)
    np.testing.assert_array_equal(teacher.policy.predict(OBSERVATIONS)[0], expected)


W = {"w": np.ones((4, 2)), "v": np.ones((2, 2))}


@pytest.mark.parametrize(
    ("nodes", "words"),
    [
        ([("Gemm", ["x", "w"], ["g"]), ("Sin", ["g"], ["y"])], "operator Sin .*not supported"),
        ([("Gemm", ["x", "x"], ["y"])], "reads 2 values|constant matrix"),
        ([("Relu", ["x"], ["y"])], "does not follow a layer"),
        ([("Gemm", ["x", "w"], ["g"]), ("Mul", ["g", "g"], ["y"])], "multiplies two values"),
        ([("Gemm", ["missing", "w"], ["y"])], "no chain of operators"),
        ([("Add", ["x", "w"], ["g"]), ("Gemm", ["g", "w"], ["y"])], "no bias of a layer"),
        ([("Gemm", ["x", "w"], ["g"]), ("Softmax", ["g"], ["s"]), ("Gemm", ["s", "v"], ["y"])],
         "follows Softmax"),
    ],
)  # fmt: skip
def test_onnx_that_is_no_chain(nodes, words, tmp_path):
    path = tmp_path / "policy.onnx"
    made = [helper.make_node(*node, name="here") for node in nodes]
    path.write_bytes(model_of(made, W).SerializeToString())
    with pytest.raises(TeacherError, match=words) as caught:
        load_teacher(path, env=CARTPOLE)
    assert "policy.onnx" in str(caught.value)


def test_onnx_damaged_external_and_not_finite(tmp_path):
    path = tmp_path / "policy.onnx"
    model = model_of([helper.make_node("Gemm", ["x", "w"], ["y"])], {"w": np.full((4, 2), np.nan)})
    whole = model.SerializeToString()
    path.write_bytes(whole)
    with pytest.raises(TeacherError, match="8 NaN or infinite weights"):
        info(path)
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(TeacherError, match=r"not a readable ONNX file|no chain|without operators"):
        info(path)
    tensor = model.graph.initializer[0]
    tensor.ClearField("raw_data")
    tensor.data_location = TensorProto.EXTERNAL
    tensor.external_data.add(key="location", value="../../secret")
    path.write_bytes(model.SerializeToString())
    with pytest.raises(TeacherError, match="weights in another file"):
        info(path)
