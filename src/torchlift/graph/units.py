"""Nodes as units of a conversion: unique names, and the PyTorch module that each came from."""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import onnx_ir as ir

from torchlift.errors import ConversionError

SCOPES = "pkg.torch.onnx.name_scopes"
"""The key of the dynamo exporter's list of names: the modules around a node, outermost first, and the operation."""


@dataclass(frozen=True)
class Unit:
    """A node by its name, its operator, and the path of the PyTorch module that it came from ("" where unknown)."""

    node: str
    operator: str
    module: str

    def __str__(self) -> str:
        return f"{self.node} ({self.operator}{f' of {self.module}' if self.module else ''})"


def units(nodes: Iterable[ir.Node], eligible: Callable[[ir.Node], bool]) -> list[Unit]:
    """The nodes that are ``eligible``, in their order."""
    return [Unit(node.name or "", node.op_type, module_of(node)) for node in nodes if eligible(node)]


def module_of(node: ir.Node) -> str:
    """The path of a node's PyTorch module: from the metadata, else from the name of the node (TorchScript)."""
    scopes: object = None
    with contextlib.suppress(ValueError, SyntaxError):
        scopes = ast.literal_eval(node.metadata_props.get(SCOPES, ""))
    if isinstance(scopes, list) and len(scopes) > 1:
        return str(scopes[-2])
    return ".".join((node.name or "").strip("/").split("/")[:-1])


def require_nodes(model: ir.Model, names: Iterable[str]) -> None:
    """Raise ConversionError for a name that no node of the graph has."""
    unknown = sorted({*names} - {node.name for node in model.graph})
    if unknown:
        raise ConversionError(
            f"the graph has no node {', '.join(unknown[:5])}" + (" ..." if len(unknown) > 5 else ""),
            remedy="Name nodes as `torchlift bisect` prints them for this very graph.",
        )


def name_nodes(model: ir.Model) -> None:
    """Give every node of the main graph a name of its own. Names that are unique already stay."""
    taken: set[str] = set()
    for number, node in enumerate(model.graph):
        name = node.name or f"{node.op_type}_{number}"
        while name in taken:
            name = f"{name}_{number}"
        node.name = name
        taken.add(name)
