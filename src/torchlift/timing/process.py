"""Starts and asks a process in which one contender is timed. The process runs :mod:`torchlift.timing.worker`."""

from __future__ import annotations

import contextlib
import socket
import subprocess
import sys
import tempfile
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import ThreadPoolExecutor
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

from torchlift.backends.base import Session
from torchlift.errors import BackendError
from torchlift.interpreter import Interpreter, start

_PATIENCE = 1800.0
"""Seconds to wait for an answer before a contender counts as failed."""


class Process:
    """A contender's process, seen from here. It starts at once, and ends with the block.

    ``runtime`` names what runs the contender, once :meth:`open` was called.
    """

    runtime: str

    def __init__(self, name: str, python: Interpreter | None = None) -> None:
        self.name = name
        self._said = tempfile.TemporaryFile()  # noqa: SIM115
        near, far = socket.socketpair()
        try:
            self._process = start(
                "torchlift.timing.worker",
                str(far.fileno()),
                python=python,
                pass_fds=[far.fileno()],
                stdin=subprocess.DEVNULL,
                stdout=self._said,
                stderr=self._said,
            )
        except OSError as error:
            near.close()
            self._said.close()
            executable = python.executable if python else sys.executable
            raise BackendError(
                f"{name} is not started: {executable}: {error.strerror}", remedy="Name a Python that has torchlift."
            ) from error
        finally:
            far.close()
        self._pipe = Connection(near.detach())

    def open(self, opener: Callable[[], Session]) -> None:
        """Open the session in the process. Raises BackendError where that fails."""
        self.runtime = self.ask("open", opener)

    def ask(self, method: str, *arguments: object) -> Any:
        """Call a method of the worker and return its answer. Raises BackendError where it fails, dies or is silent."""
        try:
            self._pipe.send((method, arguments))
            if not self._pipe.poll(_PATIENCE):
                raise BackendError(
                    f"{self.name} did not answer for {_PATIENCE / 60:.0f} minutes", remedy="Measure it alone."
                )
            fine, answer = self._pipe.recv()
        except (EOFError, OSError) as error:
            code = self._process.wait()
            raise BackendError(f"the process of {self.name} died (exit status {code}): {self._last_words()}") from error
        if not fine:
            raise BackendError(f"{self.name}: {answer}")
        return answer

    def _last_words(self) -> str:
        self._said.seek(0)
        lines = self._said.read().decode(errors="replace").strip().splitlines()
        return lines[-1] if lines else "it said nothing; the machine may have run out of memory"

    def kill(self) -> None:
        """End the process now. A thread that waits for its answer gets the error that it died."""
        self._process.kill()

    def close(self) -> None:
        """Let the process end after its last answer. It is killed if it has not ended in 5 seconds."""
        self._pipe.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()
        self._said.close()

    def __enter__(self) -> Process:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.kill()
        self.close()


@contextlib.contextmanager
def crew(processes: Iterable[Process], threads: int) -> Iterator[ThreadPoolExecutor]:
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
