"""Finds the node that makes NaN or infinite values, or loses them, where PyTorch does otherwise."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Literal

import numpy as np
import onnx_ir as ir

from torchlift.graph.units import Unit, module_of

Event = Literal["made", "lost"]
"""NaN or infinite values out of finite ones; or NaN that is in what a node reads and not in what it writes."""

MOST_NODES = 1000
MOST_BYTES = 64 << 20
"""Graphs with more nodes, or in larger files, are not looked into: it would take longer than the note is worth."""

_SELECTS = frozenset(
    {"Where", "Gather", "GatherElements", "GatherND", "Slice", "Split", "ScatterND", "ScatterElements", "TopK", "Equal"}
)
"""Operators that may rightly leave a NaN out."""


def find_origin(nodes: Iterable[ir.Node], values: Mapping[str, np.ndarray], event: Event) -> Unit | None:
    """The first node at which ``event`` happens, by the tensors of a run by name; None where there is none."""
    for node in nodes:
        reads = [values[v.name] for v in node.inputs if v is not None and v.name in values]
        writes = [values[v.name] for v in node.outputs if v.name in values]
        reads, writes = ([array for array in arrays if array.dtype.kind == "f"] for arrays in (reads, writes))
        if writes and _happens(event, node.op_type, reads, writes):
            return Unit(node.name or "", node.op_type, module_of(node))
    return None


def _happens(event: Event, operator: str, reads: list[np.ndarray], writes: list[np.ndarray]) -> bool:
    if event == "lost":
        return operator not in _SELECTS and _any(np.isnan, reads) and not _any(np.isnan, writes)
    if _any(np.isnan, writes) and not _any(np.isnan, reads):
        return True
    return _any(np.isinf, writes) and not _any(np.isinf, reads)


def _any(of: np.ufunc, arrays: list[np.ndarray]) -> bool:
    return any(bool(of(array).any()) for array in arrays)
