"""Lanes and prepared calls of TensorRT, with the host's memory in the place of the GPU's: an engine that tells what it
read, and fails where it is told to."""

import contextlib
import ctypes
import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import tiny

from torchlift.backends import SessionOptions, cuda
from torchlift.backends.tensorrt import engines as engines_module
from torchlift.backends.tensorrt import lane
from torchlift.backends.tensorrt import session as module
from torchlift.backends.tensorrt.engines import Engines as RealEngines
from torchlift.backends.turns import GPUS
from torchlift.errors import BackendError, DeviceMemoryError, ProfileError
from torchlift.signature import Axis

FLOAT = SimpleNamespace(name="FLOAT")
INPUT, OUTPUT = "an input", "an output"


class Buffer:
    """Memory that holds anything but zeros at first."""

    def __init__(self, device):
        self.block, self.size, self.closed = None, 0, False

    @property
    def address(self):
        return ctypes.addressof(self.block)

    def reserve(self, size):
        if size > self.size:
            self.block, self.size = ctypes.create_string_buffer(b"\xff" * size, size), size

    def clear(self, stream):
        ctypes.memset(self.address, 0, self.size)

    def close(self):
        self.closed = True


class Context:
    """Runs by writing down what lies at the input's address."""

    def __init__(self, engine):
        self.engine, self.shape, self.at = engine, None, {}

    def set_optimization_profile_async(self, profile, stream):
        return self.engine.fails != "profile"

    def set_input_shape(self, name, shape):
        self.shape = shape
        return self.engine.fails != "shape"

    def set_tensor_address(self, name, address):
        self.at[name] = address

    def get_tensor_shape(self, name):
        return self.shape if name == "x" else (self.shape[0], tiny.OUTPUTS)

    def execute_async_v3(self, stream):
        read = np.empty(self.shape, np.float32)
        ctypes.memmove(read.ctypes.data, self.at["x"], read.nbytes)
        self.engine.read.append(read)
        return self.engine.fails != "run"


class Engine:
    num_io_tensors, num_layers = 2, 0

    def __init__(self, fails="", kind=FLOAT):
        self.fails, self.kind, self.read = fails, kind, []

    def create_execution_context(self):
        return None if self.fails == "context" else Context(self)

    def create_engine_inspector(self):
        return SimpleNamespace()

    def get_tensor_name(self, index):
        return ("x", "y")[index]

    def get_tensor_dtype(self, name):
        return self.kind

    def get_tensor_mode(self, name):
        return INPUT if name == "x" else OUTPUT


class Engines:
    """One engine; counts how many use it."""

    def __init__(self, engine):
        self.engine, self.taken = engine, 0

    def take(self, profile):
        self.taken += 1
        return self.engine

    def give_back(self, engine, profile):
        self.taken -= 1

    def close(self):
        pass


class Graph:
    def __init__(self, work):
        self.work = work

    def launch(self, stream):
        self.work()

    def close(self):
        self.work = None


