"""The nodes of subgraphs that TensorRT names by their first and last."""

import contextlib
import json
from types import SimpleNamespace

import onnx
import onnx_ir as ir
import pytest
import tiny
from onnx import parser

from torchlift.backends import LayerTime, backend
from torchlift.backends.tensorrt import TensorRt
from torchlift.backends.tensorrt.regions import between, with_regions

GRAPH = """
<ir_version: 10, opset_import: ["": 20]>
g (float[N] x, float[N] z) => (float[N] y, float[N] other)
<float[1] weight = {2.0}, float[1] shared = {3.0}>
{
    [before] a = Relu (x)
    [first] b = Mul (a, weight)
    [left] c = Add (b, shared)
    [aside] other = Abs (b)
    [right] d = Add (b, z)
    [beside] e = Neg (z)
    [last] f = Sum (c, d, e)
    [half] h = Constant <value_floats = [0.5]> ()
    g = Mul (f, h)
    [after] y = Mul (g, shared)
}
"""
"""From ``first`` to ``last`` go two ways, by ``left`` and by ``right``; one node has no name."""

WITHIN = ("first", "left", "right", "last")


@pytest.fixture
def source(tmp_path):
    file = tmp_path / "model.onnx"
    onnx.save(parser.parse_model(GRAPH), file)
    return file


def timed(name, *nodes):
    return LayerTime(name, "Myelin", nodes, "fp16", 1e-3, "here")


@pytest.mark.parametrize(
    ("first", "last", "nodes"),
    [
        ("first", "last", WITHIN),
        ("weight", "last", WITHIN),
        ("before", "aside", ("before", "first", "aside")),
        ("first", "first", ("first",)),
        ("last", "Mul_8", ("last", "Mul_8")),
        ("half", "after", ("half", "Mul_8", "after")),
        ("h", "after", ("Mul_8", "after")),
        ("last", "first", ()),
        ("beside", "aside", ()),
        ("shared", "last", ()),
        ("a", "last", ()),
        ("first", "last.step", ()),
        ("elsewhere", "last", ()),
    ],
)
def test_what_lies_between_is_on_a_way_from_the_first_to_the_last(source, first, last, nodes):
    (found,) = with_regions([timed(f"{{ForeignNode[{first}...{last}]}}", first, last)], source)
    assert found.nodes == (nodes or (first, last)), "where there is nothing between, the names stay"


def test_without_a_way_or_a_node_there_is_nothing_between():
    graph = ir.from_proto(parser.parse_model(GRAPH)).graph
    assert between(graph, "first", "last") == WITHIN
    assert between(graph, "last", "first") == between(graph, "elsewhere", "last") == ()


def test_other_layers_and_what_metadata_tell_stay_as_they_are(source):
    region = "{ForeignNode[first...last]} [profile 1]"
    told = [
        timed("first + left", "first", "left"),
        timed("{ForeignNode[first...last]}", "first", "aside", "last"),
        timed("{ForeignNode[(Unnamed Layer* 3) [Shuffle]...last]}", "last"),
        timed("Reformatting CopyNode for Input Tensor 0 to {ForeignNode[first...last]}"),
    ]
    assert with_regions([*told, timed(region, "first", "last")], source) == [*told, timed(region, *WITHIN)]


def test_without_a_region_the_graph_is_not_read(tmp_path):
    told = [timed("first + left", "first", "left")]
    assert with_regions(told, tmp_path / "gone.onnx") == told


@pytest.fixture
def measured(monkeypatch):
    """As if the tiny network had become one layer with its copy of the output."""
    region = "{ForeignNode[product...relu]}"
    names = (region, f"Reformatting CopyNode for Output Tensor 0 to {region}")
    texts = [json.dumps({"Name": name, "LayerType": "Myelin"}) for name in names]
    times = ({name: [2.0, 4.0] for name in names}, texts)
    session = SimpleNamespace(runtime="here", layer_times=lambda feeds, runs: times)
    monkeypatch.setattr(TensorRt, "_open", lambda self, *given: contextlib.nullcontext(session))


def test_layers_are_told_with_all_nodes_of_a_region_where_the_graph_is_there(measured, tmp_path):
    file = tmp_path / "model.onnx"
    onnx.save(tiny.model(), file)
    ask = {"feeds": {"x": tiny.sample(1)}, "runs": 2}
    runtime = backend("tensorrt")
    assert [layer.nodes for layer in runtime.layers(tmp_path, tiny.SIGNATURE, **ask)] == [("product", "relu"), ()]
    found = runtime.layers(tmp_path, tiny.SIGNATURE, source=file, **ask)
    assert [layer.nodes for layer in found] == [("product", "sum", "relu"), ()]
    assert [layer.seconds for layer in found] == [3e-3, 3e-3]
