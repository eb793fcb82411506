"""Looks inside a graph as a runtime computes it: the graph is built with its inner tensors as further outputs."""

from __future__ import annotations

import tempfile
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass, replace
from pathlib import Path

import onnx_ir as ir

from torchlift.backends import Backend, Compilation, Session, SessionOptions
from torchlift.errors import BackendError
from torchlift.graph.files import load_model, save_model
from torchlift.graph.types import infer_types
from torchlift.graph.units import name_nodes
from torchlift.machine import RunOn
from torchlift.signature import DTYPES, Signature, TensorSpec


@dataclass(frozen=True)
class Tensor:
    """A tensor that a node writes: its name, and its type as NumPy calls it."""

    name: str
    dtype: str


class Inside:
    """The nodes of the graph in ``source``, and what a runtime computes in each of them.

    What a runtime fuses depends on which tensors are outputs. So a wrong fusion may not show here.
    """

    def __init__(self, source: Path, signature: Signature) -> None:
        self.source = source
        self.signature = signature
        self.nodes = tuple(_named(source).graph)

    def tensors(self) -> list[Tensor]:
        """What the nodes of the main graph write besides the outputs, in their order, where the type is known."""
        outputs = {*self.signature.output_names}
        written = [value for node in self.nodes if node.op_type != "Constant" for value in node.outputs]
        types = {value.name: _dtype(value) for value in written if value.name and value.name not in outputs}
        return [Tensor(name, dtype) for name, dtype in types.items() if dtype in DTYPES]

    def require(self, runtime: Backend) -> None:
        """Raise BackendError for a runtime that would compile for minutes."""
        if runtime.compiles or runtime.opens_graphs:
            raise BackendError(
                f"{runtime.name} is not looked into: each look would be compiled for minutes",
                remedy="Look into another runtime's variant of the same graph.",
            )

    @contextmanager
    def open(self, runtime: Backend, recipe: str, tensors: Sequence[Tensor], on: RunOn) -> Iterator[Session]:
        """The graph in a runtime, with ``tensors`` as outputs besides its own. Raises BackendError."""
        self.require(runtime)
        specs = tuple(TensorSpec(tensor.name, tensor.dtype, (None,)) for tensor in tensors)
        signature = replace(self.signature, outputs=(*self.signature.outputs, *specs))
        model = _named(self.source)
        values = {value.name: value for node in model.graph for value in node.outputs}
        model.graph.outputs.extend(values[tensor.name] for tensor in tensors)
        with tempfile.TemporaryDirectory(prefix="torchlift-") as temporary:
            graph, built = Path(temporary) / "graph", Path(temporary) / "built"
            for folder in (graph, built):
                folder.mkdir()
            save_model(model, graph / self.source.name)
            file = runtime.build(graph / self.source.name, built, signature, Compilation(recipe))
            with runtime.open(built / file, signature, recipe, SessionOptions(on)) as session:
                yield session


def _named(source: Path) -> ir.Model:
    model = load_model(source)
    infer_types(model)
    name_nodes(model)
    return model


def _dtype(value: ir.Value) -> str:
    return "" if value.dtype is None else str(value.dtype.numpy())
