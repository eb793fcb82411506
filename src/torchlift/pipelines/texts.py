"""Which texts share a batch, and the length that they are padded to."""

from __future__ import annotations

import functools
from bisect import bisect_right
from collections.abc import Iterable, Iterator, Sequence
from typing import NamedTuple

from torchlift.backends import Session
from torchlift.pipelines.batches import Batch, batch_axis, batch_size, next_batch
from torchlift.signature import BATCH, Signature

SEQUENCE = "sequence"
"""The axis of a text's tokens, by name."""

RECORDED = 7
"""Lengths of batches that a session which records shapes is given; with single texts these are the 8 shapes that it
keeps.
"""

STEP = 8
"""Tokens. Kernels in half precision read 16 bytes at a time, and lengths of no such multiple are padded within."""

RUN_COST = 1200
"""Tokens. Beside its own, a replay of a CUDA graph takes as long as so many: on an H200 in FP16, BERT-base took 0.41 ms
for 1 text of 52 tokens and 1.49 ms for 64, three of its layers 0.115 ms and 0.333 ms.
"""


def text_batches(
    session: Session, signature: Signature, lengths: Sequence[int], size: int | None = None
) -> Iterator[tuple[Batch, int]]:
    """The batches of texts in order of their ``lengths`` in tokens, ascending, and the length that each is padded to.

    A batch has at most ``size`` rows, by default the batch axis' optimum. Where the session is on a device it has by
    default as many tokens at most, padding counted, as the optimum of longest texts, and the axis' maximum of rows at
    most: a GPU that short texts do not fill takes more of them in nearly the same time.

    Where the session records each shape, batches are of few shapes: the most rows of each of the
    :func:`recorded_lengths`, and the least of the longest, which alone take as long as shorter ones. They are those
    that take the least time by ``RUN_COST``. Where it records none, or does not cover these shapes, every batch is as
    large as it can be, padded to its longest text or to the least beyond that which the session covers. Raises
    InputError for a ``size`` outside the batch axis' range.
    """
    room = _Room.of(signature, size, by_tokens=session.on_device)
    shapes = _recorded_shapes(session, room, lengths) if session.records else []
    return _cheapest(shapes, len(lengths)) if shapes else _largest(session, room, lengths)


def recorded_lengths(longest: int) -> tuple[int, ...]:
    """At most seven lengths up to ``longest``, equally far apart: of 52 tokens 8, 16, 24, 32, 40, 48 and 52."""
    step = STEP * -(-longest // (STEP * RECORDED))
    return (*range(step, longest, step), longest)


class _Room(NamedTuple):
    """What a batch holds: from ``least`` to ``most`` rows, of at most ``longest`` tokens each, ``tokens`` together."""

    least: int
    most: int
    longest: int
    tokens: int

    @classmethod
    def of(cls, signature: Signature, size: int | None, *, by_tokens: bool) -> _Room:
        axis, longest = batch_axis(signature), signature.axis(SEQUENCE).max
        rows = batch_size(axis, size)
        return cls(axis.min, axis.max if size is None and by_tokens else rows, longest, rows * longest)

    def sizes(self, length: int) -> range:
        """The rows that texts padded to ``length`` may be."""
        return range(self.least, min(self.most, self.tokens // length) + 1)


class _Shape(NamedTuple):
    """Rows of texts padded to a ``length``; the first ``held`` of all texts are no longer."""

    rows: int
    length: int
    held: int


def _recorded_shapes(session: Session, room: _Room, lengths: Sequence[int]) -> list[_Shape]:
    """The most rows that the session covers of each recorded length that texts need, and the least of the longest;
    nothing at all where it covers none of one of them.
    """
    shapes: list[_Shape] = []
    held = 0
    for length in recorded_lengths(room.longest):
        shorter, held = held, bisect_right(lengths, length)
        if held == shorter:
            continue
        most = _covered(session, reversed(room.sizes(length)), length)
        if most is None:
            return []
        shapes.append(_Shape(most, length, held))
    least = _covered(session, room.sizes(room.longest), room.longest)
    if least is None or held < len(lengths):
        return []
    return [*shapes, _Shape(least, room.longest, held)]


def _covered(session: Session, sizes: Iterable[int], length: int) -> int | None:
    """The first of the numbers of rows that the session covers."""
    return next((rows for rows in sizes if session.covers({BATCH: rows, SEQUENCE: length})), None)


def _cheapest(shapes: Sequence[_Shape], count: int) -> Iterator[tuple[Batch, int]]:
    """The batches of ``count`` texts in these shapes that have the fewest tokens, counting ``RUN_COST`` for each run.

    Found from the last text back to the first: which batch a text is best the first of does not depend on those before.
    """
    runs = [(RUN_COST + shape.rows * shape.length, shape) for shape in shapes]
    costs, best = [0] * (count + 1), [shapes[0]] * count
    for start in reversed(range(count)):
        costs[start], best[start] = min(
            (cost + costs[min(start + shape.rows, shape.held)], shape) for cost, shape in runs if shape.held > start
        )
    start = 0
    while start < count:
        shape = best[start]
        batch = Batch(slice(start, min(start + shape.rows, shape.held)), shape.rows)
        yield batch, shape.length
        start = batch.rows.stop


def _largest(session: Session, room: _Room, lengths: Sequence[int]) -> Iterator[tuple[Batch, int]]:
    """Batches that are each as large as the session covers and as there is room for."""

    @functools.cache
    def held(rows: int, length: int) -> int | None:
        padded = range(length, min(room.longest, room.tokens // rows) + 1)
        return next((n for n in padded if session.covers({BATCH: rows, SEQUENCE: n})), None)

    start = 0
    while start < len(lengths):

        def longest_of(rows: int, start: int = start) -> int:
            return lengths[min(start + rows, len(lengths)) - 1]

        most = bisect_right(range(1, room.most + 1), room.tokens, key=lambda rows: rows * longest_of(rows))
        sizes = range(room.least, max(room.least, most) + 1)
        batch = next_batch(start, len(lengths), sizes, lambda rows: held(rows, longest_of(rows)) is not None)
        length = lengths[batch.rows.stop - 1]
        yield batch, held(batch.size, length) or length
        start = batch.rows.stop
