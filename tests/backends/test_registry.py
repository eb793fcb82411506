import pickle
from typing import ClassVar

import numpy as np
import pytest
import tiny

from torchlift import backends
from torchlift.backends import BACKENDS, Availability, Backend, Session, backend
from torchlift.backends.opening import open_file
from torchlift.errors import BackendUnavailableError, SignatureError


@pytest.mark.parametrize(
    ("name", "nearest"),
    [("onnx-runtime-cuda", "onnxruntime-cuda"), ("open_vino", "openvino"), ("OnnxRuntime", "onnxruntime")],
)
def test_an_unknown_backend_is_answered_with_the_nearest(name, nearest):
    with pytest.raises(BackendUnavailableError, match=f"there is no backend '{name}'") as caught:
        backend(name)
    assert caught.value.remedy.startswith(f"Did you mean {nearest}? ")
    assert ", ".join(BACKENDS) in caught.value.remedy


def test_a_name_like_no_other_gets_the_list():
    with pytest.raises(BackendUnavailableError, match="there is no backend 'xyz'") as caught:
        backend("xyz")
    assert caught.value.remedy == f"The backends are {', '.join(BACKENDS)}."


@pytest.mark.parametrize("name", BACKENDS)
def test_every_backend_knows_itself_by_its_name(name):
    found = backend(name)
    assert found.name == name
    assert found is backend(name)
    assert found.version().split()[0] in name
    assert "fp32" in found.precisions


@pytest.mark.parametrize("name", BACKENDS)
def test_what_a_backend_does_not_support_is_said(name):
    state = backend(name).supports("int4")
    assert (state.ok, state.detail) == (False, f"{name} has no int4")


@pytest.mark.parametrize("name", BACKENDS)
def test_what_a_backend_supports_is_said(name):
    state = backend(name).supports("fp32")
    assert (state.ok, state.detail) == (True, f"{name} has fp32")


def test_one_that_is_not_available_cannot_be_required():
    class Absent(Backend):
        name = "absent"
        recipes: ClassVar = {}

        def available(self):
            return Availability(False, "it is not installed", "pip install absent")

        version = build = open = None

    Absent.__abstractmethods__ = frozenset()
    with pytest.raises(BackendUnavailableError, match="the backend absent cannot be used: it is not instal") as caught:
        Absent().require()
    assert caught.value.remedy == "pip install absent"


class Recorder(Session):
    closed = False

    def _run(self, feeds):
        return {"y": tiny.answer(feeds["x"])}

    def _prepare(self, feeds):
        return lambda: None

    def close(self):
        self.closed = True


@pytest.mark.parametrize("method", ["run", "prepare"])
def test_a_session_checks_its_inputs_first(method):
    session = Recorder(tiny.SIGNATURE, "recorder")
    with pytest.raises(SignatureError, match=r"input x is float64\[1, 32\]"):
        getattr(session, method)({"x": np.zeros((1, 32))})


def test_a_session_closes_with_its_block():
    with Recorder(tiny.SIGNATURE, "recorder") as session:
        assert not session.closed
    assert session.closed


def test_opening_by_name_can_go_to_another_process():
    assert pickle.loads(pickle.dumps(open_file)) is open_file
    assert backends.Session is Session
