"""Finds all nodes of a subgraph that TensorRT compiled as one layer. The layer names only the first and the last."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from torchlift.backends.base import LayerTime
from torchlift.backends.tensorrt.inspector import ends_of
from torchlift.graph.units import name_nodes


def with_regions(layers: Sequence[LayerTime], source: Path) -> list[LayerTime]:
    """The layers, with all nodes for those of which only the first and the last node are known.

    The nodes between the two are looked up in the ONNX file ``source``; its weights are not read. A layer whose two
    nodes are not in the file stays as it is.
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
    """The names of all nodes on paths from node ``first`` to node ``last``, both included, in the graph's order.

    Empty where there is no path or no such node. An end may also be a constant: it stands for the one node that reads
    it.

    All these nodes belong to the layer: a path that left the layer and came back would make the layer wait for itself.
    The layer may have more nodes, on paths that begin or end elsewhere.
    """
    start, end = _node(graph, first), _node(graph, last)
    if start is None or end is None:
        return ()
    found = _reached(start, ir.Node.successors) & _reached(end, ir.Node.predecessors)
    return tuple(node.name or "" for node in graph if node in found)


def _node(graph: ir.Graph, name: str) -> ir.Node | None:
    """The node of that name, else the only reader of the constant of that name."""
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
