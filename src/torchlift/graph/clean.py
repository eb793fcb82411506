"""Passes that clean an exported graph: they remove traces of the exporting machine, and name the axes."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import onnx_ir as ir

from torchlift.graph.conditions import Pass
from torchlift.signature import Signature, TensorSpec

KEPT = frozenset({"pkg.torch.onnx.name_scopes", "pkg.torch.onnx.class_hierarchy"})
"""The keys of the metadata that stays: it names the PyTorch module of a node. Exporters also write stack traces and
dumps of the traced program. These hold paths of the exporting machine and are large, so they are removed.
"""


class ForgetOrigin(Pass):
    """Removes the metadata and doc strings of the exporter, except for the names of modules (``KEPT``)."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Returns whether anything was removed."""
        modified = False
        for holder in _holders(model):
            for key in holder.metadata_props.keys() - KEPT:
                del holder.metadata_props[key]
                modified = True
            if holder.doc_string:
                holder.doc_string = None
                modified = True
        return ir.passes.PassResult(model, modified)


def _holders(model: ir.Model) -> Iterator[Any]:
    """Everything in a model that can have metadata: the model, its functions, all graphs, their nodes and values."""
    yield model
    functions = [graph for function in model.functions.values() for graph in (function, *function.subgraphs())]
    for graph in (*model.graphs(), *functions):
        yield graph
        yield from graph.inputs
        yield from getattr(graph, "initializers", {}).values()
        for node in graph:
            yield node
            yield from node.outputs


class NameAxes(Pass):
    """Gives the symbolic dimensions of inputs and outputs the names of the signature's axes.

    For example ``x [s77, 32]`` becomes ``x [batch, 32]``. A tensor that the graph lacks is passed over here: the export
    reports it (:func:`torchlift.graph.inspect.baked_in`).
    """

    def __init__(self, signature: Signature) -> None:
        self._signature = signature

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Returns whether a name changed."""
        modified = False
        for specs, values in (
            (self._signature.inputs, model.graph.inputs),
            (self._signature.outputs, model.graph.outputs),
        ):
            found = {v.name: v for v in values}
            for spec in specs:
                if spec.name in found:
                    modified |= _name(found[spec.name], spec)
        return ir.passes.PassResult(model, modified)


def _name(value: ir.Value, spec: TensorSpec) -> bool:
    if value.shape is None or len(value.shape) != len(spec.shape):
        return False
    dims = [
        axis if isinstance(axis, str) and isinstance(size, ir.SymbolicDim) else size
        for axis, size in zip(spec.shape, value.shape, strict=True)
    ]
    shape = ir.Shape(dims)
    modified = shape != value.shape
    value.shape = shape
    return modified
