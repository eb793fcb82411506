"""Retrieval both ways: the image that a text describes among all images, and the text of an image among all texts."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import ClassVar

import numpy as np

from torchlift.datasets import RetrievalData
from torchlift.datasets.results import (
    OTHER,
    PREDICTED,
    Side,
    read_predictions,
    side_of,
    write_features,
    write_predictions,
    write_result,
)
from torchlift.errors import DataError
from torchlift.progress import Progress
from torchlift.tasks.base import ANSWER, Answers, Metric
from torchlift.tasks.encoders import Encoders, EncoderTask
from torchlift.tasks.ranking import Relevant, hits, outranked, similarities, top
from torchlift.tasks.samples import Asked, facts, normalized, scan_images, usable_texts

KS = (1, 5, 10)

_METRIC: Mapping[Side, str] = {"text": "", "image": "i2t_"}
"""Kind of query -> how its metrics' names begin."""

_FILE: Mapping[Side, str] = {"text": "", "image": "_tr"}
"""Kind of query -> what the names of its result files have after the split."""

_FEATURES: Mapping[Side, str] = {"text": "_texts.txt_feat.jsonl", "image": "_imgs.img_feat.jsonl"}


@dataclass(frozen=True)
class _Queries:
    """The samples of one side that have a right answer on the other: their ``rows``, int64, and the right answers'."""

    rows: np.ndarray
    relevant: Relevant

    @classmethod
    def of(cls, answers: Mapping[int, Sequence[int]]) -> _Queries:
        rows = sorted(answers)
        return cls(np.array(rows, np.int64), Relevant.of([answers[row] for row in rows]))


