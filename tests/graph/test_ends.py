"""Inputs and outputs of an exported graph get the signature's names, whatever the graph's own values are called."""

from __future__ import annotations

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime
import pytest
from onnx import TensorProto, helper

from torchlift.errors import ExportError
from torchlift.graph.ends import name_ends
from torchlift.signature import Axis, Signature, TensorSpec

ROWS = Axis("batch", 1, 2, 8)


def graph(nodes, inputs, outputs, initializers=()):
    def info(name, shape):
        return helper.make_tensor_value_info(name, TensorProto.FLOAT, shape)

    made = helper.make_graph(
        nodes, "g", [info(*i) for i in inputs], [info(*o) for o in outputs], initializer=list(initializers)
    )
    return ir.from_proto(helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))


def spec(name, *shape):
    return TensorSpec(name, "float32", shape)


def ran(model, **feeds):
    proto = ir.to_proto(model)
    onnx.checker.check_model(proto, full_check=True)
    session = onnxruntime.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip((o.name for o in session.get_outputs()), session.run(None, feeds), strict=True))


X = np.array([[1, -2, 3], [4, -5, 6]], np.float32)


def test_a_value_inside_that_has_an_output_s_name_gets_another():
    nodes = [helper.make_node("Relu", ["in"], ["y"]), helper.make_node("Neg", ["y"], ["out"])]
    model = graph(nodes, [("in", ["s0", 3])], [("out", ["s0", 3])])
    name_ends(model, Signature((spec("x", "batch", 3),), (spec("y", "batch", 3),), (ROWS,)), ["x"])
    np.testing.assert_array_equal(ran(model, x=X)["y"], -np.maximum(X, 0))


def test_a_weight_that_has_an_output_s_name_gets_another():
    weight = onnx.numpy_helper.from_array(np.full(3, 2, np.float32), "y")
    model = graph([helper.make_node("Mul", ["in", "y"], ["out"])], [("in", ["s0", 3])], [("out", ["s0", 3])], [weight])
    name_ends(model, Signature((spec("x", "batch", 3),), (spec("y", "batch", 3),), (ROWS,)), ["x"])
    np.testing.assert_array_equal(ran(model, x=X)["y"], 2 * X)


def test_outputs_that_are_inputs_constants_or_twice_the_same_are_results_of_their_own():
    weight = onnx.numpy_helper.from_array(np.full(3, 2, np.float32), "w")
    model = graph(
        [helper.make_node("Neg", ["in"], ["n"])],
        [("in", ["s0", 3])],
        [("in", ["s0", 3]), ("w", [3]), ("n", ["s0", 3]), ("n", ["s0", 3])],
        [weight],
    )
    outputs = (spec("same", "batch", 3), spec("weight", 3), spec("a", "batch", 3), spec("b", "batch", 3))
    name_ends(model, Signature((spec("x", "batch", 3),), outputs, (ROWS,)), ["x"])
    found = ran(model, x=X)
    np.testing.assert_array_equal(found["same"], X)
    np.testing.assert_array_equal(found["weight"], [2, 2, 2])
    np.testing.assert_array_equal(found["a"], -X)
    np.testing.assert_array_equal(found["b"], -X)


def test_names_may_change_places():
    nodes = [helper.make_node("Sub", ["a", "b"], ["y"])]
    model = graph(nodes, [("a", ["s0", 3]), ("b", ["s0", 3])], [("y", ["s0", 3])])
    name_ends(model, Signature((spec("b", "batch", 3), spec("a", "batch", 3)), (spec("y", "batch", 3),), (ROWS,)), "ba")
    np.testing.assert_array_equal(ran(model, b=X, a=2 * X)["y"], -X)


def test_an_input_that_was_dropped_is_there_again():
    model = graph([helper.make_node("Neg", ["in"], ["y"])], [("in", ["s0", 3])], [("y", ["s0", 3])])
    signature = Signature((spec("unread", "batch"), spec("x", "batch", 3)), (spec("y", "batch", 3),), (ROWS,))
    name_ends(model, signature, ["x"])
    assert [value.name for value in model.graph.inputs] == ["unread", "x"]
    np.testing.assert_array_equal(ran(model, x=X, unread=np.zeros(2, np.float32))["y"], -X)


def test_sizes_get_the_names_of_axes_and_expressions():
    model = graph([helper.make_node("Flatten", ["in"], ["y"])], [("in", ["s0", 3, "s1"])], [("y", ["s0", None])])
    signature = Signature(
        (spec("x", "batch", 3, "width"),), (spec("y", "batch", "3 * width"),), (ROWS, Axis("width", 1, 4, 9))
    )
    name_ends(model, signature, ["x"])
    assert [d.value for d in model.graph.inputs[0].shape if isinstance(d, ir.SymbolicDim)] == ["batch", "width"]
    assert [d.value for d in model.graph.outputs[0].shape] == ["batch", "3 * width"]


def test_where_a_size_was_a_constant_shapes_inside_are_forgotten():
    nodes = [helper.make_node("Neg", ["in"], ["n"]), helper.make_node("Relu", ["n"], ["y"])]
    model = graph(nodes, [("in", ["s0", 3])], [("y", [2, 3])])
    inner = next(iter(model.graph)).outputs[0]
    inner.shape = ir.Shape([2, 3])
    name_ends(model, Signature((spec("x", "batch", 3),), (spec("y", "batch", 3),), (ROWS,)), ["x"])
    assert inner.shape is None
    assert model.graph.outputs[0].shape[0].value == "batch"
    assert ran(model, x=np.ones((5, 3), np.float32))["y"].shape == (5, 3)


def test_another_number_of_outputs_is_refused():
    model = graph([helper.make_node("Neg", ["in"], ["y"])], [("in", ["s0", 3])], [("y", ["s0", 3])])
    outputs = (spec("a", "batch", 3), spec("b", "batch", 3))
    with pytest.raises(ExportError):
        name_ends(model, Signature((spec("x", "batch", 3),), outputs, (ROWS,)), ["x"])
