"""Questions about texts, and their answers, as SQuAD v1.1 and v2.0 have them in one JSON file."""

from __future__ import annotations

import json
from collections.abc import Collection, Iterator, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, ClassVar

from torchlift.datasets.base import ReadOptions, Skips, read_json, spread
from torchlift.datasets.results import write_lines
from torchlift.errors import DataError

_FORM = '{"data": [{"paragraphs": [{"context": ..., "qas": [{"id": ..., "question": ..., "answers": [...]}]}]}]}'


@dataclass(frozen=True)
class Question:
    """A question, its ``context``, and the texts that are right answers; there are none where the context has none."""

    id: str
    question: str
    context: str
    answers: tuple[str, ...]


@dataclass(frozen=True)
class SquadData:
    """Questions in the order of the file. ``unanswerable`` tells whether contexts may have no answer, as in v2.0."""

    kind: ClassVar[str] = "questions"
    name: str
    questions: tuple[Question, ...]
    unanswerable: bool
    skips: Skips = field(default_factory=Skips)


def read_squad(file: Path, found: Any, options: ReadOptions) -> SquadData:
    """The questions of a file whose JSON says ``found``. What is no question is skipped. Raises DataError.

    A file is of v2.0 where its version says so, or where a question says whether it ``is_impossible``.
    """
    skips = Skips(options.strict)
    articles = found.get("data") if isinstance(found, dict) else None
    if not isinstance(articles, list):
        raise DataError(f"{file} has no list called data", remedy=f"Write it as SQuAD is: {_FORM}.")
    assert isinstance(found, dict)
    records = [*_records(file, articles)]
    unanswerable = str(found.get("version", "")).lstrip("v").startswith("2") or any(
        isinstance(record, dict) and "is_impossible" in record for _, record in records
    )
    questions: dict[str, Question] = {}
    for number, (context, record) in enumerate(records, 1):
        try:
            question = _question(context, record, unanswerable)
        except ValueError as error:
            said = record.get("id") if isinstance(record, dict) else None
            skips.add(f"{file.name}, question {said or number}: {error}")
            continue
        if question.id in questions:
            raise DataError(f"{file} has the question {question.id!r} twice", remedy="Give each an id of its own.")
        questions[question.id] = question
    if not questions:
        raise DataError(f"{file} has no questions{': ' * bool(skips.count)}{skips}", remedy=f"Write {_FORM}.")
    every = [*questions.values()]
    return SquadData(file.name, tuple(every[i] for i in spread(len(every), options.limit)), unanswerable, skips)


def write_answers(file: Path, answers: Mapping[str, str] | Mapping[str, float]) -> None:
    """Write the predicted text, or a number, of each question by its id, as the evaluation scripts read it. Raises
    StorageError.
    """
    write_lines(file, [json.dumps(dict(answers), indent=4, ensure_ascii=False)])


def read_answers(file: Path, ids: Collection[str]) -> dict[str, str]:
    """The predicted texts of the questions ``ids``; others in the file are left out. Raises DataError for a file that
    has none of them, or another value than a text.
    """
    found = read_json(file)
    if not isinstance(found, dict):
        raise DataError(f"{file} has no predictions", remedy='Write {"id of a question": "its answer", ...}.')
    wrong = next((name for name in ids if name in found and not isinstance(found[name], str)), None)
    if wrong is not None:
        raise DataError(
            f"{file}: the answer to {wrong!r} is {type(found[wrong]).__name__}, and no text",
            remedy='Write "" where a question has no answer.',
        )
    answers = {name: found[name] for name in ids if name in found}
    if not answers:
        raise DataError(
            f"{file} answers none of the {len(ids):,} questions", remedy="Give predictions for this data set."
        )
    return answers


def _records(file: Path, articles: list[Any]) -> Iterator[tuple[Any, Any]]:
    """Each context with each of its questions, as the file has them."""
    for article in articles:
        paragraphs = article.get("paragraphs") if isinstance(article, dict) else None
        if not isinstance(paragraphs, list):
            raise DataError(f"{file} has an article without paragraphs", remedy=f"Write it as SQuAD is: {_FORM}.")
        for paragraph in paragraphs:
            asked = paragraph.get("qas") if isinstance(paragraph, dict) else None
            if not isinstance(asked, list):
                raise DataError(f"{file} has a paragraph without qas", remedy=f"Write it as SQuAD is: {_FORM}.")
            for record in asked:
                yield paragraph.get("context"), record


def _question(context: Any, record: Any, unanswerable: bool) -> Question:
    """Raises ValueError for what is no question."""
    if not isinstance(record, dict):
        raise ValueError("it is no object")
    number, question = record.get("id"), record.get("question")
    number = str(number) if type(number) is int else number
    if not isinstance(number, str) or not number:
        raise ValueError("it has no id")
    for what, text in (("question", question), ("context", context)):
        if not isinstance(text, str) or not text.strip():
            raise ValueError(f"its {what} is {'empty' if isinstance(text, str) else 'no text'}")
    answers = record.get("answers", [])
    texts = [a.get("text") if isinstance(a, dict) else None for a in answers] if isinstance(answers, list) else [None]
    if not all(isinstance(text, str) for text in texts):
        raise ValueError("its answers are no texts")
    if not texts and not unanswerable:
        raise ValueError("it has no answer")
    return Question(number, str(question), str(context), tuple(map(str, texts)))
