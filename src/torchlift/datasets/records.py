"""Reads LMDB files and the pickles in them.

A pickle is read as plain data, which runs no code, unless it is trusted.
"""

from __future__ import annotations

import io
import pickle
from collections.abc import Iterator, Sequence
from importlib import import_module
from pathlib import Path
from typing import Any
from weakref import WeakValueDictionary

import numpy as np

from torchlift.datasets.base import Images, ReadOptions, Skips, spread
from torchlift.datasets.labelled import LabelledData
from torchlift.errors import DataError, UnsafeDataError

DATABASE = "data.mdb"

_COUNTS = frozenset({b"num_images", b"num_samples", b"__len__", b"__keys__"})
"""Keys whose value is not a sample."""


class Database:
    """An LMDB folder, opened for reading by :func:`opened`. Several threads may read."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        try:
            lmdb = import_module("lmdb")
        except ImportError as error:
            raise DataError(
                f"{folder} is an LMDB, and lmdb is not installed", remedy='pip install "torchlift[lmdb]"'
            ) from error
        try:
            self._environment = lmdb.open(str(folder), readonly=True, create=False, lock=False, readahead=False)
        except lmdb.Error as error:
            raise DataError(
                f"{folder} cannot be opened as an LMDB: {error}", remedy="Copy it again, or make it again."
            ) from error

    def samples(self) -> list[bytes]:
        """The keys of all samples, in the order of their bytes."""
        with self._environment.begin() as transaction:
            return [key for key in transaction.cursor().iternext(values=False) if key not in _COUNTS]

    def items(self) -> Iterator[tuple[bytes, bytes]]:
        """The keys and values of all samples, in the order of the keys' bytes."""
        with self._environment.begin() as transaction:
            yield from ((key, value) for key, value in transaction.cursor() if key not in _COUNTS)

    def get(self, key: bytes) -> bytes:
        """The value of a key. Raises DataError where it is gone."""
        with self._environment.begin() as transaction:
            value = transaction.get(key)
        if value is None:
            raise DataError(f"{self.folder} no longer has the key {_text(key)}", remedy="Open it again.")
        return bytes(value)


_OPEN: WeakValueDictionary[Path, Database] = WeakValueDictionary()
"""The open LMDBs. A process may open an LMDB only once, so a second opening shares the first."""


def opened(folder: Path) -> Database:
    """The LMDB at ``folder``. Raises DataError where it cannot be opened, or the package lmdb is missing."""
    key = folder.resolve()
    database = _OPEN.get(key)
    if database is None:
        database = _OPEN[key] = Database(folder)
    return database


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
    raise ValueError("it is not a pair of an image file's bytes and a label of 0 or more")


def _is_label(label: Any) -> bool:
    return isinstance(label, (int, np.integer)) and not isinstance(label, bool) and int(label) >= 0


def _text(key: bytes) -> str:
    return key.decode("utf-8", "backslashreplace")


def read_records(folder: Path, options: ReadOptions) -> LabelledData:
    """Open an LMDB whose values are pickles of (encoded image, class number).

    Raises DataError where no record can be used, UnsafeDataError for a record that holds more than plain data.
    """
    database, skips = opened(folder), Skips(options.strict)
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
