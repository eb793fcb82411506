"""What a task is: samples that a model is asked about, and how well each query was answered."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar, Literal

import numpy as np

from torchlift.backends import Session
from torchlift.errors import InputError, MetricError
from torchlift.evidence import POINTS, DataFacts, Direction, Measure
from torchlift.manifest import Manifest
from torchlift.pipelines.columns import Prepared
from torchlift.pipelines.run import Batching, Loader, run_prepared
from torchlift.progress import Progress, Stage
from torchlift.prove.numerics import distance
from torchlift.tasks.samples import Asked

Answers = Mapping[str, np.ndarray]
"""What a component answers to all samples, as named arrays. Most tasks have one, ``ANSWER``, with a row a sample;
answers of different lengths are one array of all, and another that says where each begins.
"""

ANSWER = "answer"


@dataclass(frozen=True)
class Misfit:
    """Why a task is not for a model, in words that follow "it is", and what to do."""

    reason: str
    remedy: str


@dataclass(frozen=True)
class Metric:
    """A number that says how good the answers to a data set are.

    For example the share of queries with a right answer among the first: outcomes of 0 or 1, of which the mean is
    taken, in points. Or the mean error of depths in metres, of which lower is ``better``. A metric that is no mean of
    what single samples achieve, such as mAP or F1, is given as ``whole``: a function from the outcomes of samples,
    float64 [samples, ...], to a number.

    ``unit`` is ``points`` for shares, which are shown in percent, else the name of the unit that outcomes have. ``k``
    is how many of the best answers count: with no more than ``k`` candidates the metric says nothing.

    ``function`` is for data in memory: of outputs and targets it makes outcomes, or one number for all of them. The
    outputs are the array of ``output``, or where that is empty those of all outputs by name, of an only output the
    array itself. With ``against="reference"`` it gets the outputs of PyTorch in FP32 in the place of the targets.
    """

    name: str
    k: int = 0
    unit: str = POINTS
    better: Direction = "higher"
    whole: Callable[[np.ndarray], float] | None = None
    function: Callable[[Any, Any], Any] | None = None
    output: str = ""
    against: Literal["targets", "reference"] = "targets"

    @property
    def measure(self) -> Measure:
        """What the numbers are, for the evidence."""
        return Measure(self.unit, self.better)

    @property
    def scale(self) -> float:
        """What an outcome is multiplied by to be in the unit."""
        return 100.0 if self.unit == POINTS else 1.0


class Task(ABC):
    """A metric on a data set, fixed when it is opened: the same samples for whatever is scored.

    ``data`` says what is scored, ``measures`` the metrics that it allows, ``left_out`` why others are not (name ->
    reason). Raises DataError where the primary metric is left out.
    """

    name: ClassVar[str]
    primary: str
    reads: ClassVar[type | tuple[type, ...]]
    """The kinds of data set that it is for: a class of :mod:`torchlift.datasets`, or several."""

    last_resort: ClassVar[bool] = False
    """Whether it is for data that no other task takes."""

    components: tuple[str, ...]
    """The components of the bundle that it asks."""

    samples: Mapping[str, Prepared]
    """What each of the components is asked, in the data's order."""

    @classmethod
    @abstractmethod
    def misfit(cls, manifest: Manifest) -> Misfit | None:
        """Why it is not for a model; None where it is."""

    @classmethod
    @abstractmethod
    def open(cls, asked: Asked, data: Any, progress: Progress) -> Task:
        """The task on a data set of the kind that it reads. Raises DataError where they do not fit the model."""

    def __init__(self, data: DataFacts, candidates: Mapping[Metric, tuple[int, str]]) -> None:
        self.data = data
        self.measures = tuple(metric for metric, (count, _) in candidates.items() if count > metric.k)
        self.left_out = {
            metric.name: f"{metric.name} needs more than {metric.k} {what}, {data.name} has {count}"
            for metric, (count, what) in candidates.items()
            if count <= metric.k
        }
        if self.primary in self.left_out:
            raise too_small(self.primary, self.left_out[self.primary])

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of ``measures``."""
        return tuple(metric.name for metric in self.measures)

    def answers(self, component: str, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """What a component's outputs for all samples say, finished as they are declared; here as they are.

        A task that finishes each run by itself in :meth:`ask` needs none of its own.
        """
        return dict(outputs)

    def ask(self, component: str, session: Session, loader: Loader, stage: Stage | None = None) -> Answers:
        """What a session answers to all samples of a component."""
        prepared, batching = self.samples[component], Batching(session, session.signature)
        return self.answers(component, run_prepared(session, prepared, batching, loader, stage))

    has_files: ClassVar[bool] = False
    """Whether its own scripts have files of answers, which :meth:`save` writes."""

    def save(self, folder: Path, answers: Mapping[str, Answers]) -> list[Path]:
        """Write answers in the formats of the task's own scripts; returns the files. Raises StorageError."""
        raise NotImplementedError(f"{self.name} has no files of its own")

    @abstractmethod
    def outcomes(self, answers: Mapping[str, Answers]) -> dict[str, np.ndarray]:
        """Component -> answers to metric -> outcomes, float64 [queries], of which the metric is the mean; of a metric
        in points each is 0..1. Of a metric with a function of its own they are [samples, ...], which that function
        takes. An answer that is not a number is a miss.
        """

    def predicted(self, file: Path, progress: Progress) -> dict[str, np.ndarray]:
        """The outcomes of a file of predictions in the format of the task's own scripts, of any origin: metric ->
        outcomes. Raises DataError where it does not fit the data, InputError for a task that has no such files.
        """
        raise InputError(f"{self.name} has no files of predictions", remedy="Leave `predictions=` out.")

    def distance(self, answers: Answers, reference: Answers) -> float:
        """How far answers are from the reference's; see :func:`torchlift.prove.numerics.distance`. Of several arrays
        the farthest counts; one that has another number of rows is infinitely far.
        """
        return max(
            distance(array, reference[name]) if array.shape == reference[name].shape else math.inf
            for name, array in answers.items()
        )

    def by_class(self, answers: Mapping[str, Answers]) -> dict[str, dict[str, float]]:
        """Class -> metric -> its number for that class alone, in the metric's unit; of a task without classes none."""
        return {}

    def likeness(self, answers: Mapping[str, Answers], reference: Mapping[str, Answers]) -> dict[str, np.ndarray]:
        """The outcomes of the metrics that compare answers with those of the reference, and need no target."""
        return {}


def too_small(metric: str, reason: str) -> MetricError:
    return MetricError(reason, remedy="Score on a larger data set, or ask for another metric.", metric=metric)
