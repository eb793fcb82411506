"""Each tower goes through both exporters, and ONNX Runtime gives its answers at shapes that were not traced."""

from collections import Counter

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

SIZES = {"image": [{"batch": 1}, {"batch": 5}], "text": [{"batch": 1, "sequence": 40}, {"batch": 6, "sequence": 4}]}


def arguments(component, **sizes):
    return tuple(map(torch.from_numpy, component.sample(sizes, np.random.default_rng(3)).values()))


def by_dynamo(component, file):
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


@pytest.fixture(params=["vit", "resnet"])
def model(request, write, open_model):
    return open_model(write(request.getfixturevalue(request.param)))


def exported(model, name, attention, export, tmp_path):
    component = model.component(name, attention=attention)
    export(component, tmp_path / "model.onnx")
    return component, onnx.load(tmp_path / "model.onnx")


def agrees(component, file):
    session = onnxruntime.InferenceSession(file, providers=["CPUExecutionProvider"])
    for sizes in SIZES[component.name]:
        given = arguments(component, **sizes)
        expected = component.reference(*given).numpy()
        (found,) = session.run(
            list(component.signature.output_names), {component.signature.input_names[0]: given[0].numpy()}
        )
        assert np.abs(expected).mean() > 0.05
        assert found.dtype == np.float32
        np.testing.assert_allclose(found, expected, atol=1e-5)


def operators(proto):
    return Counter(node.op_type for node in proto.graph.node)


@pytest.mark.parametrize("attention", ["sdpa", "eager"])
@pytest.mark.parametrize("name", ["image", "text"])
def test_dynamo(model, name, attention, tmp_path):
    component, proto = exported(model, name, attention, by_dynamo, tmp_path)
    agrees(component, tmp_path / "model.onnx")
    assert (
        not {"Where", "IsNaN", "Equal", "Expand", "ConstantOfShape", "If", "Dropout", "Sqrt"} & operators(proto).keys()
    )


@pytest.mark.parametrize("name", ["image", "text"])
def test_torchscript_at_opset_16(model, name, tmp_path):
    component, proto = exported(model, name, "eager", by_torchscript, tmp_path)
    assert proto.opset_import[0].version == 16
    agrees(component, tmp_path / "model.onnx")
    assert not {"LayerNormalization", "Where", "Equal", "If", "Dropout", "Loop"} & operators(proto).keys()


def test_the_graph_of_an_image_transformer_has_nothing_superfluous(write, open_model, vit, tmp_path):
    _, proto = exported(open_model(write(vit)), "image", "sdpa", by_dynamo, tmp_path)
    count, layers = operators(proto), vit.vision.layers
    assert count["Softmax"] == layers
    assert count["MatMul"] == 6 * (layers - 1) + 2 * (layers - 1) + 4
    assert count["Gemm"] == 5, "of the last layer, query, output and MLP see one token; the fifth is the projection"
    assert count["Transpose"] == 1 + 4 * (layers - 1) + 2
    assert count["Shape"] == count["Concat"] == 0
    assert count["LayerNormalization"] == 2 * layers + 2


def test_the_graph_of_a_text_has_nothing_superfluous(write, open_model, vit, tmp_path):
    _, proto = exported(open_model(write(vit)), "text", "sdpa", by_dynamo, tmp_path)
    count, layers = operators(proto), vit.text.layers
    assert count["Softmax"] == layers
    assert count["MatMul"] == 6 * (layers - 1) + 2 * (layers - 1) + 4
    assert count["Gemm"] == 5
    assert (count["Cast"], count["Clip"], count["Sub"], count["Unsqueeze"]) == (1, 1, 1, 1), "the mask"
    assert count["Shape"] <= 2
    assert count["Concat"] <= layers


def test_the_two_styles_scale_in_different_places(write, open_model, vit, tmp_path):
    softmax_of = {}
    for attention in ("sdpa", "eager"):
        _, proto = exported(open_model(write(vit)), "image", attention, by_dynamo, tmp_path)
        made = {output: node.op_type for node in proto.graph.node for output in node.output}
        softmax_of[attention] = {made[n.input[0]] for n in proto.graph.node if n.op_type == "Softmax"}
    assert softmax_of == {"sdpa": {"MatMul"}, "eager": {"Mul"}}
