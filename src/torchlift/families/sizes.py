"""Sizes of axes to trace and to run a network with."""

from __future__ import annotations

import itertools
from collections.abc import Iterable

from torchlift.axes import Axis


def is_dynamic(axis: Axis) -> bool:
    """Whether the axis has more than one size."""
    return axis.min < axis.max


def distinct_sizes(axes: Iterable[Axis]) -> dict[str, int]:
    """Axis name -> a size to trace with, near the optimum.

    As far as the ranges allow, no size is 1, and no two sizes are equal: tracers take 1 for a constant, and equal sizes
    for one axis.
    """
    axes = tuple(axes)
    candidates = {axis.name: _near_optimum(axis, len(axes)) for axis in axes}
    taken: dict[int, str] = {}

    def place(name: str, tried: set[int]) -> bool:
        """Give an axis a free size, or a taken one whose axis can move: bipartite matching by augmenting paths."""
        for size in sorted(candidates[name], key=taken.__contains__):
            if size not in tried:
                tried.add(size)
                if size not in taken or place(taken[size], tried):
                    taken[size] = name
                    return True
        return False

    for name in candidates:
        place(name, set())
    chosen = {name: size for size, name in taken.items()}
    return {name: chosen.get(name, sizes[0]) for name, sizes in candidates.items()}


def _near_optimum(axis: Axis, count: int) -> list[int]:
    """Up to ``count`` sizes of an axis, those near the optimum first. They are above 1, unless only 1 is possible."""
    below = reversed(axis.sizes_between(axis.min, axis.opt - axis.step))
    sizes = itertools.chain(axis.sizes_between(axis.opt, axis.max), below)
    return list(itertools.islice((n for n in sizes if n > 1), count)) or [1]
