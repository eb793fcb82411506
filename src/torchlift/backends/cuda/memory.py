"""Memory of a GPU and page-locked memory of the host, allocated once and grown, and copies between the two."""

from __future__ import annotations

import contextlib
import math
import weakref
from collections.abc import Callable
from typing import Any

import numpy as np

from torchlift.backends.cuda.driver import check, on_device, runtime
from torchlift.backends.cuda.stream import Stream
from torchlift.backends.staging import stage
from torchlift.errors import BackendError, SignatureError


class Block:
    """``size`` bytes of a GPU's own memory (cudaMalloc) at ``address``, freed when nothing refers to the block.

    Raises DeviceMemoryError where there is no room.
    """

    def __init__(self, size: int, device: int = 0) -> None:
        with on_device(device):
            address = check(runtime().cudaMalloc(size), asked=f"{size:,} bytes on GPU {device}")
        self.address, self.size, self.device = int(address), size, device
        _when_gone(self, _free, runtime().cudaFree, self.address, device)


class _PinnedBlock:
    """As :class:`Block`, of the host's memory; NumPy sees it as bytes, and its views keep it."""

    def __init__(self, size: int, device: int) -> None:
        with on_device(device):
            address = check(runtime().cudaMallocHost(size), asked=f"{size:,} bytes of page-locked memory")
        self.size = size
        self.__array_interface__ = {"data": (int(address), False), "shape": (size,), "typestr": "|u1", "version": 3}
        _when_gone(self, _free, runtime().cudaFreeHost, int(address), device)


def _when_gone(block: object, work: Callable[..., None], *arguments: Any) -> None:
    """The end of the process frees everything anyway, when CUDA may already be shut down."""
    weakref.finalize(block, work, *arguments).atexit = False


def _free(work: Callable[[int], tuple[Any, ...]], address: int, device: int) -> None:
    """Fails in silence after an error that the device does not recover from: that was raised where it occurred."""
    with contextlib.suppress(BackendError), on_device(device):
        check(work(address))


class Buffer:
    """Memory of a GPU that grows when more is asked for; empty at first."""

    def __init__(self, device: int = 0) -> None:
        self.device = device
        self.block: Block | None = None
        """What keeps the memory: whoever hands its address on keeps the block with it."""

    @property
    def address(self) -> int:
        return self.block.address if self.block else 0

    @property
    def size(self) -> int:
        """In bytes."""
        return self.block.size if self.block else 0

    def reserve(self, size: int) -> None:
        """Hold ``size`` bytes at least.

        A buffer that grows moves, which invalidates graphs that use it, and loses its contents; it is empty where
        DeviceMemoryError is raised. The stream must have ended its work on it.
        """
        if size > self.size:
            self.close()  # before more is asked for: both together may not fit
            self.block = Block(size, self.device)

    def clear(self, stream: Stream) -> None:
        """Have the stream fill the memory with zeros."""
        if self.block is not None:
            check(runtime().cudaMemsetAsync(self.address, 0, self.size, stream.handle))

    def close(self) -> None:
        """Free the memory, once no array that was handed on keeps it."""
        self.block = None


class Pinned:
    """Page-locked memory of the host, which a GPU copies from and to by itself; it grows when more is asked for.

    The copies are truly asynchronous, and can be part of a CUDA graph.
    """

    def __init__(self, device: int = 0) -> None:
        self.device = device
        self._block: _PinnedBlock | None = None

    def array(self, shape: tuple[int, ...], dtype: np.dtype | str) -> np.ndarray:
        """The start of the memory as an array in C order. Arrays of earlier calls share it, unless it had to grow."""
        size = max(1, math.prod(shape) * np.dtype(dtype).itemsize)
        if self._block is None or self._block.size < size:
            self._block = None
            self._block = _PinnedBlock(size, self.device)
        return np.ndarray(shape, dtype, buffer=np.asarray(self._block))

    def close(self) -> None:
        """Free the memory, once no array of it is left."""
        self._block = None


def upload(array: np.ndarray, staged: np.ndarray, address: int, stream: Stream) -> None:
    """Copy an array of the host to a GPU's memory through page-locked ``staged``, of its shape and of the dtype that is
    read there. ``staged`` must keep its values until the stream has done so.
    """
    flat = staged.reshape(-1)
    stage(array, staged, lambda part: to_device(flat[part], address + part.start * flat.itemsize, stream))


def to_device(array: np.ndarray, address: int, stream: Stream) -> None:
    """Copy an array of the host to a GPU's memory. It must keep its values until the stream has done so.

    Raises SignatureError for one that does not lie in C order.
    """
    _copy(address, _pointer(array), array.nbytes, stream, "cudaMemcpyHostToDevice")


def to_host(address: int, array: np.ndarray, stream: Stream) -> None:
    """Fill an array of the host from a GPU's memory: it has its values once the stream is synchronized.

    Raises SignatureError for one that does not lie in C order or may not be written.
    """
    if not array.flags.writeable:
        raise SignatureError("the array to copy to is read-only", remedy="Pass an array of your own, or a copy.")
    _copy(_pointer(array), address, array.nbytes, stream, "cudaMemcpyDeviceToHost")


def within_device(source: int, target: int, size: int, stream: Stream) -> None:
    """Copy ``size`` bytes from one address of a GPU's memory to another."""
    _copy(target, source, size, stream, "cudaMemcpyDeviceToDevice")


def _pointer(array: np.ndarray) -> int:
    if not array.flags.c_contiguous:
        raise SignatureError(
            f"an array of shape {array.shape} and strides {array.strides} does not lie in C order",
            remedy="Pass numpy.ascontiguousarray(array).",
        )
    return array.ctypes.data


def _copy(target: int, source: int, size: int, stream: Stream, kind: str) -> None:
    if size:
        cuda = runtime()
        check(cuda.cudaMemcpyAsync(target, source, size, getattr(cuda.cudaMemcpyKind, kind), stream.handle))
