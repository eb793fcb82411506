"""The best span over all windows of a text, from the scores of where it begins and where it ends.

The rules are those of BERT's run_squad: of each window the starts and ends that score highest are combined. A span lies
in the text, ends where it begins or later, has at most so many tokens, and begins in the window that shows most of the
text around its first token.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt

from torchlift.declare.answers import Span
from torchlift.processing.questions import Ids, Windows

Floats = npt.NDArray[np.float64]

_LENGTH_COUNTS = 0.01
"""What a token of a window's length counts, where two windows show as much of the text around a token."""


@dataclass(frozen=True)
class FoundSpans:
    """What was found for each question.

    ``start`` and ``end``, int64 [questions], are the characters of the best span in its text; -1 where no score of the
    model is a number. ``best`` is the sum of its two scores, ``none`` that of having no answer, ``total`` the logarithm
    of the sum of the exponentials of all that was looked at: float64 [questions]. What does not count is minus
    infinity: ``none`` where a text must have an answer.
    """

    start: Ids
    end: Ids
    best: Floats
    none: Floats
    total: Floats

    @property
    def score(self) -> Floats:
        """The probability of the best span, from 0 to 1."""
        return _share(self.best, self.total)

    @property
    def score_of_none(self) -> Floats:
        """The probability of having no answer, from 0 to 1."""
        return _share(self.none, self.total)

    def given(self, declared: Span) -> npt.NDArray[np.bool_]:
        """Which questions have an answer: bool [questions]."""
        known = np.isfinite(self.none) & np.isfinite(self.best)
        margin = np.subtract(self.none, self.best, where=known, out=np.full(len(self.best), -np.inf))
        given: npt.NDArray[np.bool_] = (self.start >= 0) & ~(margin > declared.threshold)
        return given


class SpanSearch:
    """Finds the best span of each question. Rows may come in any order, in any number of parts."""

    def __init__(self, declared: Span, windows: Windows) -> None:
        self._declared = declared
        self._windows = windows
        rows = windows.rows
        self._best = np.full(rows, -np.inf)
        self._free = np.zeros(rows, bool)
        """Rows of which no span among the highest starts and ends fits: then all are looked at."""
        self._all = np.full(rows, -np.inf)
        """The logarithm of the sum of the exponentials of all spans of a row."""
        self._none = np.full(rows, np.inf)
        self._tokens = np.zeros((rows, 2), np.int64)

    def add(self, rows: Ids, start: np.ndarray, end: np.ndarray) -> None:
        """Take the scores of some rows, float [n, length] each; at padding they do not count."""
        length = int(self._windows.lengths[rows].max())
        scores = [np.asarray(array[: len(rows), :length], np.float64) for array in (start, end)]
        starts, ends = (np.where(np.isfinite(array), array, -np.inf) for array in scores)
        self._none[rows] = np.where(
            np.isfinite(scores[0][:, 0] + scores[1][:, 0]), scores[0][:, 0] + scores[1][:, 0], np.inf
        )
        real = np.arange(length) < self._windows.lengths[rows][:, None]
        shown, first = self._shown(rows, length), self._windows.first(rows)
        allowed = shown & self._most_context(rows, first, length)
        found = _highest(np.where(real, starts, -np.inf), np.where(real, ends, -np.inf), allowed, shown, self._declared)
        best, begins, finishes, together = found
        self._free[rows] = ~np.isfinite(best)
        for i in np.flatnonzero(~np.isfinite(best)):
            best[i], begins[i], finishes[i] = _highest_of_all(starts[i], ends[i], allowed[i], shown[i], self._declared)
            together[i] = best[i]
        self._best[rows], self._all[rows] = best, together
        to_text = self._windows.start[rows] - first
        self._tokens[rows] = np.stack([begins + to_text, finishes + to_text], 1)

    def found(self) -> FoundSpans:
        """The best span of each question, once all rows were taken."""
        windows, rows = self._windows, np.arange(self._windows.rows)
        order = np.lexsort((rows, -self._best, self._free, windows.pair))
        _, firsts = np.unique(windows.pair[order], return_index=True)
        chosen = order[firsts]
        count = len(windows.questions)
        total, none = np.full(count, -np.inf), np.full(count, np.inf)
        counted = self._free == self._free[chosen][windows.pair]
        np.logaddexp.at(total, windows.pair[counted], self._all[counted])
        np.minimum.at(none, windows.pair, self._none)
        if self._declared.no_answer:
            none = np.where(np.isfinite(none), none, -np.inf)
            total = np.logaddexp(total, none)
        else:
            none = np.full(count, -np.inf)
        places = [self._place(int(row)) for row in chosen]
        start, end = (np.array([place[side] for place in places], np.int64) for side in (0, 1))
        return FoundSpans(start, end, self._best[chosen], none, total)

    def _place(self, row: int) -> tuple[int, int]:
        """The characters of a row's best span, without white space at its ends; (-1, -1) where there is none."""
        if not np.isfinite(self._best[row]):
            return -1, -1
        passage, (first, last) = self._windows.passages[self._windows.pair[row]], self._tokens[row]
        start, end = int(passage.starts[first]), int(passage.ends[last])
        text = passage.text[start:end]
        start += len(text) - len(text.lstrip())
        return start, max(start, end - len(text) + len(text.rstrip()))

    def _shown(self, rows: Ids, length: int) -> npt.NDArray[np.bool_]:
        """Where the tokens of the text are, bool [n, length]."""
        first, position = self._windows.first(rows)[:, None], np.arange(length)
        count = (self._windows.stop - self._windows.start)[rows][:, None]
        shown: npt.NDArray[np.bool_] = (position >= first) & (position < first + count)
        return shown

    def _most_context(self, rows: Ids, first: Ids, length: int) -> npt.NDArray[np.bool_]:
        """Whether no other window shows more of the text around a token, bool [n, length]; the first of equals."""
        windows, token = self._windows, np.arange(length) - first[:, None] + self._windows.start[rows][:, None]
        own = _context(windows, rows, token)
        most = np.ones(token.shape, bool)
        step = 1
        while True:
            overlaps = False
            for other, equal in ((rows - step, False), (rows + step, True)):
                there = np.clip(other, 0, windows.rows - 1)
                same = (there == other) & (windows.pair[there] == windows.pair[rows])
                same &= (windows.start[there] < windows.stop[rows]) & (windows.stop[there] > windows.start[rows])
                if not same.any():
                    continue
                overlaps = True
                theirs = np.where(same[:, None], _context(windows, there, token), -np.inf)
                most &= (own >= theirs) if equal else (own > theirs)
            if not overlaps:
                return most
            step += 1


