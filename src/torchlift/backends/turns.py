"""How threads share a runtime: they take turns in a session, and on a GPU a thread can ask to be alone."""

from __future__ import annotations

import contextlib
import threading
from collections.abc import Iterator


class Turns:
    """A fair lock, used as ``with turns: ...``. A thread that waits comes before one that has just had a turn.

    With a plain lock, a thread that calls in a loop often takes the lock again before a waiting thread has woken up: of
    four such threads one waited three times as long as the others. Here there are two locks. The thread that is next
    holds the first while it waits for the second. All other threads, also the one that has just finished, wait for the
    first.

    A thread that is inside may not enter again, as with a Lock.
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
    """Lets many threads in at a time, as in ``with company: ...``, and lets one of them be alone for a while.

    A thread inside asks for that by ``with company.alone(): ...``. A thread that is inside may not enter again.
    """

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._present = 0
        self._want_alone = 0
        """How many threads are alone or wait to be alone. While there are any, no thread may enter."""

        self._someone_alone = False

    def __enter__(self) -> None:
        with self._changed:
            self._changed.wait_for(lambda: not self._want_alone)
            self._present += 1

    def __exit__(self, *raised: object) -> None:
        with self._changed:
            self._present -= 1
            if self._want_alone:
                self._changed.notify_all()

    @contextlib.contextmanager
    def alone(self) -> Iterator[None]:
        """Wait until all other threads have left, and keep them out until the block ends.

        The caller must be inside ``with company``, or a thread that is inside must be waiting for the caller.
        """
        with self._changed:
            self._want_alone += 1
            self._present -= 1  # else two threads that both want to be alone would wait for each other
            self._changed.notify_all()
            try:
                self._changed.wait_for(lambda: not self._someone_alone and not self._present)
                self._someone_alone = True
            except BaseException:
                self._rejoin()
                raise
        try:
            yield
        finally:
            with self._changed:
                self._someone_alone = False
                self._rejoin()

    def _rejoin(self) -> None:
        self._want_alone -= 1
        self._present += 1
        self._changed.notify_all()


GPUS = Company()
"""All threads of this process that use GPUs. A thread is alone while it records a CUDA graph. If another thread
synchronized the device meanwhile, or for some runtimes allocated memory, CUDA would refuse that, and the recording
would fail too.
"""


class DeviceTurns(Turns):
    """The turns of a session on a GPU. During a turn, the thread counts as one that uses GPUs."""

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
