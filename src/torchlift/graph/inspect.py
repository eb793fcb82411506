"""Reads facts about an ONNX file: inputs, outputs, operators. Its weights are not read."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from torchlift.signature import Signature, TensorSpec


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


def baked_in(facts: GraphFacts, signature: Signature) -> list[str]:
    """What the graph has as a constant although the signature lets it vary, in words; empty where all is well."""
    said = []
    fixed = {axis.name: axis.max for axis in signature.axes if axis.min == axis.max}
    for spec in signature.inputs:
        if spec.name not in facts.inputs:
            said.append(f"input {spec.name} vanished from the graph: its value was turned into a constant")
        elif spec.name in facts.unused:
            said.append(f"input {spec.name} is not read by any node: its value was turned into a constant")
        else:
            said += _constant_axes("input", spec, facts.inputs[spec.name], fixed)
    for spec in signature.outputs:
        if spec.name not in facts.outputs:
            said.append(f"output {spec.name} vanished from the graph")
        else:
            said += _constant_axes("output", spec, facts.outputs[spec.name], fixed)
    return said


def _constant_axes(role: str, spec: TensorSpec, dims: tuple[int | str, ...], fixed: Mapping[str, int]) -> list[str]:
    return [
        f"axis {axis} of {role} {spec.name} turned constant: {size}"
        for axis, size in zip(spec.shape, dims, strict=False)
        if isinstance(axis, str) and isinstance(size, int) and size != fixed.get(axis)
    ]
