"""How far up the right answers are, by exact search in blocks.

A tie is a loss: a right answer counts as found among the best k only where fewer than k wrong ones score as high. So a
model that answers everything alike scores 0, not by the luck of an order; without ties it is the usual recall@k.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from torchlift.pipelines.batches import slices

SCORES = 1 << 23
"""Scores in memory at once: 32 MB as float32."""

Scores = Callable[[slice], np.ndarray]
"""Some of the queries to their scores float [q, N], higher is better."""


@dataclass(frozen=True)
class Relevant:
    """The right candidates of each query: those of query i are ``columns[starts[i] : starts[i + 1]]``, at least one;
    int64.
    """

    columns: np.ndarray
    starts: np.ndarray

    @classmethod
    def of(cls, columns: Sequence[Sequence[int]]) -> Relevant:
        flat = [column for row in columns for column in row]
        return cls(np.array(flat, np.int64), np.cumsum([0, *map(len, columns)], dtype=np.int64))

    @classmethod
    def labels(cls, labels: np.ndarray) -> Relevant:
        """One right class a query: int64 [Q]."""
        return cls(labels, np.arange(len(labels) + 1))

    def __len__(self) -> int:
        return len(self.starts) - 1

    def part(self, part: slice) -> Relevant:
        starts = self.starts[part.start : part.stop + 1]
        return Relevant(self.columns[starts[0] : starts[-1]], starts - starts[0])


def outranked(scores: Scores, candidates: int, relevant: Relevant) -> np.ndarray:
    """How many wrong candidates score at least as high as the best right one: int64 [Q].

    A wrong candidate whose score is not a number counts as higher; if a right one's is, all are.
    """
    counts = [_outranked(scores(part), relevant.part(part)) for part in blocks(len(relevant), candidates)]
    return np.concatenate(counts)


def _outranked(scores: np.ndarray, relevant: Relevant) -> np.ndarray:
    starts, sizes = relevant.starts[:-1], np.diff(relevant.starts)
    right = scores[np.repeat(np.arange(len(relevant)), sizes), relevant.columns]
    best = np.maximum.reduceat(right, starts)
    as_high = np.count_nonzero(~(scores < best[:, None]), axis=1)
    return as_high - np.add.reduceat((~(right < np.repeat(best, sizes))).astype(np.int64), starts)


def similarities(queries: np.ndarray, gallery: np.ndarray) -> Scores:
    """Inner products of features [Q, E] and [N, E]."""
    return lambda part: queries[part] @ gallery.T


def top(scores: Scores, queries: int, candidates: int, k: int) -> Iterator[np.ndarray]:
    """The ``k`` best candidates of each query, best first, of equal ones the first; int64 [min(k, candidates)]."""
    k = min(k, candidates)
    for part in blocks(queries, candidates):
        for row in np.nan_to_num(scores(part), nan=-np.inf):
            near = np.flatnonzero(row >= np.partition(row, -k)[-k])
            yield near[np.argsort(-row[near], kind="stable")][:k]


def blocks(queries: int, candidates: int) -> list[slice]:
    return slices(queries, max(1, SCORES // candidates))


def hits(outranked: np.ndarray, k: int) -> np.ndarray:
    """1 where a right answer is among the best ``k``, else 0: float64 [Q]."""
    return (outranked < k).astype(np.float64)
