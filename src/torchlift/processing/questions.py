"""A question and a text as rows of token ids: the text is cut into windows that overlap, and each is a row."""

from __future__ import annotations

import functools
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import numpy.typing as npt
import tokenizers

from torchlift.declare.inputs import QuestionInput
from torchlift.errors import InputError
from torchlift.processing.tokenizer_json import pad_of, read_tokenizer, require_unicode, size_of

Ids = npt.NDArray[np.int64]


@dataclass(frozen=True)
class Layout:
    """What a tokenizer puts around the two texts of a pair: ids and types before, between and after. ``types`` are
    those of the first text and of the second.
    """

    ids: tuple[Ids, Ids, Ids]
    around: tuple[Ids, Ids, Ids]
    types: tuple[int, int]

    @property
    def tokens(self) -> int:
        """How many tokens there are around the texts."""
        return sum(map(len, self.ids))


@dataclass(frozen=True)
class Passage:
    """A text as token ids, int64 [tokens], and where each token begins and ends in it: characters, int64 [tokens]."""

    text: str
    ids: Ids
    starts: Ids
    ends: Ids


@dataclass(frozen=True)
class Windows:
    """Questions and their texts as rows. Row ``r`` has the tokens ``start[r]`` to ``stop[r]`` of the text of the
    question ``pair[r]``; rows of a question follow each other. ``cut`` tells of each question whether it was cut.
    """

    layout: Layout
    pad: int
    questions: Sequence[Ids]
    passages: Sequence[Passage]
    cut: Sequence[bool]
    pair: Ids
    start: Ids
    stop: Ids

    @property
    def rows(self) -> int:
        """How many rows there are."""
        return len(self.pair)

    @functools.cached_property
    def lengths(self) -> Ids:
        """The tokens of each row, all counted: int64 [rows]."""
        return self._firsts + len(self.layout.ids[2]) + self.stop - self.start

    def first(self, rows: Ids) -> Ids:
        """The position of the text's first token in some rows."""
        first: Ids = self._firsts[rows]
        return first

    @functools.cached_property
    def _firsts(self) -> Ids:
        asked = np.array([len(question) for question in self.questions], np.int64)
        firsts: Ids = asked[self.pair] + len(self.layout.ids[0]) + len(self.layout.ids[1])
        return firsts

    def ids(self, rows: Ids, length: int) -> Ids:
        """The ids of some rows, int64 [n, length], padded on the right."""
        before, between, after = self.layout.ids
        found = np.full((len(rows), length), self.pad, np.int64)
        for out, row in zip(found, rows, strict=True):
            pair = self.pair[row]
            shown = self.passages[pair].ids[self.start[row] : self.stop[row]]
            values = np.concatenate([before, self.questions[pair], between, shown, after])
            out[: len(values)] = values
        return found

    def mask(self, rows: Ids, length: int) -> Ids:
        """1 at the tokens of some rows, 0 at their padding: int64 [n, length]."""
        return (np.arange(length) < self.lengths[rows][:, None]).astype(np.int64)

    def types(self, rows: Ids, length: int) -> Ids:
        """Which text a token is of, as the tokenizer numbers them: int64 [n, length], 0 at padding."""
        before, between, after = self.layout.around
        found = np.zeros((len(rows), length), np.int64)
        for out, row in zip(found, rows, strict=True):
            asked, shown = len(self.questions[self.pair[row]]), int(self.stop[row] - self.start[row])
            first, second = np.full(asked, self.layout.types[0]), np.full(shown, self.layout.types[1])
            values = np.concatenate([before, first, between, second, after])
            out[: len(values)] = values
        return found


