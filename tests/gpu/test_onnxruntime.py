"""ONNX Runtime on a real GPU: needs onnxruntime-gpu, cuda-bindings and nvidia-ml-py; the towers need torch besides."""

import threading

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import tiny
from onnx import numpy_helper, parser
from sharing import THREADS, assert_shared, at_once, closed_while_running, in_thread

from torchlift.backends import SessionOptions, backend
from torchlift.errors import ProviderError, SignatureError
from torchlift.graph.files import save_model
from torchlift.graph.half import ToHalf
from torchlift.machine import RunOn, gpus
from torchlift.signature import Axis, Signature, TensorSpec

CUDA = backend("onnxruntime-cuda")
STATE = CUDA.available()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not STATE.ok, reason=STATE.detail)]

TOLERANCE = {"fp32": 1e-4, "fp16": 2e-2}

BLOCK = """<ir_version: 8, opset_import: ["" : 20]> g (float[batch,length,64] x, int64[batch,length] keep)
=> (float[batch,length,64] y) {
    ["to_float"] k = Cast <to = 1> (keep) ["less"] m0 = Sub(k, one) ["far"] m1 = Mul(m0, far)
    ["mask"] mask = Unsqueeze(m1, axes)
    ["q0"] q0 = MatMul(x, wq) ["q1"] q1 = Add(q0, bq) ["k0"] k0 = MatMul(x, wk) ["k1"] k1 = Add(k0, bk)
    ["v0"] v0 = MatMul(x, wv) ["v1"] v1 = Add(v0, bv)
    ["rows"] rows = Shape <start = 0, end = 2> (x) ["apart"] heads = Concat <axis = 0> (rows, two_heads)
    ["q2"] q2 = Reshape(q1, heads) ["k2"] k2 = Reshape(k1, heads) ["v2"] v2 = Reshape(v1, heads)
    ["q3"] q3 = Transpose <perm = [0,2,1,3]> (q2) ["k3"] k3 = Transpose <perm = [0,2,3,1]> (k2)
    ["v3"] v3 = Transpose <perm = [0,2,1,3]> (v2) ["q4"] q4 = Mul(q3, scale) ["s"] s = MatMul(q4, k3)
    ["t"] t = Add(s, mask) ["p"] p = Softmax <axis = -1> (t) ["o"] o = MatMul(p, v3)
    ["o1"] o1 = Transpose <perm = [0,2,1,3]> (o) ["merged"] o2 = Reshape(o1, width)
    ["d"] d = MatMul(o2, wo) ["a"] a = Add(x, d) ["n"] n = LayerNormalization <axis = -1> (a, weight, bias)
    ["wide"] w = MatMul(n, wide) ["b"] b = Add(w, bw) ["gelu"] e = Gelu(b) ["narrow"] f = MatMul(e, narrow)
    ["c"] c = Add(a, f) ["y"] y = LayerNormalization <axis = -1> (c, weight, bias)
}"""
BLOCK_SIGNATURE = Signature(
    (TensorSpec("x", "float32", ("batch", "length", 64)), TensorSpec("keep", "int64", ("batch", "length"), (0, 2))),
    (TensorSpec("y", "float32", ("batch", "length", 64)),),
    (Axis("batch", 1, 2, 8), Axis("length", 4, 8, 64)),
)


def block():
    """A layer as of BERT: attention with a mask, two normalisations, Gelu."""
    draw = np.random.default_rng(0)
    model = parser.parse_model(BLOCK)
    square = {name: draw.normal(0, 0.15, (64, 64)) for name in ("wq", "wk", "wv", "wo")}
    rest = {
        "wide": draw.normal(0, 0.15, (64, 128)),
        "narrow": draw.normal(0, 0.15, (128, 64)),
        "bw": draw.normal(size=128),
    }
    biases = {name: draw.normal(0, 0.2, 64) for name in ("bq", "bk", "bv", "bias")}
    scalars = {"one": np.array(1.0), "far": np.array(10000.0), "scale": np.array(32**-0.5)}
    values = square | rest | biases | scalars | {"weight": draw.normal(1, 0.1, 64)}
    integers = {"axes": [1, 2], "two_heads": [2, 32], "width": [0, 0, 64]}
    tensors = {n: np.asarray(v, np.float32) for n, v in values.items()} | {n: np.array(v) for n, v in integers.items()}
    model.graph.initializer.extend(numpy_helper.from_array(v, n) for n, v in tensors.items())
    return model


