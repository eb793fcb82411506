"""What a task is: it asks a pipeline for answers to a data set, and says of each query how well it was answered."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass
from typing import ClassVar

import numpy as np

from torchlift.errors import DataError
from torchlift.evidence import DataFacts
from torchlift.pipelines import Pipeline
from torchlift.progress import SILENT, Progress


@dataclass(frozen=True)
class Metric:
    """A mean over queries, in percent. ``k`` is how many of the best answers count: with no more than ``k`` candidates
    it says nothing.
    """

    name: str
    k: int
    higher_is_better: bool = True


class Task(ABC):
    """A metric on a data set, fixed when it is opened: the same samples for whatever is scored.

    ``data`` says what is scored, ``measures`` the metrics that it allows, ``left_out`` why others are not (name ->
    reason). Raises DataError where the primary metric is left out.
    """

    name: ClassVar[str]
    primary: ClassVar[str]
    components: tuple[str, ...]
    """The components of the bundle that it asks."""

    def __init__(self, data: DataFacts, candidates: Mapping[Metric, tuple[int, str]]) -> None:
        self.data = data
        self.measures = tuple(metric for metric, (count, _) in candidates.items() if count > metric.k)
        self.left_out = {
            metric.name: f"{metric.name} needs more than {metric.k} {what}, {data.name} has {count}"
            for metric, (count, what) in candidates.items()
            if count <= metric.k
        }
        if self.primary in self.left_out:
            raise too_small(self.left_out[self.primary])

    @property
    def metrics(self) -> tuple[str, ...]:
        """The names of ``measures``."""
        return tuple(metric.name for metric in self.measures)

    @abstractmethod
    def answers(self, component: str, pipeline: Pipeline, progress: Progress = SILENT) -> np.ndarray:
        """What the pipeline answers to every sample of a component: float [N, ...], a row a sample, in the data's
        order.
        """

    @abstractmethod
    def outcomes(self, answers: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Component -> answers to metric -> float64 [queries], each 0..1; the metric is their mean. An answer that is
        not a number is a miss.
        """


def too_small(reason: str) -> DataError:
    return DataError(reason, remedy="Score on a larger data set, or ask for another metric.")
