"""What an ONNX file must be before any library opens it, and whether running it may never end; weights are not read.

A checksum proves that a file is as its author packed it, not that it is a sound graph: libraries crash, wait or answer
with errors of their own on nodes in a circle, names that are there twice, and the like.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from typing import Any

from torchlift.errors import BundleError

REMEDY = "Do not use this bundle; ship the model again."

_IR_VERSION = b"\x08"
"""The first byte of an ONNX file: protobuf writes fields in order, and ModelProto's first is ir_version."""

_STANDARD = ("", "ai.onnx")


def read_onnx(path: str, data: bytes) -> Any:
    """The ModelProto in ``data``. Raises BundleError, which names ``path``, for what is none."""
    import onnx
    from google.protobuf.message import DecodeError

    if not data.startswith(_IR_VERSION):
        raise BundleError(f"{path} cannot be read as ONNX: it begins with {data[:8]!r}", remedy=REMEDY)
    try:
        return onnx.load_model_from_string(data)
    except (DecodeError, UnicodeDecodeError) as error:
        raise BundleError(f"{path} cannot be read as ONNX: {error}", remedy=REMEDY) from error


def require_sound(path: str, model: Any) -> None:
    """Raise BundleError for a model without an opset, nodes or outputs, where a name is written twice, and where a node
    reads what no input, weight or node before it gives, as where nodes are in a circle.
    """
    if not any(opset.domain in _STANDARD and opset.version >= 1 for opset in model.opset_import):
        raise _unsound(path, "it states no opset of the standard operators")
    if not model.graph.node or not model.graph.output:
        raise _unsound(path, f"it has {len(model.graph.node)} nodes and {len(model.graph.output)} outputs")
    names = [node.name for node in model.graph.node if node.name]
    if len({*names}) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise _unsound(path, f"two nodes are called {twice!r}")
    _check_graph(path, model.graph, frozenset())
    for function in model.functions:
        _check_nodes(path, function.node, {*function.input}, function.output)


def may_loop(model: Any) -> bool:
    """Whether a node, at any depth, runs a graph of its own more than once, as Loop and Scan do: nothing in the file
    says then how often.
    """
    nodes = (*model.graph.node, *(node for function in model.functions for node in function.node))
    return any(node.op_type != "If" and any(_graphs(node)) for node in _deep(nodes))


def _deep(nodes: Iterable[Any]) -> Iterator[Any]:
    for node in nodes:
        yield node
        for graph in _graphs(node):
            yield from _deep(graph.node)


def _graphs(node: Any) -> Iterator[Any]:
    """The graphs that are attributes of a node."""
    for attribute in node.attribute:
        if attribute.HasField("g"):
            yield attribute.g
        yield from attribute.graphs


def _check_graph(path: str, graph: Any, outside: Iterable[str]) -> None:
    """``outside`` are the names of the graph around it, which it may read."""
    weights = [w.name for w in graph.initializer] + [w.values.name for w in graph.sparse_initializer]
    inputs = [value.name for value in graph.input]
    for names in (weights, inputs):
        if len({*names}) < len(names):
            raise _unsound(path, f"{next(n for n in names if names.count(n) > 1)!r} is there twice")
    known = {*outside, *weights, *inputs}
    _check_nodes(path, graph.node, known, (value.name for value in graph.output), {*weights, *inputs})


def _check_nodes(
    path: str, nodes: Iterable[Any], known: set[str], outputs: Iterable[str], taken: Iterable[str] = ()
) -> None:
    """``known`` are the names that the first node may read, ``taken`` those that no node may write."""
    written = {*taken}
    for node in nodes:
        for name in node.input:
            if name and name not in known:
                raise _unsound(
                    path, f"the node {node.name!r} ({node.op_type}) reads {name!r}, which nothing before it writes"
                )
        for graph in _graphs(node):
            _check_graph(path, graph, known)
        for name in node.output:
            if name and name in written:
                raise _unsound(path, f"{name!r} is written twice")
            written.add(name)
            known.add(name)
    for name in outputs:
        if name not in known:
            raise _unsound(path, f"nothing writes its output {name!r}")


def _unsound(path: str, reason: str) -> BundleError:
    return BundleError(f"{path} is no sound graph: {reason}", remedy=REMEDY)
