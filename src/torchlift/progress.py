"""What a long stage tells whoever watches: its name, how far it is, what it found."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator


class Progress:
    """Told by every stage; this one is silent. The command line shows bars, tests may record."""

    @contextlib.contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Stage]:
        """Announce a stage of ``total`` steps (None: unknown) for as long as the block runs."""
        yield Stage()

    def note(self, text: str) -> None:
        """Say something that the user must not miss, such as a fallback."""


class Stage:
    """A running stage."""

    def advance(self, steps: int = 1) -> None:
        """Say that ``steps`` more are done."""


SILENT = Progress()


class Relayed(Progress):
    """Tells another all that it is told."""

    def __init__(self, watched: Progress) -> None:
        self._watched = watched

    @contextlib.contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Stage]:
        with self._watched.stage(title, total) as stage:
            yield stage

    def note(self, text: str) -> None:
        self._watched.note(text)


class Named(Relayed):
    """Says in front of each stage's title what it belongs to."""

    def __init__(self, watched: Progress, name: str) -> None:
        super().__init__(watched)
        self._name = name

    @contextlib.contextmanager
    def stage(self, title: str, total: int | None = None) -> Iterator[Stage]:
        with super().stage(f"{self._name}: {title}", total) as stage:
            yield stage


class Muted(Relayed):
    """Shows stages and says nothing, where whoever asked says it better."""

    def note(self, text: str) -> None:
        """Keep it to itself."""
