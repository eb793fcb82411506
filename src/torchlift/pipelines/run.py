"""Run: prepared rows in batches through a session, the next being prepared while the session works."""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from itertools import groupby
from types import TracebackType
from typing import NamedTuple, TypeVar

import numpy as np

from torchlift.backends import Session
from torchlift.errors import InputError
from torchlift.machine import usable_cores
from torchlift.pipelines.batches import Batch, Coverage, batch_axis, batch_size, by_count
from torchlift.pipelines.columns import Prepared
from torchlift.pipelines.texts import TextBatches
from torchlift.progress import Stage
from torchlift.signature import BATCH, Axis, Signature, TensorSpec

Part = TypeVar("Part")
Result = TypeVar("Result")


class Run(NamedTuple):
    """One run of a session: which ``rows`` it gets, int64 [n], in a batch of ``size`` (where that is more, the last row
    is repeated), and the ``sizes`` of the axes that they are padded to.
    """

    rows: np.ndarray
    size: int
    sizes: Mapping[str, int]


class AnySize:
    """What covers every size that the signature admits, as feeds for calibration need it: no engine, no recordings."""

    records = 0
    on_device = False

    def covers(self, sizes: Mapping[str, int]) -> bool:
        """True of all sizes."""
        return True


class Batching:
    """Which rows share a run of a session. This is the only place that decides it.

    - Rows that can be padded, as texts can, go by tokens: see :class:`~torchlift.pipelines.texts.TextBatches`.
    - Rows of different shapes, as pictures without a fixed size, go with those of the same shape.
    - All others go by their count: at most ``size`` rows, by default the batch axis' optimum. With ``together`` all
      rows are one batch where the signature admits as many and no size is asked for.

    Either way a batch has a size that the session covers: one of an engine's profiles, or of few shapes where the
    session records each. Threads may share it: once made it does not change.
    """

    def __init__(
        self, session: Coverage, signature: Signature, size: int | None = None, *, together: bool = False
    ) -> None:
        """Raises InputError for a ``size`` that is no whole number, or outside the batch axis' range."""
        self._session = session
        self._signature = signature
        self._size = size
        self._together = together
        self._texts: dict[str, TextBatches] = {}
        batch_size(batch_axis(signature), size)

    def runs(self, prepared: Prepared) -> list[Run]:
        """The runs of all rows. Raises InputError where an output cannot be put together from them."""
        axis = self._signature.batch
        if prepared.count is None:
            return [Run(np.arange(0), 0, {})]
        if axis is None:
            return [Run(np.array([row]), 1, {}) for row in range(prepared.count)]
        padded, lengths = prepared.padded_axis, prepared.lengths
        if padded is not None and lengths is not None:
            return self._by_tokens(padded, lengths)
        groups = self._groups(prepared) if prepared.varies else [np.arange(prepared.count)]
        return [run for rows in groups for run in self._by_count(axis, rows, prepared.sizes(int(rows[0])))]

    def _groups(self, prepared: Prepared) -> list[np.ndarray]:
        """The rows of each shape."""
        assert prepared.count is not None

        def shape(row: int) -> list[tuple[str, int]]:
            return sorted(prepared.sizes(row).items())

        ordered = sorted(range(prepared.count), key=shape)
        return [np.array([*rows]) for _, rows in groupby(ordered, shape)]

    def _by_count(self, axis: Axis, rows: np.ndarray, others: Mapping[str, int]) -> list[Run]:
        count = len(rows)
        together = self._together and self._size is None and axis.min <= count <= axis.max
        whole = next((spec for spec in self._signature.outputs if spec.shape.count(BATCH) != 1), None)
        if together and whole:
            return [Run(rows, count, {})]
        most = axis.max if together else batch_size(axis, self._size)
        batches = by_count(self._session, axis, most, count, others)
        if whole and (len(batches) > 1 or batches[0].size > count):
            raise not_one_batch(f"output {whole.name}, {whole}, is computed over the whole batch", axis, count)
        return [Run(rows[batch.rows], batch.size, {}) for batch in batches]

    def _by_tokens(self, axis: str, lengths: np.ndarray) -> list[Run]:
        if axis not in self._texts:  # several threads may make one at once: they are alike
            self._texts[axis] = TextBatches(self._session, self._signature, self._size, axis)
        order = np.argsort(lengths, kind="stable")
        ordered = np.maximum(lengths[order], self._signature.axis(axis).min)
        found: Iterator[tuple[Batch, int]] = self._texts[axis].of(ordered.tolist())
        return [Run(order[batch.rows], batch.size, {axis: length}) for batch, length in found]


