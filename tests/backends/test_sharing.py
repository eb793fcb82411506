"""One session that several threads share: each gets the answers to its own inputs, also while another closes it."""

import functools
import gc
import threading
import weakref

import numpy as np
import onnx_ir as ir
import programs
import pytest
import tiny
import torch
from sharing import THREADS, assert_shared, at_once, closed_while_running, in_thread

from torchlift.backends import Session, SessionOptions, backend
from torchlift.backends.pytorch.program import load_program
from torchlift.backends.pytorch.session import TorchSession
from torchlift.errors import BackendError, SignatureError
from torchlift.graph.files import save_model
from torchlift.graph.half import ToHalf
from torchlift.graph.quantize import Quantize
from torchlift.graph.schemes import SCHEMES
from torchlift.graph.units import name_nodes
from torchlift.machine import RunOn
from torchlift.prove.half import HalfSession

BUILT = ("onnxruntime", "openvino")
FORMS = ("fp32", "fp16", *SCHEMES)
RECIPES = [(n, recipe) for n in BUILT for recipe, found in backend(n).recipes.items() if found.form.name in FORMS]

SAMPLES = [{"x": tiny.sample(1 + i // THREADS, seed=i)} for i in range(4 * THREADS)]
"""Four batch sizes for each thread."""


def graph(form):
    """The tiny model in another form."""
    model = ir.from_proto(tiny.model())
    name_nodes(model)
    if form in SCHEMES:
        Quantize(SCHEMES[form], {"x": (-4.0, 4.0)})(model)
    elif form == "fp16":
        ToHalf()(model)
    return model


@pytest.fixture(scope="module")
def built(tmp_path_factory):
    """Opens the tiny model, built by a backend for a recipe."""
    folder = tmp_path_factory.mktemp("built")

    @functools.cache
    def build(name, form):
        place = folder / f"{name}-{form}"
        place.mkdir()
        save_model(graph(form), place / "source.onnx")
        return place / backend(name).build(place / "source.onnx", place, tiny.SIGNATURE)

    def opened(name, recipe):
        runtime = backend(name)
        if not runtime.supports(recipe).ok:
            pytest.skip(runtime.supports(recipe).detail)
        return runtime.open(
            build(name, runtime.recipe(recipe).form.name), tiny.SIGNATURE, recipe, SessionOptions(RunOn(2))
        )

    return opened


@pytest.mark.parametrize(("name", "recipe"), RECIPES)
def test_each_thread_gets_the_answers_to_its_own_inputs(built, name, recipe):
    with built(name, recipe) as session:
        assert_shared([session], SAMPLES)


@pytest.fixture(scope="module")
def archive(tmp_path_factory):
    return programs.write_program(tmp_path_factory.mktemp("program") / "model.pt2")


@pytest.mark.parametrize("compiled", [False, True])
def test_each_thread_gets_the_answers_to_its_own_inputs_from_torch(archive, monkeypatch, compiled):
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    torch._dynamo.reset()
    samples = [programs.feeds(1 + i // THREADS, seed=i) for i in range(4 * THREADS)]
    options = SessionOptions(graphs=2)
    with TorchSession(load_program(archive), programs.SIGNATURE, options, compiled=compiled) as session:
        assert_shared([session], samples)


def test_each_thread_gets_the_answers_to_its_own_inputs_in_half_precision():
    with HalfSession(graph("fp16"), tiny.SIGNATURE) as session:
        assert_shared([session], SAMPLES)


@pytest.mark.parametrize("name", BUILT)
def test_prepared_calls_of_other_threads_change_no_answer(built, name):
    with built(name, "fp32") as session:
        calls = [session.prepare(SAMPLES[i]) for i in (1, 3)]

        def work(number):
            if number % 2:
                return [calls[number // 2]() for _ in range(50)]
            return [session.run(SAMPLES[number])["y"] for _ in range(50)]

        for number, found in enumerate(at_once(work)):
            if number % 2 == 0:
                expected = tiny.answer(SAMPLES[number]["x"])
                for answer in found:
                    np.testing.assert_allclose(answer, expected, rtol=1e-5, atol=1e-5)


def test_openvino_keeps_the_inputs_of_one_call_at_most(built):
    def work(number):
        x = tiny.sample(4, number)
        for _ in range(10):
            session.run({"x": x})
        return weakref.ref(x)

    session = built("openvino", "fp32")
    alive = at_once(work)
    gc.collect()
    assert sum(x() is not None for x in alive) <= 1
    session.close()
    gc.collect()
    assert [x() for x in alive] == [None] * THREADS


@pytest.mark.parametrize("name", BUILT)
def test_a_session_may_be_closed_while_threads_run_it(built, name):
    for _ in range(5):
        for number, answers in enumerate(closed_while_running(built(name, "fp32"), SAMPLES)):
            expected = tiny.answer(SAMPLES[number]["x"])
            for answer in answers:
                np.testing.assert_allclose(answer["y"], expected, rtol=1e-5, atol=1e-5)


def test_a_session_of_torch_may_be_closed_while_threads_run_it():
    samples = [programs.feeds(1 + i, seed=i) for i in range(THREADS)]
    expected = [TorchSession(programs.Mixed(), programs.SIGNATURE).run(feeds) for feeds in samples]
    found = closed_while_running(TorchSession(programs.Mixed(), programs.SIGNATURE), samples)
    for answers, wanted in zip(found, expected, strict=True):
        for answer in answers:
            np.testing.assert_allclose(answer["y"], wanted["y"], rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", BUILT)
def test_a_closed_session_says_so(built, name):
    session = built(name, "fp32")
    call = session.prepare(SAMPLES[0])
    session.close()
    session.close()
    uses = (lambda: session.run(SAMPLES[0]), lambda: session.prepare(SAMPLES[0]), call)
    for use in (*uses, lambda: session.run_on_device(SAMPLES[0])):
        with pytest.raises(BackendError, match=f"the session of {name} .* is closed") as caught:
            use()
        assert caught.value.remedy == "Open it again."


class Counting(Session):
    """Knows how many threads are inside, and how often it was closed; a call waits until ``leave`` is set."""

    def __init__(self):
        super().__init__(tiny.SIGNATURE, "counting")
        self.inside, self.most, self.freed = 0, 0, 0
        self.entered, self.leave = threading.Semaphore(0), threading.Event()

    def _run(self, feeds):
        self._work()
        return {"y": tiny.answer(feeds["x"])}

    def _run_on_device(self, tensors):
        self._work()
        return tensors

    def _prepare(self, feeds):
        self._work()
        return self._work

    def _work(self):
        self.inside += 1
        self.most = max(self.most, self.inside)
        self.entered.release()
        assert self.leave.wait(20)
        assert not self.freed, "it was closed under a call"
        self.inside -= 1

    def _close(self):
        assert not self.inside
        self.freed += 1


class Reentrant(Counting):
    reentrant = True


def test_a_session_that_says_nothing_is_entered_by_one_thread_at_a_time():
    session = Counting()
    session.leave.set()
    x = SAMPLES[0]
    prepared = [lambda x, copies=copies: session.prepare(x, copies=copies)() for copies in (False, True)]
    uses = [session.run, session.run_on_device, *prepared]
    at_once(lambda number: [uses[number](x) for _ in range(50)])
    assert session.most == 1
    assert session.inside == 0


def test_a_reentrant_session_is_entered_by_several():
    session = Reentrant()
    working = in_thread(at_once, lambda number: session.run(SAMPLES[number]))
    for _ in range(THREADS):
        assert session.entered.acquire(timeout=20), "another keeps it out"
    session.leave.set()
    working.result(20)
    assert session.most == THREADS


def test_inputs_that_do_not_fit_wait_for_nobody():
    session = Counting()
    running = in_thread(session.run, SAMPLES[0])
    assert session.entered.acquire(timeout=20)
    with pytest.raises(SignatureError):
        session.run({"x": np.zeros((1, 3), np.float32)})
    session.leave.set()
    running.result(20)


def test_close_waits_for_the_call_under_way_and_ends_those_that_wait():
    session = Counting()
    running = in_thread(session.run, SAMPLES[0])
    assert session.entered.acquire(timeout=20)
    waiting = in_thread(session.run, SAMPLES[1])
    closing = in_thread(session.close)
    while not session._closed:
        pass
    assert not session.freed
    session.leave.set()
    closing.result(20)
    np.testing.assert_allclose(running.result(20)["y"], tiny.answer(SAMPLES[0]["x"]))
    with pytest.raises(BackendError, match="the session of counting is closed"):
        waiting.result(20)
    assert session.freed == 1
