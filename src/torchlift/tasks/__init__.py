"""What a model is for, as metrics on a data set: retrieval, zero-shot classification, classification."""

from __future__ import annotations

import difflib
import os
import re

from torchlift.bundle import Bundle
from torchlift.datasets import Data, LabelledData, ReadOptions, RetrievalData, ZeroShotData, open_data
from torchlift.errors import DataError
from torchlift.pipelines import of_bundle
from torchlift.pipelines.clip import ClipPipeline
from torchlift.pipelines.tensors import TensorPipeline
from torchlift.progress import SILENT, Progress
from torchlift.tasks.base import Metric, Task, too_small
from torchlift.tasks.classification import ClassificationTask
from torchlift.tasks.retrieval import RetrievalTask
from torchlift.tasks.zero_shot import ZeroShotTask

__all__ = ["ClassificationTask", "Metric", "RetrievalTask", "Task", "ZeroShotTask", "metric_of", "open_task"]

_SPELLINGS = ((r"^(i2t)?(tr|r|rec|recallat|rat)(\d+)$", r"\1recall\3"), (r"^(acc|accuracy|topk)(\d*)$", r"top\2"))
"""Other ways to write a metric, without punctuation, and what they mean."""

_ALIKE = 0.6


def open_task(
    bundle: Bundle, path: str | os.PathLike[str], options: ReadOptions | None = None, progress: Progress = SILENT
) -> Task:
    """The task that the data set at ``path`` is for, on the model in ``bundle``; all images are checked once.

    What is skipped, and which metrics the data are too few for, is noted. Raises DataError where the data cannot be
    read, have no labels, or are not for this model; UnsafeDataError for pickles.
    """
    data = open_data(path, options)
    with of_bundle(bundle, progress=progress) as pipeline:
        task = _task(pipeline, data, progress)
    if task.data.unusable:
        progress.note(f"{task.data.unusable:,} records of {task.data.name} are skipped: {'; '.join(task.data.skipped)}")
    for reason in task.left_out.values():
        progress.note(f"left out: {reason}")
    return task


def metric_of(task: Task, name: str) -> Metric:
    """The metric called ``name``.

    Raises DataError, with the nearest name where the task has no such metric, with the reason where the data are too
    few for it.
    """
    for metric in task.measures:
        if metric.name == name:
            return metric
    if name in task.left_out:
        raise too_small(task.left_out[name])
    known = {_bare(other): other for other in (*task.metrics, *task.left_out)}
    near = max(known, key=lambda other: _likeness(_bare(name), other))
    meant = f"Did you mean {known[near]}? " if _likeness(_bare(name), near) > _ALIKE else ""
    raise DataError(f"{task.name} has no metric {name!r}", remedy=f"{meant}The metrics are {', '.join(task.metrics)}.")


def _likeness(a: str, b: str) -> float:
    return difflib.SequenceMatcher(None, a, b).ratio()


def _bare(name: str) -> str:
    """A name without case, punctuation and other ways to write it."""
    bare = re.sub(r"[^a-z0-9]", "", name.lower())
    for pattern, meaning in _SPELLINGS:
        bare = re.sub(pattern, meaning, bare)
    return bare


def _task(pipeline: ClipPipeline | TensorPipeline, data: Data, progress: Progress) -> Task:
    match pipeline, data:
        case ClipPipeline(), RetrievalData():
            return RetrievalTask(pipeline, data, progress)
        case ClipPipeline(), ZeroShotData():
            return ZeroShotTask(pipeline, data, progress)
        case TensorPipeline(), LabelledData():
            return ClassificationTask(pipeline, data, progress)
        case ClipPipeline(), LabelledData():
            reason, remedy = "class folders without label_cn.txt", "Write the folders' labels into it, one a line."
        case TensorPipeline(), RetrievalData():
            reason, remedy = "retrieval data, and the model is no CLIP", "Give class folders of images."
        case _:
            reason, remedy = f"{data.kind} without labels", "They can calibrate; score on labelled data."
    raise DataError(f"{data.name} cannot be scored with {pipeline.bundle.manifest.name}: it is {reason}", remedy=remedy)
