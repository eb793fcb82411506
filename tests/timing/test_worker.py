import socket
import threading
from functools import partial
from multiprocessing.connection import Connection

import contenders
import numpy as np
import pytest

from torchlift.backends import Session
from torchlift.timing import worker
from torchlift.timing.worker import Worker

FEEDS = {"x": np.zeros((2, 32), np.float32)}


class Counter(Session):
    """Stands for a session that runs batches of 2; counts its calls. On a device, it says what that took."""

    def __init__(self, on_device=False):
        super().__init__(contenders.SIGNATURE, "counter 1.0")
        self.on_device = on_device
        self.calls = self.copying = 0

    def covers(self, sizes):
        return sizes["batch"] == 2

    def _run(self, feeds):
        self.copying += 1
        return {}

    def _prepare(self, feeds):
        assert feeds is FEEDS

        def call():
            self.calls += 1
            return 7.0 if self.on_device else None

        return call


def test_opening_says_what_runs():
    assert Worker().open(Counter) == "counter 1.0"


def test_only_the_runs_are_timed_and_not_the_warm_ups():
    counter = Counter()
    opened = Worker()
    opened.open(lambda: counter)
    assert opened.load(FEEDS) > 0
    assert counter.calls == 2
    times, copied = opened.run(3, 5)
    assert counter.calls == 10
    assert len(times) == 5
    assert all(0 <= t < 1 for t in times)
    assert copied == []


def test_on_a_device_its_own_clock_counts_and_copies_are_timed_apart():
    counter = Counter(on_device=True)
    opened = Worker()
    opened.open(lambda: counter)
    assert opened.load(FEEDS) == 7.0
    times, copied = opened.run(1, 3)
    assert times == [7.0] * 3
    assert counter.copying == 4
    assert len(copied) == 3
    assert all(0 <= t < 1 for t in copied)


def test_sizes_that_the_session_does_not_cover_are_not_run():
    counter = Counter()
    opened = Worker()
    opened.open(lambda: counter)
    assert opened.load({"x": np.zeros((3, 32), np.float32)}) is None
    assert counter.calls == 0


def test_keep_running_tells_the_calls_a_second():
    counter = Counter()
    opened = Worker()
    opened.open(lambda: counter)
    opened.load(FEEDS)
    before = counter.calls
    rate = opened.keep_running(0.05)
    assert counter.calls - before == pytest.approx(0.05 * rate, rel=0.5)


def test_a_slow_first_run_is_not_repeated(monkeypatch):
    monkeypatch.setattr(worker, "_SOON", 0.0)
    counter = Counter()
    opened = Worker()
    opened.open(lambda: counter)
    assert opened.load(FEEDS) > 0
    assert counter.calls == 1


@pytest.fixture
def pipe():
    """The near end of a worker that runs in a thread of this process."""
    near, far = socket.socketpair()
    thread = threading.Thread(target=worker.main, args=(far.detach(),))
    thread.start()
    connection = Connection(near.detach())
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
    fine, (times, copied) = ask(pipe, "run", 0, 2)
    assert (fine, len(times), copied) == (True, 2, [])


def test_a_worker_says_what_went_wrong_and_goes_on(pipe):
    fine, said = ask(pipe, "open", contenders.refuses)
    assert (fine, said) == (False, "the engine is of another GPU")
    assert ask(pipe, "load", FEEDS)[0] is False
    assert ask(pipe, "open", partial(contenders.Sleeper, 0)) == (True, "sleeper 0")
