"""Classification: top-k accuracy of a model with one image input and one output of logits."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import ClassVar

import numpy as np

from torchlift.datasets import LabelledData
from torchlift.declare.answers import Labels
from torchlift.declare.inputs import ImageInput
from torchlift.errors import DataError
from torchlift.manifest import Component, Manifest
from torchlift.progress import Progress
from torchlift.signature import BATCH
from torchlift.tasks.base import ANSWER, Answers, Metric, Misfit, Task
from torchlift.tasks.ranking import Relevant, Scores, hits, outranked
from torchlift.tasks.samples import Asked, facts, scan_images

KS = (1, 5)


class ClassificationTask(Task):
    """top-k accuracy: the share of images whose class is among the k highest logits.

    Class folders are the model's classes by the names of its declared labels, where it has them all; else in sorted
    order, as ImageFolder has it, where there is a folder for each logit. Raises DataError where neither holds.
    """

    name: ClassVar[str] = "classification"
    primary = "top1"

    reads: ClassVar[type] = LabelledData

    @classmethod
    def misfit(cls, manifest: Manifest) -> Misfit | None:
        """It is for models with one component; others are asked by prompts."""
        if len(manifest.components) == 1:
            return None
        return Misfit("class folders without label_cn.txt", "Write the folders' labels into it, one a line.")

    @classmethod
    def open(cls, asked: Asked, data: LabelledData, progress: Progress) -> ClassificationTask:
        """Raises DataError where the model has no image input or no logits, and where the classes do not fit."""
        return cls(asked, data, progress)

    def __init__(self, asked: Asked, data: LabelledData, progress: Progress) -> None:
        (component,) = asked.manifest.components
        self.components = (component.name,)
        self._output, self._classes = _logits(component)
        declared = component.answers[self._output]
        labels = declared.names if isinstance(declared, Labels) else ()
        numbers = _class_numbers(data, labels, self._classes, progress)
        name = image_input(component)
        scanned = scan_images(asked, component.name, name, data.images, data.skips, progress)
        self.samples = {component.name: scanned.prepared}
        self._labels = numbers[data.labels[scanned.positions]]
        identity = [scanned.identity, self._labels.tolist()]
        counts = {"images": len(scanned.positions), "classes": self._classes}
        super().__init__(facts(data.name, self.name, counts, identity, data.skips), candidates(self._classes))

    def answers(self, component: str, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Logits float [N, classes] of all images."""
        return {ANSWER: outputs[self._output]}

    def outcomes(self, answers: Mapping[str, Answers]) -> dict[str, np.ndarray]:
        logits = answers[self.components[0]][ANSWER]
        return accuracies(lambda part: logits[part], self._classes, self._labels, self.metrics)


def image_input(component: Component) -> str:
    """The only input, which takes images. Raises DataError where it is another."""
    inputs = component.signature.inputs
    only = inputs[0]
    if len(inputs) != 1 or not isinstance(component.inputs[only.name], ImageInput) or only.batch_position is None:
        raise DataError(
            f"the model takes {', '.join(f'{spec.name} {spec}' for spec in inputs)}, and no one input that is declared "
            "to be a batch of images",
            remedy="Declare the preprocessing of its image input, or give arrays by input name to calibrate.",
        )
    return only.name


def accuracies(scores: Scores, classes: int, labels: np.ndarray, metrics: Sequence[str]) -> dict[str, np.ndarray]:
    """Whether each image's class is among its k highest, for ``metrics`` of the form topK."""
    ranks = outranked(scores, classes, Relevant.labels(labels))
    return {f"top{k}": hits(ranks, k) for k in KS if f"top{k}" in metrics}


def candidates(classes: int) -> dict[Metric, tuple[int, str]]:
    """Every metric, and that it chooses from the classes."""
    return {Metric(f"top{k}", k): (classes, "classes") for k in KS}


def _logits(component: Component) -> tuple[str, int]:
    """The output of logits and the number of classes: that with declared labels, else the only one of that shape."""
    found = {
        spec.name: spec.shape[1]
        for spec in component.signature.outputs
        if len(spec.shape) == 2 and spec.shape[0] == BATCH and isinstance(spec.shape[1], int)
    }
    declared = [name for name in found if isinstance(component.answers[name], Labels)]
    names = declared or [*found]
    if len(names) != 1:
        outputs = ", ".join(f"{spec.name} {spec}" for spec in component.signature.outputs)
        raise DataError(
            f"which output has the logits? The model gives {outputs}",
            remedy="Declare Labels for the output of shape [batch, classes].",
        )
    return names[0], int(found[names[0]])


def _class_numbers(data: LabelledData, labels: Sequence[str], logits: int, progress: Progress) -> np.ndarray:
    """The model's class number of each class of the data: int64."""
    if not data.classes:
        if len(data.labels) and data.labels.max() >= logits:
            raise DataError(
                f"{data.name} has the class number {data.labels.max()}, the model has {logits:,} classes, from 0",
                remedy="Give the data that this model was trained for.",
            )
        return np.arange(logits)
    if {*data.classes} <= {*labels}:
        return np.array([labels.index(name) for name in data.classes], np.int64)
    if len(data.classes) != logits:
        raise DataError(
            f"{data.name} has {len(data.classes):,} class folders, the model has {logits:,} classes",
            remedy="Give a folder for each class, or declare Labels with the folders' names.",
        )
    if labels:
        progress.note(f"the class folders of {data.name} have other names than the model's labels: matched by order")
    return np.arange(logits)
