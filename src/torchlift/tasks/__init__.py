"""What a model is for, as metrics on a data set; the registry of tasks."""

from __future__ import annotations

import difflib
import re
from collections.abc import Sequence
from importlib import import_module
from typing import Any

from torchlift.bundle import Bundle
from torchlift.datasets import ReadOptions, Source, open_data
from torchlift.errors import DataError, MetricError
from torchlift.pipelines.pictures import KeptPictures
from torchlift.progress import SILENT, Progress
from torchlift.tasks.base import Metric, Misfit, Task, too_small
from torchlift.tasks.samples import Asked

__all__ = ["TASKS", "Metric", "Task", "metric_of", "open_task"]

TASKS = {
    "retrieval": "torchlift.tasks.retrieval:RetrievalTask",
    "zero-shot": "torchlift.tasks.zero_shot:ZeroShotTask",
    "classification": "torchlift.tasks.classification:ClassificationTask",
    "text-classification": "torchlift.tasks.text_classification:TextClassificationTask",
    "text-retrieval": "torchlift.tasks.text_retrieval:TextRetrievalTask",
    "similarity": "torchlift.tasks.similarity:SimilarityTask",
    "squad": "torchlift.tasks.squad:SquadTask",
    "detection": "torchlift.tasks.detection:DetectionTask",
    "super-resolution": "torchlift.tasks.super_resolution:SuperResolutionTask",
    "samples": "torchlift.tasks.in_memory:SampleTask",
    "agreement": "torchlift.tasks.agreement:AgreementTask",
}
"""Name -> ``module:class``. Each class says which data it reads and which models it is for."""

_SPELLINGS = ((r"^(i2t)?(tr|r|rec|recallat|rat)(\d+)$", r"\1recall\3"), (r"^(acc|accuracy|topk)(\d*)$", r"top\2"))
"""Other ways to write a metric, without punctuation, and what they mean."""

_ALIKE = 0.6


def open_task(
    bundle: Bundle,
    source: Source,
    options: ReadOptions | None = None,
    progress: Progress = SILENT,
    pictures: KeptPictures | None = None,
    metrics: Sequence[Metric] = (),
) -> Task:
    """The task that a data set is for, on the model in ``bundle``; all images are decoded once, and kept in
    ``pictures``. Samples in memory have no metrics of their own: they are scored by ``metrics``.

    What is skipped, and which metrics the data are too few for, is noted. Raises DataError where the data cannot be
    read, have no labels, or are not for this model; UnsafeDataError for pickles.
    """
    data = open_data(source, options)
    task = _kind_of(bundle, data).open(Asked.of(bundle, pictures, metrics), data, progress)
    if task.data.unusable:
        progress.note(f"{task.data.unusable:,} records of {task.data.name} are skipped: {'; '.join(task.data.skipped)}")
    for reason in task.left_out.values():
        progress.note(f"left out: {reason}")
    return task


def _kind_of(bundle: Bundle, data: Any) -> type[Task]:
    """The task for a kind of data and a model. Raises DataError where there is none."""
    misfits: list[Misfit] = []
    for kind in sorted(map(_task_at, TASKS.values()), key=lambda kind: kind.last_resort):
        if issubclass(type(data), kind.reads):
            found = kind.misfit(bundle.manifest)
            if found is None:
                return kind
            misfits.append(found)
    misfit = misfits[-1]  # each kind of data is read by some task
    raise DataError(
        f"{data.name} cannot be scored with {bundle.manifest.name}: it is {misfit.reason}", remedy=misfit.remedy
    )


def _task_at(place: str) -> type[Task]:
    module, _, name = place.partition(":")
    kind: type[Task] = getattr(import_module(module), name)
    return kind


def metric_of(task: Task, name: str) -> Metric:
    """The metric called ``name``.

    Raises MetricError, with the nearest name where the task has no such metric, with the reason where the data are too
    few for it.
    """
    for metric in task.measures:
        if metric.name == name:
            return metric
    if name in task.left_out:
        raise too_small(name, task.left_out[name])
    known = {_bare(other): other for other in (*task.metrics, *task.left_out)}
    near = max(known, key=lambda other: _likeness(_bare(name), other))
    meant = f"Did you mean {known[near]}? " if _likeness(_bare(name), near) > _ALIKE else ""
    raise MetricError(
        f"{task.name} has no metric {name!r}",
        remedy=f"{meant}The metrics are {', '.join(task.metrics)}.",
        metric=name,
    )


def _likeness(a: str, b: str) -> float:
    return difflib.SequenceMatcher(None, a, b).ratio()


def _bare(name: str) -> str:
    """A name without case, punctuation and other ways to write it."""
    bare = re.sub(r"[^a-z0-9]", "", name.lower())
    for pattern, meaning in _SPELLINGS:
        bare = re.sub(pattern, meaning, bare)
    return bare
