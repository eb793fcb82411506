"""Finds the nodes of the original graph that each node of an optimised graph computes."""

from __future__ import annotations

from collections import Counter, defaultdict
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import onnx_ir as ir

from torchlift.backends.base import LayerTime


def with_origins(layers: Sequence[LayerTime], built: Path, source: Path) -> list[LayerTime]:
    """The layers of the file ``built``, each with the nodes of the file ``source`` that it computes.

    Weights are not read. Nodes that ONNX Runtime fused may share a name; these run in the order of the file. Where a
    name occurs more or less often in the run than in the file, its layers get no nodes, since none is certain.
    """
    named: dict[str, list[tuple[str, ...]]] = defaultdict(list)
    for name, nodes in origins(ir.load(built).graph, ir.load(source).graph):
        named[name].append(nodes)
    ran = Counter(layer.name for layer in layers)
    waiting = {name: iter(found) for name, found in named.items() if len(found) == ran[name]}
    return [replace(layer, nodes=next(waiting[layer.name]) if layer.name in waiting else ()) for layer in layers]


def origins(built: ir.Graph, source: ir.Graph) -> Iterator[tuple[str, tuple[str, ...]]]:
    """For each node of ``built``: its name, and the names of the nodes of ``source`` that it computes, in their order.

    For example BiasGelu of ``built`` computes Add and Gelu of ``source``, and writes the value that Gelu wrote.
    Optimisations keep the names of the values that stay. So the search starts at the outputs of a node, and goes back
    through ``source`` until it meets values that ``built`` has too. A node whose outputs are not in ``source``, such as
    an inserted Cast, computes none of its nodes.
    """
    order = {node: place for place, node in enumerate(source)}
    producers = {value.name: node for node in order for value in node.outputs if value.name}
    held = {value.name for value in (*built.inputs, *built.initializers.values())}
    held |= {value.name for node in built for value in node.outputs}
    constant = _constant(source)
    for node in built:
        found: set[ir.Node] = set()
        waiting = [producers[value.name] for value in node.outputs if value.name in producers]
        while waiting:
            origin = waiting.pop()
            if origin in found or origin in constant:
                continue
            found.add(origin)
            read = {value.name for value in origin.inputs if value is not None} - held
            waiting += [producers[name] for name in read if name in producers]
        yield node.name or "", tuple(origin.name or origin.op_type for origin in sorted(found, key=order.__getitem__))


def _constant(graph: ir.Graph) -> set[ir.Node]:
    """The nodes that depend on constants only. They are computed when the graph is built."""
    found: set[ir.Node] = set()
    for node in graph:
        read = [value for value in node.inputs if value is not None]
        if all(value.is_initializer() or value.producer() in found for value in read):
            found.add(node)
    return found
