"""Which texts share a batch, and the length that they are padded to."""

from __future__ import annotations

import functools
import itertools
from bisect import bisect_right
from collections.abc import Iterator, Sequence
from typing import NamedTuple

from torchlift.pipelines.batches import Batch, Coverage, batch_axis, batch_size, first_covered, next_batch
from torchlift.signature import BATCH, Signature

SEQUENCE = "sequence"
"""The axis of a text's tokens, by name."""

SHORTEST, STEP = 8, 4
"""Tokens: the least length that is recorded, and what all but the longest are multiples of. Kernels in half precision
read 16 bytes at a time, which the length times the rows of a batch fill as a rule."""

RUN_COST = 1200
"""Tokens. Beside its own, a replay of a CUDA graph takes as long as so many of BERT-base: on an H200 in FP16, 1 text of
52 tokens took 0.41 ms and 64 took 1.49 ms.
"""


class TextBatches:
    """Which texts share a batch of a session, and the length that each batch is padded to.

    A batch has at most ``size`` rows, by default the batch axis' optimum. Where the session is on a device it has by
    default the axis' maximum of rows at most, and as many tokens, padding counted, as that many texts of the length
    that is the optimum, or as the optimum of rows of the longest texts, where that is more: a GPU that few or short
    texts do not fill takes more of them in nearly the same time. Where the session takes, of the longest texts, fewer
    than half as many or none, it has as many tokens as the next larger batch of them that it takes.

    Where the session records each shape, batches have few shapes: the most rows of each of the
    :func:`recorded_lengths`, or of the next length that it covers, and one shape more for single texts, which take as
    long at any length. They are those that take the least time by ``RUN_COST``. Where it records none, every batch is
    as large as it can be, padded to its longest text or to the least beyond that which the session covers.

    Threads may share it: once made it does not change.
    """

    def __init__(self, session: Coverage, signature: Signature, size: int | None = None, axis: str = SEQUENCE) -> None:
        """Ask the session what it covers, which takes longer than one text does. Raises InputError for a ``size``
        outside the batch axis' range. ``axis`` is the one that texts are padded along.
        """
        self._session = session
        self._room = _Room.of(session, signature, size, axis)
        self._recorded = _recorded_shapes(session, self._room) if session.records else []

    def of(self, lengths: Sequence[int]) -> Iterator[tuple[Batch, int]]:
        """The batches of texts in order of their ``lengths`` in tokens, ascending, and the length of each."""
        reach = [_Shape(rows, length, bisect_right(lengths, length)) for rows, length in self._recorded]
        shapes = [shape for shape in reach if shape.until] if reach and reach[-1].until == len(lengths) else []
        return _cheapest(shapes, len(lengths)) if shapes else _largest(self._session, self._room, lengths)


def recorded_lengths(longest: int, count: int) -> tuple[int, ...]:
    """At most ``count`` lengths up to ``longest``, each longer than the last by about the same factor, so that no text
    is padded by much more than another: for 52 and 7 these are 8, 12, 16, 20, 28, 40 and 52.
    """
    if longest <= SHORTEST or count == 1:
        return (longest,)
    growth = (longest / SHORTEST) ** (1 / (count - 1))
    lengths = {STEP * round(SHORTEST * growth**number / STEP) for number in range(count - 1)}
    return (*sorted(length for length in lengths if length < longest), longest)


class _Room(NamedTuple):
    """What a batch holds: from ``least`` to ``most`` rows, of at most ``longest`` tokens each, ``tokens`` together. The
    axis of the tokens is called ``name``.
    """

    least: int
    most: int
    longest: int
    tokens: int
    name: str

    @classmethod
    def of(cls, session: Coverage, signature: Signature, size: int | None, name: str) -> _Room:
        axis, sequence = batch_axis(signature), signature.axis(name)
        if size is None and session.on_device:
            longest = {name: sequence.max}
            tokens = max(axis.max * sequence.opt, axis.opt * sequence.max)
            rows = tokens // sequence.max
            most = first_covered(session, range(rows, axis.min - 1, -1), longest) or 0
            if 2 * most < rows:
                more = first_covered(session, range(rows + 1, axis.max + 1), longest)
                tokens = more * sequence.max if more else tokens
            return cls(axis.min, axis.max, sequence.max, tokens, name)
        rows = batch_size(axis, size)
        return cls(axis.min, rows, sequence.max, rows * sequence.max, name)

    def sizes(self, length: int) -> range:
        """The rows that texts padded to ``length`` may be."""
        return range(self.least, min(self.most, self.tokens // length) + 1)


class _Shape(NamedTuple):
    """Rows of texts padded to a ``length``; the texts before ``until`` are no longer than that."""

    rows: int
    length: int
    until: int


def _recorded_shapes(session: Coverage, room: _Room) -> list[tuple[int, int]]:
    """Rows and length: the most rows of each recorded length that the session covers, and the least of the longest."""
    recorded = recorded_lengths(room.longest, max(1, session.records - 1))
    shapes: list[tuple[int, int]] = []
    for first, following in itertools.pairwise((*recorded, room.longest + 1)):
        for length in range(first, following):
            most = first_covered(session, reversed(room.sizes(length)), {room.name: length})
            if most is not None:
                shapes.append((most, length))
                break
    if not shapes:
        return []
    _, longest = shapes[-1]
    least = first_covered(session, room.sizes(longest), {room.name: longest})
    assert least is not None
    return [*shapes, (least, longest)]


def _cheapest(shapes: Sequence[_Shape], count: int) -> Iterator[tuple[Batch, int]]:
    """The batches of ``count`` texts in these shapes that have the fewest tokens, counting ``RUN_COST`` for each run.

    Found from the last text back to the first: which batch a text is best the first of does not depend on those before.
    """
    runs = [(RUN_COST + shape.rows * shape.length, shape) for shape in shapes]
    costs, best = [0] * (count + 1), [shapes[0]] * count
    for start in reversed(range(count)):
        costs[start], best[start] = min(
            (cost + costs[min(start + shape.rows, shape.until)], shape) for cost, shape in runs if shape.until > start
        )
    start = 0
    while start < count:
        shape = best[start]
        batch = Batch(slice(start, min(start + shape.rows, shape.until)), shape.rows)
        yield batch, shape.length
        start = batch.rows.stop


def _largest(session: Coverage, room: _Room, lengths: Sequence[int]) -> Iterator[tuple[Batch, int]]:
    """Batches that are each as large as the session covers and as there is room for."""

    @functools.cache
    def padded(rows: int, length: int) -> int | None:
        possible = range(length, min(room.longest, room.tokens // rows) + 1)
        return next((n for n in possible if session.covers({BATCH: rows, room.name: n})), None)

    start = 0
    while start < len(lengths):

        def longest_of(rows: int, start: int = start) -> int:
            return lengths[min(start + rows, len(lengths)) - 1]

        most = bisect_right(range(1, room.most + 1), room.tokens, key=lambda rows: rows * longest_of(rows))
        sizes = range(room.least, max(room.least, most) + 1)
        batch = next_batch(start, len(lengths), sizes, lambda rows: padded(rows, longest_of(rows)) is not None)
        length = lengths[batch.rows.stop - 1]
        yield batch, padded(batch.size, length) or length
        start = batch.rows.stop
