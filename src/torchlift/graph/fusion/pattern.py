"""Finds patterns of operators in a graph. A pattern is written like the expression that it computes."""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from typing import TypeAlias

import onnx_ir as ir

_COMMUTE = frozenset({"Add", "Mul"})
_CLOSE = 2e-4
"""The largest relative difference of a constant from the pattern's number. In float16 the square root of 2 is off by
1.1e-4."""


@dataclass(frozen=True, init=False)
class Op:
    """An operator of the standard's domain. It has exactly these ``inputs``, and at least these ``attributes``.

    An input is another pattern, a number or a name. A number matches a constant of one element that is close to it. A
    name matches any value, but the same value wherever that name stands. The inputs of Add and Mul match in either
    order. The node is found later by ``name``.
    """

    type: str
    inputs: tuple[Pattern, ...]
    name: str
    attributes: Mapping[str, object]

    def __init__(self, type: str, *inputs: Pattern, name: str = "", **attributes: object) -> None:
        for field_, value in {"type": type, "inputs": inputs, "name": name, "attributes": attributes}.items():
            object.__setattr__(self, field_, value)


@dataclass(frozen=True, init=False)
class OneOf:
    """One of several patterns. They are tried in this order."""

    options: tuple[Pattern, ...]

    def __init__(self, *options: Pattern) -> None:
        object.__setattr__(self, "options", options)


@dataclass(frozen=True)
class Scalar:
    """Any constant of one element, found later by ``name``."""

    name: str


Pattern: TypeAlias = "Op | OneOf | Scalar | str | float"


@dataclass(frozen=True)
class Found:
    """An occurrence of a pattern in a graph.

    ``values`` are the values by name, ``named`` the nodes by name, and ``nodes`` all nodes, the last one first.
    """

    values: dict[str, ir.Value] = field(default_factory=dict)
    named: dict[str, ir.Node] = field(default_factory=dict)
    nodes: tuple[ir.Node, ...] = ()

    @property
    def output(self) -> ir.Value:
        return self.nodes[0].outputs[0]

    def is_private(self, kept: Sequence[ir.Value] = ()) -> bool:
        """Whether nothing outside reads a result of these nodes, except for the output and the values ``kept``."""
        return all(
            value in (self.output, *kept)
            or (not value.is_graph_output() and all(use.node in self.nodes for use in value.uses()))
            for node in self.nodes
            for value in node.outputs
        )


def find(pattern: Pattern, value: ir.Value) -> Found | None:
    """The first occurrence of ``pattern`` that computes ``value``; None where there is none."""
    return next(_match(pattern, value, Found()), None)


def _match(pattern: Pattern, value: ir.Value | None, found: Found) -> Iterator[Found]:
    if value is None:
        return
    if isinstance(pattern, str):
        if found.values.get(pattern, value) is value:
            yield replace(found, values={**found.values, pattern: value})
    elif isinstance(pattern, Scalar):
        if scalar(value) is not None:
            yield from _match(pattern.name, value, found)
    elif isinstance(pattern, OneOf):
        for option in pattern.options:
            yield from _match(option, value, found)
    elif isinstance(pattern, Op):
        yield from _match_node(pattern, value, found)
    elif (number := scalar(value)) is not None and math.isclose(number, pattern, rel_tol=_CLOSE):
        yield found


def _match_node(pattern: Op, value: ir.Value, found: Found) -> Iterator[Found]:
    node = value.producer()
    if node is None or (node.domain, node.op_type, len(node.inputs)) != ("", pattern.type, len(pattern.inputs)):
        return
    if any(attribute(node, name) != expected for name, expected in pattern.attributes.items()):
        return
    named = {**found.named, pattern.name: node} if pattern.name else found.named
    start = replace(found, named=named, nodes=(*found.nodes, node))
    for inputs in (node.inputs, node.inputs[::-1]) if node.op_type in _COMMUTE else (node.inputs,):
        yield from _match_all(pattern.inputs, inputs, start)


def _match_all(patterns: Sequence[Pattern], values: Sequence[ir.Value | None], found: Found) -> Iterator[Found]:
    if not patterns:
        yield found
        return
    for first in _match(patterns[0], values[0], found):
        yield from _match_all(patterns[1:], values[1:], first)


def attribute(node: ir.Node, name: str) -> object:
    """The value of an attribute, a list as a tuple. None where the node does not state it."""
    found = node.attributes.get(name)
    return None if found is None else found.value


def tensor_of(value: ir.Value | None) -> ir.TensorProtocol | None:
    """The tensor of a constant: an initialiser or a Constant node, also behind Identity; None for a computed value.

    TorchScript writes Identity for weights that are shared. The elements of the tensor are not read.
    """
    while value is not None and (node := value.producer()) is not None and node.op_type == "Identity":
        value = node.inputs[0]
    return None if value is None else ir.convenience.get_const_tensor(value)


def is_vector(value: ir.Value, size: object) -> bool:
    """Whether a value is a constant vector of ``size`` elements."""
    tensor = tensor_of(value)
    return tensor is not None and tuple(tensor.shape) == (size,)


def readers(value: ir.Value) -> int:
    """How many inputs of nodes read a value, plus one where it is an output of the graph."""
    return len(value.uses()) + value.is_graph_output()


def addends(value: ir.Value) -> tuple[ir.Value, ir.Value] | None:
    """The two addends of a value that is the sum of another value and a constant vector; None for any other value."""
    node = value.producer()
    if node is None or (node.domain, node.op_type) != ("", "Add"):
        return None
    for rest, vector in (node.inputs, node.inputs[::-1]):
        tensor = tensor_of(vector)
        if rest is not None and vector is not None and tensor is not None and len(tensor.shape) == 1:
            return rest, vector
    return None


def scalar(value: ir.Value | None) -> float | None:
    """The element of a constant with one element; None for any other value. Larger constants are not read."""
    tensor = tensor_of(value)
    return float(tensor.numpy().reshape(())) if tensor is not None and tensor.size == 1 else None


def same_sizes(a: Sequence[object], b: Sequence[object]) -> bool:
    """Whether two lists of dimensions are certainly equal: the same numbers, or symbols of one name."""
    return len(a) == len(b) and all(x == y and getattr(x, "value", x) is not None for x, y in zip(a, b, strict=True))
