"""Zero-shot classification: an image belongs to the class whose prompts are most similar to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from torchlift.datasets import ZeroShotData
from torchlift.errors import DataError, InputError
from torchlift.pipelines import Pipeline
from torchlift.pipelines.clip import IMAGE, TEXT, ClipPipeline
from torchlift.processing.labels import l2_normalize
from torchlift.progress import SILENT, Progress
from torchlift.tasks.base import Task
from torchlift.tasks.classification import accuracies, candidates
from torchlift.tasks.ranking import similarities
from torchlift.tasks.scan import clip_features, facts, normalized, scan_images


class ZeroShotTask(Task):
    """top-k accuracy. A class's feature is the mean of its prompts' normalised features, normalised again.

    The answers of the text component are the features of all prompts, those of the first class first. The scale of the
    logits does not change an order, so similarities are compared. Raises DataError for a label that cannot be read.
    """

    name: ClassVar[str] = "zero-shot"
    primary: ClassVar[str] = "top1"
    components = (IMAGE, TEXT)

    def __init__(self, pipeline: ClipPipeline, data: ZeroShotData, progress: Progress = SILENT) -> None:
        self._texts = [normalized(text) for text in data.texts]
        self._classes = len(data.captions)
        try:
            pipeline.tokens(self._texts)
        except InputError as error:
            raise DataError(
                f"the prompts of {data.name} cannot be used: {error.message}", remedy="Change the label or the prompt."
            ) from error
        twice = sorted({caption for caption in data.captions if data.captions.count(caption) > 1})
        if twice:
            progress.note(f"labels that name several classes, whose images cannot be told apart: {', '.join(twice)}")
        scanned = scan_images(data.images, pipeline.image_input, data.skips, progress)
        self._images = scanned.images
        self._labels = data.labels[scanned.positions]
        identity = [scanned.identity, self._labels.tolist(), self._texts]
        counts = {"images": len(self._images), "classes": self._classes}
        super().__init__(facts(data.name, data.kind, counts, identity, data.skips), candidates(self._classes))

    def answers(self, component: str, pipeline: Pipeline, progress: Progress = SILENT) -> np.ndarray:
        """L2-normalised features float32 [N, E] of all images or of all prompts."""
        return clip_features(component, pipeline, self._images, self._texts, progress)

    def outcomes(self, answers: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        prompts = answers[TEXT].reshape(self._classes, -1, answers[TEXT].shape[-1])
        classes = l2_normalize(prompts.mean(axis=1))
        return accuracies(similarities(answers[IMAGE], classes), self._classes, self._labels, self.metrics)
