"""Tables of texts with names of columns: .csv, .tsv and .jsonl."""

from __future__ import annotations

import csv
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torchlift.datasets.base import Skips, lines_of
from torchlift.storage import open_regular

_FIRST = 1 << 20
"""Bytes of a first line that are looked at."""


def names_of(file: Path) -> frozenset[str]:
    """What the columns of a table are called, or the fields of the first line of a .jsonl, in lower case; empty where
    the file has none, or cannot be read.
    """
    try:
        with open_regular(file) as stream:
            line = next((line for line in iter(lambda: stream.readline(_FIRST), b"") if line.strip()), b"")
        return frozenset(_named(file, line))
    except (OSError, ValueError, TypeError, RecursionError):
        return frozenset()


def _named(file: Path, line: bytes) -> list[str]:
    if file.suffix == ".jsonl":
        record = json.loads(line)
        return [str(name).lower() for name in record] if isinstance(record, dict) else []
    return [name.strip().lower() for name in _cells(file, line)]


def _cells(file: Path, line: bytes) -> list[str]:
    text = line.decode("utf-8-sig").rstrip("\r\n")
    return next(csv.reader([text])) if file.suffix == ".csv" else text.split("\t")


def chosen(names: frozenset[str], known: Sequence[str]) -> str:
    """The first of the ``known`` names that a table has; empty where it has none."""
    return next((name for name in known if name in names), "")


def read_rows(file: Path, parse: Callable[[Mapping[str, Any]], None], skips: Skips) -> None:
    """Call ``parse`` with every row of a table, a dict by the names of its columns in lower case.

    A row for which it raises ValueError, or that has too few cells, is skipped and named by its line. Raises DataError
    where the file cannot be read.
    """
    header: list[str] = []

    def line(content: bytes, offset: int) -> None:
        if file.suffix == ".jsonl":
            record = json.loads(content)
            if not isinstance(record, dict):
                raise ValueError("it is no object")
            parse({str(name).lower(): value for name, value in record.items()})
            return
        cells = _cells(file, content)
        if not header:
            header.extend(name.strip().lower() for name in cells)
            return
        if len(cells) != len(header):
            raise ValueError(f"it has {len(cells)} columns, and the first line names {len(header)}")
        parse(dict(zip(header, cells, strict=True)))

    lines_of(file, line, skips)


def text_in(row: Mapping[str, Any], name: str) -> str:
    """The text of a row in the column ``name``. Raises ValueError where it is none."""
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} is {'no text' if not isinstance(value, str) else 'empty'}")
    return value.strip()
