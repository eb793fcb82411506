import sys
import types

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import tiny

from torchlift.backends import SessionOptions, backend
from torchlift.errors import BackendError, ProviderError
from torchlift.machine import RunOn
from torchlift.signature import Axis, Signature, TensorSpec


@pytest.fixture
def model(built_once):
    return built_once.file(built_once.manifest.variant("model/onnxruntime/fp32").model)


def test_a_build_without_the_provider_says_what_it_has(monkeypatch):
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["AzureExecutionProvider"])
    state = backend("onnxruntime").available()
    assert not state.ok
    assert state.detail == "the installed build has no CPUExecutionProvider, only AzureExecutionProvider"
    assert state.remedy == "pip install onnxruntime"


def test_a_package_whose_files_another_took_along_is_explained(monkeypatch):
    monkeypatch.setitem(sys.modules, "onnxruntime", types.ModuleType("onnxruntime"))
    state = backend("onnxruntime").available()
    assert not state.ok
    assert state.detail.startswith("files of onnxruntime are gone: onnxruntime and onnxruntime-gpu share them")
    assert state.remedy == "pip uninstall onnxruntime onnxruntime-gpu, then pip install onnxruntime-gpu"


def test_another_provider_than_the_one_asked_for_is_an_error(model, monkeypatch):
    monkeypatch.setattr(ort.InferenceSession, "get_providers", lambda session: ["XnnpackExecutionProvider"])
    with pytest.raises(
        ProviderError, match="CPUExecutionProvider was asked for, XnnpackExecutionProvider would run the model"
    ) as caught:
        backend("onnxruntime").open(model, tiny.SIGNATURE)
    assert "torchlift doctor" in caught.value.remedy


@pytest.mark.parametrize("threads", [1, 2])
def test_a_session_has_the_threads_that_were_asked_for(model, threads):
    with backend("onnxruntime").open(model, tiny.SIGNATURE, "fp32", SessionOptions(RunOn(threads))) as session:
        assert session._session.get_session_options().intra_op_num_threads == threads


def test_a_session_on_the_processor_takes_no_tensors_on_a_device(model):
    with (
        backend("onnxruntime").open(model, tiny.SIGNATURE) as session,
        pytest.raises(BackendError, match=r"onnxruntime .* takes no tensors on a device") as caught,
    ):
        session.run_on_device({"x": tiny.sample(2)})
    assert caught.value.remedy == "Pass arrays of NumPy to run(), which copies them."


def test_the_built_graph_is_fused_and_its_weights_are_beside_it(built_once, model):
    graph = onnx.load(model, load_external_data=False).graph
    assert len(graph.node) < 3
    assert model.with_name("model.onnx.data").stat().st_size >= 4 * tiny.WIDTH * tiny.OUTPUTS
    variant = built_once.manifest.variant("model/onnxruntime/fp32")
    assert {f.rpartition("/")[2] for f in variant.files} == {"model.onnx", "model.onnx.data"}


ATTENTION = """<ir_version: 8, opset_import: ["" : 20]> g (float[batch,length,32] x) => (float[batch,length,32] y) {
    q = Reshape(x, heads) qt = Transpose <perm = [0,2,1,3]> (q) qs = Mul(qt, scale)
    k = Reshape(x, heads) kt = Transpose <perm = [0,2,3,1]> (k)
    v = Reshape(x, heads) vt = Transpose <perm = [0,2,1,3]> (v)
    s = MatMul(qs, kt) p = Softmax <axis = -1> (s) o = MatMul(p, vt)
    ot = Transpose <perm = [0,2,1,3]> (o) rows = Reshape(ot, width) d = MatMul(rows, dense)
    a = Add(d, x) y = LayerNormalization(a, weight, bias)
}"""


