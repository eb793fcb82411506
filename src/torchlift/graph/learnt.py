"""Brings the scales that a network was trained with, by module, to the tensors and nodes of its graph."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from torchlift.graph.scales import Range, Scales
from torchlift.graph.schemes import Scheme, candidates, results
from torchlift.graph.units import module_of

_MOVES = frozenset({"Dropout", "Flatten", "Identity", "Reshape", "Squeeze", "Transpose", "Unsqueeze"})
"""Operators whose output has the values of their input, so that its range holds too."""


@dataclass(frozen=True)
class Learnt:
    """What :class:`torchlift.graph.quantize.Quantize` takes: ``ranges`` by tensor; ``weights`` by node, float32 [output
    channels] or []. ``unused`` are the modules whose scales no quantised node has a use for.
    """

    ranges: dict[str, Range]
    weights: dict[str, np.ndarray]
    unused: tuple[str, ...]


def learnt_ranges(scales: Mapping[str, Scales], model: ir.Model, scheme: Scheme) -> Learnt:
    """The ranges of the tensors that ``scheme`` quantises, and those of the weights, as far as ``scales`` knows them.

    A module's input is what its quantised nodes read. Its output is the last tensor that it computes and others read;
    what only moves that tensor has the same range. The input's own scale comes before the output's of the module
    before.
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
    """The last tensor that a module computes and that something outside of it reads."""
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
    """The tensor of ``known`` whose values ``value`` has."""
    while value is not None and value not in known:
        producer = value.producer()
        value = producer.inputs[0] if producer is not None and producer.op_type in _MOVES else None
    return value