def block_feeds(batch, length, seed=0):
    draw = np.random.default_rng(seed)
    keep = np.ones((batch, length), np.int64)
    keep[-1, length // 2 :] = 0
    return {"x": draw.normal(size=(batch, length, 64)).astype(np.float32), "keep": keep}


def made(folder, model, recipe="fp32"):
    """A model's file after it was built for CUDA."""
    source, built = folder / "source", folder / "built"
    source.mkdir()
    built.mkdir()
    graph = ir.from_proto(model)
    if recipe == "fp16":
        ToHalf()(graph)
    save_model(graph, source / "model.onnx")
    return built / CUDA.build(source / "model.onnx", built, tiny.SIGNATURE)


def on_the_processor(model, feeds):
    return ort.InferenceSession(model.SerializeToString(), providers=["CPUExecutionProvider"]).run(None, feeds)


def close(found, wanted, recipe="fp32"):
    np.testing.assert_allclose(found, wanted, rtol=0, atol=TOLERANCE[recipe] * np.abs(wanted).max())


@pytest.fixture(params=["fp32", "fp16"])
def recipe(request):
    return request.param


@pytest.fixture
def model(tmp_path, recipe):
    return made(tmp_path, tiny.model(), recipe)


def test_it_says_which_gpu_and_driver_it_runs_on(model, recipe):
    assert STATE.detail.startswith(CUDA.version())
    assert str(gpus()[0]) in CUDA.version()
    with CUDA.open(model, tiny.SIGNATURE, recipe) as session:
        assert session.runtime == f"{CUDA.version()}, CUDAExecutionProvider"


@pytest.mark.parametrize("graphs", [False, True])
def test_goldens_hold_on_every_gpu(model, recipe, graphs):
    for device in range(len(gpus())):
        with CUDA.open(
            model, tiny.SIGNATURE, recipe, SessionOptions(RunOn(device=device), cuda_graph=graphs)
        ) as session:
            for golden in tiny.goldens():
                for _ in range(3):
                    close(session.run(golden.inputs)["y"], golden.outputs["y"], recipe)


@pytest.mark.parametrize("graphs", [False, True])
def test_a_layer_with_masked_attention_agrees_with_the_processor(tmp_path, recipe, graphs):
    net = block()
    file = made(tmp_path, net, recipe)
    operators = [node.op_type for node in onnx.load(file, load_external_data=False).graph.node]
    assert operators.count("Attention") == 1
    assert not {"Softmax", "Split"} & {*operators}
    with CUDA.open(file, BLOCK_SIGNATURE, recipe, SessionOptions(cuda_graph=graphs)) as session:
        for batch, length in ((1, 8), (3, 7), (2, 16), (1, 8), (3, 7)):
            feeds = block_feeds(batch, length, length)
            close(session.run(feeds)["y"], on_the_processor(net, feeds)[0], recipe)


def test_weights_of_projections_are_joined_when_it_is_built(tmp_path):
    graph = onnx.load(made(tmp_path, block()), load_external_data=False).graph
    assert [64, 192] in [list(tensor.dims) for tensor in graph.initializer]


@pytest.mark.parametrize("graphs", [1, 2, 8])
def test_shapes_may_alternate_and_outnumber_the_graphs(model, recipe, graphs):
    with CUDA.open(model, tiny.SIGNATURE, recipe, SessionOptions(cuda_graph=True, graphs=graphs)) as session:
        for seed, rows in enumerate((4, 1, 4, 8, 2, 1, 3, 8, 4, 2, 2, 1)):
            x = tiny.sample(rows, seed)
            close(session.run({"x": x})["y"], tiny.answer(x), recipe)
        assert len(session._recorded) == min(graphs, 5)


@pytest.mark.parametrize("graphs", [False, True])
def test_answers_stay_as_they_were_given(model, recipe, graphs):
    with CUDA.open(model, tiny.SIGNATURE, recipe, SessionOptions(cuda_graph=graphs)) as session:
        first, second = tiny.sample(4, 1), tiny.sample(4, 2)
        kept = session.run({"x": first[::-1]})["y"]
        session.run({"x": second})
        close(kept, tiny.answer(first[::-1]), recipe)


@pytest.mark.parametrize("graphs", [False, True])
def test_the_device_tells_the_time(model, recipe, graphs):
    with CUDA.open(model, tiny.SIGNATURE, recipe, SessionOptions(cuda_graph=graphs)) as session:
        assert session.on_device
        x = tiny.sample(8)
        plain, copied = session.prepare({"x": x}), session.prepare({"x": x}, copies=True)
        plain()
        assert all(0 < plain() < 0.1 for _ in range(5))
        assert copied() is None
        assert 0 < plain() < 0.1
        close(session.run({"x": x})["y"], tiny.answer(x), recipe)


def test_an_output_of_computed_size_is_run_without_a_graph(tmp_path):
    file = made(tmp_path, tiny.model())
    signature = Signature(tiny.SIGNATURE.inputs, (TensorSpec("y", "float32", ("batch", None)),), tiny.SIGNATURE.axes)
    with CUDA.open(file, signature, "fp32", SessionOptions(cuda_graph=True)) as session:
        for rows in (4, 2, 4):
            x = tiny.sample(rows, rows)
            close(session.run({"x": x})["y"], tiny.answer(x))
        assert session.prepare({"x": x})() > 0


@pytest.mark.parametrize("graphs", [False, True])
def test_tensors_of_torch_stay_on_the_gpu(model, recipe, graphs):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    with CUDA.open(model, tiny.SIGNATURE, recipe, SessionOptions(cuda_graph=graphs)) as session:
        for seed in range(4):
            x = tiny.sample(4, seed)
            answer = torch.from_dlpack(session.run_on_device({"x": torch.from_numpy(x).cuda()})["y"])
            assert answer.is_cuda
            close(answer.cpu().numpy(), tiny.answer(x), recipe)
        with pytest.raises(SignatureError, match="lies in the host's memory"):
            session.run_on_device({"x": torch.from_numpy(x)})


SHARED = [{"x": tiny.sample(1 + i // THREADS, seed=i)} for i in range(4 * THREADS)]
"""Four batch sizes for each thread."""


@pytest.mark.parametrize(("cuda_graph", "graphs"), [(False, 8), (True, 8), (True, 2)])
def test_each_thread_gets_the_answers_to_its_own_inputs(model, recipe, cuda_graph, graphs):
    with CUDA.open(model, tiny.SIGNATURE, recipe, SessionOptions(cuda_graph=cuda_graph, graphs=graphs)) as session:
        assert_shared([session], SHARED, rtol=1e-3, atol=1e-3, timeout=120)


def test_sessions_record_their_graphs_while_others_work(model, recipe):
    options = SessionOptions(cuda_graph=True)
    with (
        CUDA.open(model, tiny.SIGNATURE, recipe, options) as one,
        CUDA.open(model, tiny.SIGNATURE, recipe, options) as two,
    ):
        assert_shared([one, two], SHARED, rtol=1e-3, atol=1e-3, timeout=120)


def test_threads_that_come_and_go_are_answered_from_the_same_graphs(model, recipe):
    with CUDA.open(model, tiny.SIGNATURE, recipe, SessionOptions(cuda_graph=True)) as session:
        for seed in range(30):
            x = tiny.sample(1 + seed % 3, seed)
            close(in_thread(session.run, {"x": x}).result(60)["y"], tiny.answer(x), recipe)


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_a_session_may_be_closed_while_threads_run_it(model, recipe, cuda_graph):
    session = CUDA.open(model, tiny.SIGNATURE, recipe, SessionOptions(cuda_graph=cuda_graph))
    for number, answers in enumerate(closed_while_running(session, SHARED, timeout=120)):
        for answer in answers:
            close(answer["y"], tiny.answer(SHARED[number]["x"]), recipe)


@pytest.mark.parametrize("cuda_graph", [False, True])
def test_threads_with_a_lock_of_their_own_share_tensors_of_torch(model, recipe, cuda_graph):
    torch = pytest.importorskip("torch")
    if not torch.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    lock = threading.Lock()

    def work(number):
        x = tiny.sample(1 + number % 2, number)
        there = torch.from_numpy(x).cuda()
        for _ in range(20):
            with lock:
                found = torch.from_dlpack(session.run_on_device({"x": there})["y"]).cpu().numpy()
            close(found, tiny.answer(x), recipe)

    with CUDA.open(model, tiny.SIGNATURE, recipe, SessionOptions(cuda_graph=cuda_graph)) as session:
        at_once(work, timeout=120)


def test_two_sessions_share_the_gpu(model, recipe):
    x = tiny.sample(4)
    with CUDA.open(model, tiny.SIGNATURE, recipe) as one:
        with CUDA.open(model, tiny.SIGNATURE, recipe, SessionOptions(cuda_graph=True)) as two:
            close(two.run({"x": x})["y"], tiny.answer(x), recipe)
        close(one.run({"x": x})["y"], tiny.answer(x), recipe)


def test_an_operator_that_cuda_lacks_is_named(tmp_path):
    text = (
        '<ir_version: 8, opset_import: ["" : 20]> g (float[batch,4,4] x) => (float[batch] y) '
        '{ ["up"] s = Exp(x) ["determinant"] d = Det(s) ["down"] y = Tanh(d) }'
    )
    signature = Signature(
        (TensorSpec("x", "float32", ("batch", 4, 4)),),
        (TensorSpec("y", "float32", ("batch",)),),
        (Axis("batch", 1, 2, 4),),
    )
    file = made(tmp_path, parser.parse_model(text))
    with pytest.raises(ProviderError, match=r"determinant \(Det\) by CPUExecutionProvider") as caught:
        CUDA.open(file, signature)
    assert "use another backend" in caught.value.remedy


def test_layers_say_what_they_compute_in_and_what_they_cost(tmp_path, recipe):
    file, source = made(tmp_path, block(), recipe), tmp_path / "source" / "model.onnx"
    layers = CUDA.layers(file, BLOCK_SIGNATURE, block_feeds(2, 8), recipe=recipe, source=source, runs=3)
    attention = next(layer for layer in layers if layer.operator == "Attention")
    assert (attention.precision, attention.device) == (recipe, "CUDA")
    assert {"q0", "k1", "p"} <= {*attention.nodes}
    assert all(layer.seconds > 0 for layer in layers)
    assert {layer.operator for layer in layers if layer.device == "CPU"} <= {"Shape", "Concat"}


def test_int8_runs_where_it_is_named(tmp_path):
    text = (
        '<ir_version: 8, opset_import: ["" : 20]> g (float[batch,32] x) => (float[batch,24] y) '
        '{ ["q"] q = QuantizeLinear(x, step, zero) ["d"] d = DequantizeLinear(q, step, zero) ["wd"] w = '
        'DequantizeLinear(w8, ws, zero) ["product"] p = MatMul(d, w) ["sum"] s = Add(p, bias) ["relu"] y = Relu(s) }'
    )
    net = parser.parse_model(text)
    matrix, bias = tiny.weights()
    scale = np.float32(np.abs(matrix).max() / 127)
    values = {"step": np.float32(0.03), "zero": np.int8(0), "ws": scale, "bias": bias}
    values["w8"] = np.clip(np.rint(matrix / scale), -127, 127).astype(np.int8)
    net.graph.initializer.extend(numpy_helper.from_array(np.asarray(v), n) for n, v in values.items())
    with CUDA.open(made(tmp_path, net), tiny.SIGNATURE, "int8") as session:
        x = tiny.sample(4)
        close(session.run({"x": x})["y"], on_the_processor(net, {"x": x})[0])


@pytest.fixture(scope="module")
def towers(tmp_path_factory):
    """A tiny Chinese-CLIP as it is exported."""
    for package in ("torch", "transformers", "onnxscript"):
        pytest.importorskip(package)
    from shipped import checkpoint

    from torchlift.bundle import Bundle
    from torchlift.exporter import ExportOptions
    from torchlift.jobs.ship import export
    from torchlift.jobs.source import Source

    folder = tmp_path_factory.mktemp("towers")
    export(Source("chinese-clip", str(checkpoint(folder))), folder / "clip", ExportOptions())
    return Bundle.open(folder / "clip")


@pytest.mark.parametrize("graphs", [False, True])
@pytest.mark.parametrize("part", ["image", "text"])
def test_the_towers_of_chinese_clip_hold_their_goldens(towers, tmp_path, part, recipe, graphs):
    from torchlift.prove.goldens import load_goldens

    component = towers.manifest.component(part)
    file = made(tmp_path, onnx.load(towers.file(component.model)), recipe)
    with CUDA.open(file, component.signature, recipe, SessionOptions(cuda_graph=graphs)) as session:
        for golden in load_goldens(towers, component).values():
            for _ in range(2):
                found = session.run(golden.inputs)
            for name, wanted in golden.outputs.items():
                close(found[name], wanted, recipe)
