"""Swin goes to ONNX at each opset in the form of attention that it has, in fewer nodes than a plain export."""

from __future__ import annotations

from collections import Counter

import onnx
import pytest
import torch

from torchlift.bundle import Bundle
from torchlift.exporter import ExportOptions, export_component
from torchlift.graph.fusion import fuse_file
from torchlift.manifest import Manifest
from torchlift.signature import Axis

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
    pytest.mark.filterwarnings("ignore::torch.jit.TracerWarning"),
]

BLOCKS, SHIFTED = 5, 2
UNWANTED = {"Shape", "Where", "If", "Loop", "Expand", "Slice", "Concat", "GatherND", "Range", "Unsqueeze", "Cast"}


@pytest.fixture
def export(open_model, tmp_path):
    """Export a source, which proves the file at every golden; returns the path of the graph."""

    def run(source, batch=(1, 2, 3), **options):
        model = open_model(source, axes={"": {"batch": Axis("batch", *batch)}})
        bundle = Bundle.create(tmp_path / "bundle", Manifest(model.name, model.family, model.key, model.settings))
        component = export_component(model, "model", bundle, ExportOptions(**options))
        return bundle.path / component.model

    return run


def operators(file):
    return Counter(node.op_type for node in onnx.load(file, load_external_data=False).graph.node)


def test_opset_20_has_few_nodes_a_block_and_no_guards(export, write):
    count = operators(export(write(), opset=20))
    assert count["Softmax"] == count["Split"] == count["Gelu"] == BLOCKS
    assert count["MatMul"] == 6 * BLOCKS + 1
    assert count["LayerNormalization"] == 2 * BLOCKS + 3
    assert count["Gather"] == 2 * SHIFTED - 1 + 1  # to the shifted windows and back, but for the last; merging
    assert count["Transpose"] == 4 * BLOCKS + 1
    assert not UNWANTED & count.keys()


def test_opset_23_has_one_attention_node_a_block(export, write):
    count = operators(export(write(), opset=23))
    assert count["Attention"] == BLOCKS
    assert count["MatMul"] == 4 * BLOCKS + 1
    assert not (UNWANTED | {"Softmax"}) & count.keys()


def test_torchscript_at_opset_16(export, write):
    count = operators(export(write(), exporter="torchscript"))
    assert count["Softmax"] == BLOCKS
    assert not {"LayerNormalization", "If", "Loop", "Where"} & count.keys()


def test_swin_v2_computes_its_bias_before_the_export(export, transformers_folder):
    count = operators(export(transformers_folder(2)[0], opset=20))
    assert count["ReduceL2"] == 2 * 6
    assert not (UNWANTED | {"Sigmoid", "Relu", "Log", "Exp"}) & count.keys()


def test_one_batch_alone(export, write):
    file = export(write(), batch=(1, 1, 1))
    (given,) = onnx.load(file, load_external_data=False).graph.input
    assert [d.dim_value for d in given.type.tensor_type.shape.dim] == [1, 3, 64, 64]


def test_attention_is_fused_where_all_windows_share_a_bias(export, write):
    fused = fuse_file(export(write(), opset=20), "processor")
    assert fused is not None
    assert fused.counts["attention"] == BLOCKS - SHIFTED


def test_fewer_nodes_than_a_plain_export(export, transformers_folder, images):
    """transformers' own network with its eager attention, which is the one that exports."""
    folder, theirs = transformers_folder()
    theirs.set_attn_implementation("eager")
    program = torch.onnx.export(
        theirs,
        kwargs={"pixel_values": images(2)},
        dynamo=True,
        opset_version=20,
        dynamic_shapes={"pixel_values": {0: torch.export.Dim("batch", min=1, max=16)}},
        verbose=False,
    )
    plain = len(program.model.graph)
    ours = operators(export(folder, opset=20)).total()
    assert ours < 0.65 * plain