class QuestionTokenizer:
    """A tokenizer.json for a question input. Safe to share between threads.

    Raises InputError for a file that cannot be read, and for a declaration that leaves no room for text.
    """

    def __init__(self, content: bytes, declared: QuestionInput) -> None:
        self._tokenizer = read_tokenizer(content)
        self.declared = declared
        self.pad, self.size = pad_of(self._tokenizer), size_of(self._tokenizer)
        self._tokenizer.no_padding()
        self._tokenizer.no_truncation()
        self.layout = _layout(self._tokenizer)
        least = self.layout.tokens + declared.question + 1
        if declared.length < least:
            raise InputError(
                f"a row of {declared.length} tokens leaves no room for text beside a question of {declared.question}",
                remedy=f"Declare a length of {least} or more, or a shorter question.",
            )

    def question(self, text: str, said: str) -> tuple[Ids, bool]:
        """The ids of a question, cut where it is longer than is declared, and whether it was cut.

        Raises InputError, which calls it ``said``, where it has no token, or more than a row holds.
        """
        ids = np.array(self._encoded(text, said).ids, np.int64)
        room = self.declared.length - self.layout.tokens - 1
        if not len(ids):
            raise InputError(f"{said} is empty", remedy="Ask something: give at least one character that can be seen.")
        if len(ids) > room:
            raise InputError(
                f"{said} has {len(ids):,} tokens, and a window of {self.declared.length} holds at most {room}",
                remedy="Ask a shorter question; what is long belongs into the context.",
            )
        return ids[: self.declared.question], len(ids) > self.declared.question

    def passage(self, text: str, said: str) -> Passage:
        """A text as tokens. Raises InputError, which calls it ``said``, where it has none."""
        encoding = self._encoded(text, said)
        if not encoding.ids:
            raise InputError(f"{said} is empty", remedy="Give the text that the answer is looked for in.")
        places = np.array(encoding.offsets, np.int64)
        return Passage(text, np.array(encoding.ids, np.int64), places[:, 0], places[:, 1])

    def windows(self, questions: Sequence[tuple[Ids, bool]], passages: Sequence[Passage]) -> Windows:
        """The rows of questions and their texts."""
        parts = [self._cut(len(ids), len(text.ids)) for (ids, _), text in zip(questions, passages, strict=True)]
        pair = np.repeat(np.arange(len(parts)), [len(start) for start, _ in parts])
        start, stop = (np.concatenate([part[side] for part in parts]) for side in (0, 1))
        asked, cut = zip(*questions, strict=True)
        return Windows(self.layout, self.pad, asked, passages, cut, pair, start, stop)

    def _cut(self, asked: int, tokens: int) -> tuple[Ids, Ids]:
        """Where the windows of a text of ``tokens`` begin and end beside a question of ``asked``."""
        room = self.declared.length - self.layout.tokens - asked
        assert self.declared.overlap is not None
        overlap = self.declared.overlap if self.declared.overlap < room else room // 2
        step = room - overlap
        count = 1 + max(0, -(-(tokens - room) // step))
        start = np.arange(count, dtype=np.int64) * step
        return start, np.minimum(start + room, tokens)

    def _encoded(self, text: str, said: str) -> tokenizers.Encoding:
        require_unicode(text, said)
        return self._tokenizer.encode(text, add_special_tokens=False)


def _layout(tokenizer: tokenizers.Tokenizer) -> Layout:
    """What is put around the texts of a pair, as the tokenizer does it with two short ones."""
    found = tokenizer.encode("a", "a")
    sides = found.sequence_ids
    if 0 not in sides or 1 not in sides:
        raise InputError(
            "the tokenizer.json makes no token of the letter a",
            remedy="Give the tokenizer.json that came with the model.",
        )
    ids, types = np.array(found.ids, np.int64), np.array(found.type_ids, np.int64)
    first, second = ([i for i, side in enumerate(sides) if side == number] for number in (0, 1))
    parts = slice(0, first[0]), slice(first[-1] + 1, second[0]), slice(second[-1] + 1, len(sides))
    return Layout(_each(ids, parts), _each(types, parts), (int(types[first[0]]), int(types[second[0]])))


def _each(values: Ids, parts: Sequence[slice]) -> tuple[Any, Any, Any]:
    before, between, after = (values[part] for part in parts)
    return before, between, after
