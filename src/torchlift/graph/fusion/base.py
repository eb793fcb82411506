"""The base of fusions: passes that replace patterns by larger operators, and count what they replaced."""

from __future__ import annotations

from abc import abstractmethod
from collections.abc import Mapping
from typing import Any, ClassVar

import numpy as np
import onnx_ir as ir

from torchlift.graph.conditions import Pass
from torchlift.graph.fusion.pattern import Found, Pattern, find

CONTRIB = "com.microsoft"
"""The domain of ONNX Runtime's own operators (docs/ContribOperators.md of its repository)."""

FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.FLOAT16})


class Tape:
    """Collects the nodes of one replacement. Their names begin with ``prefix``, the value that they compute."""

    def __init__(self, graph: ir.Graph, prefix: str, metadata: Mapping[str, str]) -> None:
        self.nodes: list[ir.Node] = []
        self._graph, self._prefix, self._metadata = graph, prefix, metadata

    def node(self, op: str, *inputs: ir.Value | None, domain: str = "", outputs: int = 1, **attributes: Any) -> ir.Node:
        """Append a node. The model declares its ``domain``."""
        name = f"{self._prefix}/{op}_{len(self.nodes)}"
        values = [ir.Value(name=name if number == 0 else f"{name}.{number}") for number in range(outputs)]
        node = ir.node(
            op, inputs, attributes, domain=domain, outputs=values, name=name, metadata_props=dict(self._metadata)
        )
        self.nodes.append(node)
        self._graph.opset_imports.setdefault(domain, 1)
        return node

    def op(self, op: str, *inputs: ir.Value | None, domain: str = "", **attributes: Any) -> ir.Value:
        """Append a node, and return its first output."""
        return self.node(op, *inputs, domain=domain, **attributes).outputs[0]

    def integers(self, *numbers: int) -> ir.Value:
        """An initialiser int64 [n] of these numbers. Equal ones are shared."""
        name = f"torchlift/{'_'.join(map(str, numbers))}"
        if name not in self._graph.initializers:
            tensor = ir.tensor(np.array(numbers, np.int64), name=name)
            self._graph.register_initializer(
                ir.Value(name=name, const_value=tensor, type=ir.TensorType(tensor.dtype), shape=ir.Shape(tensor.shape))
            )
        return self._graph.initializers[name]


class Fusion(Pass):
    """A pass that writes nodes of the main graph with fewer or larger operators.

    Values should have types and shapes where onnx can infer them, as :func:`torchlift.graph.fusion.fuse` makes sure.
    A pattern whose conditions cannot be proven from them stays as it is.

    The outputs stay the same up to rounding. Nodes follow the nodes that they read. New nodes have the metadata of a
    node that they replace. Below ``least_opset`` nothing is replaced. ``count`` is how many occurrences the last call
    replaced.
    """

    name: ClassVar[str]
    least_opset: ClassVar[int] = 1
    count: int = 0

    def ensures(self, model: ir.Model) -> None:
        """Where anything was replaced, the model declares the domain of every node."""
        if not self.count:
            return
        for node in model.graph:
            if node.domain not in model.opset_imports:
                raise ir.passes.PostconditionError(f"the domain of {node.name}, {node.domain}, is not declared")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Returns whether anything was replaced."""
        fits = model.graph.opset_imports.get("", 0) >= self.least_opset
        self.count = self.fuse(model.graph) if fits else 0
        if self.count:
            model.graph.sort()
        return ir.passes.PassResult(model, modified=self.count > 0)

    @abstractmethod
    def fuse(self, graph: ir.Graph) -> int:
        """Replace every occurrence; returns how many there were. The nodes need no order afterwards."""


class PatternFusion(Fusion):
    """Replaces every occurrence of ``patterns``. A longer pattern must stand before one that is a part of it."""

    patterns: ClassVar[tuple[Pattern, ...]]

    def fuse(self, graph: ir.Graph) -> int:
        """Replace every occurrence of the patterns; returns how many there were."""
        return sum(
            self._replace_at(node, pattern, graph)
            for pattern in self.patterns
            for node in list(graph)
            if node.graph is not None and node.outputs
        )

    def _replace_at(self, node: ir.Node, pattern: Pattern, graph: ir.Graph) -> bool:
        found = find(pattern, node.outputs[0])
        if found is None:
            return False
        tape = Tape(graph, str(node.outputs[0].name), node.metadata_props)
        replaced = self.replace(found, tape)
        if not replaced:
            return False
        replace_values(graph, node, tape, replaced)
        return True

    @abstractmethod
    def replace(self, found: Found, tape: Tape) -> dict[ir.Value, ir.Value] | None:
        """Write the replacement on the tape; returns old value -> new value. None: leave this occurrence as it is."""


def replace_values(graph: ir.Graph, place: ir.Node, tape: Tape, replaced: Mapping[ir.Value, ir.Value]) -> None:
    """Insert the nodes of a tape at ``place``, and let all readers of an old value read the new one (``replaced``).

    Nodes that nothing reads any more are removed.
    """
    ir.convenience.replace_nodes_and_values(graph, place, [], tape.nodes, list(replaced), list(replaced.values()))
    _remove_unread([place, *(value.producer() for value in replaced)])


def _remove_unread(nodes: list[ir.Node | None]) -> None:
    """Remove those of ``nodes`` that nothing reads, then the nodes that only they read, and so on."""
    while nodes:
        node = nodes.pop()
        if node is None or node.graph is None or any(v.uses() or v.is_graph_output() for v in node.outputs):
            continue
        nodes += [value.producer() for value in node.inputs if value is not None]
        node.graph.remove(node, safe=True)
