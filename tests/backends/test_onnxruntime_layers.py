import json
import sys

import numpy as np
import onnx
import pytest
import tiny
import traps
from onnx import parser

from torchlift.backends import LayerTime, backend
from torchlift.backends.onnxruntime.origins import with_origins
from torchlift.backends.onnxruntime.profile import read_profile
from torchlift.errors import BackendError, SignatureError
from torchlift.signature import Axis, Signature, TensorSpec


@pytest.fixture
def model(built_once):
    return built_once.file(built_once.manifest.variant("model/onnxruntime/fp32").model)


def test_nothing_of_the_current_folder_is_imported_where_layers_are_timed(model, tmp_path, monkeypatch):
    mark = traps.lay(tmp_path)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    monkeypatch.setenv("PYTHONPATH", ":/nowhere")
    assert backend("onnxruntime").layers(model.absolute(), tiny.SIGNATURE, {"x": tiny.sample(1)}, runs=1)
    assert not mark.exists(), mark.read_text()


def test_a_model_that_is_named_from_the_current_folder_is_timed(model, monkeypatch):
    monkeypatch.chdir(model.parent)
    name = model.relative_to(model.parent)
    assert backend("onnxruntime").layers(name, tiny.SIGNATURE, {"x": tiny.sample(1)}, runs=1)


def made(folder, body, inputs="float[batch,32] x", outputs="float[batch,32] y"):
    """An ONNX file of these nodes, with one input of 32 columns."""
    text = f'<ir_version: 8, opset_import: ["" : 20]> g ({inputs}) => ({outputs}) {{ {body} }}'
    onnx.save(parser.parse_model(text), folder / "net.onnx")
    spec = ("float32", ("batch", 32))
    return folder / "net.onnx", Signature(
        (TensorSpec("x", *spec),), (TensorSpec("y", *spec),), (Axis("batch", 1, 2, 4),)
    )


def test_the_layers_of_a_model_are_those_that_the_processor_ran(model):
    layers = backend("onnxruntime").layers(model, tiny.SIGNATURE, {"x": tiny.sample(4)}, runs=3)
    names = [node.name for node in onnx.load(model, load_external_data=False).graph.node]
    assert [layer.name for layer in layers] == names
    assert {layer.nodes for layer in layers} == {()}, "without its source nothing tells"
    assert {(layer.precision, layer.device) for layer in layers} == {("fp32", "CPU")}
    assert all(0 < layer.seconds < 0.1 for layer in layers)


def test_each_layer_has_its_own_precision(tmp_path):
    body = '["down"] y = Cast <to = 10> (x) ["same"] z = Relu(x)'
    file, signature = made(tmp_path, body, outputs="float16[batch,32] y, float[batch,32] z")
    layers = backend("onnxruntime").layers(file, signature, {"x": tiny.sample(2)}, runs=2)
    found = {layer.name: (layer.operator, layer.precision) for layer in layers}
    assert found == {"down": ("Cast", "fp16"), "same": ("Relu", "fp32")}


BLOCK = """
    ["product"] a = MatMul(x, w) ["bias"] b = Add(a, bias)
    ["divide"] b0 = Div(b, root) ["erf"] b1 = Erf(b0) ["one_more"] b2 = Add(b1, one) ["times"] b3 = Mul(b, b2)
    ["half"] c = Mul(b3, halves)
    ["turn"] v = Transpose <perm = [1, 0]> (w) ["turned"] d = MatMul(c, v) ["residual"] y = Add(d, x)
"""


def test_a_layer_that_was_fused_has_all_nodes_that_it_computes(tmp_path):
    source, signature = made(tmp_path, BLOCK)
    net, draw = onnx.load(source), np.random.default_rng(0)
    arrays = {"w": draw.normal(size=(32, 32)), "bias": draw.normal(size=32)}
    arrays |= {"root": np.array(2**0.5), "one": np.array(1.0), "halves": np.array(0.5)}
    for name, array in arrays.items():
        net.graph.initializer.append(onnx.numpy_helper.from_array(np.asarray(array, np.float32), name))
    onnx.save(net, source)
    runtime, folder = backend("onnxruntime"), tmp_path / "built"
    folder.mkdir()
    built = folder / runtime.build(source, folder, signature)
    layers = runtime.layers(built, signature, {"x": tiny.sample(4)}, source=source, runs=2)
    assert [(layer.operator, layer.nodes) for layer in layers] == [
        ("Gemm", ("product", "bias")),
        ("Gelu", ("divide", "erf", "one_more", "times", "half")),
        ("Gemm", ("turned", "residual")),
    ], "each node is told once, but for what was computed when it was built"


def test_layers_of_one_name_are_told_apart_by_their_order(tmp_path):
    (tmp_path / "built").mkdir()
    source, _ = made(
        tmp_path, '["first"] a = Neg(x) ["second"] b = Relu(a) ["third"] c = Neg(b) ["fourth"] y = Relu(c)'
    )
    built, _ = made(tmp_path / "built", '["fused"] b = Relu(x) ["fused"] y = Relu(b)')
    layer = LayerTime("fused", "Relu", (), "fp32", 1e-6, "CPU")
    assert [x.nodes for x in with_origins([layer, layer], built, source)] == [("first", "second"), ("third", "fourth")]


