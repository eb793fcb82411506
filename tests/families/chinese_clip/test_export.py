"""Each tower goes through both exporters, and ONNX Runtime gives its answers at shapes that were not traced."""

from collections import Counter
from functools import partial

import numpy as np
import onnx
import onnxruntime
import pytest
import torch

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]

UNWANTED = {"Where", "IsNaN", "Equal", "If", "Dropout"}
SIZES = {"image": [{"batch": 1}, {"batch": 5}], "text": [{"batch": 1, "sequence": 40}, {"batch": 6, "sequence": 4}]}


def arguments(component, **sizes):
    return tuple(map(torch.from_numpy, component.sample(sizes, np.random.default_rng(3)).values()))


def by_dynamo(component, file, opset=20):
    spec = component.signature.inputs[0]
    axes = {a.name: torch.export.Dim(a.name, min=a.min, max=a.max) for a in component.signature.axes}
    shape = {i: axes[d] for i, d in enumerate(spec.shape) if isinstance(d, str)}
    traced = arguments(component, batch=3, sequence=7)
    names = {"input_names": component.signature.input_names, "output_names": component.signature.output_names}
    torch.onnx.export(
        component.exported,
        traced,
        file,
        dynamo=True,
        opset_version=opset,
        dynamic_shapes=(shape,),
        external_data=False,
        verbose=False,
        **names,
    )


def by_torchscript(component, file):
    spec = component.signature.inputs[0]
    torch.onnx.export(
        component.exported,
        arguments(component, batch=3, sequence=7),
        file,
        dynamo=False,
        opset_version=16,
        input_names=list(component.signature.input_names),
        output_names=list(component.signature.output_names),
        dynamic_axes={spec.name: {i: d for i, d in enumerate(spec.shape) if isinstance(d, str)}},
    )


@pytest.fixture
def exported(write, open_model, tmp_path):
    """Export a component, compare it with its reference at other shapes, and count the operators of its graph."""

    def export(architecture, name, attention, exporter):
        component = open_model(write(architecture)).component(name, attention=attention)
        exporter(component, tmp_path / "model.onnx")
        agrees(component, tmp_path / "model.onnx")
        return onnx.load(tmp_path / "model.onnx")

    return export


def agrees(component, file):
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    outputs = list(component.signature.output_names)
    for sizes in SIZES[component.name]:
        given = arguments(component, **sizes)
        expected = component.reference(*given).numpy()
        (found,) = session.run(outputs, {component.signature.input_names[0]: given[0].numpy()})
        assert np.abs(expected).mean() > 0.05, "features without signal: any comparison would pass"
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, rtol=0, atol=2e-6 * max(1, np.abs(expected).max()))


def operators(proto):
    return Counter(node.op_type for node in proto.graph.node)


def before_softmax(proto):
    made = {output: node.op_type for node in proto.graph.node for output in node.output}
    return {made[node.input[0]] for node in proto.graph.node if node.op_type == "Softmax"}


@pytest.mark.parametrize(("attention", "scaled"), [("sdpa", "MatMul"), ("eager", "Mul")])
def test_dynamo_writes_an_image_transformer_without_superfluous_operators(vit, exported, attention, scaled):
    proto = exported(vit, "image", attention, by_dynamo)
    count, full = operators(proto), vit.vision.layers - 1
    assert count["Softmax"] == full + 1
    assert count["MatMul"] == 8 * full + 4
    assert count["Gemm"] == 5, "in the last layer query, output and MLP see one token; the fifth is the projection"
    assert count["Transpose"] == 1 + 4 * full + 2
    assert count["LayerNormalization"] == 2 * full + 4
    assert before_softmax(proto) == {scaled}
    assert not UNWANTED & count.keys()
    if attention == "sdpa":
        assert not {"Shape", "Concat", "Expand", "Slice"} & count.keys()


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
def test_dynamo_writes_a_text_transformer_without_superfluous_operators(vit, exported, attention):
    proto = exported(vit, "text", attention, by_dynamo)
    count, full = operators(proto), vit.text.layers - 1
    assert count["Softmax"] == full + 1
    assert count["MatMul"] == 8 * full + 4
    assert count["Gemm"] == 5
    assert (count["Cast"], count["Clip"], count["Sub"], count["Unsqueeze"]) == (1, 1, 1, 1), "the mask"
    assert count["Shape"] == 2
    assert count["Concat"] == 2
    assert before_softmax(proto) == {"Add"}
    assert not (UNWANTED | {"Expand"}) & count.keys()


@pytest.mark.parametrize("name", ["image", "text"])
def test_opset_23_has_one_attention_node_a_layer(vit, exported, name):
    count = operators(exported(vit, name, "node", partial(by_dynamo, opset=23)))
    assert count["Attention"] == (vit.vision if name == "image" else vit.text).layers
    assert not (UNWANTED | {"Softmax"}) & count.keys()


def test_dynamo_writes_a_resnet(resnet, exported):
    count = operators(exported(resnet, "image", "sdpa", by_dynamo))
    assert count["Softmax"] == 1
    assert count["MatMul"] == 4
    assert count["Gemm"] == 2
    assert not (UNWANTED | {"Shape"}) & count.keys()


@pytest.mark.parametrize("name", ["image", "text"])
def test_torchscript_at_opset_16(vit, exported, name):
    proto = exported(vit, name, "eager", by_torchscript)
    assert proto.opset_import[0].version == 16
    assert not (UNWANTED | {"LayerNormalization", "Mod", "Loop"}) & operators(proto).keys()
    assert operators(proto)["Shape"] <= 2


def test_torchscript_writes_a_resnet(resnet, exported):
    assert not UNWANTED & operators(exported(resnet, "image", "eager", by_torchscript)).keys()
