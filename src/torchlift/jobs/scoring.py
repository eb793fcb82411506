"""Opens what variants are judged by: the task on the data of a job, as a scorer, and the gate."""

from __future__ import annotations

from dataclasses import replace

from torchlift.bundle import Bundle
from torchlift.errors import InputError
from torchlift.evidence import POINTS, Gate
from torchlift.jobs.options import JobOptions, gate_without_data
from torchlift.pipelines.pictures import KeptPictures
from torchlift.progress import Progress
from torchlift.stages.score import OpenReference, Scorer
from torchlift.tasks import Task, metric_of, open_task
from torchlift.tasks.metrics import UNITS

DEFAULT_DROP = 1.0
"""How much worse a task's primary metric may be, in its unit, where nothing was said."""

_TRIAL_SAMPLES = 256
"""Samples that a graph is tried on in a search, unless their number is asked for."""


def task_of(
    bundle: Bundle, options: JobOptions, progress: Progress, pictures: KeptPictures | None = None
) -> Task | None:
    """The task of the data to score on; None without data. Raises DataError."""
    data = options.data
    if data.source is None:
        return None
    return open_task(bundle, data.source, data.read, progress, pictures, data.metrics)


def required_task(bundle: Bundle, options: JobOptions, progress: Progress) -> Task:
    """The same; raises InputError without data."""
    require_data(options)
    task = task_of(bundle, options, progress)
    assert task is not None
    return task


def require_data(options: JobOptions) -> None:
    """Raise InputError where there is no data to score on."""
    if options.data.source is None:
        raise InputError("there is no data to score on", remedy="Give `data=`, a data set of the model's task.")


def open_scorer(
    bundle: Bundle,
    options: JobOptions,
    references: OpenReference | None,
    progress: Progress,
    pictures: KeptPictures | None = None,
) -> Scorer | None:
    """Read the data, ask the reference, and hold the bundle to the gate that is asked for, from now on; where none is,
    to a drop of ``DEFAULT_DROP`` of the task's primary metric. What was scored at another confidence counts no more.

    Raises DataError, also for a metric that the task lacks, InputError for a gate without data.
    """
    task = task_of(bundle, options, progress, pictures)
    gate = _gate(bundle, options, task)
    scorer = _scorer(bundle, task, references, options, progress) if task else None
    if gate != bundle.manifest.gate:
        bundle.commit(replace(bundle.manifest, gate=gate))
    return scorer


def _gate(bundle: Bundle, options: JobOptions, task: Task | None) -> Gate:
    before = bundle.manifest.gate
    gate = options.gate or before
    if task is None:
        if gate.within not in ({}, before.within) or gate.confidence != before.confidence:
            raise gate_without_data(gate)
        return replace(gate, within=before.within)
    gate = replace(gate, within=gate.within or before.within or _usual(task))
    for metric, limit in gate.within.items():
        if metric_of(task, metric).unit == POINTS and limit > 100:
            raise InputError(
                f"{metric} within {limit:g} allows everything: it is a share, of 100 points in all",
                remedy="Give `within=` a limit in points from 0 to 100, for example 0.2.",
            )
    return gate


def _usual(task: Task) -> dict[str, float]:
    """The limit where nothing was said. Raises InputError where there is no usual one."""
    unit = metric_of(task, task.primary).unit
    if unit == UNITS:
        raise InputError(
            f"{task.primary} has no usual limit, since its unit is not known",
            remedy=f"Give `within=`, how much of {task.primary} may be lost, in what it is measured in.",
        )
    return {task.primary: DEFAULT_DROP}


def plain_scorer(bundle: Bundle, options: JobOptions, references: OpenReference | None, progress: Progress) -> Scorer:
    """The task on all of the data; the bundle's gate stays as it is. Raises InputError without data."""
    return _scorer(bundle, required_task(bundle, options, progress), references, options, progress)


def on_fewer(
    scorer: Scorer | None,
    references: OpenReference | None,
    options: JobOptions,
    progress: Progress,
    pictures: KeptPictures | None = None,
) -> Scorer | None:
    """The same task on as many samples as a trial is worth, unless their number was asked for."""
    if scorer is None:
        return None
    task = _few(scorer.bundle, scorer.task, options, progress, pictures)
    return scorer if task is scorer.task else _scorer(scorer.bundle, task, references, options, progress)


def trial_scorer(bundle: Bundle, options: JobOptions, progress: Progress, pictures: KeptPictures) -> Scorer | None:
    """The same without the scorer of a job: only the samples of a trial are asked for. The gate stays as it is."""
    task = task_of(bundle, options, progress, pictures)
    return _scorer(bundle, _few(bundle, task, options, progress, pictures), None, options, progress) if task else None


def _few(
    bundle: Bundle, task: Task, options: JobOptions, progress: Progress, pictures: KeptPictures | None = None
) -> Task:
    source, read = options.data.source, options.data.read
    if source is None or read.limit or max(task.data.samples.values()) <= _TRIAL_SAMPLES:
        return task
    few = replace(read, limit=_TRIAL_SAMPLES)
    return open_task(bundle, source, few, progress, pictures, options.data.metrics)


def _scorer(
    bundle: Bundle, task: Task, references: OpenReference | None, options: JobOptions, progress: Progress
) -> Scorer:
    return Scorer(bundle, task, references, options.on, progress)
