import onnx
import onnxruntime as ort
import pytest
import tiny

from torchlift.backends import SessionOptions, backend
from torchlift.errors import BackendUnavailableError, ProviderError


@pytest.fixture
def model(built_once):
    return built_once.file(built_once.manifest.variant("model/onnxruntime/fp32").model)


def test_without_a_gpu_build_cuda_is_not_available():
    state = backend("onnxruntime-cuda").available()
    if state.ok:
        pytest.skip("this machine runs ONNX Runtime on a GPU")
    assert "onnxruntime-gpu is not installed" in state.detail or "has no CUDAExecutionProvider" in state.detail
    assert state.remedy == "pip install onnxruntime-gpu"


@pytest.mark.parametrize("call", ["require", "build", "open"])
def test_what_is_not_available_is_not_used(source, tmp_path, call):
    runtime = backend("onnxruntime-cuda")
    if runtime.available().ok:
        pytest.skip("this machine runs ONNX Runtime on a GPU")
    arguments = {"require": (), "build": (source, tmp_path, tiny.SIGNATURE), "open": (source, tiny.SIGNATURE)}[call]
    with pytest.raises(BackendUnavailableError, match="the backend onnxruntime-cuda cannot be used: ") as caught:
        getattr(runtime, call)(*arguments)
    assert caught.value.remedy == "pip install onnxruntime-gpu"


def test_a_build_without_the_provider_says_what_it_has(monkeypatch):
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["AzureExecutionProvider"])
    state = backend("onnxruntime").available()
    assert not state.ok
    assert state.detail == "the installed build has no CPUExecutionProvider, only AzureExecutionProvider"
    assert state.remedy == "pip install onnxruntime"


def test_another_provider_than_the_one_asked_for_is_an_error(model, monkeypatch):
    monkeypatch.setattr(ort.InferenceSession, "get_providers", lambda session: ["XnnpackExecutionProvider"])
    with pytest.raises(
        ProviderError, match="CPUExecutionProvider was asked for, XnnpackExecutionProvider would run the model"
    ) as caught:
        backend("onnxruntime").open(model, tiny.SIGNATURE)
    assert "torchlift doctor" in caught.value.remedy


@pytest.mark.parametrize("threads", [1, 2])
def test_a_session_has_the_threads_that_were_asked_for(model, threads):
    with backend("onnxruntime").open(model, tiny.SIGNATURE, "fp32", SessionOptions(threads)) as session:
        assert session._session.get_session_options().intra_op_num_threads == threads


def test_the_built_graph_is_fused_and_its_weights_are_beside_it(built_once, model):
    graph = onnx.load(model, load_external_data=False).graph
    assert len(graph.node) < 3
    assert model.with_name("model.onnx.data").stat().st_size >= 4 * tiny.WIDTH * tiny.OUTPUTS
    variant = built_once.manifest.variant("model/onnxruntime/fp32")
    assert {f.rpartition("/")[2] for f in variant.files} == {"model.onnx", "model.onnx.data"}
