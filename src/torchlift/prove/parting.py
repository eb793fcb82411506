"""Finds where a runtime parts from a graph: the first nodes whose values differ although what they read agrees."""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np
import onnx_ir as ir

from torchlift.backends import Backend
from torchlift.evidence import Difference, Tolerance
from torchlift.graph.units import Unit, module_of
from torchlift.machine import RunOn
from torchlift.progress import Progress
from torchlift.prove.half import HalfOracle
from torchlift.prove.inside import Inside, Tensor
from torchlift.prove.numerics import compare

_AT_ONCE = 256 << 20
"""Bytes of inner tensors that a runtime gives in one run. A graph with more is built and run several times."""


@dataclass(frozen=True)
class Parting:
    """A node that computes otherwise in a runtime: ``difference`` is that of the ``tensor`` that it writes, from what
    ONNX Runtime computes node by node.
    """

    unit: Unit
    tensor: str
    difference: Difference


@dataclass(frozen=True)
class Partings:
    """The first nodes that part, in the order of the graph, of so many ``nodes`` that were compared."""

    nodes: int
    found: tuple[Parting, ...]


def find_partings(
    inside: Inside,
    runtime: Backend,
    recipe: str,
    feeds: Mapping[str, np.ndarray],
    tolerance: Tolerance,
    on: RunOn,
    progress: Progress,
) -> Partings:
    """Run the graph node by node in ONNX Runtime and with all tensors observed in ``runtime``, and compare them.

    Raises BackendError where the runtime compiles for minutes, or does not run the graph.
    """
    inside.require(runtime)
    oracle = HalfOracle(inside.source, on)
    sizes: dict[str, int] = {}
    oracle.trace(feeds, lambda name, array: sizes.update({name: array.nbytes}))
    parts = [*_parts(inside.tensors(), sizes)]
    differences: dict[str, Difference] = {}
    with progress.stage(f"compare {runtime.name} node by node", len(parts)) as stage:
        for part in parts:
            with inside.open(runtime, recipe, part, on) as session:
                answers = session.run(feeds)

            def watch(name: str, array: np.ndarray, answers: Mapping[str, np.ndarray] = answers) -> None:
                if name in answers and name not in differences:
                    differences[name] = _compared(answers[name], array)

            oracle.trace(feeds, watch)
            stage.advance()
    wrong = {name for name, difference in differences.items() if _parts_from(difference, tolerance)}
    compared = [node for node in inside.nodes if any(value.name in differences for value in node.outputs)]
    return Partings(len(compared), tuple(_first(inside.nodes, differences, wrong)))


def _parts(tensors: Sequence[Tensor], sizes: Mapping[str, int]) -> Iterator[list[Tensor]]:
    """The tensors in sets that fit into the memory; one set at least, since the outputs are compared with the first."""
    part: list[Tensor] = []
    size = 0
    for tensor in (tensor for tensor in tensors if tensor.name in sizes):
        if part and size + sizes[tensor.name] > _AT_ONCE:
            yield part
            part, size = [], 0
        part.append(tensor)
        size += sizes[tensor.name]
    yield part


def _compared(answer: np.ndarray, expected: np.ndarray) -> Difference:
    """As :func:`compare`, but a NaN agrees with a NaN; another shape is all wrong."""
    if answer.shape != expected.shape:
        none = np.zeros(expected.shape, np.float32)
        return replace(compare(none, none), nonfinite_mismatch=max(expected.size, 1))
    if expected.dtype.kind != "f":
        return compare(answer, expected)
    both = np.isnan(answer) & np.isnan(expected)
    return compare(np.where(both, 0, answer), np.where(both, 0, expected))


def _parts_from(difference: Difference, tolerance: Tolerance) -> bool:
    if difference.elements:
        return difference.differing > tolerance.differing * difference.elements
    return bool(difference.nonfinite_mismatch) or difference.max_scaled > tolerance.scaled


def _first(nodes: Iterable[ir.Node], differences: Mapping[str, Difference], wrong: set[str]) -> Iterator[Parting]:
    """Nodes that write what is wrong and read nothing that is; what was not compared is as wrong as what it reads."""
    spoilt = {*wrong}
    for node in nodes:
        reads = {value.name for value in node.inputs if value is not None}
        written = [value.name for value in node.outputs if value.name]
        if reads & spoilt:
            spoilt.update(name for name in written if name not in differences)
            continue
        worst = max((n for n in written if n in wrong), key=lambda n: differences[n].max_scaled, default=None)
        if worst is not None:
            yield Parting(Unit(node.name or "", node.op_type, module_of(node)), worst, differences[worst])
