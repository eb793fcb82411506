"""What a network of this family that answers questions takes and gives, beside its tensors."""

from __future__ import annotations

import re
from typing import Any

from torchlift.declare.answers import Span
from torchlift.declare.inputs import QuestionInput
from torchlift.errors import CheckpointError, InputError
from torchlift.families.bert.folder import Folder
from torchlift.processing.questions import QuestionTokenizer

LENGTH, QUESTION = 384, 64
"""Tokens of a row and of a question: those that BERT is trained with on SQuAD, where the network takes as many."""

NO_ANSWER, THRESHOLD = "no_answer", "no_answer_threshold"
"""What config.json may say: whether the network was trained to find that there is no answer, and by how much having
none must score higher.
"""

_SECOND = re.compile(r"squad[-_. ]?v?[-_.]?2", re.IGNORECASE)
"""How models that were trained on SQuAD v2.0 are called: deepset/roberta-base-squad2."""


def question_input(role: str, most: int, longest: int | None, content: bytes) -> QuestionInput:
    """The rows of a network that takes ``most`` tokens, by the tokenizer in the asset ``role``, which states that it
    makes at most ``longest``. Raises CheckpointError where no text fits in beside a question.
    """
    length = min(LENGTH, most, longest or LENGTH)
    try:
        declared = QuestionInput(role, length, question=min(QUESTION, max(1, length // 2 - 4)))
        QuestionTokenizer(content, declared)
    except InputError as error:
        raise CheckpointError(
            error.message, remedy="Give a model, or a range of the axis, with more tokens."
        ) from error
    return declared


def span(folder: Folder, end: str, mask: str) -> Span:
    """Where answers begin. A text may have none where config.json says so, or else where the model is called after
    SQuAD v2.0.
    """
    stated, threshold = folder.config.get(NO_ANSWER), folder.config.get(THRESHOLD, 0.0)
    if stated is not None and not isinstance(stated, bool):
        raise _wrong(NO_ANSWER, stated, "Write true or false.")
    if type(threshold) not in (int, float):
        raise _wrong(THRESHOLD, threshold, "Write a number.")
    no_answer = _is_called_second(folder) if stated is None else stated
    return Span(end, no_answer=no_answer, threshold=float(threshold), mask=mask)


def notes(answer: Span) -> tuple[str, ...]:
    """What whoever ships the model should know of its answers."""
    if answer.no_answer:
        return (f"a text may have no answer, as in SQuAD v2.0; {NO_ANSWER} in config.json says otherwise",)
    return ()


def _is_called_second(folder: Folder) -> bool:
    names = [str(folder.config.get("_name_or_path", "")), folder.root.name]
    names += [part for part in folder.root.parts if part.startswith("models--")]  # the hub's folders
    return any(_SECOND.search(name) for name in names)


def _wrong(name: str, value: Any, remedy: str) -> CheckpointError:
    return CheckpointError(f"config.json says {name} is {value!r}", remedy=remedy)
