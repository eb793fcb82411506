"""Retrieval of texts: the document that answers a query, found by the cosines of a model's embeddings."""

from __future__ import annotations

from collections.abc import Mapping
from typing import ClassVar

import numpy as np

from torchlift.datasets import QueryData
from torchlift.declare.answers import Embedding
from torchlift.errors import DataError
from torchlift.manifest import Manifest
from torchlift.processing.answers import finished
from torchlift.progress import Progress
from torchlift.tasks.base import ANSWER, Answers, Metric, Misfit, Task
from torchlift.tasks.encoders import embedding_output, text_input
from torchlift.tasks.ranking import Relevant, hits, outranked, similarities
from torchlift.tasks.samples import Asked, facts, usable_texts

KS = (1, 5, 10)


class TextRetrievalTask(Task):
    """recall@k: the share of queries with a document that answers them among the k most similar, of all documents.

    The answers are the embeddings of all texts, each once: of the queries, then of the documents.
    """

    name: ClassVar[str] = "text-retrieval"
    primary = "recall@1"
    reads: ClassVar[type] = QueryData

    @classmethod
    def misfit(cls, manifest: Manifest) -> Misfit | None:
        """It is for models with one component, which takes a text and gives one embedding."""
        if len(manifest.components) == 1:
            (component,) = manifest.components
            if text_input(component) and embedding_output(component):
                return None
        return Misfit("queries and documents, and the model does not embed a text", "Declare TextInput and Embedding.")

    @classmethod
    def open(cls, asked: Asked, data: QueryData, progress: Progress) -> TextRetrievalTask:
        """Raises DataError where no query has a document that can be used."""
        return cls(asked, data)

    def __init__(self, asked: Asked, data: QueryData) -> None:
        (component,) = asked.manifest.components
        name, self._output = text_input(component), embedding_output(component)
        preparer = asked.preparers[component.name]
        named = [f"text {text[:20]!r}" for text in data.texts]
        usable = {data.texts[i] for i in usable_texts(preparer, name, data.texts, named, data.skips)}
        documents = [text for text in data.documents if text in usable]
        row_of = {text: row for row, text in enumerate(documents)}
        right = {
            query: [row_of[text] for text in answers if text in row_of]
            for query, answers in data.queries.items()
            if query in usable
        }
        right = {query: rows for query, rows in right.items() if rows}
        if not right:
            raise DataError(
                f"no query of {data.name} has a document to find: {data.skips}", remedy="Give texts that can be read."
            )
        self._relevant = Relevant.of([*right.values()])
        texts = [*right, *documents]
        self.components, self.samples = (component.name,), {component.name: preparer.prepare({name: texts})}
        counts = {"queries": len(right), "documents": len(documents)}
        read = facts(data.name, data.kind, counts, [[*right.items()], documents], data.skips)
        super().__init__(read, {Metric(f"recall@{k}", k): (len(documents), "documents") for k in KS})

    def answers(self, component: str, outputs: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """L2-normalised embeddings float32 [queries + documents, E]."""
        return {ANSWER: finished(Embedding(), outputs[self._output])}

    def outcomes(self, answers: Mapping[str, Answers]) -> dict[str, np.ndarray]:
        features, queries = answers[self.components[0]][ANSWER], len(self._relevant)
        gallery = features[queries:]
        ranks = outranked(similarities(features[:queries], gallery), len(gallery), self._relevant)
        return {f"recall@{k}": hits(ranks, k) for k in KS if f"recall@{k}" in self.metrics}
