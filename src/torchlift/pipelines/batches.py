"""Any number of inputs as batches that a signature admits, prepared while the session works."""

from __future__ import annotations

from bisect import bisect_left, bisect_right
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import Any, NamedTuple, TypeVar

import numpy as np

from torchlift.backends import Session
from torchlift.errors import InputError
from torchlift.machine import usable_cores
from torchlift.processing.image import ImageInput, ImageSource
from torchlift.signature import BATCH, Axis, Signature

Part = TypeVar("Part")
Result = TypeVar("Result")


def listed(items: Any, what: str) -> list[Any]:
    """``items`` as a list. Raises InputError for a single one, and for none."""
    one_array = isinstance(items, np.ndarray) and items.ndim in (2, 3)
    if isinstance(items, (str, bytes)) or one_array or not hasattr(items, "__iter__"):
        raise InputError(f"one {type(items).__name__} where a list of {what} is expected", remedy="Put it into a list.")
    found = list(items)
    if not found:
        raise InputError(f"there are no {what}: the batch is empty", remedy="Give at least one.")
    return found


def batch_axis(signature: Signature) -> Axis:
    """The batch axis, of one row where there is none."""
    return signature.batch or Axis(BATCH, 1, 1, 1)


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


class Batch(NamedTuple):
    """Which ``rows`` of all make a batch, and its ``size``: where that is more, the last row is repeated."""

    rows: slice
    size: int


HALF, SIXTH = 2, 6
"""What part of a batch rows that count must be, for it to be filled up: a batch of as many rows takes about as long as
so many parts of it by themselves. On a GPU single rows leave most of it idle: one picture took 0.56 ms, 64 took 5.5 ms
(ViT-B/16, H200).
"""


def first_covered(session: Session, batches: Iterable[int], others: Mapping[str, int]) -> int | None:
    """The first of these sizes of a batch that the session covers, at the sizes of the other axes; None of none."""
    return next((size for size in batches if session.covers({**others, BATCH: size})), None)


def batch_sizes(axis: Axis, size: int, session: Session) -> Sequence[int]:
    """The sizes that batches of at most ``size`` may have, ascending. Where a session records each shape these are but
    two, the least and the largest that it covers.
    """
    sizes = range(axis.min, size + 1)
    if not session.records:
        return sizes
    least, most = first_covered(session, sizes, {}), first_covered(session, reversed(sizes), {})
    return sizes if least is None or most is None else (least, most)


def next_batch(start: int, count: int, sizes: Sequence[int], runs: Callable[[int], bool], part: int = HALF) -> Batch:
    """The batch of the rows from ``start`` on, of ``count``, in one of the ``sizes`` that ``runs``.

    It is filled up where one ``part`` of it or more are rows that count, or no smaller one runs; else it is the largest
    that is full. Where no size runs, it is of as many rows as would be taken otherwise: the session that gets them says
    what it runs.
    """
    left = min(count - start, sizes[-1])
    fewer = next(filter(runs, reversed(sizes[: bisect_right(sizes, left)])), None)
    end = len(sizes) if fewer is None else bisect_right(sizes, part * left)
    more = next(filter(runs, sizes[bisect_left(sizes, left) : end]), None)
    size = fewer if more is None else more
    size = max(left, sizes[0]) if size is None else size
    return Batch(slice(start, start + min(left, size)), size)


def cut(count: int, sizes: Sequence[int], runs: Callable[[int], bool], part: int = HALF) -> list[Batch]:
    """The batches of ``count`` rows, one after the other, as :func:`next_batch` makes them."""
    batches: list[Batch] = []
    while not batches or batches[-1].rows.stop < count:
        batches.append(next_batch(batches[-1].rows.stop if batches else 0, count, sizes, runs, part))
    return batches


def covered_batches(session: Session, axis: Axis, size: int, count: int) -> list[Batch]:
    """``count`` rows in batches of at most ``size`` that the session covers, of few sizes where it records each."""
    sizes, part = batch_sizes(axis, size, session), SIXTH if session.records else HALF
    return cut(count, sizes, lambda rows: session.covers({BATCH: rows}), part)


def taken(array: np.ndarray, part: slice, position: int) -> np.ndarray:
    """The rows ``part`` of an array whose rows are counted along dimension ``position``."""
    return np.ascontiguousarray(array[(slice(None),) * position + (part,)])


def filled(array: np.ndarray, size: int, position: int = 0) -> np.ndarray:
    """``array``, its last row along dimension ``position`` repeated until there are ``size``."""
    missing = size - array.shape[position]
    if missing <= 0:
        return array
    return np.concatenate([array, array.take([-1], position).repeat(missing, position)], position)


class Loader:
    """Prepares batches ahead of the session that works on them, and decodes images in threads.

    Threads may share it: what they ask for is done in the order in which it comes. The thread that prepares may wait
    for those that decode, which wait for nobody.
    """

    def __init__(self) -> None:
        self._next = ThreadPoolExecutor(1, thread_name_prefix="load")
        self._decoders = ThreadPoolExecutor(usable_cores(), thread_name_prefix="decode")

    def ahead(self, prepare: Callable[[Part], Result], parts: Sequence[Part]) -> Iterator[Result]:
        """Prepared parts in order, the next being prepared while the caller works on this one: two in memory."""
        ready = prepare(parts[0])
        for part in parts[1:]:
            coming = self._next.submit(prepare, part)
            yield ready
            ready = coming.result()
        yield ready

    def decoded(self, images: ImageInput, sources: Sequence[ImageSource], part: slice, what: str) -> np.ndarray:
        """The images ``part`` of all ``sources``: float32 [N, 3, H, W].

        Raises InputError that names the image: ``what``, and its position in ``sources``.
        """
        positions = range(*part.indices(len(sources)))
        batch = np.empty((len(positions), 3, *images.size), np.float32)
        jobs = [
            self._decoders.submit(images, sources[i], out=row, name=f"{what} {i}")
            for i, row in zip(positions, batch, strict=True)
        ]
        for job in jobs:
            job.result()
        return batch

    def close(self) -> None:
        """Wait for what is being prepared, and cancel what has not begun. Whoever waits for that gets CancelledError,
        whoever asks for more RuntimeError.
        """
        for pool in (self._next, self._decoders):
            pool.shutdown(cancel_futures=True)
