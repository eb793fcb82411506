"""How threads share a runtime: in turns, and on a GPU beside other sessions or alone."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class Turns:
    """A lock, as in ``with turns: ...``, that goes to a thread that waits before one that has just had it.

    A plain lock is often taken again by a thread that calls in a loop, before a thread that waits has woken: of four
    such threads one waited for three times its share. Here the thread that is next waits with a second lock in its
    hand, and all others, the one that calls in a loop among them, wait for that one. Like a Lock it may not be entered
    again by the thread that has it.
    """

    def __init__(self) -> None:
        self._next = threading.Lock()
        self._turn = threading.Lock()

    def __enter__(self) -> None:
        with self._next:
            self._turn.acquire()

    def __exit__(self, *raised: object) -> None:
        self._turn.release()


class Company:
    """Many threads at a time, as in ``with company: ...``; in there one may ask to be alone for a while, as in
    ``with company.alone(): ...``. A thread that is inside may not enter again.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._present = 0
        self._wishes = 0
        """How many are alone or wait to be: nobody comes in meanwhile."""

        self._taken = False

    def __enter__(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._wishes)
            self._present += 1

    def __exit__(self, *raised: object) -> None:
        with self._changed:
            self._present -= 1
            if self._wishes:
                self._changed.notify_all()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Wait for all others to leave, and keep them out until the block ends. The caller, or the thread that waits
        for the caller, must be inside ``with company``.
        """
        with self._changed:
            self._wishes += 1
            self._present -= 1  # so that two who wish the same do not wait for each other
            self._changed.notify_all()
            try:
                self._changed.wait_for(lambda: not self._taken and not self._present)
                self._taken = True
            except BaseException:
                self._back()
                raise
        try:
            yield
        finally:
            with self._changed:
                self._taken = False
                self._back()

    def _back(self) -> None:
        self._wishes -= 1
        self._present += 1
        self._changed.notify_all()


GPUS = Company()
"""All that uses GPUs in this process. A CUDA graph is recorded alone: meanwhile CUDA refuses to synchronize a device,
and for some runtimes to allocate, in any thread, and the recording fails as well.
"""


class DeviceTurns(Turns):
    """The turns of a session on a GPU, which is in the company of all others for as long."""

    def __enter__(self) -> None:
        super().__enter__()
        try:
            GPUS.__enter__()
        except BaseException:
            super().__exit__()
            raise

    def __exit__(self, *raised: object) -> None:
        GPUS.__exit__()
        super().__exit__()
