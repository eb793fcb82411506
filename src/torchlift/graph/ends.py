"""Gives an exported graph the inputs and outputs of a signature: their names, their order, and the names of sizes."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

import onnx_ir as ir

from torchlift.errors import ExportError
from torchlift.signature import Signature, TensorSpec


def name_ends(model: ir.Model, signature: Signature, given: Sequence[str]) -> None:
    """Name the graph's inputs and outputs as the signature does, and their sizes as its axes.

    The graph's outputs are in the signature's order, its inputs those of ``given`` that it kept, which are in order
    too.

    - A value inside the graph that has the name of an input or output gets another.
    - An output that is an input, a constant, or another output too becomes the result of an Identity.
    - An input that the graph lost, since nothing reads it, is added again, so that callers can pass it.

    Raises ExportError where the graph has another number of outputs.
    """
    graph = model.graph
    if len(graph.outputs) != len(signature.outputs):
        raise ExportError(
            f"the exported graph has {len(graph.outputs)} outputs, the network {len(signature.outputs)}",
            remedy="Return each tensor once, and no Python values.",
        )
    _add_identities(graph)
    inputs = dict(zip(given, graph.inputs, strict=True))
    ends = {id(value) for value in (*graph.inputs, *graph.outputs)}
    wanted = {*signature.input_names, *signature.output_names}
    _make_room(graph, wanted, ends)
    for position, value in enumerate((*graph.inputs, *graph.outputs)):
        value.name = f"torchlift_end_{position}"  # no two values have a name in common meanwhile
    for name, value in inputs.items():
        value.name = name
    for spec, value in zip(signature.outputs, graph.outputs, strict=True):
        value.name = spec.name
    dtypes = {spec.name: ir.DataType.from_numpy(_numpy_dtype(spec.dtype)) for spec in signature.inputs}
    for spec in signature.inputs:
        if spec.name not in inputs:
            inputs[spec.name] = ir.Value(name=spec.name, type=ir.TensorType(dtypes[spec.name]))
    graph.inputs[:] = [inputs[spec.name] for spec in signature.inputs]
    stale = [_name_sizes(value, spec, signature) for spec, value in zip(signature.inputs, graph.inputs, strict=True)]
    stale += [_name_sizes(value, spec, signature) for spec, value in zip(signature.outputs, graph.outputs, strict=True)]
    if any(stale):
        _forget_shapes(graph)


def _numpy_dtype(name: str):  # type: ignore[no-untyped-def]
    import numpy as np

    return np.dtype(name)


def _add_identities(graph: ir.Graph) -> None:
    """Let each output be the result of a node of its own."""
    seen: set[int] = set()
    for position, value in enumerate(graph.outputs):
        if value.producer() is None or id(value) in seen:
            node = ir.node("Identity", inputs=[value])
            graph.append(node)
            result = node.outputs[0]
            result.dtype, result.shape = value.dtype, value.shape
            graph.outputs[position] = result
        seen.add(id(value))


def _make_room(graph: ir.Graph, wanted: set[str], ends: set[int]) -> None:
    """Rename the values inside the graph, also of its inner graphs, that have a name that an end will have."""
    values = [value for value in _values(graph) if id(value) not in ends]
    taken = {value.name for value in values} | wanted
    for value in values:
        if value.name in wanted:
            number = 1
            while (name := f"{value.name}_inner{number}") in taken:
                number += 1
            taken.add(name)
            held = graph.initializers.pop(value.name, None)
            value.name = name
            if held is not None:
                graph.initializers[name] = held


def _values(graph: ir.Graph) -> Iterator[ir.Value]:
    yield from graph.initializers.values()
    for node in graph:
        yield from node.outputs
        for attribute in node.attributes.values():
            inner = attribute.value if attribute.type == ir.AttributeType.GRAPH else None
            for body in [inner] if inner is not None else []:
                yield from body.inputs
                yield from _values(body)


def _name_sizes(value: ir.Value, spec: TensorSpec, signature: Signature) -> bool:
    """Give a tensor the signature's sizes; returns whether the graph had a constant where a size varies."""
    varying = {axis.name for axis in signature.axes if axis.min < axis.max}
    before = (
        value.shape if value.shape is not None and len(value.shape) == len(spec.shape) else [None] * len(spec.shape)
    )
    dims: list[int | str | None] = []
    stale = False
    for dim, size in zip(spec.shape, before, strict=True):
        if isinstance(dim, str) and dim in varying:
            stale |= isinstance(size, int)
            dims.append(dim)
        elif isinstance(dim, int):
            dims.append(dim)
        elif isinstance(dim, str) and dim.isidentifier():
            dims.append(signature.axis(dim).max)
        else:
            stale |= isinstance(size, int)
            dims.append(dim)
    value.shape = ir.Shape(dims)
    return stale


def _forget_shapes(graph: ir.Graph) -> None:
    """Forget the shapes of values inside the graph: where an output's size was a constant, theirs are wrong too."""
    ends = {id(value) for value in (*graph.inputs, *graph.outputs)}
    initializers = {id(value) for value in graph.initializers.values()}
    for value in _values(graph):
        if id(value) not in ends | initializers:
            value.shape = None
