"""Graphs in onnx's text format, lowered for older parsers, and what they answer before and after."""

import re
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import helper, numpy_helper

from torchlift.errors import ConversionError
from torchlift.graph.lower import Lower, Target

OLD = Target(16, frozenset({"LayerNormalization"}))


def graph(body, opset=20, half=False, **constants):
    """A model in onnx's text format, the signature first, with constants; ``half``: its floats, and the constants that
    are float64 here, are float16.
    """
    text = re.sub(r"\bfloat\b(?=\[)", "float16", body) if half else body
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]>\nnet {text}')
    for name, array in constants.items():
        array = np.asarray(array)
        floats = np.float16 if half else np.float32
        array = array.astype(floats) if array.dtype == np.float64 else array
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    for number, node in enumerate(model.graph.node):
        node.name = node.name or f"n{number}"
    onnx.checker.check_model(model, full_check=True)
    return model


def run(model, feeds):
    """What ONNX Runtime computes node by node, without its optimiser, which knows the patterns that are written. On a
    processor it computes most of float16 in float32.
    """
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    data = str(model) if isinstance(model, Path) else model.SerializeToString()
    return ort.InferenceSession(data, options, providers=["CPUExecutionProvider"]).run(None, feeds)


def feeds_of(model, seed=0, **sizes):
    """Normal floats, and integers from 0 to 8, for a model or its file."""
    draw = np.random.default_rng(seed)
    model = onnx.load(model, load_external_data=False) if isinstance(model, Path) else model
    feeds = {}
    for value in model.graph.input:
        tensor = value.type.tensor_type
        shape = [d.dim_value or sizes.get(d.dim_param, 3) for d in tensor.shape.dim]
        dtype = helper.tensor_dtype_to_np_dtype(tensor.elem_type)
        array = draw.integers(0, 9, shape) if dtype.kind == "i" else draw.normal(size=shape)
        feeds[value.name] = np.asarray(array, dtype)
    return feeds


def lowered(model, target=OLD):
    """The model after the pass, which onnx must find valid at its opset, with the same inputs and outputs."""
    made = ir.from_proto(model)
    Lower(target)(made)
    proto = ir.to_proto(made)
    onnx.checker.check_model(proto, full_check=True)
    assert proto.opset_import[0].version <= target.opset
    assert not {node.op_type for node in proto.graph.node} & target.unknown
    assert [*proto.graph.input] == [*model.graph.input]
    assert [*proto.graph.output] == [*model.graph.output]
    return proto


def agrees(model, target=OLD, tolerance=1e-6, feeds=None, **sizes):
    """Lower a model and compare the answers, by the largest; returns its operators after."""
    after = lowered(model, target)
    feeds = feeds_of(model, **sizes) if feeds is None else feeds
    for wanted, got in zip(run(model, feeds), run(after, feeds), strict=True):
        assert wanted.dtype == got.dtype
        if wanted.dtype.kind != "f":
            assert wanted.size
            np.testing.assert_array_equal(got, wanted)
            continue
        scale = np.abs(wanted.astype(np.float64)).max()
        assert scale > 1e-4
        np.testing.assert_allclose(got.astype(np.float64), wanted, rtol=0, atol=tolerance * scale)
    return Counter(node.op_type for node in after.graph.node)


def refused(model, words, target=OLD):
    """Lowering the model fails with these words, and says what to do."""
    with pytest.raises(ConversionError, match=words) as error:
        Lower(target)(ir.from_proto(model))
    assert "`exporter=torchscript` `opset=16`" in error.value.remedy
    return error.value


def node_of(model, name):
    return next(node for node in model.graph.node if node.name == name)


def constant(model, name):
    return next(numpy_helper.to_array(t) for t in model.graph.initializer if t.name == name)


def weights(*shape, seed=5):
    return np.random.default_rng(seed).normal(1, 0.3, shape)
