import contextlib
import ctypes
from types import SimpleNamespace

import numpy as np
import pytest

from torchlift.backends.cuda import Buffer, Pinned, memory, to_device, to_host, upload
from torchlift.backends.staging import PIECE
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
    buffer.reserve(0)
    assert (buffer.address, buffer.size) == (0, 0)


def test_a_buffer_that_grows_lets_go_of_its_memory_before_it_asks_for_more(monkeypatch):
    alive = 0

    class Block:
        def __init__(self, size, device):
            nonlocal alive
            assert alive == 0, "both together may not fit"
            self.address, self.size, alive = 4096, size, 1

        def __del__(self):
            nonlocal alive
            alive = 0

    monkeypatch.setattr(memory, "Block", Block)
    buffer = Buffer()
    buffer.reserve(8)
    first = buffer.block
    buffer.reserve(5)
    assert buffer.block is first
    del first
    buffer.reserve(9)
    assert (buffer.size, alive) == (9, 1)


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


@pytest.mark.parametrize("size", [0, 5, 3 * PIECE + 5])
def test_an_array_is_uploaded_whole_to_where_it_shall_lie(monkeypatch, size):
    monkeypatch.setattr(memory, "to_device", lambda a, address, _: ctypes.memmove(address, a.ctypes.data, a.nbytes))
    array, device = np.arange(size) % 2000, np.full(size + 1, 77, np.int32)
    upload(array, np.empty(size, np.int32), device.ctypes.data, None)
    np.testing.assert_array_equal(device[:-1], array)
    assert device[-1] == 77
