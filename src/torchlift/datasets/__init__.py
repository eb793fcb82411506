"""Data sets for scoring and calibration, in common formats or in memory, read without torch."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from pathlib import Path

from torchlift.datasets.base import Images, ReadOptions, Skips
from torchlift.datasets.database import DATABASE
from torchlift.datasets.labelled import ImageData, LabelledData, ZeroShotData, read_folder
from torchlift.datasets.memory import SampleData, Source, read_items
from torchlift.datasets.pairs import PairsData, has_pairs, read_pairs
from torchlift.datasets.picture_pairs import PicturePairs, has_picture_pairs, read_picture_pairs
from torchlift.datasets.plain import ArrayData, TextData, read_arrays, read_texts
from torchlift.datasets.records import read_records
from torchlift.datasets.retrieval import RetrievalData, Text, read_retrieval, retrieval_splits, write_retrieval
from torchlift.errors import DataError
from torchlift.storage import is_file, is_folder

__all__ = [
    "ArrayData",
    "Data",
    "ImageData",
    "Images",
    "LabelledData",
    "PairsData",
    "PicturePairs",
    "ReadOptions",
    "RetrievalData",
    "SampleData",
    "Skips",
    "Source",
    "Text",
    "TextData",
    "Unlabelled",
    "ZeroShotData",
    "open_data",
    "read_items",
    "write_retrieval",
]

Unlabelled = ImageData | TextData | ArrayData
Data = RetrievalData | LabelledData | PairsData | PicturePairs | SampleData | Unlabelled

_FILES: Mapping[str, Callable[[Path, ReadOptions], Data]] = {
    ".txt": read_texts,
    ".jsonl": lambda file, options: (read_pairs if has_pairs(file) else read_texts)(file, options),
    ".tsv": read_pairs,
    ".csv": read_pairs,
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
    if (path / DATABASE).is_file():
        return read_records(path, options)
    if has_picture_pairs(path):
        return read_picture_pairs(path, options)
    return read_folder(path, options)


def _resolved(path: Path) -> Path:
    """The absolute path, without links. Raises DataError for what can be no path."""
    try:
        return path.resolve()
    except (OSError, ValueError, RuntimeError) as error:
        raise DataError(f"{str(path)!r} is no path: {error}", remedy="Check the path.") from error
