"""Passes that clean an exported graph: they remove traces of the exporting machine and of the exporter."""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Iterator
from typing import Any

import onnx_ir as ir

from torchlift.graph.conditions import Pass

NAMES, CLASSES = "pkg.torch.onnx.name_scopes", "pkg.torch.onnx.class_hierarchy"

KEPT = frozenset({NAMES, CLASSES})
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


class ForgetWrapper(Pass):
    """Removes the name of a wrapper around the network from the names of modules: ``network.conv1`` becomes ``conv1``.

    ``wrapper`` is the attribute that has the network. Exporters write it into metadata (dynamo), and into the names of
    nodes (TorchScript).
    """

    def __init__(self, wrapper: str) -> None:
        self._wrapper = wrapper

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Returns whether a name changed."""
        modified = False
        for graph in model.graphs():
            for node in graph:
                name = (node.name or "").replace(f"/{self._wrapper}/", "/", 1)
                modified |= name != (node.name or "")
                node.name = name
                modified |= self._scopes(node.metadata_props)
        return ir.passes.PassResult(model, modified)

    def _scopes(self, metadata: dict[str, str]) -> bool:
        """Take the wrapper out of the lists of names and classes of the modules around a node, outermost first."""
        lists = {}
        for key in KEPT & metadata.keys():
            with contextlib.suppress(ValueError, SyntaxError):
                lists[key] = ast.literal_eval(metadata[key])
        names = lists.get(NAMES)
        if not isinstance(names, list) or len(names) < 3 or names[1] != self._wrapper:
            return False
        prefix = f"{self._wrapper}."
        metadata[NAMES] = str([names[0], *(str(name).removeprefix(prefix) for name in names[2:])])
        classes = lists.get(CLASSES)
        if isinstance(classes, list) and len(classes) == len(names):
            metadata[CLASSES] = str(classes[1:])
        return True
