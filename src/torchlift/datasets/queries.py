"""Queries, and the documents that answer them: a table, a query and a document a line."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from torchlift.datasets.base import ReadOptions, Skips, spread
from torchlift.datasets.tables import chosen, names_of, read_rows, text_in
from torchlift.errors import DataError

QUERIES = ("query", "question", "anchor")
DOCUMENTS = ("document", "passage", "positive", "answer")
"""What columns are called. Of several the first is read."""


@dataclass(frozen=True)
class QueryData:
    """Query -> the documents that answer it, in the order of the file. ``documents`` are all there are, each once."""

    kind: ClassVar[str] = "queries"
    name: str
    queries: Mapping[str, tuple[str, ...]]
    documents: tuple[str, ...]
    skips: Skips = field(default_factory=Skips)

    @property
    def texts(self) -> tuple[str, ...]:
        """Every text once."""
        return tuple(dict.fromkeys([*self.queries, *self.documents]))


def has_queries(names: frozenset[str]) -> bool:
    """Whether a table with these columns has queries and documents."""
    return bool(chosen(names, QUERIES) and chosen(names, DOCUMENTS))


def read_queries(file: Path, options: ReadOptions) -> QueryData:
    """Read queries and documents. A query may have several lines, and several queries one document. The limit counts
    queries; all documents stay, since it is easier to find one among fewer. Raises DataError where there are none.
    """
    names, skips = names_of(file), Skips(options.strict)
    query, document = chosen(names, QUERIES), chosen(names, DOCUMENTS)
    found: dict[str, dict[str, None]] = {}
    documents: dict[str, None] = {}

    def parse(row: Any) -> None:
        asked, answer = text_in(row, query), text_in(row, document)
        found.setdefault(asked, {})[answer] = None
        documents[answer] = None

    read_rows(file, parse, skips)
    if not found:
        raise DataError(
            f"{file} has no queries{': ' * bool(skips.count)}{skips}",
            remedy=f"Write columns called {QUERIES[0]} and {DOCUMENTS[0]}.",
        )
    rows = [*found.items()]
    kept = {asked: tuple(answers) for asked, answers in (rows[i] for i in spread(len(rows), options.limit))}
    return QueryData(file.name, kept, tuple(documents), skips)
