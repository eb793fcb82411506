import onnx
import tiny
from onnx import TensorProto, helper, numpy_helper

from torchlift.graph.inspect import GraphFacts, read_facts
from torchlift.signature import Axis, Signature, TensorSpec

TEXT = Signature(
    (TensorSpec("ids", "int64", ("batch", "length")), TensorSpec("mask", "int64", ("batch", "length"))),
    (TensorSpec("y", "float32", ("batch", 8)),),
    (Axis("batch", 1, 2, 4), Axis("length", 1, 2, 4)),
)


def facts(inputs, outputs, unused=()):
    return GraphFacts(20, inputs, outputs, unused, {"MatMul": 1})


SOUND = {"ids": ("batch", "length"), "mask": ("s0", "")}


def test_a_graph_is_counted(source):
    found = read_facts(source)
    assert found == GraphFacts(
        opset=20,
        inputs={"x": ("batch", 32)},
        outputs={"y": ("batch", 24)},
        unused=(),
        operators={"MatMul": 1, "Add": 1, "Relu": 1},
    )
    assert found.nodes == 3


def saved(tmp_path, nodes, inputs, outputs, initializers=()):
    graph = helper.make_graph(
        nodes,
        "graph",
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in inputs.items()],
        [helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name, shape in outputs.items()],
        [numpy_helper.from_array(tiny.weights()[1], name) for name in initializers],
    )
    opsets = [helper.make_opsetid("com.microsoft", 1), helper.make_opsetid("", 18)]
    onnx.save(helper.make_model(graph, opset_imports=opsets), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_the_most_frequent_operators_come_first_and_other_domains_are_named(tmp_path):
    nodes = [
        helper.make_node("FastGelu", ["x"], ["a"], domain="com.microsoft"),
        helper.make_node("Relu", ["a"], ["b"]),
        helper.make_node("Relu", ["b"], ["y"], domain="ai.onnx"),
    ]
    found = read_facts(saved(tmp_path, nodes, {"x": [None, 3]}, {"y": None}))
    assert list(found.operators.items()) == [("Relu", 2), ("com.microsoft::FastGelu", 1)]
    assert found.opset == 18
    assert found.inputs == {"x": ("", 3)}
    assert found.outputs == {"y": ()}


def test_weights_that_are_listed_as_inputs_are_none(tmp_path):
    nodes = [helper.make_node("Add", ["x", "bias"], ["y"])]
    found = read_facts(saved(tmp_path, nodes, {"x": [24], "bias": [24]}, {"y": [24]}, ["bias"]))
    assert list(found.inputs) == ["x"]


def test_inputs_that_nothing_reads(tmp_path):
    inner = helper.make_graph(
        [helper.make_node("Relu", ["inside"], ["branch"])],
        "branch",
        [],
        [helper.make_tensor_value_info("branch", TensorProto.FLOAT, [1])],
    )
    node = helper.make_node("If", ["x"], ["y"], then_branch=inner, else_branch=inner)
    inputs = {name: [1] for name in ("x", "inside", "unread", "through")}
    found = read_facts(saved(tmp_path, [node], inputs, {"y": [1], "through": [1]}))
    assert found.unused == ("unread",)


def test_weights_that_are_elsewhere_are_not_needed(tmp_path):
    file = tmp_path / "model.onnx"
    onnx.save(tiny.model(), file, save_as_external_data=True, location="weights", size_threshold=0)
    (tmp_path / "weights").unlink()
    assert read_facts(file).nodes == 3
