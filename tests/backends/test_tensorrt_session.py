"""What a session of TensorRT keeps, with the host's memory in the place of the GPU's and no engine behind it."""

import contextlib
import gc
import weakref
from types import SimpleNamespace

import numpy as np
import pytest
import tiny

from torchlift.backends import SessionOptions, cuda
from torchlift.backends.tensorrt import session as module
from torchlift.errors import SignatureError


class Lane:
    """Says what it was given to read."""

    dtypes, outputs, inputs = {"x": np.dtype("float32")}, {}, {"x": SimpleNamespace(address=1)}

    def __init__(self):
        self.read_at = []

    def read(self, name, address):
        self.read_at.append(address)

    def launch(self):
        pass


@pytest.fixture
def opened(monkeypatch):
    """Maker of a session, and its only lane."""

    def make(**options):
        lane, nothing = Lane(), SimpleNamespace(close=lambda: None, drain=lambda: None)
        monkeypatch.setattr(module, "Stream", lambda device: nothing)
        monkeypatch.setattr(module, "Pinned", lambda device: nothing)
        monkeypatch.setattr(module, "on_device", lambda device: contextlib.nullcontext())
        monkeypatch.setattr(module, "view", lambda tensor, stream: cuda.view(tensor, None))
        monkeypatch.setattr(module, "within_device", lambda source, *_: lane.read_at.append(source))
        monkeypatch.setattr(module.TensorRtSession, "_lane", lambda self, shapes: lane)
        return module.TensorRtSession(nothing, tiny.SIGNATURE, "", [], SessionOptions(**options)), lane

    return make


def lend(session):
    """Run an array that nothing else keeps; where it lies, and what tells whether it still does."""
    x = tiny.sample(4)
    session.run_on_device({"x": x})
    return x.ctypes.data, weakref.ref(x)


@pytest.mark.parametrize("graphed", [False, True])
def test_a_tensor_on_the_device_is_kept_until_the_next_call(opened, graphed):
    session, lane = opened(cuda_graph=graphed)
    address, alive = lend(session)
    gc.collect()
    assert lane.read_at == [address]
    assert alive() is not None, "its call may not have ended"
    session.run_on_device({"x": tiny.sample(4)})
    gc.collect()
    assert alive() is None


def test_a_tensor_on_the_device_is_let_go_when_the_session_is_closed(opened):
    session, _ = opened()
    _, alive = lend(session)
    session.close()
    gc.collect()
    assert alive() is None


def test_what_is_refused_does_not_take_the_place_of_what_is_read(opened):
    session, lane = opened()
    _, alive = lend(session)
    lane.dtypes = {"x": np.dtype("float16")}
    with pytest.raises(SignatureError, match="input x is float32 on the device, and the engine reads float16"):
        session.run_on_device({"x": tiny.sample(4)})
    gc.collect()
    assert alive() is not None
