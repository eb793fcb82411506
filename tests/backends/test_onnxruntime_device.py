"""The session for a GPU with the host's memory in the place of the GPU's: ONNX Runtime binds and runs for real."""

import contextlib
import ctypes
import gc
import threading
import weakref

import numpy as np
import onnx
import onnxruntime as ort
import pytest
import tiny
from onnx import parser
from sharing import assert_shared, in_thread

from torchlift.backends import SessionOptions, cuda
from torchlift.backends.onnxruntime import session as module
from torchlift.backends.turns import GPUS
from torchlift.errors import BackendError, DeviceMemoryError, SignatureError
from torchlift.signature import Axis, Signature, TensorSpec


class HostStream:
    device, handle = 0, 0

    def __init__(self):
        self.waited = self.closed = 0

    def synchronize(self):
        assert CURRENT == [0]
        self.waited += 1

    def drain(self):
        assert CURRENT == [0]
        self.waited += 1

    def close(self):
        assert CURRENT == [0]
        self.closed += 1


class HostTimer:
    def __init__(self, stream):
        self.started = 0

    def start(self):
        assert CURRENT == [0], "a session makes its GPU the current one"
        self.started += 1

    def stop(self):
        return float(self.started)

    def close(self):
        pass


class HostBlock:
    def __init__(self, size):
        self.memory = ctypes.create_string_buffer(size + 64)
        self.address = (ctypes.addressof(self.memory) + 63) // 64 * 64


class HostBuffer:
    def __init__(self, device):
        self.block = None

    @property
    def address(self):
        return self.block.address

    def reserve(self, size):
        self.block = HostBlock(size)


class HostPinned:
    def __init__(self, device):
        pass

    def array(self, shape, dtype):
        return np.full(shape, 77, dtype)


CURRENT = []
"""The devices that were made the current one, the last one last."""


@contextlib.contextmanager
def on_device(ordinal):
    CURRENT.append(ordinal)
    try:
        yield
    finally:
        CURRENT.pop()


def viewed(tensor, stream):
    assert CURRENT == [0]
    return cuda.view(tensor, None)


@pytest.fixture
def host(monkeypatch):
    """The host's memory in the place of the GPU's."""
    doubles = {
        "Buffer": HostBuffer,
        "Pinned": HostPinned,
        "Timer": HostTimer,
        "to_host": lambda address, array, stream: ctypes.memmove(array.ctypes.data, address, array.nbytes),
        "within_device": lambda source, target, size, stream: ctypes.memmove(target, source, size),
        "view": viewed,
        "on_device": on_device,
    }
    for name, double in doubles.items():
        monkeypatch.setattr(module, name, double)
    monkeypatch.setattr(
        cuda.memory, "to_device", lambda a, address, _: ctypes.memmove(address, a.ctypes.data, a.nbytes)
    )
    monkeypatch.setattr(module.DeviceSession, "device_type", "cpu")


def opened(model=None, signature=tiny.SIGNATURE, **options):
    content = (model or tiny.model()).SerializeToString()
    runtime = ort.InferenceSession(content, providers=["CPUExecutionProvider"])
    return module.DeviceSession(runtime, signature, "here", HostStream(), SessionOptions(**options))


@pytest.fixture
def session(host):
    with opened() as found:
        yield found


def graphs(session):
    """The number of the CUDA graph of each shape's batch that the session has bound."""
    bounds = {**session._recorded, **session._others}
    return {key[0][0]: int(bound.how.get_run_config_entry("gpu_graph_id")) for key, bound in bounds.items()}


@pytest.mark.parametrize("rows", [1, 4, 8])
def test_its_answer_is_that_of_numpy(session, rows):
    for seed in range(3):
        x = tiny.sample(rows, seed)
        np.testing.assert_allclose(session.run({"x": x})["y"], tiny.answer(x), rtol=1e-5, atol=1e-5)


def test_answers_stay_as_they_were_and_inputs_may_lie_anyhow(session):
    x = tiny.sample(8)
    first = session.run({"x": x[::-1]})["y"]
    session.run({"x": tiny.sample(8, 5)})
    np.testing.assert_allclose(first, tiny.answer(x[::-1]), rtol=1e-5, atol=1e-5)


def test_the_host_does_not_wait_for_the_device_before_it_must(session):
    session.run({"x": tiny.sample(2)})
    bound = next(iter(session._others.values()))
    assert bound.how.get_run_config_entry("disable_synchronize_execution_providers") == "1"
    assert session._stream.waited == 1


def test_one_shape_is_bound_once_and_the_last_ones_are_kept(host, monkeypatch):
    made = []
    bind = module.DeviceSession._bind
    monkeypatch.setattr(module.DeviceSession, "_bind", lambda self, *given: made.append(given) or bind(self, *given))
    with opened(graphs=2) as session:
        for rows in (1, 2, 1, 3, 1, 2):
            session.run({"x": tiny.sample(rows)})
        assert [feeds["x"].shape[0] for feeds, _ in made] == [1, 2, 3, 2]
        assert [key[0][0] for key in session._others] == [1, 2]


