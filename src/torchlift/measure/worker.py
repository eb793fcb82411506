"""The process in which one contender is timed: opens its session and does what the other end of the pipe asks.

Started by :mod:`torchlift.measure.latency` as ``python -m torchlift.measure.worker FD``; messages are pickles between
two processes of one user.
"""

from __future__ import annotations

import signal
import sys
import time
from collections.abc import Callable
from multiprocessing.connection import Connection
from typing import Any

from torchlift.backends.base import Session

_SOON = 2.0
"""Seconds; a first run that takes longer is not repeated just to know better how long the next will take."""


class Worker:
    """Answers messages (method name, arguments) until the pipe closes."""

    def __init__(self) -> None:
        self._session: Session | None = None
        self._call: Callable[[], None] | None = None

    def open(self, opener: Callable[[], Session]) -> str:
        """Open the session; returns what runs it."""
        self._session = opener()
        return self._session.runtime

    def load(self, feeds: dict[str, Any]) -> float:
        """Bind the inputs and run; returns about how many seconds a run takes, of the second one where that is soon."""
        assert self._session is not None
        self._call = self._session.prepare(feeds)
        first = self.run(0, 1)[0]
        return first if first > _SOON else self.run(0, 1)[0]

    def run(self, warmups: int, runs: int) -> list[float]:
        """Seconds of each of ``runs`` calls, after ``warmups`` that are not counted."""
        assert self._call is not None
        for _ in range(warmups):
            self._call()
        times = []
        for _ in range(runs):
            start = time.perf_counter()
            self._call()
            times.append(time.perf_counter() - start)
        return times


def main(fd: int) -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)
    pipe = Connection(fd)
    worker = Worker()
    sys.path[:] = pipe.recv()
    while True:
        try:
            method, arguments = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((True, getattr(worker, method)(*arguments)))
        except Exception as error:
            pipe.send((False, f"{type(error).__name__}: {error}"))


if __name__ == "__main__":
    main(int(sys.argv[1]))
