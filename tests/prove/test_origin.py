"""The first node that makes NaN or infinite values, or loses them."""

import numpy as np
import onnx_ir as ir
from onnx import TensorProto, helper

from torchlift.prove.origin import find_origin

NODES = [
    helper.make_node("Slice", ["x", "a", "b"], ["part"], name="slice"),
    helper.make_node("Neg", ["x"], ["n"], name="neg"),
    helper.make_node("Exp", ["n"], ["e"], name="exp"),
    helper.make_node("Relu", ["e"], ["r"], name="relu"),
    helper.make_node("Greater", ["r", "x"], ["above"], name="greater"),
]
GRAPH = helper.make_graph(NODES, "g", [helper.make_tensor_value_info("x", TensorProto.FLOAT, [2])], [])


def origin(event, **values):
    graph = ir.from_proto(GRAPH)
    arrays = {name: np.array(value, bool if name == "above" else np.float32) for name, value in values.items()}
    found = find_origin(graph, arrays, event)
    return found and (found.node, found.operator)


NAN, INF = np.nan, np.inf


def test_the_node_whose_nan_is_gone_loses_it():
    values = {"x": [NAN, 1], "part": [1], "n": [NAN, 1], "e": [NAN, 1], "r": [0, 1], "above": [False, True]}
    assert origin("lost", **values) == ("relu", "Relu")


def test_a_part_without_the_nan_is_rightly_without_it_and_so_are_truth_values():
    values = {"x": [NAN, 1], "part": [1], "n": [NAN, 1], "e": [NAN, 1], "r": [NAN, 1], "above": [False, True]}
    assert origin("lost", **values) is None


def test_the_node_that_makes_them_of_finite_values_is_found():
    assert origin("made", x=[-99, 1], n=[99, 1], e=[INF, 1], r=[INF, 1]) == ("exp", "Exp")
    assert origin("made", x=[-INF, 1], n=[INF, 1], e=[NAN, 1], r=[NAN, 1]) == ("exp", "Exp")
    assert origin("made", x=[INF, 1], n=[INF, 1]) is None


def test_tensors_that_were_not_observed_tell_nothing():
    assert origin("lost", x=[NAN, 1], r=[0, 1]) is None
