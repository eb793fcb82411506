"""The process in which one contender is timed. It opens the session, and answers requests from a pipe.

:mod:`torchlift.timing.process` starts it, like ``python -m torchlift.timing.worker FD``, where FD is the pipe's file
descriptor. Messages are pickles, between two processes of one user.
"""

from __future__ import annotations

import sys
import time
from collections.abc import Callable
from typing import Any

from torchlift.apart import serve
from torchlift.backends.base import Call, Session

_SOON = 2.0
"""Seconds. A first run that takes longer is not repeated for a better estimate of the time of a run."""


class Worker:
    """Holds the session. Each public method answers one kind of request."""

    def __init__(self) -> None:
        self._session: Session | None = None
        self._call: Call | None = None
        self._copying: Call | None = None

    def open(self, opener: Callable[[], Session]) -> str:
        """Open the session; returns the name of its runtime."""
        self._session = opener()
        return self._session.runtime

    def load(self, feeds: dict[str, Any]) -> float | None:
        """Bind the inputs and run them; returns about how many seconds a run takes.

        That is the time of the second run, or of the first where that one was slow. None where the session does not run
        inputs of these sizes, for example outside of an engine's profiles.
        """
        assert self._session is not None
        self._call = self._copying = None
        if not self._session.fits(feeds):
            return None
        self._call = self._session.prepare(feeds)
        if self._session.on_device:
            self._copying = self._session.prepare(feeds, copies=True)
        first = _seconds(self._call)
        return first if first > _SOON else _seconds(self._call)

    def run(self, warmups: int, runs: int) -> tuple[list[float], list[float]]:
        """Seconds of each of ``runs`` calls, after ``warmups`` calls that do not count.

        The second list has as many calls with copies to and from the GPU; on a processor it is empty.
        """
        assert self._call is not None
        copied = _times(self._copying, warmups, runs) if self._copying else []
        return _times(self._call, warmups, runs), copied

    def keep_running(self, seconds: float) -> float:
        """Run again and again for so many seconds; returns calls per second."""
        assert self._call is not None
        calls, start = 0, time.perf_counter()
        while (passed := time.perf_counter() - start) < seconds:
            self._call()
            calls += 1
        return calls / passed


def _times(call: Call, warmups: int, runs: int) -> list[float]:
    for _ in range(warmups):
        call()
    return [_seconds(call) for _ in range(runs)]


def _seconds(call: Call) -> float:
    start = time.perf_counter()
    by_device = call()
    return time.perf_counter() - start if by_device is None else by_device


def main(fd: int) -> None:
    """Answer until the pipe closes."""
    serve(fd, Worker())


if __name__ == "__main__":
    main(int(sys.argv[1]))
