"""Groups of an output's columns that have a unit of their own, such as boxes in pixels beside probabilities.

For example an output float32 [batch, 85] has 4 columns up to 640, and 81 up to 1. As a share of 640 a probability that
is off by 1 is nothing. So the groups are compared one by one, each as a share of its own largest magnitude.
"""

from __future__ import annotations

import itertools
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from torchlift.declare.answers import Answer, Boxes, Raw
from torchlift.prove.goldens import SILENCE, Golden
from torchlift.signature import Signature, TensorSpec

MOST_COLUMNS = 4096
"""Wider outputs are hidden states or the logits of a vocabulary, of one unit."""

GAP = 8.0
"""Columns are of another unit where their largest magnitudes are apart by more than this factor. BF16 may be off by
6e-2 of the scale: below a factor of 8 that is at most half of what the smaller column holds, so that a column which is
wrong is seen without a scale of its own.
"""

_SHARES = 1.0
"""Columns that are no larger than this are of one unit: shares or probabilities. Their magnitudes spread widely."""

_ENOUGH = 16
"""Values of a column that tell its scale. Of fewer, a column of logits may be small by chance."""

_WIDE = 64
"""Columns from which on an output may be an embedding. There a group is a run of columns at one end: a hidden state has
single large columns somewhere.
"""

Ranges = tuple[tuple[int, int], ...]
"""Columns as (first, behind the last): ((0, 4), (6, 7)) are 0, 1, 2, 3 and 6."""


@dataclass(frozen=True)
class Columns:
    """One group of columns along a dimension. ``scale`` is its largest magnitude over all goldens."""

    ranges: Ranges
    scale: float
    axis: int = -1

    def of(self, array: np.ndarray) -> np.ndarray:
        """The group's columns of an array, along its last dimension."""
        array = np.moveaxis(array, self.axis, -1)
        return np.concatenate([array[..., first:behind] for first, behind in self.ranges], axis=-1)


def columns_of(
    signature: Signature, goldens: Iterable[Golden], answers: Mapping[str, Answer]
) -> dict[str, tuple[Columns, ...]]:
    """The groups of each output that has several: those that are declared, else those that the goldens show.

    An output that is declared as labels or as an embedding has one unit.
    """
    goldens, found = tuple(goldens), dict[str, tuple[Columns, ...]]()
    for spec in signature.outputs:
        answer = answers.get(spec.name, Raw())
        if isinstance(answer, (Raw, Boxes)) and spec.dtype.startswith("float"):
            arrays = [golden.outputs[spec.name] for golden in goldens if spec.name in golden.outputs]
            groups = _groups(spec, answer.groups, arrays)
            if len(groups) > 1:
                found[spec.name] = groups
    return found


def _groups(spec: TensorSpec, declared: Sequence[int], arrays: Sequence[np.ndarray]) -> tuple[Columns, ...]:
    """The declared groups of an output, else those of the last dimension that has any."""
    for axis in _dimensions(spec):
        moved = [np.moveaxis(array, axis, -1) for array in arrays]
        if not declared:
            groups = found_columns(moved)
        elif spec.shape[axis] == sum(declared):
            groups = _declared(declared, moved)
        else:
            continue
        if len(groups) > 1 or declared:
            return tuple(replace(group, axis=axis) for group in groups)
    return ()


def _dimensions(spec: TensorSpec) -> list[int]:
    """The dimensions of fixed size, from the last on: -1, 1, 0."""
    sizes = [(place, size) for place, size in enumerate(spec.shape) if isinstance(size, int)]
    fitting = [place for place, size in sizes if 2 <= size <= MOST_COLUMNS]
    return [-1 if place == len(spec.shape) - 1 else place for place in reversed(fitting)]


def _magnitudes(arrays: Iterable[np.ndarray]) -> Iterable[np.ndarray]:
    """Each array [..., C] as the magnitudes of its finite values, float64 [values, C]; 0 where one is not finite."""
    for array in arrays:
        rows = array.reshape(-1, array.shape[-1]).astype(np.float64)
        yield np.abs(np.where(np.isfinite(rows), rows, 0))


def _declared(groups: Sequence[int], arrays: Iterable[np.ndarray]) -> tuple[Columns, ...]:
    ends = [0, *itertools.accumulate(groups)]
    scales = np.max([rows.max(axis=0, initial=0) for rows in _magnitudes(arrays)], axis=0)
    return tuple(
        Columns(((first, behind),), float(scales[first:behind].max())) for first, behind in itertools.pairwise(ends)
    )


def found_columns(arrays: Sequence[np.ndarray]) -> tuple[Columns, ...]:
    """The groups that arrays [..., C] of one output show by the largest magnitude of each column.

    Columns that are near zero, or zero in most places, belong to the smallest group that is not.
    """
    magnitudes = [*_magnitudes(arrays)]
    count = sum(len(rows) for rows in magnitudes)
    if count < _ENOUGH:
        return ()
    scales = np.max([rows.max(axis=0, initial=0) for rows in magnitudes], axis=0)
    zeros = np.sum([(rows == 0).sum(axis=0) for rows in magnitudes], axis=0)
    active = (scales >= SILENCE) & (zeros <= count / 2)
    bars = _bars(np.sort(scales[active]))
    if len(scales) >= _WIDE:
        bars = [bar for bar in bars if _at_one_end(active & (scales >= bar))]
    number = np.where(active, np.searchsorted(bars, scales, side="right"), 0)
    groups = [number == n for n in range(len(bars) + 1)]
    return tuple(Columns(_runs(group), float(scales[group].max())) for group in groups)


def _bars(scales: np.ndarray) -> list[float]:
    """Where one unit ends and the next begins: the smallest scale above each gap, of scales in rising order."""
    return [float(b) for a, b in itertools.pairwise(scales) if b > GAP * a and b > _SHARES]


def _at_one_end(group: np.ndarray) -> bool:
    runs = _runs(group)
    return len(runs) == 1 and (runs[0][0] == 0 or runs[0][1] == len(group))


def _runs(group: np.ndarray) -> Ranges:
    """The columns of a mask, bool [C], as ranges."""
    ends = np.flatnonzero(np.diff(np.concatenate([[False], group, [False]]).astype(np.int8)))
    return tuple((int(first), int(behind)) for first, behind in zip(ends[::2], ends[1::2], strict=True))
