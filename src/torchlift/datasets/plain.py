"""Data without labels: texts, one a line, and arrays by the name of an input."""

from __future__ import annotations

import json
import zipfile
from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import ClassVar

import numpy as np

from torchlift.datasets.base import ReadOptions, Skips, lines_of, spread
from torchlift.errors import DataError, UnsafeDataError
from torchlift.storage import open_regular


@dataclass(frozen=True)
class TextData:
    """Texts, in the order of the file."""

    kind: ClassVar[str] = "texts"
    name: str
    texts: tuple[str, ...]
    skips: Skips = field(default_factory=Skips)


@dataclass(frozen=True)
class ArrayData:
    """Arrays by the name of an input, with any number of rows along the signature's batch axis."""

    kind: ClassVar[str] = "arrays"
    name: str
    arrays: Mapping[str, np.ndarray]
    limit: int | None = None
    skips: Skips = field(default_factory=Skips)


def read_texts(file: Path, options: ReadOptions) -> TextData:
    """Read texts: the lines of a .txt, or the field ``text`` of each line of a .jsonl. Raises DataError."""
    texts: list[str] = []

    def parse(line: bytes, offset: int) -> None:
        if file.suffix == ".txt":
            texts.append(line.decode("utf-8-sig").strip())
            return
        match json.loads(line):
            case {"text": str(text)}:
                texts.append(text)
            case _:
                raise ValueError("it has no string text")

    skips = Skips(options.strict)
    lines_of(file, parse, skips)
    if not texts:
        raise DataError(
            f"{file} has no texts{': ' * bool(skips.count)}{skips}",
            remedy='Write one a line; in a .jsonl as {"text": ...}.',
        )
    return TextData(file.name, tuple(texts[i] for i in spread(len(texts), options.limit)), skips)


def read_arrays(file: Path, options: ReadOptions) -> ArrayData:
    """Read arrays from a .npz or .safetensors. Raises DataError, and UnsafeDataError for pickled objects."""
    try:
        arrays = _read_npz(file) if file.suffix == ".npz" else _read_safetensors(file)
    except UnsafeDataError:
        raise
    except Exception as error:  # numpy, zipfile and safetensors raise many types
        raise DataError(f"{file} cannot be read: {error}", remedy="Write it again.") from error
    if not arrays:
        raise DataError(f"{file} has no arrays", remedy="Write an array under the name of each input.")
    return ArrayData(file.name, arrays, options.limit)


def _read_npz(file: Path) -> dict[str, np.ndarray]:
    with open_regular(file) as stream:
        if not zipfile.is_zipfile(stream):
            raise ValueError("it is no zip file")
        stream.seek(0)
        with np.load(stream, allow_pickle=False) as arrays:
            return {name: _without_pickle(file, arrays, name) for name in arrays.files}


def _without_pickle(file: Path, arrays: Mapping[str, np.ndarray], name: str) -> np.ndarray:
    try:
        return arrays[name]
    except ValueError as error:
        if "pickle" not in str(error):
            raise
        raise UnsafeDataError(
            f"the array {name} of {file} holds pickled objects, which may run code; it was not read",
            remedy="Write arrays of numbers.",
        ) from error


def _read_safetensors(file: Path) -> dict[str, np.ndarray]:
    from safetensors.numpy import load_file

    with open_regular(file):
        return load_file(file)