def _share(score: Floats, total: Floats) -> Floats:
    """The probabilities of logits, of which the logarithm of the sum of all exponentials is ``total``."""
    known = np.isfinite(score)
    return np.where(known, np.exp(np.where(known, score, 0) - np.where(known, total, 0)), 0.0)


def _context(windows: Windows, rows: Ids, token: Ids) -> Floats:
    """How much of the text a row shows around each of some tokens, int64 [n, length]: the lesser of left and right."""
    start, stop = windows.start[rows][:, None], windows.stop[rows][:, None]
    least = np.minimum(token - start, stop - 1 - token)
    return np.where(least >= 0, least + _LENGTH_COUNTS * (stop - start), -np.inf)


def _highest(
    starts: Floats, ends: Floats, begins: np.ndarray, finishes: np.ndarray, declared: Span
) -> tuple[Floats, Ids, Ids, Floats]:
    """Of each row the best span of the highest starts and ends: its score, both positions, and the logarithm of the sum
    of the exponentials of all. The score is minus infinity where no span fits.
    """
    first, last = (np.argsort(-array, axis=1, kind="stable")[:, : declared.best] for array in (starts, ends))
    start, end = (np.take_along_axis(a, i, 1) for a, i in ((starts, first), (ends, last)))
    fits = np.take_along_axis(begins, first, 1)[:, :, None] & np.take_along_axis(finishes, last, 1)[:, None, :]
    tokens = last[:, None, :] - first[:, :, None] + 1
    fits &= (tokens >= 1) & (tokens <= declared.longest)
    scores = np.where(fits, start[:, :, None] + end[:, None, :], -np.inf).reshape(len(starts), -1)
    best, rows = scores.argmax(axis=1), np.arange(len(starts))
    together = np.logaddexp.reduce(scores, axis=1)
    return scores[rows, best], first[rows, best // last.shape[1]], last[rows, best % last.shape[1]], together


def _highest_of_all(
    start: Floats, end: Floats, begins: np.ndarray, finishes: np.ndarray, declared: Span
) -> tuple[float, int, int]:
    """The best of all spans of a row that fit: its score and both positions."""
    found = -np.inf, 0, 0
    start, end = np.where(begins, start, -np.inf), np.where(finishes, end, -np.inf)
    for tokens in range(min(declared.longest, len(start))):
        scores = start[: len(start) - tokens] + end[tokens:]
        position = int(scores.argmax())
        if scores[position] > found[0]:
            found = float(scores[position]), position, position + tokens
    return found
