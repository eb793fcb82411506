"""Passes that make an exported graph clean: its own names for shapes, and nothing of the machine that made it."""

from __future__ import annotations

from pathlib import Path

import onnx_ir as ir

from torchlift.signature import Signature, TensorSpec

WEIGHTS_SUFFIX = ".data"

_TELLTALE = ("pkg.torch.onnx.stack_trace", "pkg.torch.export.ExportedProgram", "pkg.torch.export.graph_signature",
             "pkg.torch.onnx.original_node_name", "pkg.onnxscript.rewriter.rule_name")  # fmt: skip
"""Metadata that holds paths of the exporting machine, or megabytes that nobody reads. The module scopes
(pkg.torch.onnx.name_scopes, class_hierarchy) stay: they lead from a node to its PyTorch module."""


class ForgetOrigin(ir.passes.InPlacePass):
    """Removes stack traces and dumps that the exporter left in the metadata."""

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Returns whether anything was removed."""
        holders = [model, model.graph, *model.graph.all_nodes(), *model.functions.values()]
        holders += [node for function in model.functions.values() for node in function]
        modified = False
        for holder in holders:
            for key in _TELLTALE:
                modified |= holder.metadata_props.pop(key, None) is not None
        return ir.passes.PassResult(model, modified)


class NameAxes(ir.passes.InPlacePass):
    """Gives the symbolic dimensions of inputs and outputs the names of the signature's axes.

    Requires that the graph has the signature's inputs and outputs by name.
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


def save_model(model: ir.Model, file: Path) -> None:
    """Write ``file`` and, beside it, all weights in one file with a relative name; any size."""
    ir.save(model, file, external_data=file.name + WEIGHTS_SUFFIX)
