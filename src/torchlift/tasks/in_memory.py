"""Samples in memory: any model with one component, asked about inputs and targets that an iterable gave."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np

from torchlift.backends import Session
from torchlift.datasets import SampleData, Skips
from torchlift.errors import DataError, MetricError
from torchlift.manifest import Component, Manifest
from torchlift.pipelines.run import Batching, Loader, run_rows
from torchlift.progress import Progress, Stage
from torchlift.tasks.base import Answers, Metric, Misfit, Task
from torchlift.tasks.metrics import METRICS
from torchlift.tasks.own import collated, outcomes_of
from torchlift.tasks.rows import taken
from torchlift.tasks.samples import Asked, facts

_SHAPES, _VALUES = "/shapes", "/values"
"""What the arrays are called that hold outputs of different shapes: int64 [samples, dimensions], and all values."""


class SampleTask(Task):
    """Any metrics of what a model gives and the targets, sample by sample. The first metric is the primary one.

    Answers are the outputs as they are, with a row a sample, by the names of the outputs.
    """

    name: ClassVar[str] = "samples"
    reads: ClassVar[type] = SampleData

    @classmethod
    def misfit(cls, manifest: Manifest) -> Misfit | None:
        """It is for models with one component: only then is it known what inputs are for."""
        if len(manifest.components) == 1:
            return None
        return Misfit("in memory, and the model has several components", "Give the path of a data set of its task.")

    @classmethod
    def open(cls, asked: Asked, data: SampleData, progress: Progress) -> SampleTask:
        """Raises DataError for samples that do not fit the model, MetricError without a metric."""
        return cls(asked, data)

    def __init__(self, asked: Asked, data: SampleData) -> None:
        if not asked.metrics:
            raise MetricError(
                "data in memory have no metric of their own",
                remedy=f"Name one, metrics=['top1'] or within={{'top1': 0.3}}: {', '.join(METRICS)}; or give a "
                "function: metrics={'mine': function}.",
            )
        (component,) = asked.manifest.components
        self._component = component.name
        self._outputs = _outputs(component, asked.metrics)
        found = taken(component, asked.preparers[component.name], data)
        self.components, self.samples = (component.name,), {component.name: found.prepared}
        self._count, self._targets = len(found.targets), collated(found.targets)
        self.primary = asked.metrics[0].name
        if any(m.against == "targets" for m in asked.metrics) and all(target is None for target in found.targets):
            raise DataError(
                f"{data.name} has no targets, and {self.primary} compares with them",
                remedy="Give (inputs, target), or ask for agreement, which compares with PyTorch alone.",
            )
        read = facts(data.name, self.name, {"samples": self._count}, found.identity, Skips())
        super().__init__(read, {metric: self._candidates(component, metric) for metric in asked.metrics})

    def ask(self, component: str, session: Session, loader: Loader, stage: Stage | None = None) -> Answers:
        """What a session answers to all samples, which may differ in their sizes."""
        prepared, batching = self.samples[component], Batching(session, session.signature)
        return self.answers(component, run_rows(session, prepared, batching, loader, stage))

    def answers(self, component: str, outputs: Mapping[str, Any]) -> dict[str, np.ndarray]:
        """Every output as one array, or where samples differ as all values and their shapes."""
        found: dict[str, np.ndarray] = {}
        for name, rows in outputs.items():
            if len({row.shape for row in rows}) == 1:
                found[name] = np.stack(rows)
            else:
                found[name + _SHAPES] = np.array([row.shape for row in rows], np.int64)
                found[name + _VALUES] = np.concatenate([row.ravel() for row in rows])
        return found

    def outcomes(self, answers: Mapping[str, Answers]) -> dict[str, np.ndarray]:
        outputs = _by_output(answers[self._component])
        return {
            metric.name: outcomes_of(metric, _seen(metric, outputs), self._right(metric), self._count)
            for metric in self.measures
            if metric.against == "targets"
        }

    def likeness(self, answers: Mapping[str, Answers], reference: Mapping[str, Answers]) -> dict[str, np.ndarray]:
        """The outcomes of agreement and its like."""
        ours, theirs = _by_output(answers[self._component]), _by_output(reference[self._component])
        return {
            metric.name: outcomes_of(metric, _seen(metric, ours), _seen(metric, theirs), self._count)
            for metric in self.measures
            if metric.against == "reference"
        }

    def _right(self, metric: Metric) -> Any:
        """The targets, or those of the output that a metric looks at."""
        named = isinstance(self._targets, dict) and metric.output in self._targets
        return self._targets[metric.output] if named else self._targets

    def _candidates(self, component: Component, metric: Metric) -> tuple[int, str]:
        """How many candidates the metric chooses from: classes where there are so many scores, else samples."""
        if metric.against == "reference":
            return self._count, "samples"
        name = metric.output or self._outputs[0]
        shape = next(spec.shape for spec in component.signature.outputs if spec.name == name)
        classes = shape[1] if len(shape) == 2 else None
        return (classes, "classes") if isinstance(classes, int) and metric.k else (max(self._count, 1 + metric.k), "")


def _outputs(component: Component, metrics: Any) -> list[str]:
    """The outputs that have a row a sample. Raises DataError where there is none, MetricError for one that a metric
    names and that there is not.
    """
    signature = component.signature
    found = [s.name for s in signature.outputs if signature.batch is None or s.batch_position is not None]
    if not found:
        raise DataError(
            "no output of the model has a row for each sample",
            remedy="Let it give one: its shape needs the axis batch.",
        )
    for metric in metrics:
        if metric.output and metric.output not in found:
            raise MetricError(
                f"{metric.name} looks at the output {metric.output!r}, which there is not",
                remedy=f"The outputs are {', '.join(found)}.",
                metric=metric.name,
            )
    return found


def _seen(metric: Metric, outputs: Mapping[str, Any]) -> Any:
    """What a metric's function gets: its output, the only one, or all by name."""
    if metric.output:
        return outputs[metric.output]
    return next(iter(outputs.values())) if len(outputs) == 1 else dict(outputs)


def _by_output(answers: Answers) -> dict[str, Any]:
    """Output name -> array [samples, ...], or the list of each sample's array where they differ."""
    found: dict[str, Any] = {}
    for name, array in answers.items():
        if name.endswith(_SHAPES):
            output = name.removesuffix(_SHAPES)
            ends = np.cumsum(array.prod(axis=1))
            parts = np.split(answers[output + _VALUES], ends[:-1])
            found[output] = [part.reshape(shape) for part, shape in zip(parts, array, strict=True)]
        elif not name.endswith(_VALUES):
            found[name] = array
    return found
