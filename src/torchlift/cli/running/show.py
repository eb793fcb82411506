"""Prints answers for people: rankings as tables, all else in a line each."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from rich.table import Table
from rich.text import Text

if TYPE_CHECKING:
    from rich.console import Console

_LONGEST = 400
"""Characters of an array that are printed."""


def show_answers(answers: Mapping[str, Any], out: Console) -> None:
    """Print answers by name: a dict of scores and labels as rankings, anything else as it is."""
    for name, value in answers.items():
        if isinstance(value, dict):
            out.print(ranking(name, sorted(value.items(), key=lambda item: -item[1])))
        elif _is_rows_of(value, dict):
            for row, tokens in enumerate(value):
                out.print(_tokens(f"{name} of row {row}", tokens))
        elif _is_rows_of(value, tuple):
            for row, scores in enumerate(value):
                out.print(ranking(f"{name} of row {row}", scores))
        else:
            text = str(value)
            out.print(f"{name}: {text if len(text) < _LONGEST else text[:_LONGEST] + ' ...'}")


def ranking(title: str, scores: list[tuple[str, float]]) -> Table:
    """A table of names and their scores, with a bar for each that is a share."""
    table = Table(title=title, title_justify="left", box=None, show_header=False)
    for name, score in scores:
        share = 0 <= score <= 1
        table.add_row(f"{score:7.2%}" if share else f"{score:.4g}", name, "█" * round(30 * score) if share else "")
    return table


def _tokens(title: str, tokens: Sequence[Mapping[str, Any]]) -> Table:
    """A table of the tokens of a text, with the place and the label of each."""
    table = Table(title=title, title_justify="left", box=None, show_header=False)
    for token in tokens:
        place = f"{token['start']}..{token['end']}"
        table.add_row(place, Text(token["text"]), Text(token["label"]), f"{token['score']:7.2%}")
    return table


def _is_rows_of(value: Any, kind: type) -> bool:
    return isinstance(value, list) and all(isinstance(row, list) and row and isinstance(row[0], kind) for row in value)
