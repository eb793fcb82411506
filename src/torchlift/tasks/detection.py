"""Detection: mean average precision of boxes, as COCO defines it.

Source: pycocotools, https://github.com/cocodataset/cocoapi, PythonAPI/pycocotools/cocoeval.py. Boxes of a picture are
matched to the truth by score, the best first, at ten overlaps from 0.50 to 0.95; precision is taken at 101 recalls.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property, partial
from typing import ClassVar

import msgspec
import numpy as np

from torchlift.backends import Session
from torchlift.datasets import BoxData
from torchlift.datasets.boxes import Truth
from torchlift.errors import DataError, InputError
from torchlift.manifest import Manifest
from torchlift.pipelines.detection import Detector, detected, detector_of
from torchlift.pipelines.run import Batching, Loader
from torchlift.processing.boxes import Found, overlaps
from torchlift.processing.image import Frame, frame_of
from torchlift.progress import Progress, Stage
from torchlift.tasks.base import Answers, Metric, Misfit, Task
from torchlift.tasks.precision_curves import Curves
from torchlift.tasks.samples import Asked, facts, scan_images

OVERLAPS = np.round(np.arange(0.5, 1.0, 0.05), 2)
"""At which intersection over union a box counts as found."""

MOST = 100
"""Boxes of a class in a picture that count, those with the highest scores."""

CONFIDENCE, OVERLAP = 0.001, 0.6
"""The least score and the limit of suppression that YOLOv5 scores with (val.py): nearly all boxes count."""

MOST_GIVEN = 300
"""Boxes of a picture that YOLOv5 scores, of all classes together; more where the model declares more."""

_AT = {"map50": slice(0, 1), "map": slice(None)}
"""The overlaps of each metric."""

_PARTS = ("boxes", "scores", "classes", "counts")


@dataclass(frozen=True)
class Matches:
    """What the boxes of all pictures found, sorted by score, the best first: whose picture each is, its class, and
    whether it is right at each overlap, or of no account: bool [boxes, 10]. ``truths`` counts the true boxes of each
    picture and class, int64 [pictures, classes].
    """

    pictures: np.ndarray
    classes: np.ndarray
    right: np.ndarray
    ignored: np.ndarray
    truths: np.ndarray

    @cached_property
    def curves(self) -> dict[tuple[int | None, int | None], Curves]:
        """Curves by the overlaps that they are of, as far as they were asked for."""
        return {}

    def precision(self, weights: np.ndarray, overlaps: slice) -> float:
        """The mean average precision where each picture counts ``weights`` times, int64: 0 to 1, NaN without truth."""
        return self._curves(overlaps).mean(weights, self.truths.T @ weights)

    def by_class(self, overlaps: slice) -> np.ndarray:
        """The average precision of each class: float64 [classes], 0 to 1, NaN for a class without truth."""
        weights = np.ones(len(self.truths), np.int64)
        return self._curves(overlaps).by_class(weights, self.truths.T @ weights)

    def _curves(self, overlaps: slice) -> Curves:
        wanted = overlaps.start, overlaps.stop
        if wanted not in self.curves:
            right, ignored = self.right[:, overlaps], self.ignored[:, overlaps]
            self.curves[wanted] = Curves.of(self.pictures, self.classes, right, ignored, self.truths.shape[1])
        return self.curves[wanted]


@dataclass(frozen=True)
class Picture:
    """A picture as an outcome: its position among all, and what was found in all."""

    position: int
    matches: Matches


def average_precision(outcomes: np.ndarray, overlaps: slice = slice(None)) -> float:
    """The mean average precision of some pictures, which may repeat: object [pictures]."""
    matches = outcomes[0].matches
    positions = [picture.position for picture in outcomes]
    return matches.precision(np.bincount(positions, minlength=len(matches.truths)), overlaps)


class DetectionTask(Task):
    """map50: the average precision at an overlap of 0.50, the mean over classes; map: the mean over ten overlaps too.

    Classes of the data are those of the model by name, where it has them all, else by their order, where there are as
    many. Boxes count from a score of 0.001 on, each with every class that has it, as YOLOv5 and COCO score.
    """

    name: ClassVar[str] = "detection"
    primary = "map50"
    reads: ClassVar[type] = BoxData

    @classmethod
    def misfit(cls, manifest: Manifest) -> Misfit | None:
        """It is for models with one input of pictures and one output of boxes."""
        if detector_of(manifest) is not None:
            return None
        return Misfit("pictures with boxes, and the model gives none", "Declare Boxes for its output.")

    @classmethod
    def open(cls, asked: Asked, data: BoxData, progress: Progress) -> DetectionTask:
        """Raises DataError where the classes do not fit, and where no picture or no box is left."""
        return cls(asked, data, progress)

    def __init__(self, asked: Asked, data: BoxData, progress: Progress) -> None:
        detector = detector_of(asked.manifest)
        assert detector is not None
        self._detector: Detector = detector
        name = detector.component.name
        self.components = (name,)
        if data.found is not None:
            progress.note(f"the pictures of {data.name} are those in {data.found}")
        numbers = _class_numbers(data, detector.declared.names, progress)
        scanned = scan_images(asked, name, detector.image, data.images, data.skips, progress)
        self.samples = {name: scanned.prepared}
        self._frames = [_frame(detector, data, position) for position in scanned.positions]
        truths = [data.truths[position] for position in scanned.positions]
        self._truths = [_in_pixels(t, f, numbers, data.relative) for t, f in zip(truths, self._frames, strict=True)]
        boxes = sum(int(np.count_nonzero(~truth.crowds)) for truth in self._truths)
        if not boxes:
            raise DataError(f"no picture of {data.name} has a box", remedy="Check the labels and where they lie.")
        self._declared = msgspec.structs.replace(
            detector.declared,
            confidence=CONFIDENCE,
            overlap=OVERLAP,
            most=max(detector.declared.most, MOST_GIVEN),
            agnostic=False,
        )
        told = [[t.boxes.tolist(), t.classes.tolist(), t.crowds.tolist()] for t in self._truths]
        identity = [scanned.identity, told]
        counts = {"images": len(self._truths), "boxes": boxes, "classes": len(data.names)}
        metrics = {
            Metric(name, whole=partial(average_precision, overlaps=which)): (len(truths), "images")
            for name, which in _AT.items()
        }
        super().__init__(facts(data.name, self.name, counts, identity, data.skips), metrics)

    def ask(self, component: str, session: Session, loader: Loader, stage: Stage | None = None) -> Answers:
        """The boxes of all pictures, as arrays of all and how many each picture has."""
        prepared, batching = self.samples[component], Batching(session, session.signature)
        found = detected(
            self._detector,
            session,
            prepared,
            self._frames,
            batching,
            loader,
            self._declared,
            every_class=True,
            stage=stage,
        )
        return {
            "boxes": np.concatenate([one.boxes for one in found]),
            "scores": np.concatenate([one.scores for one in found]),
            "classes": np.concatenate([one.classes for one in found]),
            "counts": np.array([len(one.boxes) for one in found], np.int64),
        }

    def distance(self, answers: Answers, reference: Answers) -> float:
        """The share of the reference's boxes, weighted by their scores, that have no like: one of the class that
        overlaps by half or more.
        """
        missed = whole = 0.0
        for ours, theirs in zip(_split(answers), _split(reference), strict=True):
            whole += float(theirs.scores.sum())
            shared = overlaps(theirs.boxes, ours.boxes) * (theirs.classes[:, None] == ours.classes[None])
            missed += float(theirs.scores[shared.max(axis=1, initial=0) < OVERLAPS[0]].sum())
        return missed / whole if whole else 0.0

    def outcomes(self, answers: Mapping[str, Answers]) -> dict[str, np.ndarray]:
        """Each picture with what was found in all, for both metrics."""
        matches = self._matched(answers)
        found = np.empty(len(self._truths), object)
        found[:] = [Picture(position, matches) for position in range(len(self._truths))]
        return dict.fromkeys(self.metrics, found)

    def by_class(self, answers: Mapping[str, Answers]) -> dict[str, dict[str, float]]:
        """The average precision of each class that the data has a box of."""
        matches = self._matched(answers)
        found = {metric: matches.by_class(_AT[metric]) for metric in self.metrics}
        return {
            name: {metric: 100 * float(values[number]) for metric, values in found.items()}
            for number, name in enumerate(self._declared.names)
            if matches.truths[:, number].any()
        }

    def _matched(self, answers: Mapping[str, Answers]) -> Matches:
        return matched(_split(answers[self.components[0]]), self._truths, len(self._declared.names))


def _frame(detector: Detector, data: BoxData, position: int) -> Frame:
    try:
        return frame_of(detector.picture, data.images.read(position), name=data.images.name(position))
    except InputError as error:
        raise DataError(error.message, remedy=error.remedy) from error


def _class_numbers(data: BoxData, names: Sequence[str], progress: Progress) -> np.ndarray:
    """The model's number of each class of the data: int64. Raises DataError where they do not fit."""
    if {*data.names} <= {*names}:
        return np.array([names.index(name) for name in data.names], np.int64)
    if len(data.names) != len(names):
        raise DataError(
            f"{data.name} has {len(data.names)} classes, the model has {len(names)}: {', '.join(names[:20])}",
            remedy="Give the data that this model was trained for, with the same names.",
        )
    progress.note(f"the classes of {data.name} have other names than the model's: matched by order")
    return np.arange(len(names))


