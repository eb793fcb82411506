"""The first nodes that a runtime computes otherwise than the graph says."""

from dataclasses import replace

import numpy as np
import pytest
import tiny
from onnx import TensorProto, helper

from torchlift import api
from torchlift.backends import backend
from torchlift.backends.onnxruntime import OnnxRuntime, OnnxRuntimeCpu
from torchlift.backends.openvino import OpenVino
from torchlift.cli.accuracy import partings_tables
from torchlift.errors import BackendError, InputError
from torchlift.machine import HERE
from torchlift.progress import SILENT
from torchlift.prove import parting
from torchlift.prove.inside import Inside
from torchlift.prove.numerics import TOLERANCES
from torchlift.prove.parting import find_partings


class Spoilt:
    """A session whose tensor ``name`` is changed, and with it all that is computed from it in the tiny network."""

    ORDER = ("product", "sum", "y")

    def __init__(self, session, name, change):
        self._session, self._name, self._change = session, name, change

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self._session.close()

    def run(self, feeds):
        found = self._session.run(feeds)
        for name in self.ORDER[self.ORDER.index(self._name) :]:
            if name in found:
                found[name] = self._change(found[name].copy())
        return found


@pytest.fixture
def spoil(monkeypatch):
    def make(name, change):
        opening = OnnxRuntime.open
        monkeypatch.setattr(OnnxRuntime, "open", lambda *given: Spoilt(opening(*given), name, change))

    return make


def found(source, feeds=None, runtime=None):
    inside = Inside(source, tiny.SIGNATURE)
    feeds = feeds or {"x": tiny.sample(4)}
    return find_partings(inside, runtime or OnnxRuntimeCpu(), "fp32", feeds, TOLERANCES["fp32"], HERE, SILENT)


def shifted(array):
    return array + np.float32(0.01) * np.abs(array).max()


def broken(array):
    array.flat[0] = np.nan
    return array


def test_the_tensors_of_a_graph_are_those_that_its_nodes_write(source):
    inside = Inside(source, tiny.SIGNATURE)
    assert [(tensor.name, tensor.dtype) for tensor in inside.tensors()] == [("product", "float32"), ("sum", "float32")]


@pytest.mark.parametrize("runtime", [OnnxRuntimeCpu(), OpenVino()])
def test_a_runtime_that_computes_what_the_graph_says_parts_nowhere(source, runtime):
    partings = found(source, runtime=runtime)
    assert (partings.nodes, partings.found) == (3, ())


@pytest.mark.parametrize("change", [shifted, broken])
@pytest.mark.parametrize("name", ["product", "sum", "y"])
def test_the_first_node_whose_values_part_is_named(source, spoil, name, change):
    spoil(name, change)
    (first,) = found(source).found
    assert first.tensor == name
    assert first.unit.node == {"y": "relu"}.get(name, name)
    assert first.difference.max_scaled == pytest.approx(0.01 if change is shifted else 0, abs=1e-4)
    assert first.difference.nonfinite_mismatch == (change is broken)


def test_large_graphs_are_looked_at_in_parts(source, spoil, monkeypatch):
    spoil("sum", shifted)
    monkeypatch.setattr(parting, "_AT_ONCE", 1)
    partings = found(source)
    assert (partings.nodes, [first.tensor for first in partings.found]) == (3, ["sum"])


def test_a_nan_on_both_sides_is_no_parting(source):
    x = tiny.sample(4)
    x[0, 0] = np.nan
    assert found(source, {"x": x}).found == ()


def test_a_runtime_that_compiles_for_minutes_is_not_looked_into(source, monkeypatch):
    monkeypatch.setattr(OnnxRuntime, "compiles", True)
    with pytest.raises(BackendError, match="onnxruntime is not looked into"):
        found(source)


def text(report):
    from rich.console import Console

    out = Console(width=160)
    with out.capture() as captured:
        for part in partings_tables(report, 10):
            out.print(part)
    return captured.get()


def test_bisect_explains_a_wrong_fp32(built, spoil):
    spoil("sum", shifted)
    report = api.bisect(built.path, "model/onnxruntime/fp32")
    assert [(p.unit.node, p.unit.operator) for p in report.partings] == [("sum", "Add")]
    assert [(failure.kind, failure.golden) for failure in report.answers] == [("difference", "opt")]
    assert (report.nodes, report.tolerance) == (3, TOLERANCES["fp32"])
    assert "Add" in text(report)


def test_bisect_says_where_nothing_parts(built):
    report = api.bisect(built.path, "model/openvino/fp32")
    assert (report.answers, report.partings) == ((), ())
    assert "answers as PyTorch does" in text(report)


def test_a_wrong_fusion_shows_in_the_answers_alone(built, monkeypatch):
    opening = OnnxRuntime.open

    def wrong_where_nobody_looks(self, model, signature, *rest):
        session = opening(self, model, signature, *rest)
        return Spoilt(session, "y", shifted) if len(signature.outputs) == 1 else session

    monkeypatch.setattr(OnnxRuntime, "open", wrong_where_nobody_looks)
    report = api.bisect(built.path, "model/onnxruntime/fp32")
    assert (len(report.answers), report.partings) == (1, ())
    assert "what the runtime fuses is wrong" in text(report)


def test_what_was_not_built_is_not_bisected(built):
    variant = replace(built.manifest.variant("model/onnxruntime/fp32"), failure="no memory", files=(), model="")
    built.commit(built.manifest.with_variant(variant))
    with pytest.raises(InputError, match="was not built: no memory"):
        api.bisect(built.path, variant.name)


def test_openvinos_average_pool_is_named(tmp_path):
    import onnx

    pool = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4, "ceil_mode": 1, "count_include_pad": 1}
    graph = helper.make_graph(
        [
            helper.make_node("Abs", ["x"], ["a"], name="before"),
            helper.make_node("AveragePool", ["a"], ["p"], name="pool", **pool),
            helper.make_node("Sqrt", ["p"], ["y"], name="behind"),
        ],
        "pool",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2, 5, 5])],
    )
    model = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    onnx.save(model, tmp_path / "model.onnx")
    signature = replace(
        tiny.SIGNATURE,
        inputs=(replace(tiny.SIGNATURE.inputs[0], shape=("batch", 2, 8, 8)),),
        outputs=(replace(tiny.SIGNATURE.outputs[0], shape=("batch", 2, 5, 5)),),
    )
    feeds = {"x": np.random.default_rng(0).standard_normal((2, 2, 8, 8)).astype(np.float32)}
    inside = Inside(tmp_path / "model.onnx", signature)
    partings = find_partings(inside, backend("openvino"), "fp32", feeds, TOLERANCES["fp32"], HERE, SILENT)
    assert [parted.unit.node for parted in partings.found] == ["pool"]
