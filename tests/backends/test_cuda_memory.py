import contextlib
import ctypes
import time
from types import SimpleNamespace

import numpy as np
import pytest

from torchlift.backends.cuda import Buffer, Pinned, memory, to_device, to_host, upload
from torchlift.errors import DeviceMemoryError, SignatureError


@pytest.mark.parametrize("copy", [lambda array: to_device(array, 0, None), lambda array: to_host(0, array, None)])
def test_only_arrays_in_c_order_are_copied(copy):
    with pytest.raises(SignatureError, match=r"shape \(3, 2\) and strides \(4, 12\) does not lie in C order") as caught:
        copy(np.zeros((2, 3), np.float32).T)
    assert "ascontiguousarray" in caught.value.remedy


def test_a_read_only_array_is_not_written():
    array = np.zeros(3, np.float32)
    array.flags.writeable = False
    with pytest.raises(SignatureError, match="the array to copy to is read-only") as caught:
        to_host(0, array, None)
    assert caught.value.remedy == "Pass an array of your own, or a copy."


def test_a_buffer_is_empty_at_first_and_asks_for_nothing():
    buffer = Buffer()
    assert (buffer.address, buffer.size, buffer.reserve(0)) == (0, 0, False)


@pytest.mark.parametrize(
    ("function", "ask", "said"),
    [
        ("cudaMalloc", lambda: Buffer(1).reserve(4096), "no room for 4,096 bytes on GPU 1 "),
        (
            "cudaMallocHost",
            lambda: Pinned().array((2, 512), "float32"),
            "no room for 4,096 bytes of page-locked memory ",
        ),
    ],
)
def test_memory_that_is_not_there(monkeypatch, function, ask, said):
    cudart = pytest.importorskip("cuda.bindings.runtime")
    monkeypatch.setattr(memory, "on_device", lambda ordinal: contextlib.nullcontext())
    monkeypatch.setattr(cudart, function, lambda size: (cudart.cudaError_t.cudaErrorMemoryAllocation, None))
    with pytest.raises(DeviceMemoryError, match=said):
        ask()


def test_a_buffer_is_cleared_on_the_stream_as_a_whole(monkeypatch):
    told = []
    double = SimpleNamespace(cudaMemsetAsync=lambda *given: told.append(given) or (0,))
    monkeypatch.setattr(memory, "runtime", lambda: double)
    buffer, stream = Buffer(), SimpleNamespace(handle=7)
    buffer.clear(stream)
    assert told == [], "it is empty"
    buffer.block = SimpleNamespace(address=4096, size=24)
    buffer.clear(stream)
    assert told == [(4096, 0, 24, 7)]


@pytest.mark.parametrize(
    "size", [0, 1, 1000, memory.PIECE // 4, memory.PIECE // 4 + 1, memory.PIECE, 3 * memory.PIECE + 5]
)
@pytest.mark.parametrize(("given", "read"), [("float32", "float32"), ("int64", "int32"), ("float32", "float16")])
def test_an_array_is_uploaded_whole_whatever_its_size(monkeypatch, size, given, read):
    pieces = []

    def to_host_memory(array, address, stream):
        pieces.append(array.nbytes)
        ctypes.memmove(address, array.ctypes.data, array.nbytes)

    monkeypatch.setattr(memory, "to_device", to_host_memory)
    array = (np.arange(size) % 2000).astype(given)
    staged, device = np.empty(size, read), np.full(size + 1, 77, read)
    upload(array, staged, device.ctypes.data, None)
    np.testing.assert_array_equal(device[:-1], array.astype(read))
    assert device[-1] == 77
    assert sum(pieces) == staged.nbytes
    assert max(pieces) <= memory.PIECE
    assert (len(pieces) > 1) is (staged.nbytes > memory.PIECE)


def test_when_an_upload_fails_nothing_fills_the_memory_any_more(monkeypatch):
    def fail(array, address, stream):
        raise DeviceMemoryError("no room")

    monkeypatch.setattr(memory, "to_device", fail)
    array, staged = np.ones(20 * memory.PIECE, np.int8), np.zeros(20 * memory.PIECE, np.int8)
    for _ in range(20):
        with pytest.raises(DeviceMemoryError):
            upload(array, staged, 0, None)
        staged[:] = 0
        time.sleep(0.002)
        assert not staged.any()


SQUARE = np.arange(4_000_000, dtype=np.float32).reshape(2000, 2000)


@pytest.mark.parametrize("array", [np.float32(3).reshape(()), SQUARE, SQUARE.T, SQUARE[::2]])
def test_arrays_of_any_shape_and_order_are_uploaded(monkeypatch, array):
    monkeypatch.setattr(memory, "to_device", lambda a, address, _: ctypes.memmove(address, a.ctypes.data, a.nbytes))
    device = np.empty(array.shape, array.dtype)
    upload(array, np.empty(array.shape, array.dtype), device.ctypes.data, None)
    np.testing.assert_array_equal(device, array)