def _in_pixels(truth: Truth, frame: Frame, numbers: np.ndarray, relative: bool) -> Truth:
    scale = np.array([frame.width, frame.height] * 2, np.float64) if relative else 1.0
    return Truth(truth.boxes * scale, numbers[truth.classes], truth.crowds)


def _split(answers: Answers) -> list[Found]:
    """The boxes of each picture, of the arrays of all."""
    ends = np.cumsum(answers["counts"])
    parts = [np.split(answers[name], ends[:-1]) for name in _PARTS[:3]]
    return [Found(boxes, scores, classes) for boxes, scores, classes in zip(*parts, strict=True)]


def matched(found: Sequence[Found], truths: Sequence[Truth], classes: int) -> Matches:
    """Match the boxes of each picture to its truth, class by class."""
    counts = np.zeros((len(truths), classes), np.int64)
    pictures, kinds, scores, rights, ignores = [], [], [], [], []
    for number, (one, truth) in enumerate(zip(found, truths, strict=True)):
        np.add.at(counts[number], truth.classes[~truth.crowds], 1)
        for kind in np.unique(one.classes):
            boxes = np.flatnonzero(one.classes == kind)
            boxes = boxes[np.argsort(-one.scores[boxes], kind="stable")][:MOST]
            there = np.flatnonzero(truth.classes == kind)
            right, ignored = _matched(one.boxes[boxes], truth.boxes[there], truth.crowds[there])
            pictures.append(np.full(len(boxes), number))
            kinds.append(np.full(len(boxes), kind))
            scores.append(one.scores[boxes])
            rights.append(right)
            ignores.append(ignored)
    if not scores:
        none = np.zeros((0, len(OVERLAPS)), bool)
        return Matches(np.zeros(0, np.int64), np.zeros(0, np.int64), none, none, counts)
    order = np.argsort(-np.concatenate(scores), kind="stable")
    return Matches(
        np.concatenate(pictures)[order],
        np.concatenate(kinds)[order],
        np.concatenate(rights)[order],
        np.concatenate(ignores)[order],
        counts,
    )


