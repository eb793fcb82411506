"""Memory that a session and other libraries hand each other without a copy: DLPack and ``__cuda_array_interface__``."""

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
"""The device of an array that lies in the host's memory."""

_CPU, _CUDA, _PINNED, _MANAGED = 1, 2, 3, 13
_PLACES = {
    _CPU: "the host's memory",
    _PINNED: "page-locked memory of the host",
    10: "a ROCm GPU",
    _MANAGED: "managed memory",
}
"""DLPack's type of a device (kDLCPU, kDLCUDAHost, kDLROCM, kDLCUDAManaged) -> what to call its memory."""

_CODES = {"i": 0, "u": 1, "f": 2, "b": 6}
"""NumPy's kind of a dtype -> DLPack's code (kDLInt, kDLUInt, kDLFloat, kDLBool)."""

_DTYPES = {(_CODES[d.kind], d.itemsize * 8, 1): d for d in map(np.dtype, sorted(DTYPES))}
"""DLPack's code, bits and lanes -> the dtype."""

_CAPSULE = b"dltensor"
_LEGACY_STREAM, _NO_ORDER = 1, -1
"""What a consumer gives as its stream, in DLPack for Python: nothing and 1 are CUDA's default stream."""


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
    """What a capsule holds, in place; it must not outlive the capsule. Raises ValueError for another object."""
    return _Tensor.from_address(_pointer_of(capsule, _CAPSULE))


@dataclass(frozen=True)
class _Memory:
    """What lets NumPy describe memory as an array that keeps ``owner``; NumPy does not look into it."""

    owner: object
    __array_interface__: Mapping[str, object]


@dataclass(frozen=True)
class DeviceArray:
    """An array in C order in the memory of a GPU, by its ordinal, or of the HOST.

    ``owner`` keeps the memory: this and whatever is made from it keep ``owner``. ``stream`` is where its values are
    still being written; those who read them through DLPack or ``__cuda_array_interface__`` wait for it.
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
        """A capsule that keeps ``owner`` until its consumer is gone, in the form that all releases of DLPack read.

        Raises BufferError, as the protocol asks, for a copy or another device.
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
    """Describe a tensor's memory, to be read on ``stream``, which waits for whoever still writes it; the array keeps
    the memory. With None as the stream, the memory must be the host's.

    Takes what speaks DLPack, as of torch and CuPy, or ``__cuda_array_interface__``. Raises SignatureError for memory of
    another device than the stream's, not in C order or of a dtype that no signature has.
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
    """What a capsule holds: nobody consumes ``owner``, the capsule, so that it frees the memory when it goes."""
    dtype = _DTYPES.get((held.code, held.bits, held.lanes))
    if dtype is None:
        raise _no_dtype(f"DLPack's code {held.code} with {held.bits} bits and {held.lanes} lanes")
    shape = tuple(held.shape[i] for i in range(held.ndim))
    if held.strides:
        _check_order(shape, tuple(held.strides[i] * dtype.itemsize for i in range(held.ndim)), dtype)
    return DeviceArray((held.data or 0) + held.byte_offset, shape, dtype, device, owner, stream)


def _read(interface: Mapping[str, Any], owner: object, stream: Stream) -> DeviceArray:
    """What ``__cuda_array_interface__`` says, up to version 3."""
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
    """Where memory lies, as DLPack says it: its kind and the ordinal of the GPU."""
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
    """Strides in bytes; those of dimensions of size 1, and of arrays without elements, mean nothing."""
    step = dtype.itemsize
    for size, stride in zip(reversed(shape), reversed(strides), strict=True):
        if size != 1 and stride != step and 0 not in shape:
            raise SignatureError(
                f"a tensor of shape {shape} and strides {strides}, in bytes, does not lie in C order",
                remedy="Make it contiguous, as by tensor.contiguous().",
            )
        step *= size
