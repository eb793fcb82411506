"""Both kinds of MobileViT go to ONNX, at each opset in the form of attention that it has."""

from collections import Counter

import onnx
import pytest

from torchlift.bundle import Bundle
from torchlift.exporter import ExportOptions, export_component
from torchlift.manifest import Manifest
from torchlift.signature import Axis

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]

LAYERS = 4
UNWANTED = {"Shape", "Where", "IsNaN", "If", "BatchNormalization", "Dropout", "Expand", "Gather", "Unsqueeze"}


@pytest.fixture
def operators(open_model, tmp_path):
    """Export a source, which proves the file at every golden, and count its operators."""

    def export(source, **options):
        model = open_model(source, axes={"": {"batch": Axis("batch", 1, 2, 3)}})
        bundle = Bundle.create(tmp_path / "bundle", Manifest(model.name, model.family, model.key, model.settings))
        component = export_component(model, "model", bundle, ExportOptions(**options))
        proto = onnx.load(bundle.path / component.model, load_external_data=False)
        return Counter(node.op_type for node in proto.graph.node)

    return export


def test_opset_20_has_plain_products_and_no_guards(operators, write):
    count = operators(write(), opset=20)
    assert count["Softmax"] == LAYERS
    assert count["MatMul"] == (4 + 2) * LAYERS
    assert count["LayerNormalization"] == 2 * LAYERS
    assert count["Split"] == LAYERS
    assert count["Conv"] == 1 + 3 * 7 + 4 * 3 + 1
    assert count["Reshape"] == 4 * 3
    assert count["Transpose"] == 2 * 3 + LAYERS
    assert not UNWANTED & count.keys()


def test_opset_23_has_one_attention_node_a_layer(operators, write):
    count = operators(write(), opset=23)
    assert count["Attention"] == LAYERS
    assert count["LayerNormalization"] == 2 * LAYERS
    assert count["MatMul"] == 4 * LAYERS
    assert not (UNWANTED | {"Softmax"}) & count.keys()


def test_torchscript_at_opset_16(operators, write):
    count = operators(write(), exporter="torchscript")
    assert count["Softmax"] == LAYERS
    assert not {"LayerNormalization", "BatchNormalization", "If", "Loop"} & count.keys()


def test_transformers_networks(operators, transformers_folder):
    count = operators(transformers_folder()[0], opset=23)
    assert count["Attention"] == 9
    assert count["LayerNormalization"] == 2 * 9 + 3
    assert not UNWANTED & count.keys()
