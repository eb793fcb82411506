"""Reads LMDB files and the pickles in them.

A pickle is read as plain data, which runs no code, unless it is trusted.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from torchlift.datasets.base import Images, ReadOptions, Skips, spread
from torchlift.datasets.database import Database
from torchlift.datasets.labelled import LabelledData
from torchlift.errors import DataError, UnsafeDataError

LARGEST_LABEL = 2**31 - 1
"""Class numbers index the columns of an output, of which there are fewer."""


class _RefusedError(ValueError):
    """A pickle names a class or a function. It was not called."""


class _Plain(pickle.Unpickler):
    """Reads tuples, lists, dicts, strings, bytes and numbers. They need no import, so no code can run."""

    def find_class(self, module: str, name: str) -> Any:
        raise _RefusedError(f"{module}.{name}")


def unpickled(data: bytes, what: str, trust: bool) -> Any:
    """The object in a pickle. With ``trust`` any pickle is read, otherwise only plain data.

    Raises UnsafeDataError where a pickle that is not trusted names a class or a function; it was not called. Raises
    ValueError where the pickle is broken.
    """
    try:
        return pickle.loads(data) if trust else _Plain(io.BytesIO(data)).load()  # noqa: S301
    except _RefusedError as error:
        raise UnsafeDataError(
            f"{what} is a pickle that would call {error}; it did not run",
            remedy="Write plain bytes and numbers; or, where you made it yourself, read with `trust_pickle=`.",
        ) from error
    except Exception as error:  # a broken pickle raises almost anything
        raise ValueError(f"the pickle is broken: {error}") from error


class PickledImages(Images):
    """Images of an LMDB whose values are pickles of (image file, label)."""

    def __init__(self, database: Database, keys: Sequence[bytes], trust: bool) -> None:
        self._database = database
        self._keys = keys
        self._trust = trust
        self.ids = [_text(key) for key in keys]

    def read(self, position: int) -> bytes:
        try:
            return labelled_record(self._database.get(self._keys[position]), self.name(position), self._trust)[0]
        except ValueError as error:
            raise DataError(f"{self.name(position)}: {error}", remedy="Make the record again.") from error

    def kept(self, positions: Sequence[int]) -> PickledImages:
        return PickledImages(self._database, [self._keys[i] for i in positions], self._trust)


def labelled_record(data: bytes, what: str, trust: bool) -> tuple[bytes, int]:
    """The (image file, label) in a pickled record. Raises UnsafeDataError as :func:`unpickled`, else ValueError."""
    record = unpickled(data, what, trust)
    match record:
        case (bytes() | bytearray() as image, label) if _is_label(label):
            return bytes(image), int(label)
    raise ValueError(f"it is not a pair of an image file's bytes and a label from 0 to {LARGEST_LABEL}")


def _is_label(label: Any) -> bool:
    return isinstance(label, (int, np.integer)) and not isinstance(label, bool) and 0 <= int(label) <= LARGEST_LABEL


def _text(key: bytes) -> str:
    return key.decode("utf-8", "backslashreplace")


def read_records(folder: Path, options: ReadOptions) -> LabelledData:
    """Open an LMDB whose values are pickles of (encoded image, class number).

    Raises DataError where no record can be used, UnsafeDataError for a record that holds more than plain data.
    """
    database, skips = Database(folder), Skips(options.strict)
    keys = database.samples()
    read: list[bytes] = []
    labels: list[int] = []
    for position in spread(len(keys), options.limit):
        what = f"record {_text(keys[position])}"
        try:
            labels.append(labelled_record(database.get(keys[position]), what, options.trust_pickle)[1])
            read.append(keys[position])
        except ValueError as error:
            skips.add(f"{what}: {error}")
    if not read:
        raise DataError(
            f"{folder} has no usable record among {len(keys):,}{': ' * bool(skips.count)}{skips}",
            remedy="Write a pickle of (bytes of an image file, class number) under each key.",
        )
    return LabelledData(
        folder.name, PickledImages(database, read, options.trust_pickle), np.array(labels, np.int64), skips=skips
    )
