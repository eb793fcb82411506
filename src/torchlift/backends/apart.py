"""A session in a process of its own, for a graph that may never end: it is ended where an answer takes too long."""

from __future__ import annotations

import sys
from collections.abc import Callable, Mapping
from typing import Any

import numpy as np

from torchlift.apart import Apart, serve
from torchlift.backends.base import Arrays, Call, Session
from torchlift.signature import Signature

PATIENCE = 120.0
"""Seconds that opening a graph and each answer of it may take, and besides them ..."""

_RATE = 5e6
"""... a second for so many bytes of its files: a machine that reads and multiplies them once a second is slow."""


class SessionApart(Session):
    """What ``opener``, which must be picklable, opens in a process of its own. ``size`` is the bytes of its files: the
    deadline of each answer grows with it. ``name`` is what errors call it. Raises BackendError, as every method does
    where the process dies or does not answer in time.
    """

    def __init__(self, opener: Callable[[], Session], signature: Signature, name: str, size: int) -> None:
        super().__init__(signature, name)
        self._patience = PATIENCE + size / _RATE
        self._process = Apart(name, __name__)
        try:
            self.runtime = self._process.ask("open", opener, patience=self._patience)
        except BaseException:
            self._process.kill()
            self._process.close()
            raise

    def covers(self, sizes: Mapping[str, int]) -> bool:
        return self._ask("covers", dict(sizes))

    def specialised(self) -> tuple[Mapping[str, int], ...]:
        return self._ask("specialised")

    def _run(self, feeds: Arrays) -> dict[str, np.ndarray]:
        return self._ask("run", dict(feeds))

    def _prepare(self, feeds: Arrays) -> Call:
        def call() -> None:
            self._run(feeds)

        return call

    def _ask(self, method: str, *arguments: object) -> Any:
        return self._process.ask(method, *arguments, patience=self._patience)

    def _close(self) -> None:
        self._process.close()


class Far:
    """The far end: opens the session, and does what it is asked."""

    _session: Session

    def open(self, opener: Callable[[], Session]) -> str:
        self._session = opener()
        return self._session.runtime

    def covers(self, sizes: Mapping[str, int]) -> bool:
        return self._session.covers(sizes)

    def specialised(self) -> tuple[dict[str, int], ...]:
        return tuple(dict(sizes) for sizes in self._session.specialised())

    def run(self, feeds: dict[str, Any]) -> dict[str, np.ndarray]:
        return self._session.run(feeds)


if __name__ == "__main__":
    serve(int(sys.argv[1]), Far())
