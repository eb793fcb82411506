"""What all data sets share: how to read them, images that are read one at a time, and skipped records."""

from __future__ import annotations

import json
from abc import ABC, abstractmethod
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from torchlift.errors import DataError
from torchlift.storage import open_regular

SPLITS = ("valid", "val", "validation", "test")
"""Where the user names no split, the first of these that exists is read."""

LARGEST = 1 << 30
"""Bytes of a text file that is read at once: COCO's JSON of its training pictures has half as many."""

NAMED = 5
"""How many skipped records are named. All are counted."""


@dataclass(frozen=True)
class ReadOptions:
    """How a data set is read.

    - ``split``: for example ``valid``. Empty: the first of ``SPLITS`` that exists, or the only split.
    - ``limit``: the most samples. They are evenly spaced over the data set, so that every class has its share. For
      retrieval data it counts the texts; only the images that these texts name are kept. Where they name none, as many
      images are kept as texts. Retrieval among fewer images is easier, so recall is higher with a limit.
    - ``strict``: a record that cannot be used is an error. Otherwise it is skipped, counted and named.
    - ``trust_pickle``: records may be unpickled. That runs code in them.
    - ``prompts``: a file of prompts for zero-shot classification, one a line, with ``{}`` where the label goes.

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
    """Counts the records that cannot be used, and keeps the reasons of the first.

    With ``strict`` it raises DataError.
    """

    def __init__(self, strict: bool = False) -> None:
        self.strict = strict
        self.count = 0
        self.named: list[str] = []

    def add(self, reason: str) -> None:
        if self.strict:
            raise DataError(reason, remedy="Repair or remove it, or read without `strict_data=`, which skips it.")
        self.count += 1
        if len(self.named) < NAMED:
            self.named.append(reason)

    def __str__(self) -> str:
        more = f"; and {self.count - len(self.named):,} more" * (self.count > len(self.named))
        return "; ".join(self.named) + more


class Images(ABC):
    """Encoded image files by position, which are read from disk one at a time. Several threads may read."""

    ids: Sequence[int | str]
    """The ids in the order of the data set. Each occurs once."""

    def __len__(self) -> int:
        return len(self.ids)

    def name(self, position: int) -> str:
        """The name of an image in errors."""
        return f"image {self.ids[position]}"

    @abstractmethod
    def read(self, position: int) -> bytes:
        """The bytes of an image file. Raises DataError where the record is broken."""

    @abstractmethod
    def kept(self, positions: Sequence[int]) -> Images:
        """The images at ``positions`` only, in that order."""


class FileImages(Images):
    """Image files of a folder. An id is the path of a file within ``root``."""

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
    """The split to read. Raises DataError, with the splits that exist, where it is missing or ambiguous."""
    names = sorted(there)
    if asked:
        if asked not in names:
            raise DataError(f"{where} has no split {asked!r}", remedy=f"The splits are {', '.join(names) or 'none'}.")
        return asked
    found = next((name for name in SPLITS if name in names), names[0] if len(names) == 1 else "")
    if not found:
        raise DataError(f"{where} has the splits {', '.join(names)}", remedy="Say which with `split=`.")
    return found


def _content(file: Path) -> bytes:
    with open_regular(file) as stream:
        return stream.read()


def read_json(file: Path) -> Any:
    """What a JSON file says. Raises DataError for one that cannot be read, and says where it is cut off."""
    try:
        with open_regular(file) as stream:
            text = stream.read(LARGEST).decode("utf-8-sig")
        return json.loads(text)
    except OSError as error:
        raise DataError(f"{file} cannot be read: {error.strerror}", remedy="Check the path and the file.") from error
    except json.JSONDecodeError as error:
        left = text[error.pos :].strip()
        cut = error.msg.startswith("Unterminated") or any(word.startswith(left) for word in ("true", "false", "null"))
        what = f"is cut off after {len(text):,} characters" if cut else "is no JSON"
        raise DataError(f"{file} {what}: {error}", remedy="Copy or write it again.") from error
    except (ValueError, RecursionError) as error:  # what is no UTF-8, and what is nested too deeply
        raise DataError(f"{file} is no JSON: {error}", remedy="Copy or write it again.") from error


def lines_of(file: Path, parse: Callable[[bytes, int], None], skips: Skips) -> None:
    """Call ``parse`` with every line that is not blank, and with the line's offset in bytes.

    A line for which it raises ValueError is skipped, and named by its number. Only a line feed ends a line. Raises
    DataError where the file cannot be read.
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
