"""Zero-shot classification: an image belongs to the class whose prompts are most similar to it."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from torchlift.datasets import ZeroShotData
from torchlift.errors import DataError, InputError
from torchlift.processing.answers import l2_normalize
from torchlift.progress import Progress
from torchlift.tasks.base import ANSWER, Answers
from torchlift.tasks.classification import accuracies, candidates
from torchlift.tasks.encoders import Encoders, EncoderTask
from torchlift.tasks.ranking import similarities
from torchlift.tasks.samples import Asked, facts, normalized, scan_images


class ZeroShotTask(EncoderTask):
    """top-k accuracy. A class's feature is the mean of its prompts' normalised features, normalised again.

    The answers of the text component are the features of all prompts, those of the first class first. The scale of the
    logits does not change an order, so similarities are compared. Raises DataError for a label that cannot be read.
    """

    name: ClassVar[str] = "zero-shot"
    primary = "top1"
    reads: ClassVar[type] = ZeroShotData
    needs: ClassVar[str] = "class folders with prompts"
    instead: ClassVar[str] = "Leave label_cn.txt out, to score by class."

    @classmethod
    def open(cls, asked: Asked, data: ZeroShotData, progress: Progress) -> ZeroShotTask:
        """Raises DataError for a label that cannot be read."""
        return cls(asked, data, progress)

    def __init__(self, asked: Asked, data: ZeroShotData, progress: Progress) -> None:
        self._encoders = encoders = Encoders.of(asked)
        self.components = encoders.components
        texts = [normalized(text) for text in data.texts]
        self._classes = len(data.captions)
        try:
            prompts = encoders.prepared(texts)
        except InputError as error:
            raise DataError(
                f"the prompts of {data.name} cannot be used: {error.message}", remedy="Change the label or the prompt."
            ) from error
        twice = sorted({caption for caption in data.captions if data.captions.count(caption) > 1})
        if twice:
            progress.note(f"labels that name several classes, whose images cannot be told apart: {', '.join(twice)}")
        scanned = scan_images(asked, encoders.image, encoders.image_input, data.images, data.skips, progress)
        self.samples = {encoders.image: scanned.prepared, encoders.text: prompts}
        self._labels = data.labels[scanned.positions]
        identity = [scanned.identity, self._labels.tolist(), texts]
        counts = {"images": len(scanned.positions), "classes": self._classes}
        super().__init__(facts(data.name, data.kind, counts, identity, data.skips), candidates(self._classes))

    def outcomes(self, answers: Mapping[str, Answers]) -> dict[str, np.ndarray]:
        features = answers[self._encoders.text][ANSWER]
        prompts = features.reshape(self._classes, -1, features.shape[-1])
        classes = l2_normalize(prompts.mean(axis=1))
        return accuracies(
            similarities(answers[self._encoders.image][ANSWER], classes), self._classes, self._labels, self.metrics
        )
