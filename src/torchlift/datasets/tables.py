"""Tables of texts with names of columns: .csv, .tsv and .jsonl."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Callable, Mapping, Sequence
from pathlib import Path
from typing import Any

from torchlift.datasets.base import Skips, lines_of
from torchlift.errors import DataError
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

    A row for which it raises ValueError, or that has too few cells, is skipped and named by its line. In a .csv a cell
    in quotes may have several lines. Raises DataError where the file cannot be read.
    """
    header: list[str] = []

    def cells(found: Sequence[str]) -> None:
        if not header:
            header.extend(name.strip().lower() for name in found)
        elif len(found) != len(header):
            raise ValueError(f"it has {len(found)} columns, and the first line names {len(header)}")
        else:
            parse(dict(zip(header, found, strict=True)))

    def line(content: bytes, offset: int) -> None:
        if file.suffix != ".jsonl":
            cells(_cells(file, content))
            return
        record = json.loads(content)
        if not isinstance(record, dict):
            raise ValueError("it is no object")
        parse({str(name).lower(): value for name, value in record.items()})

    if file.suffix == ".csv":
        _read_csv(file, cells, skips)
    else:
        lines_of(file, line, skips)


def _read_csv(file: Path, cells: Callable[[Sequence[str]], None], skips: Skips) -> None:
    try:
        with open_regular(file) as stream, io.TextIOWrapper(stream, "utf-8-sig", newline="") as text:
            rows = csv.reader(text)
            for found in rows:
                try:
                    if found:
                        cells(found)
                except ValueError as error:
                    skips.add(f"{file.name}, line {rows.line_num:,}: {error}")
    except (OSError, UnicodeDecodeError, csv.Error) as error:
        raise DataError(f"{file} cannot be read: {error}", remedy="Write it as CSV, in UTF-8.") from error


def text_in(row: Mapping[str, Any], name: str) -> str:
    """The text of a row in the column ``name``. Raises ValueError where it is none."""
    value = row.get(name)
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} is {'no text' if not isinstance(value, str) else 'empty'}")
    return value.strip()
