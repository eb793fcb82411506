"""Which nodes of a graph can be converted one by one, and which PyTorch module each came from."""

from __future__ import annotations

import ast
import contextlib
from collections.abc import Callable, Iterable
from dataclasses import dataclass

import onnx_ir as ir

from torchlift.errors import ConversionError

SCOPES = "pkg.torch.onnx.name_scopes"
"""Metadata of the dynamo exporter: the names of the modules around a node, from the outermost, and the operation."""


@dataclass(frozen=True)
class Unit:
    """A node by its name, its operator, and the path of the PyTorch module that it came from ("" where unknown)."""

    node: str
    operator: str
    module: str

    def __str__(self) -> str:
        return f"{self.node} ({self.operator}{f' of {self.module}' if self.module else ''})"


def units(nodes: Iterable[ir.Node], eligible: Callable[[ir.Node], bool]) -> list[Unit]:
    """The eligible ones of ``nodes``, in their order."""
    return [Unit(node.name or "", node.op_type, module_of(node)) for node in nodes if eligible(node)]


def module_of(node: ir.Node) -> str:
    """The path of the PyTorch module that a node came from: of the metadata, else of the node's name (TorchScript)."""
    scopes: object = None
    with contextlib.suppress(ValueError, SyntaxError):
        scopes = ast.literal_eval(node.metadata_props.get(SCOPES, ""))
    if isinstance(scopes, list) and len(scopes) > 1:
        return str(scopes[-2])
    return ".".join((node.name or "").strip("/").split("/")[:-1])


def require_nodes(model: ir.Model, names: Iterable[str]) -> None:
    """Raise ConversionError where the graph has no node of one of ``names``."""
    unknown = sorted({*names} - {node.name for node in model.graph})
    if unknown:
        raise ConversionError(
            f"the graph has no node {', '.join(unknown[:5])}" + (" ..." if len(unknown) > 5 else ""),
            remedy="Name nodes as `torchlift bisect` prints them for this very graph.",
        )


def name_nodes(model: ir.Model) -> None:
    """Give every node of the graph a name that no other has."""
    taken: set[str] = set()
    for number, node in enumerate(model.graph):
        name = node.name or f"{node.op_type}_{number}"
        while name in taken:
            name = f"{name}_{number}"
        node.name = name
        taken.add(name)