@pytest.fixture
def opened(monkeypatch):
    """Maker of a session of an engine."""
    current = []

    @contextlib.contextmanager
    def on_device(ordinal):
        current.append(ordinal)
        try:
            yield
        finally:
            current.pop()

    def there(work=lambda *given: None):
        """Work that is done with the session's GPU as the current one."""

        def checked(*given):
            assert current == [0]
            return work(*given)

        return checked

    done = []
    stream = SimpleNamespace(
        device=0,
        handle=0,
        synchronize=there(lambda: done.append("waited")),
        drain=there(lambda: done.append("drained")),
        close=there(),
    )
    pinned = SimpleNamespace(array=np.empty, close=lambda: None)
    doubles = {
        "Stream": lambda device: stream,
        "Pinned": lambda device: pinned,
        "Buffer": Buffer,
        "Timer": lambda stream: SimpleNamespace(start=lambda: None, stop=lambda: 1.0),
        "capture": lambda stream, work: Graph(work),
        "on_device": on_device,
        "view": there(lambda tensor, stream: cuda.view(tensor, None)),
        "within_device": there(lambda source, target, size, stream: ctypes.memmove(target, source, size)),
        "to_host": lambda address, array, stream: None,
        "logger": lambda: SimpleNamespace(last=lambda: "its words"),
    }
    for name, double in doubles.items():
        for user in (module, lane):
            if hasattr(user, name):
                monkeypatch.setattr(user, name, double)
    monkeypatch.setattr(
        cuda.memory, "to_device", lambda a, address, _: ctypes.memmove(address, a.ctypes.data, a.nbytes)
    )
    names = {"TensorIOMode": SimpleNamespace(INPUT=INPUT), "LayerInformationFormat": SimpleNamespace(JSON="JSON")}
    monkeypatch.setitem(sys.modules, "tensorrt", SimpleNamespace(**names))

    class Closing(lane.Lane):
        """Says that it was closed."""

        def close(self):
            done.append("closed")
            super().close()

    monkeypatch.setattr(module, "Lane", Closing)

    def make(engine, most=8, **options):
        engines = engine if isinstance(engine, RealEngines) else Engines(engine)
        profiles, asked = [(Axis("batch", 1, 4, most),)], SessionOptions(**options)
        session = module.TensorRtSession(engines, tiny.SIGNATURE, "", profiles, asked, "model")
        session.done = done
        return session, engines

    return make


@pytest.mark.parametrize(
    ("fails", "error", "said"),
    [
        ("context", DeviceMemoryError, "there is no room to run the engine: its words"),
        ("profile", BackendError, "the engine has no profile 0"),
        ("shape", BackendError, r"TensorRT refuses input x of shape \(4, 32\)"),
        ("run", BackendError, "the engine did not run: its words"),
    ],
)
def test_a_lane_that_cannot_be_made_gives_the_engine_back(opened, fails, error, said):
    session, engines = opened(Engine(fails), cuda_graph=True)
    for _ in range(2):
        with pytest.raises(error, match=said):
            session.run({"x": tiny.sample(4)})
        assert engines.taken == 0


@pytest.mark.parametrize("kind", ["FLOAT", "HALF", "INT8", "INT32", "INT64", "BOOL", "UINT8"])
def test_types_of_tensors_have_those_of_numpy(kind):
    words = {"FLOAT": "float32", "HALF": "float16"}
    assert lane._dtype("x", SimpleNamespace(name=kind)) == np.dtype(words.get(kind, kind.lower()))


def test_a_type_that_numpy_does_not_have_is_named(opened):
    session, engines = opened(Engine(kind=SimpleNamespace(name="FP8")))
    with pytest.raises(BackendError, match="tensor x of the engine is FP8, which NumPy does not have") as caught:
        session.run({"x": tiny.sample(4)})
    assert caught.value.remedy.startswith("Use a model whose inputs and outputs are float32, float16, int8, ")
    assert engines.taken == 0


def test_the_run_before_a_graph_is_recorded_reads_zeros(opened):
    engine, x = Engine(), tiny.sample(4)
    session, _ = opened(engine, cuda_graph=True)
    session.run({"x": x})
    first, second = engine.read
    assert first.shape == x.shape
    assert not first.any()
    np.testing.assert_array_equal(second, x)


OTHERS = {
    "a run": lambda session: session.run({"x": tiny.sample(4, 9)}),
    "a run of another shape": lambda session: session.run({"x": tiny.sample(2)}),
    "another call": lambda session: session.prepare({"x": tiny.sample(4, 9)})(),
    "a description": lambda session: session.describe({"batch": 8}),
    "tensors on the device": lambda session: session.run_on_device({"x": tiny.sample(4, 9)}),
}


@pytest.mark.parametrize("other", OTHERS)
@pytest.mark.parametrize("options", [{}, {"cuda_graph": True, "graphs": 4}, {"cuda_graph": True, "graphs": 1}], ids=str)
def test_a_prepared_call_runs_its_own_inputs_whatever_ran_meanwhile(opened, other, options):
    engine, x = Engine(), tiny.sample(4)
    session, _ = opened(engine, **options)
    call = session.prepare({"x": x})
    for _ in range(2):
        call()
        np.testing.assert_array_equal(engine.read[-1], x)
        OTHERS[other](session)
    call()
    np.testing.assert_array_equal(engine.read[-1], x)


