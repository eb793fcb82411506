"""Finds the shapes of a network's outputs by running it at several sizes of its axes."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence

from torchlift.axes import BATCH, Axis
from torchlift.dims import size_of
from torchlift.signature import Dim

Sizes = Mapping[str, int]

_STEPS = (1, 2, 3, 4, -1, -2, -3, -4)
"""How far from the first sizes the network is run a second time, by preference, in steps of the axis."""

_FACTORS = (2, 3, 4, 8, 14, 16, 32)
"""What sizes are usually multiplied with and divided by: strides, patches and factors of scaling."""


def probes(axes: Sequence[Axis], first: Sizes) -> list[dict[str, int]]:
    """Sizes at which the network is run: ``first``, another near it where every axis differs, and then each axis at its
    least, at its greatest and at sizes between, while the others stay small.

    For example a network that gives 49 frames for 16,000 and for 16,002 samples is also run with 400 and with 160,000.
    The batch stays small, so that the greatest sizes of the others fit into the memory.
    """
    found = [dict(first), _elsewhere(axes, first)]
    small = {axis.name: axis.min if axis.name == BATCH else first[axis.name] for axis in axes}
    for axis in axes:
        if axis.name == BATCH:
            continue
        between = [*axis.sizes_between(axis.min, axis.max)]
        picked = {axis.min, axis.max, *(between[len(between) * part // 7] for part in (1, 3, 5))}
        found += [{**small, axis.name: size} for size in sorted(picked)]
    unique: list[dict[str, int]] = []
    for sizes in found:
        if sizes not in unique:
            unique.append(sizes)
    return unique


def _elsewhere(axes: Sequence[Axis], first: Sizes) -> dict[str, int]:
    """Other sizes than ``first`` where the ranges allow. Axes go by different steps as far as they can, so that an axis
    plus a constant is not taken for another axis.
    """
    steps: dict[str, int] = {}
    for axis in axes:
        size = first[axis.name]
        possible = [step * axis.step for step in _STEPS if axis.has(size + step * axis.step)]
        good = [step for step in possible if step not in steps.values() and size + step > 1]
        steps[axis.name] = next(iter(good or possible), 0)
    return {name: first[name] + step for name, step in steps.items()}


def dimension(runs: Sequence[tuple[Sizes, int]]) -> Dim:
    """A dimension from its size in several runs: a constant, an axis, an expression of axes, or None.

    None stands for a size that depends on values, which differs between two runs of the same sizes, or that no simple
    expression gives at all the sizes that were run. A dimension that is always empty says nothing either.
    """
    sizes = {size for _, size in runs}
    if len(sizes) == 1:
        size = next(iter(sizes))
        return size if size > 0 else None
    return next((text for text in _candidates(runs) if all(_gives(text, *run) for run in runs)), None)


def _gives(expression: str, sizes: Sizes, size: int) -> bool:
    return size_of(expression, sizes) == size


def _candidates(runs: Sequence[tuple[Sizes, int]]) -> Iterator[str]:
    """Expressions that may give the sizes of the runs, the simplest first."""
    axes = [*runs[0][0]]
    first_sizes, first = runs[0]
    yield from axes
    for axis in axes:
        for factor in _FACTORS:
            yield f"{factor} * {axis}"
        if offset := first - first_sizes[axis]:
            yield f"{axis} {'+' if offset > 0 else '-'} {abs(offset)}"
        for factor in _FACTORS:
            yield f"{axis} // {factor}"
            yield f"({axis} + {factor - 1}) // {factor}"
    for a, b in itertools.combinations(axes, 2):
        yield f"{a} * {b}"
        yield f"{a} + {b}"
        for factor in _FACTORS:
            yield f"({a} // {factor}) * ({b} // {factor})"
            yield f"({a} // {factor}) * ({b} // {factor}) + 1"
            yield f"{factor} * {a} * {b}"