def test_a_prepared_call_tells_the_time_and_keeps_its_inputs_through_other_runs(session):
    x = tiny.sample(4)
    call = session.prepare({"x": x})
    bound = next(iter(session._others.values()))
    read = lambda: session._fetch(bound, tiny.SIGNATURE.outputs[0])  # noqa: E731
    assert [call(), call()] == [1.0, 2.0]
    np.testing.assert_allclose(read(), tiny.answer(x), rtol=1e-5, atol=1e-5)
    session.run({"x": tiny.sample(4, 9)})
    call()
    np.testing.assert_allclose(read(), tiny.answer(x), rtol=1e-5, atol=1e-5)


def test_a_prepared_call_copies_its_inputs_once(session, monkeypatch):
    copies = []
    load = module.DeviceSession._load
    monkeypatch.setattr(module.DeviceSession, "_load", lambda self, *given: copies.append(1) or load(self, *given))
    calls = [session.prepare({"x": tiny.sample(4, seed)}) for seed in (1, 2)]
    for call in (calls[0], calls[0], calls[1], calls[1], calls[0]):
        call()
    assert len(copies) == 3


def test_a_call_with_copies_brings_the_answer_back(session):
    call = session.prepare({"x": tiny.sample(4)}, copies=True)
    waited = session._stream.waited
    assert call() is None
    assert session._stream.waited == waited + 1


def test_the_first_shapes_are_recorded_and_further_ones_run_without_a_graph(host):
    with opened(cuda_graph=True, graphs=2) as session:
        for rows in (4, 1, 2, 3, 1, 4, 2):
            x = tiny.sample(rows, rows)
            np.testing.assert_allclose(session.run({"x": x})["y"], tiny.answer(x), rtol=1e-5, atol=1e-5)
        assert graphs(session) == {4: 1, 1: 2, 2: -1, 3: -1}


def test_without_cuda_graphs_none_is_asked_for(session):
    session.run({"x": tiny.sample(2)})
    with pytest.raises(RuntimeError):
        graphs(session)


COMPUTED = Signature(tiny.SIGNATURE.inputs, (TensorSpec("y", "float32", ("batch", None)),), tiny.SIGNATURE.axes)


def test_an_output_of_computed_size_is_placed_by_the_runtime_and_never_recorded(host):
    with opened(signature=COMPUTED, cuda_graph=True) as session:
        for rows in (1, 4):
            x = tiny.sample(rows, rows)
            np.testing.assert_allclose(session.run({"x": x})["y"], tiny.answer(x), rtol=1e-5, atol=1e-5)
        assert graphs(session) == {1: -1, 4: -1}


@pytest.mark.parametrize("signature", [tiny.SIGNATURE, COMPUTED])
def test_tensors_of_the_device_are_run_there_and_answers_stay_there(host, signature):
    with opened(signature=signature) as session:
        x = tiny.sample(4)
        answer = session.run_on_device({"x": x})["y"]
        assert (answer.shape, answer.dtype, answer.device) == ((4, tiny.OUTPUTS), np.dtype("float32"), 0)
        found = np.empty(answer.shape, answer.dtype)
        ctypes.memmove(found.ctypes.data, answer.address, answer.nbytes)
        np.testing.assert_allclose(found, tiny.answer(x), rtol=1e-5, atol=1e-5)


def test_a_tensor_on_the_device_is_kept_until_the_next_call(session):
    x = tiny.sample(4)
    alive = weakref.ref(x)
    session.run_on_device({"x": x})
    del x
    gc.collect()
    assert alive() is not None
    session.run_on_device({"x": tiny.sample(4)})
    gc.collect()
    assert alive() is None


@pytest.mark.parametrize("wrong", [np.zeros((1, 31), np.float32), np.zeros((1, 32))])
def test_tensors_that_do_not_fit_are_refused(session, wrong):
    with pytest.raises(SignatureError, match="input x is"):
        session.run_on_device({"x": wrong})


def huge():
    """A model that fills as much memory as its input says."""
    text = (
        '<ir_version: 8, opset_import: ["" : 20]> g (int64[n] x) => (float[k,l] y) '
        "{ z = ConstantOfShape(x) y = Flatten <axis = 0> (z) }"
    )
    axes = (Axis("n", 1, 2, 2),)
    return parser.parse_model(text), Signature(
        (TensorSpec("x", "int64", ("n",)),), (TensorSpec("y", "float32", (None, None)),), axes
    )


