"""Texts, or pairs of texts, with the label of each: a table, a text a line."""

from __future__ import annotations

from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from torchlift.datasets.base import ReadOptions, Skips, spread
from torchlift.datasets.tables import chosen, names_of, read_rows, text_in
from torchlift.errors import DataError

TEXTS = ("text", "sentence", "content")
PAIRS = (("sentence1", "sentence2"), ("premise", "hypothesis"), ("text1", "text2"), ("question1", "question2"))
LABELS = ("label", "labels", "class", "category")
"""What columns are called. Of several the first is read."""


@dataclass(frozen=True)
class TextClassData:
    """``texts``, each a string or a pair of strings, and the label of each: a name or a number, as a string."""

    kind: ClassVar[str] = "texts with labels"
    name: str
    texts: tuple[str | tuple[str, str], ...]
    labels: tuple[str, ...]
    skips: Skips = field(default_factory=Skips)


def has_classes(names: frozenset[str]) -> bool:
    """Whether a table with these columns has texts with labels."""
    return bool(chosen(names, LABELS) and (chosen(names, TEXTS) or _pair(names)))


def read_classes(file: Path, options: ReadOptions) -> TextClassData:
    """Read texts with labels. A row without either is skipped. Raises DataError where none is left."""
    names, skips = names_of(file), Skips(options.strict)
    pair, text, label = _pair(names), chosen(names, TEXTS), chosen(names, LABELS)
    found: list[tuple[str | tuple[str, str], str]] = []

    def parse(row: Any) -> None:
        value = row.get(label)
        if isinstance(value, bool) or not isinstance(value, (str, int)) or not str(value).strip():
            raise ValueError(f"{label} is no name and no whole number")
        of = (text_in(row, pair[0]), text_in(row, pair[1])) if pair else text_in(row, text)
        found.append((of, str(value).strip()))

    read_rows(file, parse, skips)
    if not found:
        raise DataError(
            f"{file} has no texts with labels{': ' * bool(skips.count)}{skips}",
            remedy=f"Write columns called {TEXTS[0]} and {LABELS[0]}.",
        )
    texts, labels = zip(*(found[i] for i in spread(len(found), options.limit)), strict=True)
    return TextClassData(file.name, texts, labels, skips)


def _pair(names: frozenset[str]) -> tuple[str, str] | None:
    return next((pair for pair in PAIRS if {*pair} <= names), None)
