"""Reads facts about an ONNX file: inputs, outputs, operators. Its weights are not read."""

from __future__ import annotations

from collections import Counter
from dataclasses import dataclass
from pathlib import Path


@dataclass(frozen=True)
class GraphFacts:
    """Facts about a graph.

    ``inputs`` and ``outputs`` map a name to its dimensions: each is a number, or the name of a symbolic size.
    ``unused`` are inputs that no node reads. ``operators`` counts nodes by operator, as ``domain::type`` outside of the
    standard.
    """

    opset: int
    inputs: dict[str, tuple[int | str, ...]]
    outputs: dict[str, tuple[int | str, ...]]
    unused: tuple[str, ...]
    operators: dict[str, int]

    @property
    def nodes(self) -> int:
        return sum(self.operators.values())


def read_facts(file: Path) -> GraphFacts:
    """Read the facts of an ONNX file. Weights in a file beside it are not read."""
    import onnx

    model = onnx.load(file, load_external_data=False)
    graph = model.graph
    initializers = {i.name for i in graph.initializer}
    read = {name for node in _nodes(graph) for name in node.input} | {o.name for o in graph.output}
    inputs = {v.name: _dims(v) for v in graph.input if v.name not in initializers}
    return GraphFacts(
        opset=next(o.version for o in model.opset_import if o.domain in ("", "ai.onnx")),
        inputs=inputs,
        outputs={v.name: _dims(v) for v in graph.output},
        unused=tuple(n for n in inputs if n not in read),
        operators=dict(
            Counter(
                n.op_type if n.domain in ("", "ai.onnx") else f"{n.domain}::{n.op_type}" for n in graph.node
            ).most_common()
        ),
    )


def _nodes(graph):  # type: ignore[no-untyped-def]
    import onnx

    for node in graph.node:
        yield node
        for attribute in node.attribute:
            if attribute.type == onnx.AttributeProto.GRAPH:
                yield from _nodes(attribute.g)


def _dims(value) -> tuple[int | str, ...]:  # type: ignore[no-untyped-def]
    dims = value.type.tensor_type.shape.dim
    return tuple(d.dim_value if d.HasField("dim_value") else d.dim_param for d in dims)
