"""Tensors that are shared with other libraries without a copy: DLPack and ``__cuda_array_interface__``."""

from __future__ import annotations

import ctypes
import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from torchlift.backends.cuda.driver import check, on_device, runtime
from torchlift.backends.cuda.stream import Stream, follow
from torchlift.errors import SignatureError
from torchlift.signature import DTYPES

HOST = -1
"""The ``device`` of an array in the host's memory. GPUs are 0, 1, 2, ..."""

_CPU, _CUDA, _PINNED, _MANAGED = 1, 2, 3, 13
_PLACES = {
    _CPU: "the host's memory",
    _PINNED: "page-locked memory of the host",
    10: "a ROCm GPU",
    _MANAGED: "managed memory",
}
"""DLPack's type of a device (kDLCPU, kDLCUDAHost, kDLROCM, kDLCUDAManaged) -> the name of its memory in a message."""

_CODES = {"i": 0, "u": 1, "f": 2, "b": 6}
"""NumPy's kind of a dtype -> DLPack's code (kDLInt, kDLUInt, kDLFloat, kDLBool)."""

_DTYPES = {(_CODES[d.kind], d.itemsize * 8, 1): d for d in map(np.dtype, sorted(DTYPES))}
"""DLPack's code, bits and lanes -> NumPy's dtype."""

_CAPSULE = b"dltensor"
_LEGACY_STREAM, _NO_ORDER = 1, -1
"""What a consumer passes as its stream. None and 1 are CUDA's default stream; -1 asks not to wait for any."""


class _Tensor(ctypes.Structure):
    """DLTensor, the first member of DLManagedTensor (dlpack.h, before and since 1.0)."""

    _fields_ = (
        ("data", ctypes.c_void_p),
        ("device_type", ctypes.c_int32),
        ("device_id", ctypes.c_int32),
        ("ndim", ctypes.c_int32),
        ("code", ctypes.c_uint8),
        ("bits", ctypes.c_uint8),
        ("lanes", ctypes.c_uint16),
        ("shape", ctypes.POINTER(ctypes.c_int64)),
        ("strides", ctypes.POINTER(ctypes.c_int64)),
        ("byte_offset", ctypes.c_uint64),
    )


_pointer_of = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
    ("PyCapsule_GetPointer", ctypes.pythonapi)
)


def _inside(capsule: object) -> _Tensor:
    """The tensor in a capsule, not copied: use it only while the capsule exists.

    Raises ValueError for other objects.
    """
    return _Tensor.from_address(_pointer_of(capsule, _CAPSULE))


@dataclass(frozen=True)
class _Memory:
    """Memory in a form that NumPy makes an array of. The array keeps ``owner``. NumPy does not read the memory."""

    owner: object
    __array_interface__: Mapping[str, object]


@dataclass(frozen=True)
class DeviceArray:
    """An array in C order, in the memory of a GPU or of the HOST. ``device`` is the number of the GPU.

    ``owner`` keeps the memory alive: this array and all that are made from it refer to it. Work on ``stream`` may still
    write the values. Who reads the array through DLPack or ``__cuda_array_interface__`` waits for that stream.
    """

    address: int
    shape: tuple[int, ...]
    dtype: np.dtype
    device: int
    owner: object = field(repr=False, compare=False)
    stream: Stream | None = field(default=None, repr=False, compare=False)

    @property
    def nbytes(self) -> int:
        return math.prod(self.shape) * self.dtype.itemsize

    @property
    def _interface(self) -> dict[str, object]:
        return {"shape": self.shape, "typestr": self.dtype.str, "data": (self.address, False), "version": 3}

    @property
    def __cuda_array_interface__(self) -> dict[str, object]:
        if self.device == HOST:
            raise AttributeError("an array on the host has no __cuda_array_interface__")
        return {**self._interface, "strides": None, "stream": (self.stream and self.stream.handle) or None}

    def __dlpack_device__(self) -> tuple[int, int]:
        return (_CPU, 0) if self.device == HOST else (_CUDA, self.device)

    def __dlpack__(
        self,
        *,
        stream: int | None = None,
        max_version: tuple[int, int] | None = None,
        dl_device: tuple[int, int] | None = None,
        copy: bool | None = None,
    ) -> object:
        """A capsule with this array, in the form that all releases of DLPack read.

        The capsule keeps ``owner`` until its consumer drops it. Raises BufferError where the consumer asks for a copy
        or for another device, as the protocol demands.
        """
        if copy or dl_device not in (None, self.__dlpack_device__()):
            raise BufferError(f"an array in {_place(*self.__dlpack_device__())} is handed over as it is, never copied")
        if self.stream and self.stream.handle and stream != _NO_ORDER:
            follow(_LEGACY_STREAM if stream is None else stream, self.stream.handle, self.stream.device)
        # NumPy makes the capsule: its destructor and deleter are C, and safe while Python shuts down or raises.
        capsule = np.asarray(_Memory(self.owner, self._interface)).__dlpack__()
        held = _inside(capsule)
        held.device_type, held.device_id = self.__dlpack_device__()
        return capsule


