import signal
import socket
import sys
import threading
from functools import partial
from multiprocessing.connection import Connection

import contenders
import numpy as np
import pytest

from torchlift.measure import worker
from torchlift.measure.worker import Worker

FEEDS = {"x": np.zeros((2, 32), np.float32)}


class Counter:
    """Stands for a session; counts its calls."""

    runtime = "counter 1.0"

    def __init__(self):
        self.calls = 0

    def prepare(self, feeds):
        assert feeds is FEEDS

        def call():
            self.calls += 1

        return call


def test_opening_says_what_runs():
    assert Worker().open(Counter) == "counter 1.0"


def test_only_the_runs_are_timed_and_not_the_warm_ups():
    counter = Counter()
    opened = Worker()
    opened.open(lambda: counter)
    assert opened.load(FEEDS) > 0
    assert counter.calls == 2
    times = opened.run(3, 5)
    assert counter.calls == 10
    assert len(times) == 5
    assert all(t >= 0 for t in times)


def test_a_slow_first_run_is_not_repeated(monkeypatch):
    monkeypatch.setattr(worker, "_SOON", 0.0)
    counter = Counter()
    opened = Worker()
    opened.open(lambda: counter)
    assert opened.load(FEEDS) > 0
    assert counter.calls == 1


@pytest.fixture
def pipe(monkeypatch):
    """The near end of a worker that runs in a thread of this process."""
    monkeypatch.setattr(signal, "signal", lambda *arguments: None)
    monkeypatch.setattr(sys, "path", list(sys.path))
    near, far = socket.socketpair()
    thread = threading.Thread(target=worker.main, args=(far.detach(),))
    thread.start()
    connection = Connection(near.detach())
    connection.send(sys.path)
    yield connection
    connection.close()
    thread.join(10)
    assert not thread.is_alive()


def ask(pipe, method, *arguments):
    pipe.send((method, arguments))
    return pipe.recv()


def test_a_worker_answers_until_the_pipe_closes(pipe):
    assert ask(pipe, "open", contenders.quick) == (True, "sleeper 0.001")
    fine, seconds = ask(pipe, "load", FEEDS)
    assert fine
    assert seconds >= 0.001
    fine, times = ask(pipe, "run", 0, 2)
    assert (fine, len(times)) == (True, 2)


def test_a_worker_says_what_went_wrong_and_goes_on(pipe):
    fine, said = ask(pipe, "open", contenders.refuses)
    assert (fine, said) == (False, "BackendError: the engine is of another GPU\nBuild it again.")
    assert ask(pipe, "load", FEEDS)[0] is False
    assert ask(pipe, "open", partial(contenders.Sleeper, 0)) == (True, "sleeper 0")
