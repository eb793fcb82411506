"""Writes a graph in half precision as FP32 again, for compilers that choose types themselves."""

from __future__ import annotations

from collections.abc import Iterable

import onnx_ir as ir

from torchlift.graph.conditions import Pass
from torchlift.graph.lower_steps import FLOAT, HALVES
from torchlift.graph.types import converted, infer_types

_STATES = frozenset({"dtype", "output_dtype"})
"""Attributes that state the type of an output."""


class Widen(Pass):
    """Undoes :class:`torchlift.graph.half.ToHalf`: whatever a graph computes in half precision becomes FP32.

    - Nodes keep their names. Casts that no longer change a type are removed, except for those that write an output.
    - Weights keep the rounded values that they had in half precision. Each is converted when it is written.
    - A graph that has half precision for other reasons stays as it is. That is one with half precision in inputs,
      outputs, subgraphs or attributes, or in the result of a node that reads none and is no Cast.
    """

    def __init__(self) -> None:
        self._widened = False

    def ensures(self, model: ir.Model) -> None:
        """Where anything was rewritten, no value in half precision is left."""
        if self._widened and (left := _halves(model.graph)):
            raise ir.passes.PostconditionError(f"{left[0].name} is still {left[0].dtype}")

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Returns whether anything was rewritten."""
        self._widened = False
        infer_types(model)
        graph = model.graph
        halves = _halves(graph)
        if not halves or not _is_of_casts(graph):
            return ir.passes.PassResult(model, False)
        for value in halves:
            value.dtype = FLOAT
            if value.const_value is not None:
                value.const_value = converted(value.const_value, FLOAT, value.name)
        for cast in [node for node in graph if node.op_type == "Cast" and node.outputs[0].dtype == FLOAT]:
            given, written = cast.inputs[0], cast.outputs[0]
            cast.attributes["to"] = ir.AttrInt64("to", FLOAT.value)
            if given.dtype == FLOAT and not written.is_graph_output():
                written.replace_all_uses_with(given)
                graph.remove(cast, safe=True)
        self._widened = True
        return ir.passes.PassResult(model, True)


def _halves(graph: ir.Graph) -> list[ir.Value]:
    """The weights and the results of nodes that are in half precision."""
    inner = (*graph.initializers.values(), *(value for node in graph for value in node.outputs))
    return [value for value in inner if value.dtype in HALVES]


def _is_of_casts(graph: ir.Graph) -> bool:
    """Whether all half precision starts at Casts and weights of the main graph, and ends before its outputs."""
    own = set(graph)
    writers = [node for node in graph.all_nodes() if _any_half(node.outputs)]
    return not _any_half((*graph.inputs, *graph.outputs)) and all(
        node in own and (node.op_type == "Cast" or (_any_half(node.inputs) and not _STATES & node.attributes.keys()))
        for node in writers
    )


def _any_half(values: Iterable[ir.Value | None]) -> bool:
    return any(value is not None and value.dtype in HALVES for value in values)