@pytest.fixture
def attention(tmp_path):
    """A layer of attention with its weights beside it, and its signature."""
    draw = np.random.default_rng(0)
    proto = onnx.parser.parse_model(ATTENTION)
    values = {
        "heads": np.array([0, 0, 2, 16]),
        "width": np.array([0, 0, 32]),
        "scale": np.float32(0.25),
        "dense": draw.normal(size=(32, 32)).astype(np.float32),
        "weight": draw.normal(size=32).astype(np.float32),
        "bias": draw.normal(size=32).astype(np.float32),
    }
    proto.graph.initializer.extend(onnx.numpy_helper.from_array(np.asarray(v), n) for n, v in values.items())
    (tmp_path / "source").mkdir()
    onnx.save(proto, tmp_path / "source/net.onnx", save_as_external_data=True, location="net.data", size_threshold=1024)
    axes = (Axis("batch", 1, 2, 4), Axis("length", 2, 5, 9))
    spec = ("float32", ("batch", "length", 32))
    return tmp_path / "source/net.onnx", Signature((TensorSpec("x", *spec),), (TensorSpec("y", *spec),), axes)


def test_what_onnx_runtime_does_not_fuse_is_fused_before_it(attention, tmp_path):
    source, signature = attention
    (tmp_path / "built").mkdir()
    assert backend("onnxruntime").build(source, tmp_path / "built", signature) == "model.onnx"
    assert {file.name for file in (tmp_path / "built").iterdir()} == {"model.onnx", "model.onnx.data"}
    assert {file.name for file in source.parent.iterdir()} == {"net.onnx", "net.data"}
    built = onnx.load(tmp_path / "built/model.onnx")
    # SkipLayerNormalization, which ONNX Runtime makes of the last two, is slower than they are on a processor.
    assert [n.op_type for n in built.graph.node] == ["MultiHeadAttention", "MatMul", "Add", "LayerNormalization"]
    assert str(tmp_path).encode() not in (tmp_path / "built/model.onnx").read_bytes()
    x = np.random.default_rng(1).normal(size=(3, 7, 32)).astype(np.float32)
    wanted = ort.InferenceSession(str(source)).run(None, {"x": x})[0]
    with backend("onnxruntime").open(tmp_path / "built/model.onnx", signature) as session:
        np.testing.assert_allclose(session.run({"x": x})["y"], wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


def test_an_optimisation_that_is_slower_here_is_not_made_when_a_model_is_opened(model, monkeypatch):
    asked = {}
    real = ort.InferenceSession

    def session(file, options, **given):
        asked.update(given)
        return real(file, options, **given)

    monkeypatch.setattr(ort, "InferenceSession", session)
    backend("onnxruntime").open(model, tiny.SIGNATURE)
    assert asked["disabled_optimizers"] == ["SkipLayerNormFusion"]
    assert asked["providers"] == [("CPUExecutionProvider", {})]
    assert asked["enable_fallback"] == 0


@pytest.fixture
def bound(monkeypatch):
    """The inputs and outputs that prepared calls bind, by name."""
    values = {}
    for method in ("bind_ortvalue_input", "bind_ortvalue_output"):
        bind = getattr(ort.IOBinding, method)

        def kept(self, name, value, bind=bind):
            values[name] = value
            bind(self, name, value)

        monkeypatch.setattr(ort.IOBinding, method, kept)
    return values


def test_a_prepared_call_reads_the_arrays_themselves_and_writes_into_one_output(model, bound):
    with backend("onnxruntime").open(model, tiny.SIGNATURE) as session:
        x = tiny.sample(4)
        call = session.prepare({"x": x})
        output = bound["y"].data_ptr()
        assert bound["x"].data_ptr() == x.ctypes.data
        for seed in (1, 2):
            x[:] = tiny.sample(4, seed)
            call()
            np.testing.assert_allclose(bound["y"].numpy(), tiny.answer(x), rtol=1e-5, atol=1e-5)
            assert bound["y"].data_ptr() == output


def test_a_prepared_call_lets_the_runtime_place_an_output_of_computed_size(model, bound):
    signature = Signature(tiny.SIGNATURE.inputs, (TensorSpec("y", "float32", ("batch", None)),), tiny.SIGNATURE.axes)
    with backend("onnxruntime").open(model, signature) as session:
        call = session.prepare({"x": tiny.sample(4)})
        assert [call(), call()] == [None, None]
    assert set(bound) == {"x"}