def test_what_was_computed_when_it_was_built_is_of_no_layer(tmp_path):
    (tmp_path / "built").mkdir()
    source, _ = made(tmp_path, '["one"] w = Constant <value_float = 1.0> () ["turn"] v = Neg(w) ["add"] y = Add(x, v)')
    built, _ = made(tmp_path / "built", '["folded"] u = Constant <value_float = -1.0> () ["sum"] y = Add(x, u)')
    layer = LayerTime("sum", "Add", (), "fp32", 1e-6, "CPU")
    assert [x.nodes for x in with_origins([layer], built, source)] == [("add",)]


def test_where_the_runtime_made_other_nodes_of_a_name_none_is_told(tmp_path):
    source, _ = made(tmp_path, '["a"] y = Relu(x)')
    (tmp_path / "built").mkdir()
    built, _ = made(tmp_path / "built", '["a"] y = Relu(x)')
    once = LayerTime("a", "Relu", (), "fp32", 1e-6, "CPU")
    other = LayerTime("reorder", "ReorderInput", (), "fp32", 1e-6, "CPU")
    assert [x.nodes for x in with_origins([other, once], built, source)] == [(), ("a",)]
    assert [x.nodes for x in with_origins([once, once], built, source)] == [(), ()]


def test_a_longer_layer_takes_longer(tmp_path):
    weights = np.random.default_rng(0).standard_normal((32, 4096), np.float32)
    file, signature = made(tmp_path, '["wide"] w = MatMul(x, a) ["narrow"] y = MatMul(w, b)')
    net = onnx.load(file)
    net.graph.initializer.extend(
        onnx.numpy_helper.from_array(a, n) for a, n in ((weights, "a"), (weights.T.copy(), "b"))
    )
    net.graph.node.insert(0, onnx.helper.make_node("Relu", ["x"], ["x0"], name="little"))
    net.graph.node[1].input[0] = "x0"
    onnx.save(net, file)
    spent = {
        layer.name: layer.seconds for layer in backend("onnxruntime").layers(file, signature, {"x": tiny.sample(4)})
    }
    assert spent["wide"] + spent["narrow"] > spent["little"]


def test_inputs_that_do_not_fit_are_refused_before_a_process_starts(model):
    with pytest.raises(SignatureError, match="input x is float64"):
        backend("onnxruntime").layers(model, tiny.SIGNATURE, {"x": np.zeros((1, 32))})


def test_a_model_that_cannot_be_opened_is_said_with_the_runtimes_words(tmp_path):
    file = tmp_path / "net.onnx"
    file.write_bytes(b"no graph")
    with pytest.raises(BackendError, match=r"the layers of net\.onnx could not be timed: .*INVALID_PROTOBUF") as caught:
        backend("onnxruntime").layers(file, tiny.SIGNATURE, {"x": tiny.sample(1)})
    assert caught.value.remedy.startswith("Open the model and run it once")


def test_a_backend_without_layers_says_so():
    from torchlift.backends.base import Backend

    class Plain(Backend):
        name = "plain"
        available = version = build = open = None

    Plain.__abstractmethods__ = frozenset()
    with pytest.raises(BackendError, match="plain does not report layers") as caught:
        Plain().layers(None, tiny.SIGNATURE, {"x": tiny.sample(1)})
    assert caught.value.remedy == "Ask for the layers of another backend."


def event(name, start, seconds, kind="Node", **args):
    known = {"op_name": "MatMul", "provider": "CPUExecutionProvider", "output_type_shape": [{"float": [1]}]}
    return {"cat": kind, "name": name, "ts": start, "dur": seconds, "args": known | args}


RUNS = [
    event("model_run", 0, 100, "Session"),
    event("model_run", 200, 50, "Session"),
    event("model_run", 300, 50, "Session"),
]


def test_the_first_run_and_what_is_no_kernel_do_not_count():
    events = [
        *RUNS,
        event("a_fence_before", 205, 9),
        *(event("a_kernel_time", start, spent) for start, spent in ((10, 90), (210, 2), (310, 4))),
    ]
    assert read_profile(json.loads(json.dumps(events)), 2) == [LayerTime("a", "MatMul", (), "fp32", 3e-6, "CPU")]


def test_a_node_that_runs_twice_in_a_run_costs_the_sum_and_two_of_one_name_are_two():
    events = [*RUNS, *(event("loop_kernel_time", start, 2, node_index="1") for start in (210, 220, 310, 320))]
    events += [event("loop_kernel_time", 330, 8, node_index="7", output_type_shape=[{"float16": [1]}])]
    layers = read_profile(events, 2)
    assert [(layer.precision, layer.seconds) for layer in layers] == [("fp32", 4e-6), ("fp16", 4e-6)]


@pytest.mark.parametrize(
    ("said", "precision"), [("float16", "fp16"), ("bfloat16", "bf16"), ("uint8", "int8"), ("int64", "int64")]
)
def test_what_a_kernel_writes_is_its_precision(said, precision):
    events = [*RUNS, event("a_kernel_time", 210, 1, output_type_shape=[{said: [2]}], provider="CUDAExecutionProvider")]
    assert [(x.precision, x.device) for x in read_profile(events, 2)] == [(precision, "CUDA")]
