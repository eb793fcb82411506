"""Asks a model questions about a text."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import asdict
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from torchlift.cli.running import Answered, Given
from torchlift.errors import InputError
from torchlift.pipelines.question_answering import QuestionAnswering, SpanAnswer
from torchlift.storage import open_regular

if TYPE_CHECKING:
    from rich.console import Console

TAKES = ("questions", "context", "context_text")

_AROUND = 60
"""Characters of the text that are shown on each side of an answer."""


def answer(pipeline: QuestionAnswering, given: Given, outputs: tuple[str, ...]) -> Answered:
    """The answer to each question, its score and its place in the text."""
    if outputs:
        raise click.UsageError("answers are texts, and there is no array to write: use --json for a file.")
    questions: Sequence[str] = given.get("questions", ())
    if not questions:
        raise click.UsageError("give at least one --question.")
    if ("context" in given) == ("context_text" in given):
        raise click.UsageError("give either --context, a file, or --context-text.")
    text = _read(given["context"]) if "context" in given else given["context_text"]
    answers = pipeline([*questions], text)
    assert isinstance(answers, list)
    said = [{"question": q, **asdict(found)} for q, found in zip(questions, answers, strict=True)]
    return Answered(said, partial(_show, questions, answers, text))


def _read(file: Path) -> str:
    try:
        with open_regular(file) as stream:
            return stream.read().decode("utf-8-sig")
    except OSError as error:
        raise InputError(f"{file} cannot be read: {error.strerror}", remedy="Check the path and the file.") from error
    except UnicodeDecodeError as error:
        raise InputError(
            f"{file} is no text in UTF-8: byte {error.start:,} is not", remedy="Write it as plain text in UTF-8."
        ) from error


def _show(questions: Sequence[str], answers: Sequence[SpanAnswer], text: str, out: Console) -> None:
    from rich.text import Text

    for question, found in zip(questions, answers, strict=True):
        if len(questions) > 1:
            out.print(Text(question), soft_wrap=True)
        if not found.text:
            out.print(Text(f"no answer  {found.score:.2%}"))
            continue
        out.print(Text.assemble((found.text, "bold"), f"  {found.score:.2%}"), soft_wrap=True)
        before, after = text[max(0, found.start - _AROUND) : found.start], text[found.end : found.end + _AROUND]
        left = "... " * (found.start > _AROUND) + _one_line(before)
        right = _one_line(after) + " ..." * (found.end + _AROUND < len(text))
        place = f"characters {found.start:,} to {found.end:,}: "
        out.print(Text.assemble((place, "dim"), left, (_one_line(found.text), "bold"), right), soft_wrap=True)


def _one_line(text: str) -> str:
    """A text whose white space is single spaces."""
    return "".join(" " if character.isspace() else character for character in text)