class RetrievalTask(EncoderTask):
    """recall@k: the share of queries with a right answer among the k most similar. mean_recall is that of 1, 5 and 10.

    The queries are the texts, and with ``i2t_`` the images that any text describes. A text is skipped where none of its
    images can be used. ``ids`` are those of the samples that are scored, in the order of the answers' rows.
    """

    name: ClassVar[str] = "retrieval"
    primary = "recall@1"
    reads: ClassVar[type] = RetrievalData
    has_files: ClassVar[bool] = True
    needs: ClassVar[str] = "retrieval data"
    instead: ClassVar[str] = "Give class folders of images."

    @classmethod
    def open(cls, asked: Asked, data: RetrievalData, progress: Progress) -> RetrievalTask:
        """Raises DataError where no text has an image to find."""
        return cls(asked, data, progress)

    def __init__(self, asked: Asked, data: RetrievalData, progress: Progress) -> None:
        self._encoders = encoders = Encoders.of(asked)
        self.components = encoders.components
        scanned = scan_images(asked, encoders.image, encoders.image_input, data.images, data.skips, progress)
        texts = [normalized(text.text) for text in data.texts]
        names = [f"text {text.id}" for text in data.texts]
        usable = usable_texts(encoders.preparer_of_texts, encoders.text_input, texts, names, data.skips)
        images_of = _images_of(data, usable, scanned.images.ids)
        self.split = data.split
        self.ids: dict[Side, list[int]] = {
            "text": [data.texts[i].id for i in images_of],
            "image": [int(number) for number in scanned.images.ids],
        }
        kept = [texts[i] for i in images_of]
        self.samples = {encoders.image: scanned.prepared, encoders.text: encoders.prepared(kept)}
        self._component: dict[Side, str] = {"image": encoders.image, "text": encoders.text}
        right = dict(enumerate(images_of.values()))
        self._queries: dict[Side, _Queries] = {"text": _Queries.of(right), "image": _Queries.of(_inverted(right))}
        identity = [scanned.identity, self.ids["text"], kept, [*right.values()]]
        counts = {"texts": len(kept), "images": len(scanned.positions)}
        super().__init__(facts(data.name, data.kind, counts, identity, data.skips), _candidates(counts))

    def outcomes(self, answers: Mapping[str, Answers]) -> dict[str, np.ndarray]:
        found: dict[str, np.ndarray] = {}
        for side, queries in self._queries.items():
            gallery = self._features(answers, OTHER[side])
            scores = similarities(self._features(answers, side)[queries.rows], gallery)
            ranks = outranked(scores, len(gallery), queries.relevant)
            found |= self._named(side, {k: hits(ranks, k) for k in KS})
        return found

    def _features(self, answers: Mapping[str, Answers], side: Side) -> np.ndarray:
        return answers[self._component[side]][ANSWER]

    def predicted(self, file: Path, progress: Progress) -> dict[str, np.ndarray]:
        side = side_of(file)
        queries, gallery = (dict.fromkeys(self.ids[x]) for x in (side, OTHER[side]))
        return self.outcomes_of(side, read_predictions(file, side, queries, gallery, min(PREDICTED, len(gallery))))

    def outcomes_of(self, side: Side, predictions: Mapping[int, Sequence[int]]) -> dict[str, np.ndarray]:
        """The outcomes of one direction from the best ids of each query: what ``read_predictions`` gives."""
        queries, gallery = self._queries[side], self.ids[OTHER[side]]
        recalls = {k: np.zeros(len(queries.rows)) for k in KS}
        for i, row in enumerate(queries.rows):
            right = {gallery[column] for column in queries.relevant.part(slice(i, i + 1)).columns}
            for k, found in recalls.items():
                found[i] = not right.isdisjoint(predictions[self.ids[side][row]][:k])
        return self._named(side, recalls)

    def _named(self, side: Side, recalls: Mapping[int, np.ndarray]) -> dict[str, np.ndarray]:
        named = {f"recall@{k}": values for k, values in recalls.items()}
        named["mean_recall"] = np.mean([*recalls.values()], axis=0)
        return {name: v for end, v in named.items() if (name := _METRIC[side] + end) in self.metrics}

    def save(self, folder: Path, answers: Mapping[str, Answers]) -> list[Path]:
        """Write features, the ten best of each query, and the scores, as Chinese-CLIP's scripts write and read them.

        In the files of predictions equal scores are in the data's order. A file of scores needs all three recalls.
        Returns the files. Raises StorageError.
        """
        folder.mkdir(parents=True, exist_ok=True)
        outcomes, files = self.outcomes(answers), []
        for side in self._queries:
            ids, others = self.ids[side], self.ids[OTHER[side]]
            features, gallery = self._features(answers, side), self._features(answers, OTHER[side])
            files.append(folder / f"{self.split}{_FEATURES[side]}")
            write_features(files[-1], side, ids, features)
            best = top(similarities(features, gallery), len(ids), len(gallery), max(KS))
            files.append(folder / f"{self.split}{_FILE[side]}_predictions.jsonl")
            write_predictions(
                files[-1], side, ((i, [others[c] for c in row]) for i, row in zip(ids, best, strict=True))
            )
            recalls = [outcomes.get(f"{_METRIC[side]}recall@{k}") for k in KS]
            if all(values is not None for values in recalls):
                files.append(folder / f"{self.split}{_FILE[side]}_result.json")
                write_result(files[-1], [float(np.mean(values)) for values in recalls if values is not None])
        return files


def _images_of(data: RetrievalData, usable: Sequence[int], ids: Sequence[int | str]) -> dict[int, list[int]]:
    """Position of each text that can be scored -> the rows of its images. Raises DataError where there is none."""
    row_of, found = {number: row for row, number in enumerate(ids)}, {}
    for position in usable:
        text = data.texts[position]
        rows = [row_of[number] for number in text.image_ids if number in row_of]
        if rows:
            found[position] = rows
        else:
            data.skips.add(f"text {text.id}: none of its {len(text.image_ids)} images is there")
    if not found:
        raise DataError(
            f"no text of {data.name} has an image to find: {data.skips}",
            remedy="Score a split whose texts name their images; the test splits of contests do not.",
        )
    return found


def _inverted(columns: Mapping[int, Sequence[int]]) -> dict[int, list[int]]:
    inverted: dict[int, list[int]] = {}
    for row, found in columns.items():
        for column in found:
            inverted.setdefault(column, []).append(row)
    return inverted


def _candidates(counts: Mapping[str, int]) -> dict[Metric, tuple[int, str]]:
    """Every metric with the number of candidates that it chooses from, and what they are."""
    gallery: Mapping[Side, str] = {"text": "images", "image": "texts"}
    return {
        metric: (counts[what], what)
        for side, what in gallery.items()
        for metric in (
            *(Metric(f"{_METRIC[side]}recall@{k}", k) for k in KS),
            Metric(f"{_METRIC[side]}mean_recall", max(KS)),
        )
    }
