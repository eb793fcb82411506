"""What needs a GPU, cuda-bindings and NumPy; with torch where it is installed."""

import gc
import threading
import time

import numpy as np
import pytest

from torchlift.backends.cuda import (
    Buffer,
    DeviceArray,
    Event,
    Pinned,
    RecordingCache,
    Stream,
    Timer,
    capture,
    check,
    cuda_available,
    devices,
    on_device,
    to_device,
    to_host,
    upload,
    view,
    within_device,
)
from torchlift.backends.staging import PIECE
from torchlift.errors import BackendError, BackendUnavailableError, DeviceMemoryError, SignatureError

STATE = cuda_available()
pytestmark = [pytest.mark.gpu, pytest.mark.skipif(not STATE.ok, reason=STATE.detail)]

MEGABYTE = 1 << 20
TERABYTE = 1 << 40


@pytest.fixture
def stream():
    with_work = Stream()
    yield with_work
    with_work.close()


@pytest.fixture
def torch():
    module = pytest.importorskip("torch")
    if not module.cuda.is_available():
        pytest.skip("this torch has no CUDA")
    return module


def filled(array, stream):
    """A buffer with the values of an array."""
    buffer = Buffer()
    buffer.reserve(array.nbytes)
    to_device(array, buffer.address, stream)
    stream.synchronize()
    return buffer


def values(address, shape, dtype, stream):
    array = np.empty(shape, dtype)
    to_host(address, array, stream)
    stream.synchronize()
    return array


def described(buffer, array, stream=None):
    return DeviceArray(buffer.address, array.shape, array.dtype, 0, buffer.block, stream)


def free():
    from cuda.bindings import runtime

    return check(runtime.cudaMemGetInfo())[0]


def busy(stream, copies=200):
    """Some milliseconds of work; returns what it writes to."""
    block = Buffer()
    block.reserve(512 * MEGABYTE)
    for _ in range(copies):
        within_device(block.address, block.address + 256 * MEGABYTE, 256 * MEGABYTE, stream)
    return block


def test_cuda_is_available_and_says_what_is_there():
    assert STATE.detail.startswith("cuda-bindings ")
    assert devices() >= 1


def test_the_device_is_current_in_the_block_and_not_after():
    from cuda.bindings import driver, runtime

    last = devices() - 1
    before = int(check(driver.cuCtxGetCurrent()))
    with on_device(last):
        assert check(runtime.cudaGetDevice()) == last
        with pytest.raises(ZeroDivisionError), on_device(0):
            1 / 0  # noqa: B018
        assert check(runtime.cudaGetDevice()) == last
    assert int(check(driver.cuCtxGetCurrent())) == before


def test_a_thread_that_never_used_a_gpu_can_use_one():
    found = []

    def work():
        own = Stream()
        buffer = filled(np.arange(3), own)
        found.append(values(buffer.address, 3, np.int64, own).tolist())

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert found == [[0, 1, 2]]


def test_there_is_no_gpu_beyond_the_last():
    with pytest.raises(BackendUnavailableError, match=f"there is no GPU {devices()} among the {devices()} "):
        Stream(devices())


def test_an_error_of_the_driver_has_its_name_and_description():
    from cuda.bindings import driver

    with pytest.raises(BackendError, match="CUDA failed with CUDA_ERROR_INVALID_DEVICE: invalid device ordinal"):
        check(driver.cuDeviceGet(4096))


def test_a_buffer_grows_and_moves_only_where_it_must():
    buffer = Buffer()
    buffer.reserve(MEGABYTE)
    address = buffer.address
    assert address
    assert buffer.size == MEGABYTE
    buffer.reserve(MEGABYTE // 2)
    assert (buffer.address, buffer.size) == (address, MEGABYTE)
    buffer.reserve(512 * MEGABYTE)
    assert buffer.size == 512 * MEGABYTE
    buffer.close()
    assert (buffer.address, buffer.size) == (0, 0)


def test_closing_and_growing_give_memory_back():
    with on_device(0):
        before, buffer = free(), Buffer()
        buffer.reserve(512 * MEGABYTE)
        assert before - free() >= 512 * MEGABYTE
        buffer.reserve(1024 * MEGABYTE)
        assert before - free() < 1536 * MEGABYTE
        buffer.close()
        assert before - free() < 64 * MEGABYTE


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "bool"])
def test_copies_there_within_and_back(stream, dtype):
    array = (np.arange(6).reshape(2, 3) % 4).astype(dtype)
    source, target = filled(array, stream), Buffer()
    target.reserve(array.nbytes)
    within_device(source.address, target.address, array.nbytes, stream)
    np.testing.assert_array_equal(values(target.address, array.shape, dtype, stream), array)


