"""Result files in the formats of Chinese-CLIP's evaluation scripts: features, predictions and scores."""

from __future__ import annotations

import json
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal

import numpy as np

from torchlift.datasets.base import Skips, lines_of
from torchlift.errors import DataError
from torchlift.storage import replacing

Side = Literal["image", "text"]

PREDICTED = 10
"""How many results are predicted for a query, if the gallery has so many."""

OTHER: Mapping[Side, Side] = {"image": "text", "text": "image"}


def write_features(file: Path, side: Side, ids: Iterable[int], features: Iterable[np.ndarray]) -> None:
    """Write lines ``{"image_id": id, "feature": [...]}``, or with ``text_id``. A feature is a row [E].

    Raises StorageError.
    """
    pairs = zip(ids, features, strict=True)
    write_json_lines(file, ({f"{side}_id": int(number), "feature": row.tolist()} for number, row in pairs))


def read_features(file: Path, side: Side) -> tuple[list[int], np.ndarray]:
    """Read ids and features, float32 [N, E]. Raises DataError for broken lines, repeated ids and unequal rows."""
    rows: dict[int, np.ndarray] = {}

    def parse(record: Any) -> None:
        match record:
            case {"feature": list(values)} if type(number := record.get(f"{side}_id")) is int and values:
                row = np.array(values, np.float32)
            case _:
                raise ValueError(f"it is not {{{side}_id: whole number, feature: list of numbers}}")
        _require_new(file, side, number, rows)
        size = len(next(iter(rows.values()), row))
        if row.shape != (size,):
            raise DataError(
                f"{file}: the feature of {side} {number} has shape {list(row.shape)}, others have {size} numbers",
                remedy="Write the features of one model only.",
            )
        rows[number] = row

    _read_json_lines(file, parse)
    if not rows:
        raise DataError(f"{file} has no features", remedy="Write the features first.")
    return [*rows], np.stack([*rows.values()])


def write_predictions(file: Path, query: Side, predictions: Iterable[tuple[int, Sequence[int]]]) -> None:
    """Write lines ``{"text_id": id, "image_ids": [best first]}``, or the other direction.

    ``predictions`` are pairs of a query and the ids that were found for it. Raises StorageError.
    """
    other = f"{OTHER[query]}_ids"
    write_json_lines(file, ({f"{query}_id": number, other: [*found]} for number, found in predictions))


def side_of(file: Path) -> Side:
    """Whether the queries of a file of predictions are texts or images.

    Raises DataError where its first line has neither.
    """
    found: list[Side] = []

    def parse(record: Any) -> None:
        if not found and isinstance(record, dict):
            found.extend(side for side in OTHER if f"{side}_id" in record)

    _read_json_lines(file, parse)
    if not found:
        raise DataError(
            f"{file} has no predictions", remedy='Lines are {"text_id": 1, "image_ids": [...]}, or the other way round.'
        )
    return found[0]


def read_predictions(
    file: Path, query: Side, queries: Collection[int], gallery: Collection[int], k: int = PREDICTED
) -> dict[int, list[int]]:
    """Read the ``k`` best ids of each query, best first.

    Raises DataError for a broken line, an id that the data set lacks, a query that is missing or occurs twice, and any
    other number than ``k`` different ids.
    """
    found: dict[int, list[int]] = {}

    def parse(record: Any) -> None:
        match record:
            case dict() if type(number := record.get(f"{query}_id")) is int:
                best = record.get(f"{OTHER[query]}_ids")
            case _:
                raise ValueError(f"it has no whole number {query}_id")
        if not isinstance(best, list) or not all(type(i) is int for i in best):
            raise ValueError(f"it has no list of whole numbers {OTHER[query]}_ids")
        _require_new(file, query, number, found)
        _require_known(file, query, [number], queries)
        _require_known(file, OTHER[query], best, gallery)
        if len({*best}) != k or len(best) != k:
            raise DataError(
                f"{file}: {query} {number} has {len({*best})} different {OTHER[query]} ids in a list of {len(best)}",
                remedy=f"Predict {k} different ones for each {query}.",
            )
        found[number] = best

    _read_json_lines(file, parse)
    missing = [number for number in queries if number not in found]
    if missing:
        raise DataError(
            f"{file} lacks {len(missing):,} of {len(queries):,} {query}s: {_some(missing)}",
            remedy=f"Predict for every {query} of the split.",
        )
    return found


def write_result(file: Path, recalls: Sequence[float]) -> None:
    """Write recall@1, @5 and @10, which are given as shares 0..1, as a score in percent. Raises StorageError."""
    r1, r5, r10 = recalls
    mean = (r1 + r5 + r10) / 3.0
    score = {"score": mean * 100, "mean_recall": mean * 100, "r1": r1 * 100, "r5": r5 * 100, "r10": r10 * 100}
    write_lines(file, [json.dumps({"success": True, "score": mean * 100, "scoreJson": score})], end="")


def write_json_lines(file: Path, records: Iterable[Mapping[str, Any]], *, ensure_ascii: bool = True) -> None:
    """Write one record a line, in the default format of Python's json. Raises StorageError."""
    write_lines(file, (json.dumps(record, ensure_ascii=ensure_ascii) for record in records))


def write_lines(file: Path, lines: Iterable[str], end: str = "\n") -> None:
    """Write lines one by one. ``file`` is replaced once all are written. Raises StorageError."""
    with replacing(file) as stream:
        stream.writelines(text.encode() for text in _ended(lines, end))


def _ended(lines: Iterable[str], end: str) -> Iterator[str]:
    for line in lines:
        yield line
        yield end


def _read_json_lines(file: Path, parse: Callable[[Any], None]) -> None:
    """Parse a file in which every line must be right.

    Raises DataError where one is not: a partial result is useless.
    """
    skips = Skips()
    lines_of(file, lambda line, _: parse(json.loads(line)), skips)
    if skips.count:
        raise DataError(f"{file} cannot be used: {skips}", remedy="Write the file again.")


def _require_new(file: Path, side: Side, number: int, seen: Mapping[int, Any]) -> None:
    if number in seen:
        raise DataError(f"{file} has {side} {number} twice", remedy=f"Write one line for each {side}.")


def _require_known(file: Path, side: Side, numbers: Iterable[int], known: Collection[int]) -> None:
    unknown = [number for number in numbers if number not in known]
    if unknown:
        raise DataError(
            f"{file} names {side} {_some(unknown)}, which the data set lacks",
            remedy="Give predictions for this data set and this split.",
        )


def _some(numbers: Sequence[int]) -> str:
    return ", ".join(str(n) for n in numbers[:5]) + ", ..." * (len(numbers) > 5)
