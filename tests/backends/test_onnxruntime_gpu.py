"""What can be said of ONNX Runtime on a GPU without one."""

import sys

import onnxruntime as ort
import pytest
import tiny

from torchlift import machine
from torchlift.backends import Availability, SessionOptions, backend
from torchlift.backends.onnxruntime import OnnxRuntimeCuda, gpu
from torchlift.errors import BackendError, BackendUnavailableError
from torchlift.machine import Gpu, RunOn
from torchlift.signature import Axis, Signature, TensorSpec

INSTALL_GPU = (
    "It replaces the package onnxruntime: pip uninstall onnxruntime onnxruntime-gpu, then pip install onnxruntime-gpu."
)
H200 = Gpu("NVIDIA H200", "9.0", 150_754_820_096, "580.159.04")
TEXT = Signature(
    (TensorSpec("text", "int64", ("batch", "sequence")), TensorSpec("scale", "float32", (1,))),
    (TensorSpec("y", "float32", ("batch", 8)),),
    (Axis("batch", 1, 8, 64), Axis("sequence", 4, 16, 52)),
)


@pytest.fixture(params=["onnxruntime-cuda", "onnxruntime-tensorrt"])
def runtime(request):
    found = backend(request.param)
    if found.available().ok:
        pytest.skip("this machine runs ONNX Runtime on a GPU")
    return found


@pytest.fixture
def installed(monkeypatch):
    """As if onnxruntime-gpu and all that it needs were there, up to the GPU."""
    monkeypatch.setattr(OnnxRuntimeCuda, "_installed", lambda self: "1.31.1")
    monkeypatch.setattr(ort, "get_available_providers", lambda: ["CUDAExecutionProvider", "CPUExecutionProvider"])
    monkeypatch.setattr(gpu, "installed_version", lambda package: "13.0")
    monkeypatch.setattr(gpu, "cuda_available", lambda: Availability(True, "CUDA works"))
    monkeypatch.setattr(gpu, "gpus", lambda: (H200,))
    monkeypatch.setattr(gpu, "_libraries", lambda: Availability(True, ""))
    return monkeypatch


def test_without_a_gpu_build_it_is_not_available(runtime):
    state = runtime.available()
    assert "onnxruntime-gpu is not installed" in state.detail or "the installed build has no" in state.detail
    assert state.remedy == INSTALL_GPU


@pytest.mark.parametrize("call", ["require", "build", "open", "layers"])
def test_what_is_not_available_is_not_used(source, tmp_path, call):
    runtime = backend("onnxruntime-cuda")
    if runtime.available().ok:
        pytest.skip("this machine runs ONNX Runtime on a GPU")
    arguments = {
        "require": (),
        "build": (source, tmp_path, tiny.SIGNATURE),
        "open": (source, tiny.SIGNATURE),
        "layers": (source, tiny.SIGNATURE, {"x": tiny.sample(1)}),
    }
    with pytest.raises(BackendUnavailableError, match="the backend onnxruntime-cuda cannot be used: ") as caught:
        getattr(runtime, call)(*arguments[call])
    assert caught.value.remedy == INSTALL_GPU


def test_with_everything_there_it_is_available_and_names_the_gpu_and_its_driver(installed):
    state = backend("onnxruntime-cuda").available()
    assert state == Availability(True, "onnxruntime 1.31.1 on NVIDIA H200, driver 580.159.04, CUDAExecutionProvider")
    assert backend("onnxruntime-cuda").version() == "onnxruntime 1.31.1 on NVIDIA H200, driver 580.159.04"


@pytest.mark.parametrize("package", ["cuda-bindings", "nvidia-ml-py"])
def test_a_package_that_is_missing_is_named(installed, package):
    installed.setattr(gpu, "installed_version", lambda name: None if name == package else "13.0")
    state = backend("onnxruntime-cuda").available()
    assert state == Availability(False, f"{package} is not installed", 'pip install "torchlift[cuda]"')


def test_a_release_that_does_not_say_where_nodes_run_is_refused(installed):
    installed.delattr("onnxruntime.capi.onnxruntime_inference_collection.Session.get_provider_graph_assignment_info")
    state = backend("onnxruntime-cuda").available()
    assert (state.ok, state.remedy) == (False, "pip install -U onnxruntime-gpu, to 1.24 or later.")
    assert state.detail == f"onnxruntime {ort.__version__} does not tell which provider runs a node"


def test_what_cuda_lacks_is_what_the_backend_lacks(installed):
    lacking = Availability(False, "the NVIDIA driver 470.1 supports CUDA 11.4", "Update the NVIDIA driver.")
    installed.setattr(gpu, "cuda_available", lambda: lacking)
    assert backend("onnxruntime-cuda").available() == lacking


# What preload_dlls() of onnxruntime-gpu 1.31.1 printed on a machine without CUDA's libraries.
PRELOADED = """\
Failed to load libcublasLt.so.13: libcublasLt.so.13: cannot open shared object file: No such file or directory
Failed to load libcublas.so.13: libcublas.so.13: cannot open shared object file: No such file or directory
Failed to load libcurand.so.10: libcurand.so.10: cannot open shared object file: No such file or directory
Please follow https://onnxruntime.ai/docs/install/#cuda-and-cudnn to install CUDA.
"""


