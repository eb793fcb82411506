"""How many inputs of any number become batches that a signature admits, and rows come back in their order."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TypeVar

import numpy as np

from torchlift.errors import InputError
from torchlift.signature import Axis

Item = TypeVar("Item")
Result = TypeVar("Result")


def batch_size(axis: Axis, asked: int | None) -> int:
    """The size of batches: as asked, else the axis' optimum. Raises InputError where it is outside the axis' range."""
    size = axis.opt if asked is None else asked
    if not axis.min <= size <= axis.max:
        raise InputError(
            f"batch size {size} is outside {axis.min}..{axis.max}",
            remedy=f"Ask for at most {axis.max}, or export again with --axis batch={axis.min}..{axis.opt}..{size}.",
        )
    return size


def slices(count: int, size: int) -> list[slice]:
    """Consecutive slices of at most ``size`` that cover ``count`` rows."""
    return [slice(start, min(start + size, count)) for start in range(0, count, size)]


def filled(rows: np.ndarray, axis: Axis) -> np.ndarray:
    """``rows``, the last of them repeated until there are as many as ``axis`` demands."""
    missing = axis.min - len(rows)
    return np.concatenate([rows, np.repeat(rows[-1:], missing, axis=0)]) if missing > 0 else rows


def ahead(prepare: Callable[[Item], Result], items: Sequence[Item], pool: ThreadPoolExecutor) -> Iterator[Result]:
    """Prepared items in order, the next one being prepared in the pool while the caller works on this one."""
    if not items:
        return
    coming = pool.submit(prepare, items[0])
    for following in items[1:]:
        ready = coming.result()
        coming = pool.submit(prepare, following)
        yield ready
    yield coming.result()
