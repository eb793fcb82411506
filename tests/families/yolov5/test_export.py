"""YOLOs go to ONNX with boxes decoded in the graph, and to FP16 and INT8 with that part in FP32."""

import ast
from collections import Counter
from dataclasses import replace

import numpy as np
import onnx
import onnxruntime
import pytest
import torch
import yolo_models as yolo

from torchlift.bundle import Bundle
from torchlift.exporter import ExportOptions, export_component
from torchlift.families.base import LoadOptions
from torchlift.families.samples import PictureSampler
from torchlift.families.yolov5 import YoloFamily
from torchlift.manifest import Manifest
from torchlift.prove.goldens import load_goldens
from torchlift.signature import Axis
from torchlift.stages import convert_component
from torchlift.stages.samples import Samples

pytestmark = [
    pytest.mark.filterwarnings("ignore::DeprecationWarning"),
    pytest.mark.filterwarnings("ignore::FutureWarning"),
]

AXES = {
    "batch": Axis("batch", 1, 1, 2),
    **{name: Axis(name, 32, 64, 128, step=32) for name in ("height", "width")},
}
PRODUCTS = {"Conv", "Gemm", "MatMul"}
REFERENCES = {"5": yolo.yolov5, "11": yolo.yolo11}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """A YOLOv5 at opset 20 and a YOLO11 at opset 23, by name: the network, the bundle and its component. The export
    proves each file at every golden.
    """
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    found = {}
    for (name, make), opset in zip(REFERENCES.items(), (20, 23), strict=True):
        reference, folder = make(), tmp_path_factory.mktemp(name)
        opened = YoloFamily().load(str(yolo.save(reference, folder / "best.pt")), LoadOptions(axes={"": AXES}))
        manifest = Manifest(opened.name, opened.family, opened.key, opened.settings)
        bundle = Bundle.create(folder / "bundle", manifest)
        found[name] = (reference, bundle, export_component(opened, "model", bundle, ExportOptions(opset=opset)))
    torch.set_num_threads(threads)
    return found


def graph_of(bundle, model):
    return onnx.load(bundle.path / model, load_external_data=False).graph


def module_of(node):
    scopes = next((p.value for p in node.metadata_props if p.key == "pkg.torch.onnx.name_scopes"), "['', '']")
    return ast.literal_eval(scopes)[-2]


@pytest.mark.parametrize("name", REFERENCES)
def test_a_graph_answers_as_the_network_at_every_size(name, exported):
    reference, bundle, component = exported[name]
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    session = onnxruntime.InferenceSession(bundle.path / component.model, options)
    sample = PictureSampler("images", None, (0, 0, 0), (1, 1, 1))
    for batch, height, width in ((1, 32, 32), (2, 96, 128), (1, 640, 320), (3, 32, 256)):
        sizes = {"batch": batch, "height": height, "width": width}
        feeds = sample(sizes, np.random.default_rng(height))
        with torch.no_grad():
            expected = reference(torch.from_numpy(feeds["images"])).numpy()
        (found,) = session.run(["output0"], feeds)
        assert found.shape == expected.shape == component.signature.outputs[0].shape_at(sizes)
        assert np.abs(found - expected).max() < 1e-4 * expected.max()


def test_batch_normalisation_is_in_the_weights_and_decoding_is_by_name(exported):
    _, bundle, component = exported["5"]
    graph = graph_of(bundle, component.model)
    count = Counter(node.op_type for node in graph.node)
    assert count["Conv"] == 54
    assert count["MaxPool"] == 3
    assert not {"BatchNormalization", "Where", "If", "Loop", "Gather", "ScatterND", "Pow"} & count.keys()
    decoding = [node.op_type for node in graph.node if module_of(node).startswith("head.decode")]
    assert decoding.count("Sigmoid") == 3
    assert not PRODUCTS & {*decoding}
    assert component.keep == ("head.decode",)


def test_attention_of_yolo11_is_one_node_at_opset_23(exported):
    _, bundle, component = exported["11"]
    count = Counter(node.op_type for node in graph_of(bundle, component.model).node)
    assert count["Attention"] == 1
    assert not {"BatchNormalization", "MatMul"} & count.keys()


def test_what_the_family_keeps_stays_fp32_in_fp16_and_int8(exported):
    """The stage asks the component: where it keeps more, the graph is made again."""
    _, bundle, component = exported["5"]
    feeds = [dict(golden.inputs) for golden in load_goldens(bundle, component).values()]
    samples = Samples("pictures", "pictures", lambda component: feeds, given=True)
    convert_component(bundle, component, ["fp16", "int8-u8s8"], samples)
    graphs = {graph.form: graph for graph in bundle.manifest.graphs}
    for graph in graphs.values():
        assert not graph.failure
        made = onnx.shape_inference.infer_shapes(onnx.load(bundle.path / graph.model)).graph
        types = {value.name: value.type.tensor_type.elem_type for value in made.value_info}
        decoding = [node for node in made.node if module_of(node).startswith("head.decode")]
        written = {types.get(name) for node in decoding for name in node.output}
        assert not {onnx.TensorProto.FLOAT16, onnx.TensorProto.INT8, onnx.TensorProto.UINT8} & written
        assert onnx.TensorProto.FLOAT in written
    assert {kept.reason for kept in graphs["fp16"].conversion.kept} == {"its family keeps it in FP32"}
    convert_component(bundle, replace(component, keep=("head",)), ["int8-u8s8"], samples)
    after = bundle.manifest.graph("model", "int8-u8s8").conversion
    assert after.converted == graphs["int8-u8s8"].conversion.converted - 3
    assert {kept.module for kept in after.kept if "family" in kept.reason} == {"head.m.0", "head.m.1", "head.m.2"}
