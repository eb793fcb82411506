"""Starts and asks a process in which one contender is timed. The process runs :mod:`torchlift.timing.worker`."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from types import TracebackType
from typing import Any

from torchlift.apart import Apart
from torchlift.backends.base import Session
from torchlift.errors import BackendError, TorchliftError
from torchlift.interpreter import Interpreter
from torchlift.timing.worker import Worker

_PATIENCE = 1800.0
"""Seconds to wait for an answer before a contender counts as failed."""


class Process(Apart):
    """A contender's process, seen from here. It starts at once, and ends with the block.

    ``runtime`` names what runs the contender, once :meth:`open` was called.
    """

    runtime: str

    def __init__(self, name: str, python: Interpreter | None = None) -> None:
        super().__init__(name, "torchlift.timing.worker", python)

    def open(self, opener: Callable[[], Session]) -> None:
        """Open the session in the process. Raises BackendError where that fails."""
        self.runtime = self.ask("open", opener)

    def ask(self, method: str, *arguments: object, patience: float = _PATIENCE) -> Any:
        return super().ask(method, *arguments, patience=patience)

    def __enter__(self) -> Process:
        return self


class Here:
    """A contender in this process, for what no other process can open: it is asked like a :class:`Process`.

    Its times have more noise, since it shares this process with whatever else runs in it.
    """

    runtime: str

    def __init__(self, name: str) -> None:
        self.name = name
        self._worker = Worker()

    def open(self, opener: Callable[[], Session]) -> None:
        """Open the session. Raises BackendError where that fails."""
        self.runtime = self.ask("open", opener)

    def ask(self, method: str, *arguments: object) -> Any:
        """What the worker's ``method`` returns. Raises BackendError for what it raises."""
        try:
            return getattr(self._worker, method)(*arguments)
        except Exception as error:
            said = error.message if isinstance(error, TorchliftError) else f"{type(error).__name__}: {error}"
            raise BackendError(f"{self.name}: {said}") from error

    def kill(self) -> None:
        """Do nothing: nobody else waits for its answer."""

    def close(self) -> None:
        """Let go of the session."""
        self._worker = Worker()

    def __enter__(self) -> Here:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@contextlib.contextmanager
def crew(processes: Iterable[Process | Here], threads: int) -> Iterator[ThreadPoolExecutor]:
    """A pool of threads that ask processes at the same time.

    An error in the block kills the processes, so that no thread waits for an answer any more.
    """
    with ThreadPoolExecutor(threads) as pool:
        try:
            yield pool
        except BaseException:
            for process in processes:
                process.kill()
            raise
