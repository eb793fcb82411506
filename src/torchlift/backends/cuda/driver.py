"""The CUDA driver and runtime through cuda-bindings: whether they work here, their errors, the current GPU."""

from __future__ import annotations

import contextlib
import functools
import os
from collections.abc import Iterator
from typing import Any

from torchlift.errors import BackendError, BackendUnavailableError, DeviceMemoryError
from torchlift.machine import Availability, gpus, installed_version

_INSTALL = 'pip install "torchlift[tensorrt]"'
_OLDEST = 12
"""The first release of CUDA whose cuda-bindings have the modules used here."""

_NO_MEMORY = 2
_INSUFFICIENT_DRIVER = 35
_NO_DEVICE = 100
"""Codes of cudaError_t. The driver's CUresult has the same."""


@functools.cache
def runtime() -> Any:
    """The module ``cuda.bindings.runtime``. Raises BackendUnavailableError where it cannot be imported."""
    try:
        from cuda.bindings import runtime as module
    except ImportError as error:
        raise BackendUnavailableError(f"cuda-bindings cannot be loaded: {error}", remedy=_INSTALL) from error
    return module


def check(result: tuple[Any, ...], *, asked: str = "") -> Any:
    """Check the error that a function of cuda-bindings returned, and give back the values that came with it.

    ``check(cudaGetDeviceCount())`` is a number, for example. Several values are a tuple, none are None. ``asked`` says
    for the message what memory was asked for, such as ``4,096 bytes on GPU 0``.

    Raises DeviceMemoryError where there is no room, BackendUnavailableError where there is no GPU or the driver is too
    old, and BackendError for all other errors.
    """
    error, *values = result
    if int(error):
        raise _translated(error, asked)
    return tuple(values) if len(values) > 1 else next(iter(values), None)


def _translated(error: Any, asked: str) -> BackendError:
    runtime().cudaGetLastError()  # clears the error, so that it is not reported again by the next call
    known = {_INSUFFICIENT_DRIVER: _insufficient_driver, _NO_DEVICE: _no_device}.get(int(error))
    if known:
        return known()
    said = f"{error.name}: {_description(error)}"
    if int(error) == _NO_MEMORY:
        return DeviceMemoryError(
            f"no room for {asked or 'what CUDA needs on the device'} ({said})",
            remedy="Run smaller batches, end other programs on the GPU, or choose another device.",
        )
    return BackendError(
        f"CUDA failed with {said}",
        remedy="Start the process again; `torchlift doctor` describes the GPU and its driver.",
    )


def _description(error: Any) -> str:
    if isinstance(error, runtime().cudaError_t):
        return runtime().cudaGetErrorString(error)[1].decode()
    from cuda.bindings import driver

    return driver.cuGetErrorString(error)[1].decode()


def _insufficient_driver() -> BackendUnavailableError:
    """The error for a driver that is too old or missing: CUDA gives the same code for both."""
    offered, needed = (runtime().cudaDriverGetVersion()[1], runtime().cudaRuntimeGetVersion()[1])
    if not offered:
        return BackendUnavailableError(
            "there is no NVIDIA driver",
            remedy="Install NVIDIA's driver; a container is given the GPUs, for example by docker run --gpus all.",
        )
    return outdated(offered, needed, next((gpu.driver for gpu in gpus()), ""))


def outdated(offered: int, needed: int, driver: str) -> BackendUnavailableError:
    """The error for a driver that is too old.

    ``offered`` is the version of CUDA that the driver supports, ``needed`` the one that cuda-bindings is made for, both
    as CUDA counts them: 12040 is 12.4. ``driver`` is the driver's own release, "" where it is not known.
    """
    older = f', or pip install "cuda-bindings=={offered // 1000}.*"' if offered // 1000 >= _OLDEST else ""
    return BackendUnavailableError(
        f"the NVIDIA driver{driver and ' '}{driver} supports CUDA {_release(offered)}, cuda-bindings is made for CUDA "
        f"{_release(needed)}",
        remedy=f"Update the NVIDIA driver{older}.",
    )


def _release(version: int) -> str:
    return f"{version // 1000}.{version % 1000 // 10}"


def _no_device() -> BackendUnavailableError:
    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    return BackendUnavailableError(
        "the NVIDIA driver finds no GPU" + (f"; CUDA_VISIBLE_DEVICES is {visible!r}" if visible is not None else ""),
        remedy="Run where there is an NVIDIA GPU; CUDA_VISIBLE_DEVICES, where it is set, must name one.",
    )


def devices() -> int:
    """The number of GPUs that this process may use, at least 1.

    Raises BackendUnavailableError where CUDA does not work.
    """
    return int(check(runtime().cudaGetDeviceCount()))


def cuda_available() -> Availability:
    """Whether cuda-bindings is installed, and a GPU works with it and has a name.

    The name is needed because engines and results hold for a GPU of that name. The first call starts the driver.
    """
    if installed_version("cuda-bindings") is None:
        return Availability(False, "cuda-bindings is not installed", _INSTALL)
    try:
        devices()
    except BackendError as error:
        return Availability(False, error.message, error.remedy)
    if not gpus():
        return _unnamed()
    return Availability(True, f"cuda-bindings {installed_version('cuda-bindings')}, {', '.join(map(str, gpus()))}")


def _unnamed() -> Availability:
    if installed_version("nvidia-ml-py") is None:
        return Availability(False, "nvidia-ml-py is not installed, so the GPU is not known", "pip install nvidia-ml-py")
    return Availability(
        False,
        "NVML names no GPU that this process may use",
        "Set CUDA_VISIBLE_DEVICES to whole GPUs, or not at all: a MIG device is not supported.",
    )


@contextlib.contextmanager
def on_device(ordinal: int) -> Iterator[None]:
    """Make a GPU the current one of this thread until the block ends. Then the GPU before it is current again.

    This uses the driver's stack of contexts, not cudaSetDevice. To restore a GPU that was never used, cudaSetDevice
    would start CUDA on it, which takes some hundred MB of its memory.

    Raises BackendUnavailableError where there is no such GPU.
    """
    from cuda.bindings import driver

    check(driver.cuCtxPushCurrent(_context(ordinal)))
    try:
        yield
    except BaseException:
        driver.cuCtxPopCurrent()
        raise
    check(driver.cuCtxPopCurrent())


@functools.cache
def _context(ordinal: int) -> Any:
    """The primary context of a GPU, which the CUDA runtime uses too. It is kept until the process ends."""
    count = devices()
    if not 0 <= ordinal < count:
        raise BackendUnavailableError(
            f"there is no GPU {ordinal} among the {count} that this process may use",
            remedy=f"Choose one from 0 to {count - 1}; CUDA_VISIBLE_DEVICES, where it is set, says which there are.",
        )
    from cuda.bindings import driver

    return check(driver.cuDevicePrimaryCtxRetain(check(driver.cuDeviceGet(ordinal))))
