"""Mean average precision, quick enough to be taken of thousands of resamples.

Precision is highest where a box is right, so it is computed there alone. What depends on no weight is computed once:
the order of the boxes by class, and where the right ones are at each overlap.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

RECALLS = np.linspace(0, 1, 101)
"""Where COCO takes precision."""


@dataclass(frozen=True)
class Curves:
    """The boxes of all pictures, by class and then by score, and a curve for each overlap and class, in that order.

    ``pictures`` says whose picture each box is, int64 [boxes]. ``right`` are the places of the right boxes, curve after
    curve, and ``ignored`` those of no account, int64 each. A curve has the right boxes ``starts[i]`` to
    ``starts[i + 1]``, and ``firsts[i]`` is the first box of its class. ``before`` counts the ignored boxes ahead of
    each right one, of all curves; ``before_first`` those ahead of each curve.
    """

    pictures: np.ndarray
    right: np.ndarray
    ignored: np.ndarray
    starts: np.ndarray
    firsts: np.ndarray
    before: np.ndarray
    before_first: np.ndarray

    @classmethod
    def of(cls, pictures: np.ndarray, kinds: np.ndarray, right: np.ndarray, ignored: np.ndarray, count: int) -> Curves:
        """Of boxes sorted by score: the picture and the class of each, int64 [boxes]; whether it is right, or of no
        account, at each overlap, bool [boxes, overlaps]; and how many classes there are.
        """
        order = np.argsort(kinds, kind="stable")
        boxes, overlaps = right.shape
        firsts = np.searchsorted(kinds[order], np.arange(count))
        ahead = np.arange(overlaps)[:, None] * boxes  # of the boxes of each overlap, in one row of all
        at = np.flatnonzero(right[order].T)
        lost = np.flatnonzero(ignored[order].T)
        return cls(
            pictures=pictures[order],
            right=at % max(boxes, 1),
            ignored=lost % max(boxes, 1),
            starts=np.append(np.searchsorted(at, (ahead + firsts).ravel()), len(at)),
            firsts=np.tile(firsts, overlaps),
            before=np.searchsorted(lost, at),
            before_first=np.searchsorted(lost, (ahead + firsts).ravel()),
        )

    def mean(self, weights: np.ndarray, truths: np.ndarray) -> float:
        """The mean average precision, 0 to 1, where each picture counts ``weights`` times, int64 [pictures]. ``truths``
        counts the true boxes of each class, int64 [classes]; NaN where there are none.
        """
        found = self._precisions(weights, truths)
        return float(found.mean()) if found.size else float("nan")

    def by_class(self, weights: np.ndarray, truths: np.ndarray) -> np.ndarray:
        """The average precision of each class, float64 [classes], of which :meth:`mean` is the mean; NaN for a class
        without true boxes.
        """
        found = np.full(len(truths), np.nan)
        there = np.flatnonzero(truths > 0)
        if len(there):
            found[there] = self._precisions(weights, truths).reshape(-1, len(there), len(RECALLS)).mean(axis=(0, 2))
        return found

    def _precisions(self, weights: np.ndarray, truths: np.ndarray) -> np.ndarray:
        """The precision at each recall, float64 [overlaps * classes with true boxes, 101]."""
        if not len(self.right):
            return np.zeros((len(self.firsts) // len(truths) * np.count_nonzero(truths), len(RECALLS)))
        curves = len(self.firsts)
        sizes = np.diff(self.starts)
        owner = np.repeat(np.arange(curves), sizes)
        hits, precision = self._at_right_boxes(weights, sizes)
        # The best precision from each right box on, within its curve: later curves are lifted out of each other's way.
        lift = 2.0 * (curves - owner)
        best = np.maximum.accumulate((precision + lift)[::-1])[::-1] - lift
        far = int(weights.sum()) * len(self.pictures) + int(truths.max()) + 1
        counted = np.tile(truths, curves // len(truths))
        asked = np.flatnonzero(counted > 0)
        needed = _needed(truths)[asked % len(truths)] + asked[:, None] * far
        places = np.searchsorted(hits + owner * far, needed)
        reached = places < self.starts[asked + 1][:, None]
        return np.where(reached, best[np.minimum(places, len(best) - 1)], 0.0)

    def _at_right_boxes(self, weights: np.ndarray, sizes: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        """The running count of right boxes, int64, and the precision, at each right box."""
        each = weights[self.pictures]
        seen, lost, found = _running(each), _running(each[self.ignored]), _running(each[self.right])
        hits = found[1:] - np.repeat(found[self.starts[:-1]], sizes)
        counted = seen[self.right + 1] - lost[self.before]
        counted -= np.repeat(seen[self.firsts] - lost[self.before_first], sizes)
        return hits, hits / np.maximum(counted, 1)


def _running(values: np.ndarray) -> np.ndarray:
    """The sums of the first 0, 1, 2, ... values."""
    sums = np.zeros(len(values) + 1, np.int64)
    np.cumsum(values, out=sums[1:])
    return sums


def _needed(truths: np.ndarray) -> np.ndarray:
    """The least number of right boxes for each recall, of each class: int64 [classes, 101].

    It is decided as COCO does, by the quotient in float64.
    """
    counts = np.maximum(truths, 1)[:, None]
    least = np.floor(RECALLS * counts).astype(np.int64)
    return least + (least / counts < RECALLS)
