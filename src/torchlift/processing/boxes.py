"""Candidates of a detector to the boxes that stand out: scores, non-maximum suppression, pixels of the picture.

The rules are those of YOLOv5 (utils/general.py, ``non_max_suppression``): a box counts where its score is more than the
confidence; of boxes that overlap by more than a limit the best stays.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NamedTuple

import numpy as np
import numpy.typing as npt

from torchlift.declare.answers import Boxes
from torchlift.processing.image import Frame

Floats = npt.NDArray[Any]

MOST_CANDIDATES = 30_000
"""Boxes of a picture that are compared with each other: those with the highest scores."""

_BLOCK = 128
"""Boxes that are compared with each other at once."""


class Detection(NamedTuple):
    """One box: the name of its class, its score, and its edges x0, y0, x1, y1 in pixels of the picture."""

    name: str
    score: float
    box: tuple[float, float, float, float]


@dataclass(frozen=True)
class Found:
    """The boxes of one picture, the best first: ``boxes`` float32 [n, 4], x0, y0, x1, y1; ``scores`` float32 [n];
    ``classes`` int64 [n].
    """

    boxes: npt.NDArray[np.float32]
    scores: npt.NDArray[np.float32]
    classes: npt.NDArray[np.int64]

    def named(self, names: Sequence[str]) -> list[Detection]:
        """The boxes with the names of their classes."""
        return [
            Detection(names[kind], float(score), (float(x0), float(y0), float(x1), float(y1)))
            for (x0, y0, x1, y1), score, kind in zip(self.boxes, self.scores, self.classes, strict=True)
        ]


def found_boxes(
    declared: Boxes,
    candidates: npt.NDArray[Any],
    frame: Frame,
    *,
    classes: Sequence[int] = (),
    every_class: bool = False,
) -> Found:
    """The boxes of one picture: candidates [boxes, columns], or [columns, boxes] without objectness.

    ``classes`` are those that are wanted; all where there are none. Each box has its best class alone, or with
    ``every_class`` each class whose score suffices. Boxes are clipped to the picture. What is not finite is no box.
    """
    rows = candidates if declared.objectness else candidates.T
    boxes, scores, kinds = _above(declared, rows, every_class)
    if len(classes):
        wanted = np.isin(kinds, classes)
        boxes, scores, kinds = boxes[wanted], scores[wanted], kinds[wanted]
    order = _best(scores, MOST_CANDIDATES)
    boxes, scores, kinds = boxes[order], scores[order], kinds[order]
    edges = _edges(boxes)
    kept = suppressed(edges, None if declared.agnostic else kinds, declared.overlap, declared.most)
    return Found(_in_picture(edges[kept], frame), scores[kept].astype(np.float32), kinds[kept])


def _above(declared: Boxes, rows: Floats, every_class: bool) -> tuple[Floats, Floats, npt.NDArray[np.int64]]:
    """The boxes [n, 4], scores and classes of what has more than the confidence."""
    least = declared.confidence
    if declared.objectness:
        rows = rows[rows[:, 4] > least]
        scores = rows[:, 5:] * rows[:, 4:5]
    else:
        rows = rows[rows[:, 4:].max(axis=1, initial=-np.inf) > least]
        scores = rows[:, 4:]
    rows, scores = np.asarray(rows, np.float32), np.asarray(scores, np.float32)
    if every_class:
        places, kinds = np.nonzero(scores > least)
    else:
        kinds = scores.argmax(axis=1)
        places = np.flatnonzero(scores[np.arange(len(scores)), kinds] > least)
        kinds = kinds[places]
    boxes, found = rows[places, :4], scores[places, kinds]
    sound = np.isfinite(boxes).all(axis=1) & np.isfinite(found)
    return boxes[sound], found[sound], kinds[sound].astype(np.int64)


def _best(scores: Floats, most: int) -> npt.NDArray[np.int64]:
    """The places of the ``most`` highest scores, the best first; of equals the first."""
    if len(scores) <= most:
        return np.argsort(-scores, kind="stable")
    among = np.flatnonzero(scores >= np.partition(scores, -most)[-most])
    return among[np.argsort(-scores[among], kind="stable")[:most]]


def _edges(boxes: Floats) -> Floats:
    """Centre, width and height [n, 4] as edges x0, y0, x1, y1."""
    half = boxes[:, 2:] / 2
    return np.concatenate([boxes[:, :2] - half, boxes[:, :2] + half], axis=1)


def suppressed(edges: Floats, kinds: npt.NDArray[np.int64] | None, overlap: float, most: int) -> npt.NDArray[np.int64]:
    """Which of the boxes [n, 4], the best first, stay: at most ``most``, none of which overlaps a better one of its
    kind by more than ``overlap`` of their union. Without ``kinds`` all boxes are compared.

    A block of boxes at a time is compared with those that stay already, then with each other. So the many boxes around
    a thing cost little, and nothing is compared once there are enough.
    """
    edges = np.asarray(edges, np.float64)
    if kinds is not None and len(edges):  # boxes of other kinds are moved apart, so that they never meet
        edges = edges + (kinds * (float(edges.max() - edges.min()) + 1))[:, None]
    kept = np.zeros(0, np.int64)
    for start in range(0, len(edges), _BLOCK):
        block = np.arange(start, min(start + _BLOCK, len(edges)))
        block = block[~_meet(edges[block], edges[kept], overlap).any(axis=1)]
        meet, free, stay = _meet(edges[block], edges[block], overlap), np.ones(len(block), bool), []
        for row in range(len(block)):
            if free[row]:
                stay.append(row)
                free &= ~meet[row]
        kept = np.concatenate([kept, block[stay]])
        if len(kept) >= most:
            break
    return kept[:most]


def _meet(boxes: Floats, others: Floats, overlap: float) -> npt.NDArray[np.bool_]:
    """Whether boxes [n, 4] overlap others [m, 4] by more than ``overlap`` of their union: bool [n, m]."""
    (x0, y0, x1, y1), (u0, v0, u1, v1) = boxes.T[..., None], others.T
    shared = np.maximum(np.minimum(x1, u1) - np.maximum(x0, u0), 0)
    shared *= np.maximum(np.minimum(y1, v1) - np.maximum(y0, v0), 0)
    whole = (x1 - x0) * (y1 - y0) + (u1 - u0) * (v1 - v0) - shared
    return shared > overlap * whole


def _in_picture(edges: Floats, frame: Frame) -> npt.NDArray[np.float32]:
    """Edges in pixels of the network's input as pixels of the picture, within it."""
    offset = np.array([frame.left, frame.top] * 2, np.float64)
    scale = np.array([frame.width / frame.columns, frame.height / frame.rows] * 2)
    limits = np.array([frame.width, frame.height] * 2)
    return np.clip((edges - offset) * scale, 0, limits).astype(np.float32)


def overlaps(boxes: Floats, others: Floats, crowds: npt.NDArray[np.bool_] | None = None) -> Floats:
    """Intersection over union of boxes [n, 4] with others [m, 4]: float64 [n, m]. With one of the others that is a
    crowd, it is the intersection over the box alone, as COCO has it.
    """
    boxes, others = np.asarray(boxes, np.float64), np.asarray(others, np.float64)
    sides = np.minimum(boxes[:, None, 2:], others[None, :, 2:]) - np.maximum(boxes[:, None, :2], others[None, :, :2])
    shared = np.prod(np.maximum(sides, 0), axis=2)
    areas, theirs = (np.prod(np.maximum(b[:, 2:] - b[:, :2], 0), axis=1) for b in (boxes, others))
    whole = areas[:, None] + theirs[None] - shared
    if crowds is not None:
        whole = np.where(crowds[None], areas[:, None], whole)
    return np.divide(shared, whole, out=np.zeros_like(shared), where=whole > 0)
