"""What every data set is: samples in a fixed order, read one at a time, and an account of those that cannot be read."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np

from torchlift.errors import DataError
from torchlift.storage import open_regular

SPLITS = ("valid", "val", "validation", "test")
"""The split that is read where none is asked for: the first of these that is there."""

NAMED = 5
"""Skipped records that are named; all are counted."""


@dataclass(frozen=True)
class ReadOptions:
    """How a data set is read.

    - ``split``: for example ``valid``; empty takes the first of ``SPLITS`` that is there, or the only one.
    - ``limit``: at most so many samples, evenly spaced over the data set, so that every class has its share. Of
      retrieval data it counts the texts, and only the images that they name are kept (where they name none, as many
      images): the fewer, the easier.
    - ``strict``: a record that cannot be used is an error; else it is skipped, counted and named.
    - ``trust_pickle``: records may be unpickled, which runs code that is in them.
    - ``prompts``: a file of prompts for zero-shot classification, one a line, ``{}`` where the label goes.

    Raises DataError for a limit below 1.
    """

    split: str = ""
    limit: int | None = None
    strict: bool = False
    trust_pickle: bool = False
    prompts: Path | None = None

    def __post_init__(self) -> None:
        if self.limit is not None and self.limit < 1:
            raise DataError(f"the limit is {self.limit}", remedy="Ask for 1 sample or more.")


class Skips:
    """Counts the records that cannot be used and names the first; with ``strict`` each is a DataError instead."""

    def __init__(self, strict: bool = False) -> None:
        self.strict = strict
        self.count = 0
        self.named: list[str] = []

    def add(self, reason: str) -> None:
        if self.strict:
            raise DataError(reason, remedy="Repair or remove it, or read without --strict-data, which skips it.")
        self.count += 1
        if len(self.named) < NAMED:
            self.named.append(reason)

    def __str__(self) -> str:
        more = f"; and {self.count - len(self.named):,} more" * (self.count > len(self.named))
        return "; ".join(self.named) + more


class Images(ABC):
    """Encoded image files by position, read from disk one at a time. Safe to read from several threads."""

    ids: Sequence[int | str]
    """In the order of the data set, each once."""

    def __len__(self) -> int:
        return len(self.ids)

    def name(self, position: int) -> str:
        """What errors call an image."""
        return f"image {self.ids[position]}"

    @abstractmethod
    def read(self, position: int) -> bytes:
        """The bytes of an image file. Raises DataError where the record is broken."""

    @abstractmethod
    def kept(self, positions: Sequence[int]) -> Images:
        """Only those at ``positions``, in that order."""


class FileImages(Images):
    """Image files of a folder; an id is the path within ``root``."""

    def __init__(self, root: Path, ids: Sequence[str]) -> None:
        self.root = root
        self.ids = ids

    def read(self, position: int) -> bytes:
        try:
            return _content(self.root / str(self.ids[position]))
        except OSError as error:
            raise DataError(
                f"{self.name(position)} cannot be read: {error.strerror}", remedy="Check the file and its permissions."
            ) from error

    def kept(self, positions: Sequence[int]) -> FileImages:
        return FileImages(self.root, [str(self.ids[i]) for i in positions])


def spread(count: int, limit: int | None) -> range | list[int]:
    """At most ``limit`` positions of ``count``, evenly spaced and ascending."""
    if limit is None or limit >= count:
        return range(count)
    return np.linspace(0, count - 1, limit).round().astype(int).tolist() if limit > 1 else [0]


def chosen_split(where: Path, there: Iterable[str], asked: str) -> str:
    """The split to read. Raises DataError, which names those there, where it is missing or not decided."""
    names = sorted(there)
    if asked:
        if asked not in names:
            raise DataError(f"{where} has no split {asked!r}", remedy=f"The splits are {', '.join(names) or 'none'}.")
        return asked
    found = next((name for name in SPLITS if name in names), names[0] if len(names) == 1 else "")
    if not found:
        raise DataError(f"{where} has the splits {', '.join(names)}", remedy="Say which with --split.")
    return found


def _content(file: Path) -> bytes:
    with open_regular(file) as stream:
        return stream.read()


def lines_of(file: Path, parse: Callable[[bytes, int], None], skips: Skips) -> None:
    """Give ``parse`` every line that is not blank, with its offset in bytes; a line for which it raises ValueError is
    skipped, and named by its number.

    Only a line feed ends a line. Raises DataError where the file cannot be read.
    """
    offset = 0
    try:
        with open_regular(file) as stream:
            for number, line in enumerate(stream, 1):
                try:
                    if line.strip():
                        parse(line, offset)
                except (ValueError, RecursionError) as error:
                    skips.add(f"{file.name}, line {number:,}: {error}")
                offset += len(line)
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}", remedy="Check the path and the file.") from error
