"""Ctrl-C ends a command, also where the exception that it raises gets lost on its way."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType

from torchlift.progress import Progress, Stage


class Interrupts:
    """Whether SIGINT came. Python raises KeyboardInterrupt wherever the program is: in a destructor, in a callback of
    native code, in a library's import that forgives every error. There it is lost, but it stays ``noted`` here.
    """

    def __init__(self) -> None:
        self.noted = False

    @contextlib.contextmanager
    def heeded(self) -> Iterator[None]:
        """Note SIGINT while the block runs, and raise KeyboardInterrupt each time it comes. A process that ignores it,
        as a shell lets what it starts in the background, goes on doing so.
        """
        ours = threading.current_thread() is threading.main_thread()
        if not ours or signal.getsignal(signal.SIGINT) != signal.default_int_handler:
            yield
            return
        signal.signal(signal.SIGINT, self._note)
        try:
            yield
        finally:
            signal.signal(signal.SIGINT, signal.default_int_handler)
            self.noted = False

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.noted = True
        raise KeyboardInterrupt

    def check(self) -> None:
        """Raise KeyboardInterrupt if it came before."""
        if self.noted:
            raise KeyboardInterrupt


INTERRUPTS = Interrupts()
"""Those of this process: it has one handler."""


class Interruptible(Progress):
    """Ends the work at its next word about progress, where an interruption was lost."""

    def __init__(self, watched: Progress) -> None:
        self._watched = watched

    @contextlib.contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Stage]:
        INTERRUPTS.check()
        with self._watched.stage(title, total) as stage:
            yield _InterruptibleStage(stage)
        INTERRUPTS.check()

    def note(self, text: str) -> None:
        INTERRUPTS.check()
        self._watched.note(text)


class _InterruptibleStage(Stage):
    def __init__(self, watched: Stage) -> None:
        self._watched = watched

    def advance(self, steps: int = 1) -> None:
        INTERRUPTS.check()
        self._watched.advance(steps)