def view(tensor: Any, stream: Stream | None) -> DeviceArray:
    """Describe the memory of another library's tensor, for example of torch or CuPy. Nothing is copied.

    The tensor must have ``__dlpack__`` or ``__cuda_array_interface__``. The array is read on ``stream``, which waits
    for work that still writes the tensor. Where ``stream`` is None, the memory must be the host's. The array keeps the
    memory alive.

    Raises SignatureError for memory of another device than the stream's, for another order than C, and for a dtype that
    no signature has.
    """
    device = HOST if stream is None else stream.device
    try:
        if hasattr(tensor, "__dlpack__"):
            kind, ordinal = tensor.__dlpack_device__()
            _check_place(int(kind), int(ordinal), device)
            capsule = _capsule(tensor, stream)
            return _described(_inside(capsule), device, capsule, stream)
        if stream is not None and hasattr(tensor, "__cuda_array_interface__"):
            return _read(tensor.__cuda_array_interface__, tensor, stream)
    except (BufferError, RuntimeError, ValueError, TypeError) as error:
        raise SignatureError(
            f"the {_kind(tensor)} does not give its memory: {error}",
            remedy="Pass a dense tensor without a gradient, as of detach().",
        ) from error
    raise SignatureError(
        f"a {_kind(tensor)} has neither __dlpack__ nor __cuda_array_interface__",
        remedy="Pass a tensor of torch or CuPy, or arrays of NumPy to run().",
    )


def _capsule(tensor: Any, stream: Stream | None) -> object:
    if stream is None:
        return tensor.__dlpack__()
    with on_device(stream.device):  # torch refuses to hand over memory of a GPU that is not the current one
        return tensor.__dlpack__(stream=stream.handle)


def _kind(tensor: object) -> str:
    return f"{type(tensor).__module__}.{type(tensor).__qualname__}"


def _place(kind: int, ordinal: int) -> str:
    return f"GPU {ordinal}" if kind == _CUDA else _PLACES.get(kind, f"a device of DLPack's type {kind}")


def _check_place(kind: int, ordinal: int, device: int) -> None:
    asked = (_CPU, 0) if device == HOST else (_CUDA, device)
    if kind != asked[0] or (kind == _CUDA and ordinal != device):
        here = kind in (_CPU, _PINNED)
        raise SignatureError(
            f"the tensor lies in {_place(kind, ordinal)}, not in {_place(*asked)}",
            remedy="Pass it to run(), which copies it." if here else f"Copy it to {_place(*asked)}.",
        )


def _described(held: _Tensor, device: int, owner: object, stream: Stream | None) -> DeviceArray:
    """The array in a capsule.

    ``owner`` is the capsule: it is never consumed, so it frees the memory when it is dropped.
    """
    dtype = _DTYPES.get((held.code, held.bits, held.lanes))
    if dtype is None:
        raise _no_dtype(f"DLPack's code {held.code} with {held.bits} bits and {held.lanes} lanes")
    shape = tuple(held.shape[i] for i in range(held.ndim))
    if held.strides:
        _check_order(shape, tuple(held.strides[i] * dtype.itemsize for i in range(held.ndim)), dtype)
    return DeviceArray((held.data or 0) + held.byte_offset, shape, dtype, device, owner, stream)


def _read(interface: Mapping[str, Any], owner: object, stream: Stream) -> DeviceArray:
    """The array that a ``__cuda_array_interface__`` of version 3 or earlier describes."""
    shape, dtype, address = tuple(interface["shape"]), np.dtype(interface["typestr"]), int(interface["data"][0] or 0)
    if dtype not in _DTYPES.values():
        raise _no_dtype(interface["typestr"])
    if interface.get("mask") is not None:
        raise SignatureError("the tensor has a mask", remedy="Pass its values, filled in, without one.")
    if interface.get("strides") is not None:
        _check_order(shape, tuple(interface["strides"]), dtype)
    if address:
        _check_place(*_owner_of(address), stream.device)
    if interface.get("stream") is not None:
        follow(stream.handle, int(interface["stream"]), stream.device)
    return DeviceArray(address, shape, dtype, stream.device, owner, stream)


def _owner_of(address: int) -> tuple[int, int]:
    """Where memory lies, in the terms of DLPack: the type of the device and the number of the GPU."""
    cuda = runtime()
    types = cuda.cudaMemoryType
    kinds = {
        int(types.cudaMemoryTypeDevice): _CUDA,
        int(types.cudaMemoryTypeHost): _PINNED,
        int(types.cudaMemoryTypeManaged): _MANAGED,
    }
    found = check(cuda.cudaPointerGetAttributes(address))
    return kinds.get(int(found.type), _CPU), int(found.device)


def _no_dtype(what: str) -> SignatureError:
    return SignatureError(
        f"the tensor's dtype, {what}, is of no signature", remedy=f"Convert it to one of {', '.join(sorted(DTYPES))}."
    )


def _check_order(shape: tuple[int, ...], strides: tuple[int, ...], dtype: np.dtype) -> None:
    """Raise SignatureError where strides, in bytes, are not those of C order.

    The strides of dimensions of size 1, and of arrays without elements, do not matter.
    """
    step = dtype.itemsize
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != step and 0 not in shape:
            raise SignatureError(
                f"a tensor of shape {shape} and strides {strides}, in bytes, does not lie in C order",
                remedy="Make it contiguous, as by tensor.contiguous().",
            )
        step *= size
