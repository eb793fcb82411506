"""Writes the nodes that replace one node. They are named after it."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, TypeAlias

import numpy as np
import onnx_ir as ir

from torchlift.errors import ConversionError
from torchlift.graph.fusion.pattern import tensor_of
from torchlift.graph.schemes import unit_of

FLOAT = ir.DataType.FLOAT
HALVES = frozenset({ir.DataType.FLOAT16, ir.DataType.BFLOAT16})

AXES_AS_INPUT = 18
"""Since this opset the axes of reductions are an input, before an attribute (of ReduceSum since 13)."""


def refused(node: ir.Node, opset: int, why: str) -> ConversionError:
    """The error that says why a node cannot be written for a parser of ``opset``."""
    return ConversionError(
        f"for a parser of opset {opset}: {unit_of(node)} {why}",
        remedy=f"Export again with `exporter=torchscript` `opset={min(opset, 16)}`, or use another backend.",
    )


class Steps:
    """Writes the nodes that replace ``node``, in front of it.

    They are for a parser of ``opset`` and a network that is ``typed`` or not (see Target). ``names`` are taken by other
    values and nodes; new names are added to them.
    """

    def __init__(self, node: ir.Node, graph: ir.Graph, names: set[str], opset: int, *, typed: bool = True) -> None:
        self.node, self.opset, self.typed = node, opset, typed
        self._graph, self._names, self._stem = graph, names, node.name or node.op_type

    def input(self, index: int) -> Any:
        """The input at a position; None where the node has none there."""
        return self.node.inputs[index] if index < len(self.node.inputs) else None

    def given(self, attribute: str, default: Any) -> Any:
        """The value of an attribute of the node, else ``default``."""
        found = self.node.attributes.get(attribute)
        return default if found is None else found.value

    def refused(self, why: str) -> ConversionError:
        """The error that says why the node cannot be written."""
        return refused(self.node, self.opset, why)

    def op(
        self,
        step: str,
        operator: str,
        *inputs: Any,
        kind: ir.DataType | None = None,
        outputs: int = 1,
        **attributes: Any,
    ) -> ir.Value:
        """Write a node and return its first output. Its type is ``kind``, by default that of the first input."""
        values = [
            ir.Value(name=self._free(f"{step}.{i}" if i else step), type=ir.TensorType(kind or inputs[0].dtype))
            for i in range(outputs)
        ]
        notes = dict(self.node.metadata_props)
        node = ir.node(operator, inputs, attributes, outputs=values, name=values[0].name, metadata_props=notes)
        self.node.graph.insert_before(self.node, node)
        return values[0]

    def again(self, *inputs: Any, kind: ir.DataType | None = None, **changed: Any) -> ir.Value:
        """Write the node again, with these inputs and changed attributes. An attribute that is None is removed."""
        attributes = {name: attribute.value for name, attribute in self.node.attributes.items()} | changed
        kept = {name: value for name, value in attributes.items() if value is not None}
        old = self.node.outputs
        return self.op("again", self.node.op_type, *inputs, kind=kind or old[0].dtype, outputs=len(old), **kept)

    def cast(self, step: str, value: ir.Value, kind: ir.DataType) -> ir.Value:
        return value if value.dtype == kind else self.op(step, "Cast", value, kind=kind, to=kind.value)

    def widened(self, step: str, value: ir.Value) -> ir.Value:
        """A value in half precision as float32; any other as it is.

        A constant becomes another constant, else a Cast.
        """
        if value.dtype not in HALVES:
            return value
        tensor = tensor_of(value)
        if tensor is None:
            return self.cast(step, value, FLOAT)
        return self.constant(step, tensor.numpy().astype(np.float32))

    def constant(self, step: str, array: np.ndarray) -> ir.Value:
        return self.initializer(step, ir.tensor(array))

    def integers(self, step: str, *numbers: int) -> ir.Value:
        return self.constant(step, np.array(numbers, np.int64))

    def number(self, step: str, number: float, like: ir.Value) -> ir.Value:
        return self.constant(step, np.array(number, like.dtype.numpy()))

    def initializer(self, step: str, tensor: ir.TensorProtocol) -> ir.Value:
        tensor.name = self._free(step)
        value = ir.Value(name=tensor.name, type=ir.TensorType(tensor.dtype), shape=tensor.shape, const_value=tensor)
        self._graph.register_initializer(value)
        return value

    def mean(self, step: str, value: ir.Value, axes: list[int]) -> ir.Value:
        if self.opset < AXES_AS_INPUT:
            return self.op(step, "ReduceMean", value, axes=axes)
        return self.op(step, "ReduceMean", value, self.integers(f"{step}.axes", *axes))

    def replace_node(self, value: ir.Value) -> None:
        """Replace the node by the writer of ``value``, which gets its name; the outputs get the names of its outputs.

        Where ``value`` is a constant, only the readers of the node's output change: they read the constant.
        """
        old, writer = self.node, value.producer()
        written = [value] if writer is None else writer.outputs
        for before, after in zip(old.outputs, written, strict=False):
            ir.convenience.replace_all_uses_with(before, after, replace_graph_outputs=True)
        old.graph.remove(old, safe=True)
        if writer is None:
            return
        writer.name = old.name
        for before, after in zip(old.outputs, written, strict=False):
            after.name, after.type = before.name, before.type or after.type
            after.shape = after.shape if before.shape is None else before.shape
            after.metadata_props.update(before.metadata_props)

    def _free(self, step: str) -> str:
        name = f"{self._stem}.{step}"
        while name in self._names:
            name += "_"
        self._names.add(name)
        return name


Rule: TypeAlias = Callable[[Steps], "ir.Value | None"]
"""Rewrites one node. It returns the value that replaces its output; or it changes the node in place and returns None.
"""
