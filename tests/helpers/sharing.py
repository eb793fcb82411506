"""Sessions, or anything else, that several threads use at once."""

import threading
from concurrent.futures import Future

import numpy as np
import pytest

from torchlift.errors import BackendError

THREADS = 4


def at_once(work, count=THREADS, timeout=30):
    """What ``work(0)``, ``work(1)``, ... return, each in a thread of its own, all begun at the same moment. Raises what
    one of them raised, TimeoutError where one does not end.
    """
    begin = threading.Barrier(count)

    def run(number):
        begin.wait(timeout)
        return work(number)

    outcomes = [in_thread(run, number) for number in range(count)]
    return [outcome.result(timeout) for outcome in outcomes]


def in_thread(work, *arguments):
    """The future of what ``work`` returns in a thread of its own."""
    outcome = Future()

    def run():
        try:
            outcome.set_result(work(*arguments))
        except BaseException as error:
            outcome.set_exception(error)

    threading.Thread(target=run, daemon=True).start()
    return outcome


def assert_shared(sessions, samples, *, rounds=13, rtol=1e-5, atol=1e-6, timeout=30):
    """Each thread runs samples of its own, again and again, on one of the sessions, and gets for each what that answers
    to it alone. The threads come first, so that they are the ones that find it new.
    """
    assert len(samples) % THREADS == THREADS % len(sessions) == 0
    own = [sessions[i % len(sessions)] for i in range(len(samples))]

    def work(number):
        return [(i, own[i].run(samples[i])) for _ in range(rounds) for i in range(number, len(samples), THREADS)]

    found = [answer for answers in at_once(work, timeout=timeout) for answer in answers]
    alone = [session.run(feeds) for session, feeds in zip(own, samples, strict=True)]
    assert len(found) == rounds * len(samples)
    for i, answer in found:
        for name, array in alone[i].items():
            np.testing.assert_allclose(answer[name], array, rtol=rtol, atol=atol)


def closed_while_running(session, samples, *, calls=20, timeout=30):
    """Close a session while each thread runs a sample of its own again and again; the answers that each got before it
    was told that the session is closed.
    """
    running = threading.Semaphore(0)

    def run_on(feeds, answers):
        while True:
            answers.append(session.run(feeds))
            running.release()

    def work(number):
        answers = []
        with pytest.raises(BackendError, match="is closed"):
            run_on(samples[number], answers)
        return answers

    working = in_thread(at_once, work, THREADS, timeout)
    for _ in range(calls):
        assert running.acquire(timeout=timeout)
    session.close()
    return working.result(timeout)