FOUND_LATER = "Failed to load /site-packages/nvidia/cu13/lib/libcublas.so.13: cannot open shared object file\n"


@pytest.mark.parametrize(("text", "ok"), [(PRELOADED, False), ("", True), (FOUND_LATER, True)])
def test_libraries_that_cannot_be_loaded_are_named(monkeypatch, capsys, text, ok):
    monkeypatch.setattr(ort, "preload_dlls", lambda: sys.stdout.write(text))
    monkeypatch.setattr(ort, "cuda_version", "13.0")
    gpu._libraries.cache_clear()
    state = gpu._libraries()
    gpu._libraries.cache_clear()
    assert capsys.readouterr().out == ""
    assert state.ok == ok
    if not ok:
        assert state.detail.startswith("CUDA's libraries are not there: Failed to load libcublasLt.so.13: ")
        assert state.remedy == 'pip install "onnxruntime-gpu[cuda,cudnn]", or install CUDA 13 and cuDNN 9.'


def test_without_a_gpu_the_version_says_so(monkeypatch):
    monkeypatch.setattr(gpu, "gpus", tuple)
    assert backend("onnxruntime-cuda").version().endswith(" on no NVIDIA GPU")
    assert machine.gpus is not gpu.gpus


def test_fp32_is_fp32_on_a_gpu_and_int8_must_be_named():
    runtime = backend("onnxruntime-cuda")
    assert runtime.providers(tiny.SIGNATURE, "fp32", SessionOptions(RunOn(device=2))) == [
        ("CUDAExecutionProvider", {"device_id": "2", "use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"})
    ]
    assert runtime.providers(tiny.SIGNATURE, "fp16", SessionOptions(cuda_graph=True)) == [
        (
            "CUDAExecutionProvider",
            {"device_id": "0", "use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC", "enable_cuda_graph": "1"},
        )
    ]
    assert {name for name, recipe in runtime.recipes.items() if not recipe.asked_for} == {"fp32", "fp16"}
    assert (runtime.replays, runtime.asked_for) == (True, False)


@pytest.mark.parametrize(("recipe", "half"), [("fp32", "0"), ("fp16", "1")])
def test_tensorrt_is_given_the_ranges_of_the_signature(recipe, half):
    runtime = backend("onnxruntime-tensorrt")
    first, behind = runtime.providers(TEXT, recipe, SessionOptions(RunOn(device=1), cuda_graph=True))
    assert first == (
        "TensorrtExecutionProvider",
        {
            "device_id": "1",
            "trt_fp16_enable": half,
            "trt_engine_cache_enable": "0",
            "trt_profile_min_shapes": "text:1x4,scale:1",
            "trt_profile_opt_shapes": "text:8x16,scale:1",
            "trt_profile_max_shapes": "text:64x52,scale:1",
        },
    )
    assert behind == (
        "CUDAExecutionProvider",
        {"device_id": "1", "use_tf32": "0", "cudnn_conv_algo_search": "HEURISTIC"},
    )
    assert (runtime.replays, runtime.asked_for, runtime.opens_graphs) == (False, True, True)


def test_fixed_shapes_need_no_ranges():
    fixed = Signature((TensorSpec("x", "float32", (1, 3)),), (TensorSpec("y", "float32", (1, 3)),))
    options = backend("onnxruntime-tensorrt").providers(fixed, "fp32", SessionOptions())[0][1]
    assert not any(name.startswith("trt_profile") for name in options)


def test_tensorrt_builds_nothing(source, tmp_path):
    with pytest.raises(BackendError, match=r"onnxruntime-tensorrt opens model\.onnx as it is") as caught:
        backend("onnxruntime-tensorrt").build(source, tmp_path, tiny.SIGNATURE)
    assert caught.value.remedy == "Open the graph itself."


def test_tensorrt_that_cannot_be_loaded_is_said(monkeypatch):
    said = "Please install TensorRT libraries as mentioned in the GPU requirements page"

    def fails(*_, **__):
        raise RuntimeError(f"{said},\n make sure they're in the PATH")

    monkeypatch.setattr(ort, "InferenceSession", fails)
    gpu._tensorrt.cache_clear()
    state = gpu._tensorrt()
    gpu._tensorrt.cache_clear()
    assert state.detail == f"TensorRT cannot be used: {said}, make sure they're in the PATH"
    assert "release of TensorRT" in state.remedy


def test_tensorrt_that_falls_back_is_said():
    # The build for processors leaves providers that it lacks out, with a warning.
    if "TensorrtExecutionProvider" in ort.get_available_providers():
        pytest.skip("this build has TensorRT")
    gpu._tensorrt.cache_clear()
    with pytest.warns(UserWarning, match="TensorrtExecutionProvider"):
        state = gpu._tensorrt()
    gpu._tensorrt.cache_clear()
    assert state.detail == "TensorRT cannot be used: CPUExecutionProvider would run a model"
