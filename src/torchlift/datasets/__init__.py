"""Data sets for scoring and calibration, in common formats or in memory, read without torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from torchlift.datasets.base import Images, ReadOptions, Skips, read_json
from torchlift.datasets.boxes import YAML, BoxData, read_coco, read_yolo, yolo_splits
from torchlift.datasets.classes import TextClassData, has_classes, read_classes
from torchlift.datasets.database import DATABASE
from torchlift.datasets.labelled import TRAIN, ImageData, LabelledData, ZeroShotData, image_splits, read_folder
from torchlift.datasets.memory import SampleData, Source, read_items
from torchlift.datasets.pairs import PairsData, has_pairs, read_pairs
from torchlift.datasets.picture_pairs import PicturePairs, has_picture_pairs, read_picture_pairs
from torchlift.datasets.plain import ArrayData, TextData, read_arrays, read_texts
from torchlift.datasets.queries import QueryData, has_queries, read_queries
from torchlift.datasets.records import read_records
from torchlift.datasets.retrieval import RetrievalData, Text, read_retrieval, retrieval_splits, write_retrieval
from torchlift.datasets.squad import SquadData, read_squad
from torchlift.datasets.tables import names_of
from torchlift.errors import DataError
from torchlift.storage import is_file, is_folder

__all__ = [
    "TRAIN",
    "ArrayData",
    "BoxData",
    "Data",
    "ImageData",
    "Images",
    "LabelledData",
    "PairsData",
    "PicturePairs",
    "QueryData",
    "ReadOptions",
    "RetrievalData",
    "SampleData",
    "Skips",
    "Source",
    "SquadData",
    "Text",
    "TextClassData",
    "TextData",
    "Unlabelled",
    "ZeroShotData",
    "open_data",
    "read_items",
    "splits_of",
    "write_retrieval",
]

Unlabelled = ImageData | TextData | ArrayData
Labelled = RetrievalData | LabelledData | BoxData | PicturePairs | PairsData | TextClassData | QueryData | SquadData
Data = Labelled | SampleData | Unlabelled


def _read_table(file: Path, options: ReadOptions) -> Data:
    """A table, by the names of its columns; what has none is pairs with scores, or in a .jsonl texts."""
    names = names_of(file)
    if has_pairs(names):
        return read_pairs(file, options)
    if has_classes(names):
        return read_classes(file, options)
    if has_queries(names):
        return read_queries(file, options)
    return (read_texts if file.suffix == ".jsonl" else read_pairs)(file, options)


_FILES: Mapping[str, Callable[[Path, ReadOptions], Data]] = {
    ".txt": read_texts,
    ".json": lambda file, options: _of_json(file, options),
    ".yaml": read_yolo,
    ".yml": read_yolo,
    ".jsonl": _read_table,
    ".tsv": _read_table,
    ".csv": _read_table,
    ".npz": read_arrays,
    ".safetensors": read_arrays,
}


def open_data(source: Source, options: ReadOptions | None = None) -> Data:
    """Find out what kind of data set is at a path, and open it. Images are read later, one at a time. Of data in memory
    only the limit is taken from the options.

    Raises DataError where it is missing, empty, ambiguous or of no known kind, UnsafeDataError for pickles.
    """
    options = options or ReadOptions()
    if isinstance(source, SampleData):
        return source.limited(options.limit)
    path = _resolved(Path(source))
    if is_file(path):
        if path.suffix not in _FILES:
            raise DataError(
                f"{path} is no data set that is known",
                remedy=f"Give a folder, or a file that ends in {', '.join(_FILES)}.",
            )
        return _FILES[path.suffix](path, options)
    if not is_folder(path):
        raise DataError(f"{path} does not exist", remedy="Give the folder or the file of a data set.")
    if retrieval_splits(path):
        return read_retrieval(path, options)
    if (path / YAML).is_file():
        return read_yolo(path / YAML, options)
    if (path / DATABASE).is_file():
        return read_records(path, options)
    if has_picture_pairs(path):
        return read_picture_pairs(path, options)
    return read_folder(path, options)


def splits_of(path: Path) -> set[str]:
    """The splits of a data.yaml, of folders of images that have ``train``, and of retrieval data; of others none."""
    described = path / YAML if path.is_dir() else path
    if described.suffix in (".yaml", ".yml") and described.is_file():
        return yolo_splits(described)
    if not path.is_dir():
        return set()
    return image_splits(path) or retrieval_splits(path)


def _of_json(file: Path, options: ReadOptions) -> Data:
    """COCO's boxes, or SQuAD's questions. Raises DataError where it is neither, or is cut off."""
    said = read_json(file)
    if isinstance(said, dict) and {"images", "annotations"} & {*said}:
        return read_coco(file, said, options)
    return read_squad(file, said, options)


def _resolved(path: Path) -> Path:
    """The absolute path, without links. Raises DataError for what can be no path."""
    try:
        return path.resolve()
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(f"{str(path)!r} is no path: {error}", remedy="Check the path.") from error