def test_where_there_is_no_room_it_is_said(host):
    model, signature = huge()
    with opened(model, signature) as session:
        assert session.run({"x": np.array([2, 3])})["y"].shape == (1, 6)
        with pytest.raises(DeviceMemoryError, match=r"no room on the GPU: .*Failed to allocate memory") as caught:
            session.run({"x": np.array([1 << 24, 1 << 24])})
        assert caught.value.remedy.startswith("Run smaller batches")


def test_a_run_that_fails_is_said_with_the_runtimes_words(host):
    model, signature = huge()
    with opened(model, signature) as session, pytest.raises(BackendError, match="ONNX Runtime failed: ") as caught:
        session.run({"x": np.array([-5, 3])})
    assert not isinstance(caught.value, DeviceMemoryError)
    assert caught.value.remedy == "Check that the model was built for this GPU."


def test_it_frees_its_memory_and_its_stream_when_it_is_closed(host):
    session = opened(cuda_graph=True, graphs=1)
    for rows in (1, 2):
        session.run({"x": tiny.sample(rows)})
    bounds = [*session._recorded.values(), *session._others.values()]
    blocks = [weakref.ref(bound.inputs["x"].block) for bound in bounds]
    del bounds
    session.close()
    gc.collect()
    assert [block() for block in blocks] == [None, None]
    assert session._stream.closed == 1


def test_half_precision_and_integers_are_bound_as_they_are(host):
    text = (
        '<ir_version: 8, opset_import: ["" : 20]> g (float16[n] x, int64[n] k, bool[n] m) => (float16[n] y, bool[n] z) '
        "{ f = Cast <to = 10> (k) y = Mul(x, f) z = Not(m) }"
    )
    signature = Signature(
        tuple(TensorSpec(name, dtype, ("n",)) for name, dtype in (("x", "float16"), ("k", "int64"), ("m", "bool"))),
        tuple(TensorSpec(name, dtype, ("n",)) for name, dtype in (("y", "float16"), ("z", "bool"))),
        (Axis("n", 1, 2, 5),),
    )
    model = parser.parse_model(text)
    onnx.checker.check_model(model)
    with opened(model, signature) as session:
        feeds = {"x": np.array([1, 2.5], np.float16), "k": np.array([3, -2]), "m": np.array([True, False])}
        found = session.run(feeds)
    assert found["y"].dtype == np.float16
    assert found["y"].tolist() == [3, -5]
    assert found["z"].tolist() == [False, True]


@pytest.mark.parametrize("options", [{}, {"cuda_graph": True, "graphs": 2}])
def test_each_thread_gets_the_answers_to_its_own_inputs(host, options):
    with opened(**options) as session:
        assert_shared([session], [{"x": tiny.sample(1 + i // 4, seed=i)} for i in range(16)])


@pytest.fixture
def ran(monkeypatch):
    """In which thread ONNX Runtime ran, and whether everything else was kept from the GPU, for each run."""
    runs = []
    run = ort.InferenceSession.run_with_iobinding

    def watched(self, *given):
        runs.append((threading.current_thread(), GPUS._someone_alone))
        return run(self, *given)

    monkeypatch.setattr(ort.InferenceSession, "run_with_iobinding", watched)
    return runs


def test_what_records_runs_in_the_first_thread_and_once_there_are_more_in_one_of_its_own(host, ran):
    with opened(cuda_graph=True) as session:
        call = session.prepare({"x": tiny.sample(2)})
        uses = [call, lambda: session.run({"x": tiny.sample(2)}), lambda: session.run_on_device({"x": tiny.sample(2)})]
        for use in uses:
            use()
        assert {thread for thread, _ in ran} == {threading.current_thread()}
        ran.clear()
        for _ in range(2):
            for use in uses:
                in_thread(use).result(20)
                use()
        (own,) = {thread for thread, _ in ran}
        assert own is not threading.current_thread()
    own.join(20)
    assert not own.is_alive(), "it ends with the session"


def test_what_records_nothing_runs_in_the_thread_that_calls(session, ran):
    def run():
        session.run({"x": tiny.sample(2)})
        return threading.current_thread()

    callers = [in_thread(run).result(20) for _ in range(2)]
    assert [thread for thread, _ in ran] == callers


def test_a_graph_is_recorded_alone_and_for_another_thread_again(host, ran):
    with opened(cuda_graph=True, graphs=1) as session:
        for rows in (2, 2, 3, 2):
            session.run({"x": tiny.sample(rows)})
        assert [alone for _, alone in ran] == [True, False, False, False]
        ran.clear()
        for rows in (2, 3, 2):
            in_thread(session.run, {"x": tiny.sample(rows)}).result(20)
        assert [alone for _, alone in ran] == [True, False, False]


def test_it_waits_for_what_was_given_to_the_device_before_it_is_closed(host):
    session = opened()
    session.run_on_device({"x": tiny.sample(2)})
    waited = session._stream.waited
    session.close()
    assert session._stream.waited > waited
