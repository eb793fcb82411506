"""Passes that make an exported graph clean: its own names for shapes, and nothing of the machine that made it."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from torchlift.errors import ConversionError
from torchlift.signature import Signature, TensorSpec

WEIGHTS_SUFFIX = ".data"

KEPT = frozenset({"pkg.torch.onnx.name_scopes", "pkg.torch.onnx.class_hierarchy"})
"""The metadata that stays: the module scopes lead from a node to its PyTorch module. All else that exporters write
(stack traces, dumps of the traced program) holds paths of the exporting machine, or megabytes that nobody reads.
"""


class ForgetOrigin(ir.passes.InPlacePass):
    """Removes the metadata and the doc strings that the exporter left, except for the module scopes."""

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
    """All of a model that has metadata: itself, its functions, and graphs at any depth with their nodes and values."""
    yield model
    functions = [graph for function in model.functions.values() for graph in (function, *function.subgraphs())]
    for graph in (*model.graphs(), *functions):
        yield graph
        yield from graph.inputs
        yield from getattr(graph, "initializers", {}).values()
        for node in graph:
            yield node
            yield from node.outputs


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


def infer_types(model: ir.Model) -> None:
    """Give every value that has none the type and shape that onnx infers, where it can; weights are not read."""
    from onnx_ir.passes.common import ShapeInferencePass

    values = [value for node in model.graph.all_nodes() for value in node.outputs if value.name]
    if any(value.dtype is None for value in values):
        ShapeInferencePass(check_type=False, strict_mode=False)(model)


def converted(tensor: ir.TensorProtocol, dtype: ir.DataType, name: str | None) -> ir.LazyTensor:
    """A tensor in another type of floats, converted when it is written; what that cannot hold becomes infinite or 0."""

    def convert() -> ir.Tensor:
        with np.errstate(over="ignore", under="ignore"):
            return ir.Tensor(tensor.numpy().astype(dtype.numpy()), name=name)

    return ir.LazyTensor(convert, dtype=dtype, shape=tensor.shape, name=name)


def load_model(file: Path) -> ir.Model:
    """Read an ONNX file; its weights are read when they are needed.

    Raises ConversionError where a file of weights has several hard links: onnx-ir reads none from such.
    """
    model = ir.load(file)
    tensors = (value.const_value for value in model.graph.initializers.values())
    for path in {Path(t.path) for t in tensors if isinstance(t, ir.ExternalTensor)}:
        if path.is_file() and (links := path.stat().st_nlink) > 1:
            raise ConversionError(
                f"{path.name} has {links} hard links, and weights are not read from such a file",
                remedy="Copy the bundle with its contents, as cp -r does, not by links.",
            )
    return model


def save_model(model: ir.Model, file: Path) -> None:
    """Write ``file`` and, beside it, all weights in one file with a relative name; any size."""
    ir.save(model, file, external_data=file.name + WEIGHTS_SUFFIX)
