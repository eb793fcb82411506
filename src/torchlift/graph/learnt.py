"""Assigns scales that were learnt in training, which belong to modules, to the tensors and nodes of a graph."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from torchlift.graph.scales import Range, Scales
from torchlift.graph.schemes import Scheme, candidates, results
from torchlift.graph.units import module_of

_MOVES = frozenset({"Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
"""Operators whose output has the values of their input, so that it has the same range."""


@dataclass(frozen=True)
class Learnt:
    """Learnt scales in the form that :class:`torchlift.graph.quantize.Quantize` takes.

    ``ranges`` maps a tensor to its range. ``weights`` maps a node to the magnitudes of its weight, float32 [output
    channels] or []. ``unused`` are the modules whose scales no quantised node needs.
    """

    ranges: dict[str, Range]
    weights: dict[str, np.ndarray]
    unused: tuple[str, ...]


def learnt_ranges(scales: Mapping[str, Scales], model: ir.Model, scheme: Scheme) -> Learnt:
    """The ranges of the tensors and weights that ``scheme`` quantises, as far as ``scales`` has them.

    The input of a module is the tensor that its quantised nodes read. Its output is the last tensor that it computes
    and that something outside reads. A tensor that is only moved, as by Reshape, has the same range. Where both are
    known, the scale of a module's input counts before the scale of the previous module's output.
    """
    nodes = candidates(model, scheme)
    written = {path: value for path in scales if (value := _output(model, path)) is not None}
    outputs = {value: (path, known) for path, value in written.items() if (known := scales[path].output) is not None}
    ranges: dict[str, Range] = {}
    weights: dict[str, np.ndarray] = {}
    used: set[str] = set()
    for node in nodes:
        path = module_of(node)
        own = scales.get(path, Scales())
        if own.weight is not None:
            weights[node.name or ""] = own.weight
            used.add(path)
        if scheme.activations is None:
            continue
        if own.input is not None:
            ranges[node.inputs[0].name] = own.input
            used.add(path)
        for value in (node.inputs[0], *results(node, scheme)):
            found = _source(value, outputs)
            if found is not None and value.name not in ranges:
                ranges[value.name] = outputs[found][1]
                used.add(outputs[found][0])
    return Learnt(ranges, weights, tuple(sorted(scales.keys() - used)))


def _output(model: ir.Model, path: str) -> ir.Value | None:
    """The last tensor that a module computes and that something outside of the module reads."""
    for node in reversed(model.graph):
        if _inside(node, path):
            for value in node.outputs:
                if value.is_graph_output() or any(not _inside(use.node, path) for use in value.uses()):
                    return value
    return None


def _inside(node: ir.Node, path: str) -> bool:
    module = module_of(node)
    return module == path or module.startswith(f"{path}.")


def _source(value: ir.Value | None, known: Collection[ir.Value]) -> ir.Value | None:
    """The tensor of ``known`` that ``value`` is, or was moved from; None where there is none."""
    while value is not None and value not in known:
        producer = value.producer()
        value = producer.inputs[0] if producer is not None and producer.op_type in _MOVES else None
    return value
