"""Sizes of axes to trace and to run a network with."""

from __future__ import annotations

import itertools
import math
from collections.abc import Iterable, Mapping, Sequence

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


def at(sizes: Mapping[str, int]) -> str:
    """Sizes in words: ``batch 3, sequence 17``."""
    return ", ".join(f"{name} {size}" for name, size in sizes.items()) or "the shapes of its inputs"


def narrower(axes: Sequence[Axis], sizes: Mapping[str, int]) -> str:
    """What to do where a network does not hold at ``sizes`` what its ranges promise."""
    axis = next((a for a in reversed(axes) if is_dynamic(a)), None)
    if axis is None:
        return "Correct the network, or the shapes and the sample of its inputs."
    step = _common_step(axis, sizes.get(axis.name, axis.opt))
    too_small = sizes.get(axis.name, axis.opt) < axis.opt
    verb, low, high = ("Raise", axis.opt, axis.max) if too_small else ("Lower", axis.min, axis.opt)
    multiples = f" Where it takes multiples only, declare that: Axis({axis.name!r}, ..., step={step})." if step else ""
    return (
        f"{verb} the range to what the network takes, for example `axes={axis.name}={low}..{axis.opt}..{high}`."
        f"{multiples}"
    )


def _common_step(axis: Axis, size: int) -> int:
    """A step that the corners of a range have and ``size`` has not, such as 32; 0 where there is none."""
    common = math.gcd(axis.min, axis.opt, axis.max)
    return common if common > 1 and size % common else 0
