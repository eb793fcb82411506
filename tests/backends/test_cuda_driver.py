import os
import sys

import numpy as np
import pytest

from torchlift.backends.cuda import Block, Pinned, Stream, check, cuda_available, devices, driver, on_device
from torchlift.errors import BackendError, BackendUnavailableError, DeviceMemoryError

cudart = pytest.importorskip("cuda.bindings.runtime")

INSTALL = 'pip install "torchlift[tensorrt]"'
ERROR = cudart.cudaError_t


@pytest.fixture
def no_gpu():
    if cuda_available().ok:
        pytest.skip("this machine has an NVIDIA GPU")


@pytest.mark.parametrize(("values", "expected"), [((), None), ((7,), 7), ((7, 8), (7, 8))])
def test_success_gives_the_values(values, expected):
    assert check((ERROR.cudaSuccess, *values)) == expected


def test_out_of_memory_says_what_was_asked_for():
    with pytest.raises(DeviceMemoryError) as caught:
        check((ERROR.cudaErrorMemoryAllocation, None), asked="1,024 bytes on GPU 0")
    assert caught.value.message == "no room for 1,024 bytes on GPU 0 (cudaErrorMemoryAllocation: out of memory)"
    assert "smaller batches" in caught.value.remedy


def test_out_of_memory_where_nobody_knows_what_was_asked_for():
    with pytest.raises(DeviceMemoryError, match="no room for what CUDA needs on the device"):
        check((ERROR.cudaErrorMemoryAllocation,))


def test_another_error_has_the_name_and_the_description_of_cuda():
    with pytest.raises(BackendError) as caught:
        check((ERROR.cudaErrorIllegalAddress,))
    assert type(caught.value) is BackendError
    assert caught.value.message == (
        "CUDA failed with cudaErrorIllegalAddress: an illegal memory access was encountered"
    )
    assert "Start the process again" in caught.value.remedy


@pytest.mark.parametrize(
    ("visible", "said"), [(None, "finds no GPU"), ("7", "finds no GPU; CUDA_VISIBLE_DEVICES is '7'")]
)
def test_no_device(monkeypatch, visible, said):
    monkeypatch.setattr(os, "environ", {"CUDA_VISIBLE_DEVICES": visible} if visible else {})
    with pytest.raises(BackendUnavailableError) as caught:
        check((ERROR.cudaErrorNoDevice, 0))
    assert caught.value.message == f"the NVIDIA driver {said}"
    assert "CUDA_VISIBLE_DEVICES, where it is set, must name one" in caught.value.remedy


@pytest.mark.parametrize(
    ("offered", "release", "message", "remedy"),
    [
        (
            12040,
            "550.54.15",
            "the NVIDIA driver 550.54.15 supports CUDA 12.4, cuda-bindings is made for CUDA 13.5",
            'Update the NVIDIA driver, or pip install "cuda-bindings==12.*".',
        ),
        (
            11080,
            "",
            "the NVIDIA driver supports CUDA 11.8, cuda-bindings is made for CUDA 13.5",
            "Update the NVIDIA driver.",
        ),
    ],
)
def test_a_driver_that_is_too_old(offered, release, message, remedy):
    error = driver.outdated(offered, 13050, release)
    assert (error.message, error.remedy) == (message, remedy)


def test_an_insufficient_driver_is_compared_with_what_the_runtime_needs(monkeypatch):
    monkeypatch.setattr(cudart, "cudaDriverGetVersion", lambda: (ERROR.cudaSuccess, 12020))
    monkeypatch.setattr(cudart, "cudaRuntimeGetVersion", lambda: (ERROR.cudaSuccess, 13000))
    with pytest.raises(BackendUnavailableError, match=r"supports CUDA 12\.2, cuda-bindings is made for CUDA 13\.0"):
        check((ERROR.cudaErrorInsufficientDriver, None))


def test_without_a_driver_cuda_is_not_available(no_gpu):
    state = cuda_available()
    if cudart.cudaDriverGetVersion()[1]:
        pytest.skip("this machine has an NVIDIA driver")
    assert state.detail == "there is no NVIDIA driver"
    assert "docker run --gpus all" in state.remedy


def test_without_cuda_bindings_it_is_not_available(monkeypatch):
    monkeypatch.setattr(driver, "installed_version", lambda distribution: None)
    state = cuda_available()
    assert (state.ok, state.detail, state.remedy) == (False, "cuda-bindings is not installed", INSTALL)


@pytest.mark.parametrize(
    ("nvml", "said", "remedy"),
    [
        (None, "nvidia-ml-py is not installed, so the GPU is not known", "pip install nvidia-ml-py"),
        (
            "13.0",
            "NVML names no GPU that this process may use",
            "Set CUDA_VISIBLE_DEVICES to whole GPUs, or not at all: a MIG device is not supported.",
        ),
    ],
)
def test_a_gpu_that_nobody_names_is_said_with_the_reason(monkeypatch, nvml, said, remedy):
    monkeypatch.setattr(driver, "devices", lambda: 1)
    monkeypatch.setattr(driver, "gpus", lambda: ())
    monkeypatch.setattr(driver, "installed_version", {"cuda-bindings": "13.0", "nvidia-ml-py": nvml}.get)
    state = cuda_available()
    assert (state.ok, state.detail, state.remedy) == (False, said, remedy)


def test_cuda_bindings_that_cannot_be_loaded_say_why(monkeypatch):
    driver.runtime.cache_clear()
    monkeypatch.setitem(sys.modules, "cuda.bindings", None)
    state = cuda_available()
    assert state.detail.startswith("cuda-bindings cannot be loaded: ")
    assert state.remedy == INSTALL


def enter(ordinal=0):
    with on_device(ordinal):
        pass


@pytest.mark.parametrize("use", [devices, enter, lambda: Block(16), Stream, lambda: Pinned().array((2,), np.float32)])
def test_whatever_needs_a_gpu_says_that_there_is_none(no_gpu, use):
    with pytest.raises(BackendUnavailableError):
        use()


def test_a_gpu_beyond_those_that_are_there(monkeypatch):
    monkeypatch.setattr(driver, "devices", lambda: 2)
    with pytest.raises(
        BackendUnavailableError, match="there is no GPU 2 among the 2 that this process may use"
    ) as caught:
        enter(2)
    assert caught.value.remedy.startswith("Choose one from 0 to 1;")


def test_importing_it_imports_nothing_of_cuda(python):
    done = python("import torchlift.backends.cuda, sys; print([m for m in sys.modules if m.split('.')[0] == 'cuda'])")
    assert done.stdout.strip() == "[]", done.stderr
