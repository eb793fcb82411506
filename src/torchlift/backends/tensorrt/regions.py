"""All nodes of a subgraph that TensorRT compiled as one layer, whose name tells only the first and the last."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from torchlift.backends.base import LayerTime
from torchlift.backends.tensorrt.inspector import ends_of
from torchlift.graph.units import name_nodes


def with_regions(layers: Sequence[LayerTime], source: Path) -> list[LayerTime]:
    """Layers, each that is known by its first and last node alone with all between them in the ONNX file ``source``; no
    weights are read. Where the file does not have both, the two names stay.
    """
    regions = {layer.name for layer in layers if len(layer.nodes) == 2 and layer.nodes == ends_of(layer.name)}
    if not regions:
        return list(layers)
    model = ir.load(source)
    name_nodes(model)
    return [
        replace(layer, nodes=between(model.graph, *layer.nodes) or layer.nodes) if layer.name in regions else layer
        for layer in layers
    ]


def between(graph: ir.Graph, first: str, last: str) -> tuple[str, ...]:
    """The names of the nodes on all ways from one node to another, with both, in the graph's order; none where there is
    no way or no such node. An end that is a constant stands for the one node that reads it.

    All of them are in the layer, since no way between two of its nodes leaves it: else it would wait for itself. It may
    have others, on ways that begin or end elsewhere.
    """
    start, end = _node(graph, first), _node(graph, last)
    if start is None or end is None:
        return ()
    found = _reached(start, ir.Node.successors) & _reached(end, ir.Node.predecessors)
    return tuple(node.name or "" for node in graph if node in found)


def _node(graph: ir.Graph, name: str) -> ir.Node | None:
    """The node of a name, else the only reader of the constant of that name."""
    for node in graph:
        if node.name == name:
            return node
    value = ir.convenience.create_value_mapping(graph).get(name)
    producer = value and value.producer()
    if value is None or not (value.is_initializer() or (producer and producer.op_type == "Constant")):
        return None
    readers = {node for node, _ in value.uses()}
    return readers.pop() if len(readers) == 1 else None


def _reached(start: ir.Node, step: Callable[[ir.Node], Iterable[ir.Node]]) -> set[ir.Node]:
    found, waiting = {start}, [start]
    while waiting:
        further = {*step(waiting.pop())} - found
        found |= further
        waiting += further
    return found