@pytest.mark.parametrize("size", [1, PIECE // 4, PIECE // 4 + 1, 20 * PIECE + 3])
def test_an_array_of_the_host_is_uploaded_whole(stream, size):
    array, pinned, buffer = np.arange(size, dtype=np.int64), Pinned(), Buffer()
    staged = pinned.array(array.shape, np.int32)
    buffer.reserve(staged.nbytes)
    for turn in range(3):
        upload(array + turn, staged, buffer.address, stream)
        np.testing.assert_array_equal(values(buffer.address, array.shape, np.int32, stream), array + turn)


def test_an_array_without_elements_is_copied_too(stream):
    to_device(np.empty((0, 3), np.float32), 0, stream)
    assert values(0, (0, 3), np.float32, stream).shape == (0, 3)


def test_pinned_memory_is_page_locked_and_grows():
    from cuda.bindings import runtime

    pinned = Pinned()
    first = pinned.array((2, 3), np.float32)
    first[:] = 7
    attributes = check(runtime.cudaPointerGetAttributes(first.ctypes.data))
    assert attributes.type == runtime.cudaMemoryType.cudaMemoryTypeHost
    again = pinned.array((6,), "float32")
    assert again.tolist() == [7] * 6
    assert again.ctypes.data == first.ctypes.data
    pinned.array((MEGABYTE,), np.float32)[:] = 9
    pinned.close()
    assert first.tolist() == [[7] * 3] * 2, "an array keeps the memory that it lies in"


def test_a_timer_tells_how_long_the_work_took(stream):
    timer = Timer(stream)
    timer.start()
    began = time.perf_counter()
    block = busy(stream)
    took = timer.stop()
    assert 0 < took <= time.perf_counter() - began + 1e-3
    timer.start()
    within_device(block.address, block.address + MEGABYTE, 4, stream)
    assert 0 < timer.stop() < took
    timer.close()


def test_events_without_timing_tell_no_time(stream):
    first, last = Event(), Event()
    first.record(stream.handle)
    last.record(stream.handle)
    with pytest.raises(BackendError, match="cudaErrorInvalidResourceHandle"):
        last.since(first)


def test_a_graph_does_nothing_when_recorded_and_all_when_launched(stream):
    pinned, out = Pinned(), Pinned()
    given, taken = pinned.array((4,), np.float32), out.array((4,), np.float32)
    given[:], taken[:] = 1, 0
    source, target = filled(given, stream), filled(taken, stream)

    def work():
        to_device(given, source.address, stream)
        within_device(source.address, target.address, given.nbytes, stream)
        to_host(target.address, taken, stream)

    graph = capture(stream, work)
    stream.synchronize()
    assert taken.tolist() == [0] * 4
    for number in (3, 5):
        given[:] = number
        graph.launch(stream)
        stream.synchronize()
        assert taken.tolist() == [number] * 4
    graph.close()
    with pytest.raises(BackendError, match="CUDA failed with cudaError"):
        graph.launch(stream)


def test_what_cannot_be_recorded_is_refused_and_the_stream_goes_on(stream):
    buffer = filled(np.arange(3), stream)

    def waits():
        within_device(buffer.address, buffer.address + 8, 8, stream)
        stream.synchronize()

    def fails():
        within_device(buffer.address, buffer.address + 8, 8, stream)
        raise ValueError("not today")

    def refuses():
        raise SignatureError("wrong shape")

    for work, said in (
        (waits, "no CUDA graph could be recorded: CUDA failed with cudaErrorStreamCapture"),
        (fails, "no CUDA graph could be recorded: ValueError: not today"),
        (refuses, "no CUDA graph could be recorded: wrong shape"),
    ):
        with pytest.raises(BackendError, match=said) as caught:
            capture(stream, work)
        assert caught.value.remedy == "Open the session without CUDA graphs."
        assert values(buffer.address, 3, np.int64, stream).tolist() == [0, 1, 2]
    capture(stream, lambda: within_device(buffer.address, buffer.address + 8, 8, stream)).launch(stream)
    assert values(buffer.address, 3, np.int64, stream).tolist() == [0, 0, 2]


def test_other_threads_may_allocate_while_a_graph_is_recorded(stream):
    buffer, other = filled(np.arange(3), stream), Buffer()

    def work():
        within_device(buffer.address, buffer.address + 8, 8, stream)
        thread = threading.Thread(target=other.reserve, args=(64 * MEGABYTE,))
        thread.start()
        thread.join()

    capture(stream, work).close()
    assert other.size == 64 * MEGABYTE


def test_a_cache_holds_real_graphs(stream):
    buffer, cache = filled(np.arange(4), stream), RecordingCache(2)
    for key in range(3):
        offset = 8 * (key + 1)
        cache.put(key, capture(stream, lambda to=offset: within_device(buffer.address, buffer.address + to, 8, stream)))
    assert cache.get(0) is None
    cache.get(2).launch(stream)
    assert values(buffer.address, 4, np.int64, stream).tolist() == [0, 1, 2, 0]
    cache.clear()


def test_out_of_memory_is_an_error_that_the_device_survives(stream):
    buffer = filled(np.arange(3), stream)
    with pytest.raises(DeviceMemoryError, match=r"no room for 1,099,511,627,776 bytes on GPU 0 \(cudaErrorMemoryAll"):
        Buffer().reserve(TERABYTE)
    assert values(buffer.address, 3, np.int64, stream).tolist() == [0, 1, 2]
    with pytest.raises(DeviceMemoryError):
        buffer.reserve(TERABYTE)
    assert (buffer.address, buffer.size) == (0, 0)
    buffer.reserve(64)
    assert buffer.size == 64


class Interface:
    """A tensor that speaks no DLPack."""

    def __init__(self, **interface):
        self.__cuda_array_interface__ = interface


def test_a_cuda_array_interface_is_read(stream):
    array = np.arange(6, dtype=np.float32).reshape(2, 3)
    buffer, new, writer = filled(array, stream), filled(array + 1, stream), Stream()
    busy_with = busy(writer)
    within_device(new.address, buffer.address, array.nbytes, writer)
    tensor = Interface(**described(buffer, array, writer).__cuda_array_interface__)
    seen = view(tensor, stream)
    assert (seen.address, seen.shape, seen.dtype, seen.device) == (buffer.address, (2, 3), array.dtype, 0)
    np.testing.assert_array_equal(values(seen.address, (2, 3), np.float32, stream), array + 1)
    assert busy_with.size
    writer.close()


def test_a_cuda_array_interface_of_the_host_is_refused(stream):
    pinned = Pinned().array((3,), np.float32)
    for array, place in ((pinned, "page-locked memory of the host"), (np.zeros(3, np.float32), "the host's memory")):
        tensor = Interface(shape=(3,), typestr="<f4", data=(array.ctypes.data, False), version=3)
        with pytest.raises(SignatureError, match=f"the tensor lies in {place}, not in GPU 0"):
            view(tensor, stream)


def test_views_of_the_packages_own_arrays(stream):
    array = np.arange(6, dtype=np.int32)
    buffer = filled(array, stream)
    seen = view(described(buffer, array), stream)
    buffer.close()
    gc.collect()
    assert values(seen.address, 6, np.int32, stream).tolist() == list(range(6)), "the view keeps the block"


@pytest.mark.parametrize("dtype", ["float32", "float16", "int64", "bool"])
def test_torch_takes_and_gives_memory(torch, stream, dtype):
    array = (np.arange(6).reshape(2, 3) % 2).astype(dtype)
    buffer = filled(array, stream)
    address = buffer.address
    tensor = torch.from_dlpack(described(buffer, array))
    buffer.close()
    gc.collect()
    assert tensor.data_ptr() == address
    assert tensor.device == torch.device("cuda", 0)
    np.testing.assert_array_equal(tensor.cpu().numpy(), array)
    seen = view(tensor, stream)
    assert (seen.address, seen.shape, seen.dtype) == (address, (2, 3), array.dtype)
    del tensor
    gc.collect()
    np.testing.assert_array_equal(values(seen.address, (2, 3), dtype, stream), array)


def test_the_block_is_freed_when_torch_lets_go(torch, stream):
    array, buffer = np.zeros(512 * MEGABYTE, np.uint8), Buffer()
    with on_device(0):
        before = free()
        buffer.reserve(array.nbytes)
        tensor = torch.from_dlpack(described(buffer, array))
        buffer.close()
        assert before - free() >= array.nbytes
        del tensor
        gc.collect()
        assert before - free() < 256 * MEGABYTE


def test_torch_waits_for_the_stream_that_writes(torch, stream):
    array = np.arange(4, dtype=np.float32)
    buffer = filled(np.zeros(4, np.float32), stream)
    new = filled(array, stream)
    busy_with = busy(stream)
    within_device(new.address, buffer.address, array.nbytes, stream)
    tensor = torch.from_dlpack(described(buffer, array, stream))
    assert (tensor + 0).tolist() == array.tolist()
    assert busy_with.size


def test_the_stream_waits_for_torch(torch, stream):
    big = torch.randn(8192, 8192, device="cuda")
    tensor = torch.zeros(4, device="cuda")
    torch.cuda.synchronize()
    for _ in range(10):
        big = (big @ big).clamp(-1, 1)
    tensor += 3
    assert values(view(tensor, stream).address, (4,), np.float32, stream).tolist() == [3] * 4


def test_torch_tensors_that_are_refused(torch, stream):
    for tensor, said in (
        (torch.zeros(3), "the tensor lies in the host's memory, not in GPU 0"),
        (torch.zeros(2, 3, device="cuda").T, "does not lie in C order"),
        (torch.zeros(3, device="cuda", dtype=torch.bfloat16), "is of no signature"),
        (torch.zeros(3, device="cuda", requires_grad=True), "does not give its memory"),
    ):
        with pytest.raises(SignatureError, match=said):
            view(tensor, stream)
