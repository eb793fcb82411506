"""Similarity: how well the cosines of a model's embeddings of texts order pairs as people do."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import replace
from typing import ClassVar

import numpy as np

from torchlift.datasets import PairsData
from torchlift.declare.answers import Embedding
from torchlift.errors import DataError
from torchlift.manifest import Manifest
from torchlift.processing.answers import finished
from torchlift.progress import Progress
from torchlift.tasks.base import ANSWER, Answers, Metric, Misfit, Task
from torchlift.tasks.encoders import embedding_output, text_input
from torchlift.tasks.metrics import METRICS, same_neighbours
from torchlift.tasks.samples import Asked, facts, usable_texts

_OF_PAIRS = tuple(replace(METRICS[name], k=2) for name in ("spearman", "correlation"))
"""Of two pairs any order is right or wrong by chance."""

_NEIGHBOURS = METRICS["neighbours@1"]


class SimilarityTask(Task):
    """spearman: the correlation of the ranks of cosines with those of the pairs' scores; correlation: of the numbers.
    neighbours@1: the share of texts whose nearest other text is the one that it is by PyTorch.

    The answers are the embeddings of the texts, each once.
    """

    name: ClassVar[str] = "similarity"
    primary = "spearman"
    reads: ClassVar[type] = PairsData

    @classmethod
    def misfit(cls, manifest: Manifest) -> Misfit | None:
        """It is for models with one component, which takes a text and gives one embedding."""
        if len(manifest.components) == 1 and text_input(manifest.components[0]):
            if embedding_output(manifest.components[0]):
                return None
            return Misfit("pairs of texts, and which output is the embedding is not known", "Declare Embedding for it.")
        return Misfit("pairs of texts, and the model does not take one text", "Declare TextInput for its ids.")

    @classmethod
    def open(cls, asked: Asked, data: PairsData, progress: Progress) -> SimilarityTask:
        """Raises DataError where no pair can be used, or all have one score."""
        return cls(asked, data)

    def __init__(self, asked: Asked, data: PairsData) -> None:
        (component,) = asked.manifest.components
        name = text_input(component)
        self._output, preparer = embedding_output(component), asked.preparers[component.name]
        named = [f"text {text[:20]!r}" for text in data.texts]
        usable = {data.texts[i] for i in usable_texts(preparer, name, data.texts, named, data.skips)}
        pairs = [
            (left, right, score)
            for left, right, score in zip(data.left, data.right, data.scores.tolist(), strict=True)
            if left in usable and right in usable
        ]
        scores = np.array([score for *_, score in pairs])
        if not pairs or np.ptp(scores) == 0:
            why = f"{len(pairs):,} pairs of {data.name} have the score {scores[0]:g}" if pairs else f"{data.skips}"
            raise DataError(f"no pairs to tell apart: {why}", remedy="Give pairs of texts with different scores.")
        texts = [*dict.fromkeys(text for left, right, _ in pairs for text in (left, right))]
        rows = {text: row for row, text in enumerate(texts)}
        self._left, self._right = (np.array([rows[pair[side]] for pair in pairs]) for side in (0, 1))
        self._scores = scores
        self.components, self.samples = (component.name,), {component.name: preparer.prepare({name: texts})}
        counts = {"pairs": len(pairs), "texts": len(texts)}
        candidates: dict[Metric, tuple[int, str]] = {metric: (len(pairs), "pairs") for metric in _OF_PAIRS}
        read = facts(data.name, data.kind, counts, pairs, data.skips)
        super().__init__(read, {**candidates, _NEIGHBOURS: (len(texts), "texts")})

    def answers(self, component: str, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """L2-normalised embeddings float32 [texts, E]."""
        return {ANSWER: finished(Embedding(), outputs[self._output])}

    def outcomes(self, answers: Mapping[str, Answers]) -> dict[str, np.ndarray]:
        """Cosines and scores side by side, float64 [pairs, 2, 1], of both metrics."""
        features = answers[self.components[0]][ANSWER].astype(np.float64)
        cosines = np.einsum("ij,ij->i", features[self._left], features[self._right])
        both = np.stack([cosines, self._scores], 1)[:, :, None]
        return {metric.name: both for metric in _OF_PAIRS if metric.name in self.metrics}

    def likeness(self, answers: Mapping[str, Answers], reference: Mapping[str, Answers]) -> dict[str, np.ndarray]:
        """Whether the nearest other text of each is the reference's."""
        if _NEIGHBOURS.name not in self.metrics:
            return {}
        ours, theirs = (found[self.components[0]][ANSWER] for found in (answers, reference))
        return {_NEIGHBOURS.name: same_neighbours(ours, theirs)}
