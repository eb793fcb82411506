import ctypes
import gc
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchlift.backends.cuda import HOST, DeviceArray, view
from torchlift.errors import SignatureError
from torchlift.signature import DTYPES

GPU_0 = SimpleNamespace(device=0, handle=4096)
"""The stream of a GPU, as far as it is looked at before memory is refused."""


class Owner:
    """What keeps some memory; a weak reference to it tells whether anyone still holds it."""

    def __init__(self, array):
        self.array = array


def lent(array):
    """The memory of ``array`` as it is handed out, and whether it is still kept."""
    owner = Owner(array)
    return DeviceArray(array.ctypes.data, array.shape, array.dtype, HOST, owner), weakref.ref(owner)


@pytest.mark.parametrize("shape", [(), (3,), (2, 1, 3), (2, 0, 3)])
@pytest.mark.parametrize("dtype", sorted(DTYPES))
def test_arrays_go_out_and_come_back_as_they_are(dtype, shape):
    array = np.ones(shape, dtype)
    array.ravel()[::2] = 0
    out, _ = lent(array)
    received = np.from_dlpack(out)
    assert (received.dtype, received.shape) == (array.dtype, shape)
    np.testing.assert_array_equal(received, array)
    back = view(array, None)
    assert (back.shape, back.dtype, back.device, back.nbytes) == (shape, array.dtype, HOST, array.nbytes)
    if array.size:
        assert back.address == array.ctypes.data


def test_both_see_the_same_memory():
    array = np.zeros(4, np.float32)
    received = np.from_dlpack(lent(array)[0])
    array[2] = 7
    assert received.tolist() == [0, 0, 7, 0]


def test_the_owner_is_kept_until_the_consumer_is_gone():
    out, owner = lent(np.zeros(4, np.float32))
    received = np.from_dlpack(out)
    part = received[1:3]
    del out, received
    gc.collect()
    assert owner() is not None
    del part
    gc.collect()
    assert owner() is None


def test_a_capsule_that_nobody_takes_frees_what_it_keeps():
    out, owner = lent(np.zeros(4, np.float32))
    capsule = out.__dlpack__()
    del out
    gc.collect()
    assert owner() is not None
    del capsule
    gc.collect()
    assert owner() is None


def test_a_consumer_that_refuses_a_capsule_keeps_its_own_error():
    class Elsewhere:
        def __init__(self, array):
            self.array = array

        def __dlpack_device__(self):
            return (1, 0)

        def __dlpack__(self, **options):
            return self.array.__dlpack__()

    array = np.zeros(4, np.float32)
    owner = Owner(array)
    out = DeviceArray(array.ctypes.data, (4,), array.dtype, 0, owner)
    kept, consumer = weakref.ref(owner), Elsewhere(out)
    with pytest.raises((BufferError, RuntimeError)):
        np.from_dlpack(consumer)  # the capsule says that its memory is a GPU's
    del owner, out, consumer
    gc.collect()
    assert kept() is None


def test_memory_of_a_gpu_is_announced_as_such_and_is_not_looked_into():
    array = DeviceArray(0x7F00_0000_1000, (2, 3), np.dtype(np.float16), 1, owner=None)
    assert array.__dlpack_device__() == (2, 1)
    assert array.nbytes == 12
    assert array.__cuda_array_interface__ == {
        "shape": (2, 3),
        "typestr": "<f2",
        "data": (0x7F00_0000_1000, False),
        "version": 3,
        "strides": None,
        "stream": None,
    }
    capsule = array.__dlpack__(max_version=(1, 0), dl_device=(2, 1), copy=False)
    get = ctypes.PYFUNCTYPE(ctypes.c_void_p, ctypes.py_object, ctypes.c_char_p)(
        ("PyCapsule_GetPointer", ctypes.pythonapi)
    )
    # DLTensor of dlpack.h: data, device type, device, dimensions, then code, bits and lanes of the dtype
    start = get(capsule, b"dltensor")
    assert ctypes.c_uint64.from_address(start).value == array.address
    assert tuple((ctypes.c_int32 * 3).from_address(start + 8)) == (2, 1, 2)
    assert tuple((ctypes.c_uint8 * 4).from_address(start + 20)) == (2, 16, 1, 0)


def test_memory_of_the_host_has_no_cuda_array_interface():
    assert not hasattr(lent(np.zeros(3, np.float32))[0], "__cuda_array_interface__")


@pytest.mark.parametrize("asked", [{"copy": True}, {"dl_device": (2, 0)}])
def test_copies_are_refused_as_the_protocol_asks(asked):
    with pytest.raises(BufferError, match="an array in the host's memory is handed over as it is, never copied"):
        lent(np.zeros(3, np.float32))[0].__dlpack__(**asked)


def test_a_view_keeps_the_memory():
    array = np.arange(6, dtype=np.int64)
    seen, kept = view(array, None), weakref.ref(array)
    del array
    gc.collect()
    assert kept() is not None
    assert list((ctypes.c_int64 * 6).from_address(seen.address)) == [0, 1, 2, 3, 4, 5]
    del seen
    gc.collect()
    assert kept() is None


def test_a_view_begins_where_the_tensor_does():
    array = np.arange(6, dtype=np.float32)
    assert view(array[2:], None).address == array.ctypes.data + 8