class Loader:
    """Prepares runs ahead of the session that works on them, and decodes pictures in threads.

    Threads may share it: what they ask for is done in the order in which it comes. The thread that prepares may wait
    for those that decode, which wait for nobody.
    """

    def __init__(self) -> None:
        self._next = ThreadPoolExecutor(1, thread_name_prefix="load")
        self.decoders = ThreadPoolExecutor(usable_cores(), thread_name_prefix="decode")

    def ahead(self, prepare: Callable[[Part], Result], parts: Sequence[Part]) -> Iterator[Result]:
        """Prepared parts in order, the next being prepared while the caller works on this one: two in memory."""
        ready = prepare(parts[0])
        for part in parts[1:]:
            coming = self._next.submit(prepare, part)
            yield ready
            ready = coming.result()
        yield ready

    def feeds(self, prepared: Prepared, runs: Sequence[Run]) -> Iterator[dict[str, np.ndarray]]:
        """What a session takes in each run: rows prepared, and filled up to the batch's size.

        Pictures are decoded ahead. Texts and arrays are not worth a thread: that costs more than they do.
        """
        prepare = partial(self._feeds, prepared)
        return self.ahead(prepare, runs) if prepared.has_pictures else map(prepare, runs)

    def _feeds(self, prepared: Prepared, run: Run) -> dict[str, np.ndarray]:
        found = prepared.feeds(run.rows, run.sizes, self.decoders)
        positions = {column.spec.name: column.spec.batch_position for column in prepared.columns}
        return {n: array if (p := positions[n]) is None else filled(array, run.size, p) for n, array in found.items()}

    def close(self) -> None:
        """Wait for what is being prepared, and cancel what has not begun. Whoever waits for that gets CancelledError,
        whoever asks for more RuntimeError.
        """
        for pool in (self._next, self.decoders):
            pool.shutdown(cancel_futures=True)

    def __enter__(self) -> Loader:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def run_prepared(
    session: Session, prepared: Prepared, batching: Batching, loader: Loader, stage: Stage | None = None
) -> dict[str, np.ndarray]:
    """Output name -> array with the rows of ``prepared`` in their order. ``stage`` is told of every row.

    Raises what the session raises, InputError for a picture that cannot be decoded, and where the outputs of several
    batches are not of one shape.
    """
    signature, count = session.signature, prepared.count
    axis = signature.batch
    joined: dict[str, np.ndarray] = {}
    for run, answer in run_each(session, prepared, batching, loader, stage):
        if axis is None or count is None or _is_whole(run, count):
            joined = answer
        else:
            _put(joined, answer, run, signature, axis, count)
    return joined


def run_rows(
    session: Session, prepared: Prepared, batching: Batching, loader: Loader, stage: Stage | None = None
) -> dict[str, list[np.ndarray]]:
    """Output name -> the array of each row of ``prepared``, without the batch axis; they may differ in their sizes.

    What an output has at the padding of a text is cut off. An output that has no batch axis, while others have, is left
    out.
    """
    batch, padded, lengths = session.signature.batch, prepared.padded_axis, prepared.lengths
    specs = [spec for spec in session.signature.outputs if batch is None or spec.batch_position is not None]
    found = {spec.name: [np.empty(0)] * prepared.samples for spec in specs}
    for run, answer in run_each(session, prepared, batching, loader, stage):
        for spec in specs:
            array, position = answer[spec.name], spec.batch_position
            rows = [array] if position is None else np.moveaxis(array, position, 0)
            for row, values in zip(run.rows if prepared.count else [0], rows, strict=False):
                found[spec.name][row] = values if lengths is None else _cut(spec, values, padded, int(lengths[row]))
    return found


def _cut(spec: TensorSpec, row: np.ndarray, axis: str | None, length: int) -> np.ndarray:
    """The array of a row without what it has at padding along an axis. A copy, so that the padding is freed."""
    dims = [dim for dim in spec.shape if dim != BATCH]
    if axis is None or axis not in dims:
        return row
    return row.take(range(length), dims.index(axis))


def run_each(
    session: Session, prepared: Prepared, batching: Batching, loader: Loader, stage: Stage | None = None
) -> Iterator[tuple[Run, dict[str, np.ndarray]]]:
    """Each run of a session, and what it answers, of which the first ``len(run.rows)`` rows count.

    It is for outputs that are too large to be kept for all rows, such as boxes and pictures: finish each run at once.
    """
    runs = batching.runs(prepared)
    for run, feeds in zip(runs, loader.feeds(prepared, runs), strict=True):
        yield run, session.run(feeds)
        if stage is not None:
            stage.advance(len(run.rows))


def _is_whole(run: Run, count: int) -> bool:
    """Whether a run has all rows in their order, and no others."""
    return run.size == len(run.rows) == count and bool((run.rows == np.arange(count)).all())


def _put(
    joined: dict[str, np.ndarray],
    answer: Mapping[str, np.ndarray],
    run: Run,
    signature: Signature,
    axis: Axis,
    count: int,
) -> None:
    """The rows of a run into the arrays of all, without those that filled it up."""
    for spec in signature.outputs:
        position = spec.batch_position or 0
        found = np.moveaxis(answer[spec.name], position, 0)
        if spec.name not in joined:
            shape = (count, *found.shape[1:])
            joined[spec.name] = np.moveaxis(np.empty(shape, found.dtype), 0, position)
        whole = np.moveaxis(joined[spec.name], position, 0)
        if whole.shape[1:] != found.shape[1:]:
            raise not_one_batch(f"output {spec.name} has another size in each batch", axis, count)
        whole[run.rows] = found[: len(run.rows)]


def filled(array: np.ndarray, size: int, position: int = 0) -> np.ndarray:
    """``array``, its last row along dimension ``position`` repeated until there are ``size``."""
    missing = size - array.shape[position]
    if missing <= 0:
        return array
    return np.concatenate([array, array.take([-1], position).repeat(missing, position)], position)


def not_one_batch(reason: str, axis: Axis, count: int) -> InputError:
    """The error for rows that would have to be one batch, and are not."""
    return InputError(
        f"{reason}, and {count} rows would not be one",
        remedy=f"Give at least {axis.min} and at most {axis.max} rows at once, without a smaller size.",
    )
