"""Finds the files that a runtime reads by itself when it opens a model, such as the weights beside a graph.

A checksum protects only files that the manifest lists. So all files that a runtime would read must be known before it
starts. They must be listed, their checksums must have been compared, and the proof must name them.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import PurePosixPath
from typing import Any

from torchlift.errors import BundleError
from torchlift.onnx_files import REMEDY, read_onnx, require_sound
from torchlift.onnx_files import may_loop as loops

_LOOPS_OF_OPENVINO = (b"Loop", b"TensorIterator", b"&#")
"""The types of layers that run a graph of their own again and again; the last could spell them otherwise."""


def companions(path: str, read: Callable[[str], bytes]) -> set[str]:
    """The files that a runtime reads besides the model ``path``. ``read`` returns the content of a file.

    All paths are within the bundle. An ONNX file names the files of its weights (TensorProto.external_data in
    onnx.proto). OpenVINO's ``x.xml`` always has ``x.bin``. Engines and programs are single files. Runtimes decide by a
    file's content and not by its name, so the content must fit the name.

    Raises BundleError for a model of an unknown kind, and for one that cannot be read, that names files outside of its
    folder, or that needs more than weights.
    """
    suffix, folder = PurePosixPath(path).suffix, PurePosixPath(path).parent
    if suffix in (".engine", ".pt2"):
        return set()
    reader = {".onnx": _weights_of_onnx, ".xml": _weights_of_openvino}.get(suffix)
    if reader is None:
        raise BundleError(f"{path} is no model of a kind that is known", remedy=REMEDY)
    return {(folder / name).as_posix() for name in reader(path, read(path))}


def _weights_of_openvino(path: str, data: bytes) -> set[str]:
    begins = data.lstrip().startswith((b"<?xml", b"<net"))
    if not begins or b"\0" in data or b"<!DOCTYPE" in data or b"<!ENTITY" in data:
        raise BundleError(
            f"{path} is no graph of OpenVINO in plain XML: it may hold no document type and no entities", remedy=REMEDY
        )
    return {f"{PurePosixPath(path).stem}.bin"}


def _weights_of_onnx(path: str, data: bytes) -> set[str]:
    model = read_onnx(path, data)
    locations = {location for tensor in _tensors(path, model) for location in _locations(path, tensor)}
    for location in locations:
        if location in ("", ".", "..") or "/" in location or "\\" in location:
            raise BundleError(f"{path} has weights outside its folder: {location!r}", remedy=REMEDY)
    require_sound(path, model)
    return locations


def may_loop(path: str, read: Callable[[str], bytes]) -> bool:
    """Whether running a model, as :func:`companions` takes it, may never end: whether it has a loop.

    Of engines and programs, which are code or have no loops, this is False.
    """
    if path.endswith(".onnx"):
        return loops(read_onnx(path, read(path)))
    return path.endswith(".xml") and any(mark in read(path) for mark in _LOOPS_OF_OPENVINO)


def _locations(path: str, tensor: Any) -> Iterator[str]:
    from onnx import TensorProto

    if tensor.data_location == TensorProto.EXTERNAL or tensor.external_data:
        found = [entry.value for entry in tensor.external_data if entry.key == "location"]
        if len(found) != 1:
            raise BundleError(f"{path}: the weights {tensor.name!r} have no single location", remedy=REMEDY)
        yield found[0]


def _tensors(path: str, model: Any) -> Iterator[Any]:
    """All tensors of a model: in graphs at any depth, in functions, and in attributes."""
    yield from _tensors_of_graph(path, model.graph)
    for function in model.functions:
        yield from _tensors_of_nodes(path, (*function.node,))
        yield from _tensors_of_attributes(path, function.attribute_proto)
    for training in model.training_info:
        for graph in (training.initialization, training.algorithm):
            yield from _tensors_of_graph(path, graph)


def _tensors_of_graph(path: str, graph: Any) -> Iterator[Any]:
    yield from graph.initializer
    for sparse in graph.sparse_initializer:
        yield from (sparse.values, sparse.indices)
    yield from _tensors_of_nodes(path, graph.node)


def _tensors_of_nodes(path: str, nodes: Any) -> Iterator[Any]:
    for node in nodes:
        if node.op_type == "EPContext":
            raise BundleError(
                f"{path}: the node {node.name!r} loads what another compiler made, which is code", remedy=REMEDY
            )
        yield from _tensors_of_attributes(path, node.attribute)


def _tensors_of_attributes(path: str, attributes: Any) -> Iterator[Any]:
    for attribute in attributes:
        yield from (attribute.t, *attribute.tensors)
        for sparse in (attribute.sparse_tensor, *attribute.sparse_tensors):
            yield from (sparse.values, sparse.indices)
        for graph in (attribute.g, *attribute.graphs):
            yield from _tensors_of_graph(path, graph)
