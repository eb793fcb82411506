"""Memory of a GPU, page-locked memory of the host, and copies between them. Buffers are reused and grow."""

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
    """``size`` bytes of a GPU's memory (cudaMalloc) at ``address``. They are freed when nothing refers to the block.

    Raises DeviceMemoryError where there is no room.
    """

    def __init__(self, size: int, device: int = 0) -> None:
        with on_device(device):
            address = check(runtime().cudaMalloc(size), asked=f"{size:,} bytes on GPU {device}")
        self.address, self.size, self.device = int(address), size, device
        _when_gone(self, _free, runtime().cudaFree, self.address, device)


class _PinnedBlock:
    """Page-locked memory of the host, else like :class:`Block`. NumPy sees it as bytes, and its views keep it alive."""

    def __init__(self, size: int, device: int) -> None:
        with on_device(device):
            address = check(runtime().cudaMallocHost(size), asked=f"{size:,} bytes of page-locked memory")
        self.size = size
        self.__array_interface__ = {"data": (int(address), False), "shape": (size,), "typestr": "|u1", "version": 3}
        _when_gone(self, _free, runtime().cudaFreeHost, int(address), device)


def _when_gone(block: object, work: Callable[..., None], *arguments: Any) -> None:
    """Call ``work`` when ``block`` is gone. At exit it is not called: CUDA may be shut down, and frees all itself."""
    weakref.finalize(block, work, *arguments).atexit = False


def _free(work: Callable[[int], tuple[Any, ...]], address: int, device: int) -> None:
    """Free memory. An error of the device is ignored here: it was raised where it occurred."""
    with contextlib.suppress(BackendError), on_device(device):
        check(work(address))


class Buffer:
    """Memory of a GPU that grows when more is asked for. It is empty at first."""

    def __init__(self, device: int = 0) -> None:
        self.device = device
        self.block: Block | None = None
        """The memory. Who passes the address on must keep the block too."""

    @property
    def address(self) -> int:
        return self.block.address if self.block else 0

    @property
    def size(self) -> int:
        """Bytes that it holds."""
        return self.block.size if self.block else 0

    def reserve(self, size: int) -> None:
        """Make room for at least ``size`` bytes. Call it when no work on the buffer is under way.

        A buffer that grows gets another address and loses its contents, so recordings that use it are no longer valid.
        Raises DeviceMemoryError where there is no room; the buffer is empty then.
        """
        if size > self.size:
            self.close()  # first, since the GPU may not have room for the old and the new block together
            self.block = Block(size, self.device)

    def clear(self, stream: Stream) -> None:
        """Let the stream fill the memory with zeros."""
        if self.block is not None:
            check(runtime().cudaMemsetAsync(self.address, 0, self.size, stream.handle))

    def close(self) -> None:
        """Let the memory go. It is freed once no array refers to it."""
        self.block = None


class Pinned:
    """Page-locked memory of the host, from and to which a GPU copies by itself. It grows when more is asked for.

    Such copies are truly asynchronous, and can be part of a recording.
    """

    def __init__(self, device: int = 0) -> None:
        self.device = device
        self._block: _PinnedBlock | None = None

    def array(self, shape: tuple[int, ...], dtype: np.dtype | str) -> np.ndarray:
        """An array in C order at the start of the memory. All arrays share that memory, until a call makes it grow."""
        size = max(1, math.prod(shape) * np.dtype(dtype).itemsize)
        if self._block is None or self._block.size < size:
            self._block = None
            self._block = _PinnedBlock(size, self.device)
        return np.ndarray(shape, dtype, buffer=np.asarray(self._block))

    def close(self) -> None:
        """Let the memory go. It is freed once no array of it is left."""
        self._block = None


def upload(array: np.ndarray, staged: np.ndarray, address: int, stream: Stream) -> None:
    """Copy an array of the host to ``address`` in a GPU's memory, by way of the page-locked array ``staged``.

    ``staged`` has the shape of ``array`` and the dtype that is wanted on the GPU. It must keep its values until the
    stream has copied them.
    """
    flat = staged.reshape(-1)
    stage(array, staged, lambda part: to_device(flat[part], address + part.start * flat.itemsize, stream))


def to_device(array: np.ndarray, address: int, stream: Stream) -> None:
    """Copy an array of the host to a GPU's memory. It must keep its values until the stream has copied them.

    Raises SignatureError for an array that does not lie in C order.
    """
    _copy(address, _pointer(array), array.nbytes, stream, "cudaMemcpyHostToDevice")


def to_host(address: int, array: np.ndarray, stream: Stream) -> None:
    """Fill an array of the host from a GPU's memory. The values are there once the stream is synchronized.

    Raises SignatureError for an array that does not lie in C order or is read-only.
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
