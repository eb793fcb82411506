"""Data in memory: samples that any iterable gives, such as a torch DataLoader, read once and kept as NumPy arrays.

For example ``read_items([(images, labels), ...])``, where images are float32 [8, 3, 224, 224] and labels int64 [8].
"""

from __future__ import annotations

import os
from collections.abc import Iterable, Iterator, Mapping
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar

import numpy as np

from torchlift.datasets.base import Skips
from torchlift.errors import DataError

MEMORY = 4 << 30
"""Bytes, 4 GiB: what is kept of an iterable at most. That is 7,100 pictures, float32 [3, 224, 224]."""

WANTED = "Give an iterable of (inputs, target), in batches or single samples, as a DataLoader is one."

_KEPT = (str, bytes, bool, int, float, complex, type(None), os.PathLike)


@dataclass(frozen=True)
class SampleData:
    """What an iterable gave, in its order: ``items`` with arrays of NumPy in the place of tensors.

    An item is ``(inputs, target)``, or inputs alone. Whether it is a batch or a single sample is seen from the model's
    signature later. ``limit`` is the most samples that are taken, evenly spaced.
    """

    kind: ClassVar[str] = "samples"
    name: str
    items: tuple[Any, ...]
    limit: int | None = None
    skips: Skips = field(default_factory=Skips)

    def limited(self, limit: int | None) -> SampleData:
        """The same with another limit."""
        return replace(self, limit=limit)


Source = str | os.PathLike[str] | SampleData
"""Where data are: the path of a data set, or samples in memory."""


def read_items(given: Any, keyword: str = "data", memory: int = MEMORY) -> SampleData:
    """Read an iterable to its end, once, and keep what it gives. ``keyword`` is its name in errors.

    Raises DataError for what is no iterable or empty, fails on the way, holds what is no data, or is larger than
    ``memory`` bytes.
    """
    items: list[Any] = []
    kept = 0
    for number, item in enumerate(_items(given, keyword)):
        try:
            items.append(_as_numpy(item))
        except TypeError as error:
            raise DataError(f"`{keyword}=` item {number}: {error}", remedy=WANTED) from error
        kept += _size(items[-1])
        if kept > memory:
            raise DataError(
                f"`{keyword}=` has more than {memory / 2**30:g} GiB: {number + 1:,} items have {kept / 2**30:.2f} GiB",
                remedy="Give fewer samples, for example itertools.islice(loader, 20); or the path of a data set, whose "
                "pictures are read one at a time.",
            )
    if not items:
        raise DataError(f"`{keyword}=` gave no samples", remedy="Give at least one; a generator can be read only once.")
    return SampleData("data in memory", tuple(items))


def _items(given: Any, keyword: str) -> Iterator[Any]:
    """What is to be read, one after the other; what goes wrong is said with its position."""
    if isinstance(given, Mapping) or not (isinstance(given, Iterable) or _is_indexed(given)):
        raise DataError(f"`{keyword}=` is a {type(given).__name__}, neither a path nor samples", remedy=WANTED)
    number = 0
    try:
        for item in given if isinstance(given, Iterable) else map(given.__getitem__, range(len(given))):
            yield item
            number += 1
    except Exception as error:  # the code of whoever wrote the iterable
        raise DataError(
            f"`{keyword}=` failed at item {number}: {type(error).__name__}: {error}",
            remedy="Read it by itself first: for item in data: pass.",
        ) from error


def _is_indexed(given: Any) -> bool:
    """Whether it is a Dataset of torch, which may have a length and an index and no iterator."""
    return hasattr(given, "__len__") and hasattr(given, "__getitem__")


def _as_numpy(value: Any) -> Any:
    """A copy of ``value`` with arrays of NumPy in the place of tensors: a loader may use its buffers again.

    Raises TypeError for what is no data.
    """
    if isinstance(value, np.ndarray):
        return value.copy()
    if isinstance(value, Mapping):
        return {str(key): _as_numpy(part) for key, part in value.items()}
    if isinstance(value, (list, tuple)):
        return type(value)(map(_as_numpy, value)) if type(value) in (list, tuple) else tuple(map(_as_numpy, value))
    if isinstance(value, np.generic):
        return np.array(value)
    if isinstance(value, _KEPT) or hasattr(value, "tobytes"):  # a picture of Pillow
        return value
    if hasattr(value, "detach"):
        return _of_tensor(value.detach())
    if hasattr(value, "__array__"):
        return np.array(value)
    raise TypeError(f"a {type(value).__name__} is no array, tensor, text or number")


def _of_tensor(tensor: Any) -> np.ndarray:
    """A tensor of torch as an array of its own; bfloat16, which NumPy lacks, as float32."""
    tensor = tensor.cpu()
    return np.array((tensor.float() if "bfloat16" in str(tensor.dtype) else tensor).numpy())


def _size(value: Any) -> int:
    """The bytes of arrays, texts and pictures."""
    if isinstance(value, dict):
        return sum(map(_size, value.values()))
    if isinstance(value, (list, tuple)):
        return sum(map(_size, value))
    if isinstance(value, (str, bytes)):
        return len(value)
    if isinstance(value, np.ndarray):
        return value.nbytes
    width, height = getattr(value, "size", (0, 0)) if hasattr(value, "tobytes") else (0, 0)
    return 4 * width * height