def _matched(boxes: np.ndarray, truths: np.ndarray, crowds: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Which boxes of one class in one picture, the best first, are right at each overlap, and which are of no account:
    bool [boxes, 10] each. Each truth is found once; a crowd takes what is left, and is of no account.
    """
    right = np.zeros((len(boxes), len(OVERLAPS)), bool)
    ignored = np.zeros_like(right)
    if not len(truths) or not len(boxes):
        return right, ignored
    order = np.argsort(crowds, kind="stable")
    truths, crowds = truths[order], crowds[order]
    shared = overlaps(boxes, truths, crowds)
    free = np.ones((len(OVERLAPS), len(truths)), bool)
    least = np.minimum(OVERLAPS, 1 - 1e-10)[:, None]
    for row in np.flatnonzero((shared >= least.min()).any(axis=1)):
        over = shared[row]
        for mask, result in ((~crowds, right), (crowds, ignored)):
            possible = free & mask & (over >= least)
            open_ = possible.any(axis=1) & ~right[row]
            if not open_.any():
                continue
            values = np.where(possible, over, -1.0)
            best = len(truths) - 1 - values[:, ::-1].argmax(axis=1)  # of equals the last, as in pycocotools
            result[row, open_] = True
            taken = np.flatnonzero(open_ & ~crowds[best])
            free[taken, best[taken]] = False
    return right, ignored