@given(st.permutations([0, 1, 2]), st.tuples(*[st.integers(0, 3)] * 3), st.tuples(*[st.integers(1, 2)] * 3))
def test_exactly_what_lies_in_c_order_is_taken(order, shape, steps):
    array = np.zeros(shape, np.float32)[tuple(slice(None, None, step) for step in steps)].transpose(order)
    if array.flags.c_contiguous:
        assert view(array, None).shape == array.shape
    else:
        with pytest.raises(SignatureError, match="does not lie in C order") as caught:
            view(array, None)
        assert caught.value.remedy == "Make it contiguous, as by tensor.contiguous()."


def test_a_dtype_of_no_signature_is_refused():
    with pytest.raises(SignatureError, match="DLPack's code 5 with 64 bits and 1 lanes, is of no signature") as caught:
        view(np.zeros(3, np.complex64), None)
    assert caught.value.remedy.startswith("Convert it to one of bool, float16,")


def test_a_tensor_on_the_host_goes_to_run():
    with pytest.raises(SignatureError, match=r"the tensor lies in the host's memory, not in GPU 0") as caught:
        view(np.zeros(3, np.float32), GPU_0)
    assert caught.value.remedy == "Pass it to run(), which copies it."


@pytest.mark.parametrize(
    ("place", "stream", "said", "remedy"),
    [
        ((2, 1), GPU_0, "lies in GPU 1, not in GPU 0", "Copy it to GPU 0."),
        ((2, 0), None, "lies in GPU 0, not in the host's memory", "Copy it to the host's memory."),
        ((3, 0), GPU_0, "lies in page-locked memory of the host, not in GPU 0", "Pass it to run(), which copies it."),
        ((13, 0), GPU_0, "lies in managed memory, not in GPU 0", "Copy it to GPU 0."),
        ((7, 0), GPU_0, "lies in a device of DLPack's type 7, not in GPU 0", "Copy it to GPU 0."),
    ],
)
def test_memory_of_another_device_is_refused(place, stream, said, remedy):
    tensor = SimpleNamespace(__dlpack__=None, __dlpack_device__=lambda: place)
    with pytest.raises(SignatureError, match=said) as caught:
        view(tensor, stream)
    assert caught.value.remedy == remedy


def test_what_speaks_no_protocol_is_named():
    with pytest.raises(SignatureError, match=r"a builtins\.list has neither __dlpack__ nor __cuda_array_int") as caught:
        view([1.0], None)
    assert caught.value.remedy == "Pass a tensor of torch or CuPy, or arrays of NumPy to run()."


@pytest.mark.parametrize("give", [lambda **_: "no capsule", lambda **_: lent(np.zeros(3))[0].__dlpack__(copy=True)])
def test_a_tensor_that_does_not_give_its_memory(give):
    tensor = SimpleNamespace(__dlpack__=give, __dlpack_device__=lambda: (1, 0))
    with pytest.raises(SignatureError, match=r"the types\.SimpleNamespace does not give its memory: ") as caught:
        view(tensor, None)
    assert caught.value.remedy == "Pass a dense tensor without a gradient, as of detach()."


@pytest.mark.parametrize(
    ("changed", "said", "remedy"),
    [
        ({"typestr": "|V2"}, r"the tensor's dtype, \|V2, is of no signature", "Convert it to one of bool, "),
        ({"mask": object()}, "the tensor has a mask", "Pass its values, filled in, without one."),
        ({"strides": (4, 8)}, r"shape \(2, 3\) and strides \(4, 8\), in bytes, does not", "Make it contiguous, "),
    ],
)
def test_a_cuda_array_interface_that_is_refused(changed, said, remedy):
    interface = {"shape": (2, 3), "typestr": "<f4", "data": (4096, False), "version": 3, **changed}
    with pytest.raises(SignatureError, match=said) as caught:
        view(SimpleNamespace(__cuda_array_interface__=interface), GPU_0)
    assert caught.value.remedy.startswith(remedy)


def test_python_ends_while_consumers_hold_memory(python):
    done = python(
        "import sys, numpy as np\n"
        "from torchlift.backends.cuda import HOST, DeviceArray, view\n"
        "array = np.zeros(4, np.float32)\n"
        "sys.kept = np.from_dlpack(DeviceArray(array.ctypes.data, (4,), array.dtype, HOST, array))\n"
        "sys.seen = view(array, None), DeviceArray(array.ctypes.data, (4,), array.dtype, HOST, array).__dlpack__()\n"
    )
    assert (done.returncode, done.stderr) == (0, "")


def test_torch_takes_and_gives_memory_of_the_host():
    torch = pytest.importorskip("torch")
    out, owner = lent(np.arange(6, dtype=np.float32).reshape(2, 3))
    received = torch.from_dlpack(out)
    received += 1
    assert np.from_dlpack(out).tolist() == [[1, 2, 3], [4, 5, 6]]
    assert view(received, None).address == out.address
    del out, received
    gc.collect()
    assert owner() is None


def test_a_tensor_with_a_gradient_is_refused_in_words():
    torch = pytest.importorskip("torch")
    with pytest.raises(SignatureError, match=r"the torch\.Tensor does not give its memory: .*gradient"):
        view(torch.zeros(3, requires_grad=True), None)
