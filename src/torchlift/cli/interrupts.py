"""Ctrl-C and SIGTERM end a command, also where the exception that they raise gets lost on its way."""

from __future__ import annotations

import contextlib
import signal
import threading
from collections.abc import Iterator
from types import FrameType
from typing import Any

from torchlift.progress import Progress, Stage

_HEEDED: dict[signal.Signals, Any] = {signal.SIGINT: signal.default_int_handler, signal.SIGTERM: signal.SIG_DFL}
"""What ends a command -> the handler that a process has by itself. Where it has another, that stays."""


class Interrupts:
    """Whether SIGINT or SIGTERM came. KeyboardInterrupt is raised wherever the program is: in a destructor, in a
    callback of native code, in a library's import that forgives every error. There it is lost, but it stays ``noted``
    here which signal came last; None where none did.
    """

    def __init__(self) -> None:
        self.noted: signal.Signals | None = None

    @property
    def status(self) -> int:
        """The exit status that tells which signal ended the command: 130 for SIGINT, 143 for SIGTERM."""
        return 128 + (self.noted or signal.SIGINT)

    @contextlib.contextmanager
    def heeded(self) -> Iterator[None]:
        """Note SIGINT and SIGTERM while the block runs, and raise KeyboardInterrupt each time one comes: so the block
        leaves nothing behind. A process that ignores one, as a shell lets what it starts in the background ignore
        SIGINT, goes on doing so.
        """
        ours = threading.current_thread() is threading.main_thread()
        heeded = [number for number, usual in _HEEDED.items() if ours and signal.getsignal(number) == usual]
        for number in heeded:
            signal.signal(number, self._note)
        try:
            yield
        finally:
            for number in heeded:
                signal.signal(number, _HEEDED[number])
            self.noted = None

    def _note(self, number: int, frame: FrameType | None) -> None:
        self.noted = signal.Signals(number)
        raise KeyboardInterrupt

    def check(self) -> None:
        """Raise KeyboardInterrupt if a signal came before."""
        if self.noted:
            raise KeyboardInterrupt


INTERRUPTS = Interrupts()
"""Those of this process: it has one handler for each signal."""


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