def test_a_prepared_call_copies_its_inputs_once_where_nothing_else_runs(opened, monkeypatch):
    copies, load = [], module.TensorRtSession._lane_being_filled
    monkeypatch.setattr(
        module.TensorRtSession, "_lane_being_filled", lambda self, feeds: copies.append(1) or load(self, feeds)
    )
    session, _ = opened(Engine())
    call = session.prepare({"x": tiny.sample(4)})
    for _ in range(3):
        call()
    assert len(copies) == 1


@pytest.mark.parametrize("limit", [1, 2, 4])
def test_there_are_never_more_lanes_and_engines_than_shapes_may_be_kept(opened, monkeypatch, limit):
    loaded = []  # each is taken by one lane at a time
    runtime = SimpleNamespace(deserialize_cuda_engine=lambda data: loaded.append(Engine()) or loaded[-1])
    monkeypatch.setattr(engines_module, "start", lambda made: runtime)
    monkeypatch.setattr(engines_module, "read_engine", lambda *given: b"an engine")
    monkeypatch.setattr(sys.modules["tensorrt"], "Runtime", object, raising=False)
    engines = RealEngines(Path("model.engine"), SimpleNamespace(version_compatible=False), shared=False)
    session, _ = opened(engines, cuda_graph=True, graphs=limit)
    for rows in (1, 2, 3, 4, 5, 6, 1, 2):
        session.run({"x": tiny.sample(rows)})
    assert len(loaded) == limit
    assert sum(len(engine.read) for engine in loaded) >= 2 * 8, "each shape was recorded, and run"


def test_the_work_of_what_is_dropped_is_waited_for(opened):
    session, _ = opened(Engine(), cuda_graph=True, graphs=1)
    session.run({"x": tiny.sample(4)})
    session.done.clear()
    session.run({"x": tiny.sample(3)})
    assert session.done[:2] == ["waited", "closed"]


def test_all_work_is_waited_for_before_anything_is_freed(opened):
    session, _ = opened(Engine())
    session.run({"x": tiny.sample(4)})
    session.done.clear()
    session.close()
    assert session.done == ["drained", "closed"]


def test_sizes_that_no_profile_holds_are_refused_with_what_its_component_is_built_with(opened):
    session, _ = opened(Engine(), most=7)
    with pytest.raises(ProfileError, match=r"holds batch 8; it has batch 1\.\.7") as caught:
        session.run({"x": tiny.sample(8)})
    assert caught.value.remedy.endswith(": `profiles=model.batch=8:8:8` `profiles=model.batch=1:4:7`.")


def test_a_session_lets_go_of_its_engine_and_memory_when_it_is_closed(opened):
    session, engines = opened(Engine(), cuda_graph=True)
    session.run({"x": tiny.sample(4)})
    (lane,) = session._lanes._recordings.values()
    session.close()
    assert engines.taken == 0
    assert [buffer.closed for buffer in (*lane.inputs.values(), *lane.outputs.values())] == [True, True]


def test_a_graph_is_recorded_alone(opened, monkeypatch):
    alone, record = [], lane.Lane.record
    monkeypatch.setattr(lane.Lane, "record", lambda self: alone.append(GPUS._someone_alone) or record(self))
    session, _ = opened(Engine(), cuda_graph=True)
    for rows in (4, 2, 4):
        session.run({"x": tiny.sample(rows)})
    assert alone == [True, True]
    assert not GPUS._someone_alone


def test_a_closed_session_says_so(opened):
    session, _ = opened(Engine())
    call = session.prepare({"x": tiny.sample(4)})
    session.close()
    x = {"x": tiny.sample(4)}
    uses = [lambda: session.run(x), lambda: session.run_on_device(x), lambda: session.describe({"batch": 4}), call]
    for use in (*uses, lambda: session.prepare(x)):
        with pytest.raises(BackendError, match="is closed"):
            use()
