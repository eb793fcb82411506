"""Pairs of texts with how alike they are: for example the test set of STS-B, a pair a line."""

from __future__ import annotations

import csv
import json
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

import numpy as np

from torchlift.datasets.base import ReadOptions, Skips, lines_of, spread
from torchlift.errors import DataError

FIELDS = ("sentence1", "sentence2", "score")
"""What the fields of a .jsonl are called, and the columns of a table that has a first line of names."""


@dataclass(frozen=True)
class PairsData:
    """Pairs of texts: the first of each in ``left``, the second in ``right``. ``scores``, float64 [pairs], are higher
    where they are more alike.
    """

    kind: ClassVar[str] = "pairs"
    name: str
    left: tuple[str, ...]
    right: tuple[str, ...]
    scores: np.ndarray
    skips: Skips = field(default_factory=Skips)

    @property
    def texts(self) -> tuple[str, ...]:
        """Every text once, in the order of the file."""
        return tuple(dict.fromkeys(text for pair in zip(self.left, self.right, strict=True) for text in pair))


def read_pairs(file: Path, options: ReadOptions) -> PairsData:
    """Read pairs: of a .tsv or .csv the three columns text, text and number, or those called :data:`FIELDS` where the
    first line has names; of a .jsonl the fields of these names. What is no such line is skipped. Raises DataError.
    """
    skips = Skips(options.strict)
    found: list[tuple[str, str, float]] = []
    columns: list[int] = []

    def parse(line: bytes, offset: int) -> None:
        text = line.decode("utf-8-sig").rstrip("\r\n")
        if file.suffix == ".jsonl":
            found.append(_pair(_fields(json.loads(text))))
            return
        row = next(csv.reader([text])) if file.suffix == ".csv" else text.split("\t")
        if not columns:
            names = [name.strip().lower() for name in row]
            headed = {*FIELDS} <= {*names}
            columns.extend(names.index(name) for name in FIELDS) if headed else columns.extend(range(len(FIELDS)))
            if headed:
                return
        if len(row) <= max(columns):
            raise ValueError(f"it has {len(row)} columns")
        found.append(_pair([row[i] for i in columns]))

    lines_of(file, parse, skips)
    if not found:
        raise DataError(
            f"{file} has no pairs{': ' * bool(skips.count)}{skips}",
            remedy=f"Write text, text and number a line, or columns called {', '.join(FIELDS)}; for labels text and "
            "label, for retrieval query and document.",
        )
    left, right, scores = zip(*(found[i] for i in spread(len(found), options.limit)), strict=True)
    return PairsData(file.name, left, right, np.array(scores, np.float64), skips)


def has_pairs(names: frozenset[str]) -> bool:
    """Whether a table with these columns has pairs."""
    return {*FIELDS} <= names


def _fields(record: Any) -> Sequence[Any]:
    if not isinstance(record, dict) or not {*FIELDS} <= {*record}:
        raise ValueError(f"it has not the fields {', '.join(FIELDS)}")
    return [record[name] for name in FIELDS]


def _pair(read: Sequence[Any]) -> tuple[str, str, float]:
    """Two texts and a number. Raises ValueError for anything else."""
    left, right, score = read
    if not isinstance(left, str) or not isinstance(right, str):
        raise ValueError("a text is no string")
    number = float(score) if isinstance(score, (str, int, float)) and not isinstance(score, bool) else float("nan")
    if not np.isfinite(number):
        raise ValueError(f"the score is {score!r}")
    return left.strip(), right.strip(), number
