"""A process of its own that answers requests, one at a time, each within a deadline; :func:`serve` is its far end.

For example ``with Apart("net", "torchlift.backends.apart") as process: process.ask("run", feeds, patience=60)``.
Messages are pickles between two processes of one user.
"""

from __future__ import annotations

import socket
import subprocess
import sys
import tempfile
from multiprocessing.connection import Connection
from types import TracebackType
from typing import Any

from torchlift.errors import BackendError, TorchliftError
from torchlift.interpreter import Interpreter, start


class Apart:
    """The near end. The process starts at once, as ``python -m module FD`` would, and ends with the block; ``name`` is
    what errors call it.
    """

    def __init__(self, name: str, module: str, python: Interpreter | None = None) -> None:
        self.name = name
        self._said = tempfile.TemporaryFile()  # noqa: SIM115
        near, far = socket.socketpair()
        try:
            self._process = start(
                module,
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

    def ask(self, method: str, *arguments: object, patience: float) -> Any:
        """What the far end's ``method`` returns. Raises BackendError for what it raises, where the process dies, and
        where it has not answered for ``patience`` seconds: it is ended then.
        """
        try:
            self._pipe.send((method, arguments))
            if not self._pipe.poll(patience):
                self.kill()
                raise BackendError(
                    f"{self.name} did not answer for {patience:,.0f} seconds",
                    remedy="Try it on a faster machine, or by itself; a graph with a loop may never end.",
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
        """End the process now; who waits for its answer is told that it died."""
        self._process.kill()

    def close(self) -> None:
        """Let the process end, once it has answered what it was asked last; after some seconds it is made to."""
        self._pipe.close()
        try:
            self._process.wait(5)
        except subprocess.TimeoutExpired:
            self.kill()
            self._process.wait()
        self._said.close()

    def __enter__(self) -> Apart:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            self.kill()
        self.close()


def serve(fd: int, worker: object) -> None:
    """Answer messages (name of a method of ``worker``, arguments) until the pipe closes. Whatever is raised is an
    answer too: what a user's network does must not end the process without a word.
    """
    pipe = Connection(fd)
    while True:
        try:
            method, arguments = pipe.recv()
        except EOFError:
            return
        try:
            pipe.send((True, getattr(worker, method)(*arguments)))
        except BaseException as error:
            said = error.message if isinstance(error, TorchliftError) else f"{type(error).__name__}: {error}"
            pipe.send((False, said))
