"""Tells whether a whole number that differs from PyTorch's is one of two right answers.

For example argmax gives 3 where PyTorch gives 7. Both are right where the logits 3 and 7 are equal, but for what a
runtime rounds. The logits are read from the component's own graph, which answers as PyTorch does.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np

from torchlift.errors import BackendError
from torchlift.evidence import Tolerance
from torchlift.machine import HERE, RunOn
from torchlift.prove.tap import Tap, read_graph

Array = np.ndarray

_MOVES = frozenset({"Cast", "Flatten", "Identity", "Not", "Reshape", "Squeeze", "Unsqueeze"})
"""Operators that keep the order of whole numbers and truth values, and where two of them differ."""

_INDICES = frozenset({"ArgMax", "ArgMin", "TopK"})
_COMPARISONS = frozenset({"Greater", "GreaterOrEqual", "Less", "LessOrEqual"})
_ROUNDINGS: Mapping[str, Callable[[Array], Array]] = {
    "Cast": np.trunc,
    "Ceil": np.ceil,
    "Floor": np.floor,
    "Round": np.round,
}


@dataclass(frozen=True)
class Origin:
    """What decides about an output: an operator, the tensors that it reads, and the axis along which it looks."""

    operator: str
    reads: tuple[str, ...]
    axis: int = -1


class Ties:
    """Counts the elements of an output that differ at a near tie, by the graph in the file ``source``.

    Two values tie where they are at most ``tolerance.scaled`` of the largest magnitude apart. Indices must come from
    ArgMax, ArgMin or TopK, truth values from a comparison, other whole numbers from floats that were rounded. Between
    that operator and the output only shapes and types may change. Else nothing counts as a tie.
    """

    def __init__(self, source: Path, tolerance: Tolerance, on: RunOn = HERE) -> None:
        self._source = source
        self._share = tolerance.scaled
        self._on = on

    def __call__(self, name: str, inputs: Mapping[str, Array], answer: Array, expected: Array) -> int:
        """How many elements of output ``name`` differ at a near tie; 0 where the graph does not tell."""
        origin = self._origins.get(name)
        if origin is None:
            return 0
        try:
            read = self._read(origin, inputs)
        except (BackendError, ValueError):
            return 0
        if any(array.dtype.kind != "f" for array in read):
            return 0  # whole numbers are never near each other
        near = self._near(origin, [array.astype(np.float64) for array in read], answer, expected)
        return int(np.count_nonzero(near.ravel() & (answer != expected).ravel()))

    @cached_property
    def _graph(self) -> Any:
        return read_graph(self._source).graph

    @cached_property
    def _origins(self) -> dict[str, Origin]:
        """What decides about each output, by its name, where that is known."""
        producers = {name: node for node in self._graph.node for name in node.output if name}
        found = {output.name: _origin(output.name, producers) for output in self._graph.output}
        return {name: origin for name, origin in found.items() if origin}

    def _read(self, origin: Origin, inputs: Mapping[str, Array]) -> list[Array]:
        """The tensors that the operator reads: constants, and what the graph computes of ``inputs``."""
        from onnx import numpy_helper

        folder = str(self._source.parent)
        found = {t.name: numpy_helper.to_array(t, folder) for t in self._graph.initializer if t.name in origin.reads}
        with Tap(self._source, [name for name in origin.reads if name not in found], self._on) as tap:
            found |= tap.run(inputs)
        return [found[name] for name in origin.reads]

    def _near(self, origin: Origin, read: list[Array], answer: Array, expected: Array) -> Array:
        """Where either answer is right, bool, of the shape of the operator's result."""
        reach = self._share * max(float(np.abs(array[np.isfinite(array)]).max(initial=0)) for array in read)
        if origin.operator in _INDICES:
            first, second = (_pointed_at(read[0], origin.axis, indices) for indices in (answer, expected))
            return np.abs(first - second) <= reach
        if origin.operator in _COMPARISONS:
            return np.abs(read[0] - read[1]) <= reach
        rounded, value = _ROUNDINGS[origin.operator], answer.reshape(read[0].shape)
        return (rounded(read[0] - reach) <= value) & (value <= rounded(read[0] + reach)) & (answer.dtype.kind != "b")


def _origin(name: str, producers: Mapping[str, Any]) -> Origin | None:
    """Walk from an output to the operator that decides about it: the last that rounds where no other does."""
    rounding: Origin | None = None
    while (node := producers.get(name)) is not None:
        operator = node.op_type
        if operator in _INDICES and name == node.output[-1]:
            default = -1 if operator == "TopK" else 0
            axis = next((a.i for a in node.attribute if a.name == "axis"), default)
            return Origin(operator, (node.input[0],), axis)
        if operator in _COMPARISONS:
            return Origin(operator, tuple(node.input[:2]))
        if operator in _ROUNDINGS:
            rounding = Origin(operator, (node.input[0],))
        if operator not in _MOVES:
            break
        name = node.input[0]
    return rounding


def _pointed_at(values: Array, axis: int, indices: Array) -> Array:
    """The values at ``indices``, which point along ``axis``; NaN where an index is outside."""
    others = values.size // max(values.shape[axis], 1)
    shape = [*values.shape]
    shape[axis] = indices.size // max(others, 1)
    along = indices.reshape(shape).astype(np.int64)
    inside = (along >= 0) & (along < values.shape[axis])
    return np.where(inside, np.take_along_axis(values, np.where(inside, along, 0), axis=axis), np.nan)
