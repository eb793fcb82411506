"""Runs a graph in ONNX Runtime and looks at the values of tensors inside it."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np

from torchlift.backends import reference_runtime
from torchlift.errors import BackendError
from torchlift.machine import HERE, RunOn


class Tap:
    """An ONNX Runtime session on the processor that also returns the values of tensors inside the graph.

    The file is not changed, and its weights are not copied. Observed tensors stay in memory until ``run`` returns, so
    run small batches where they are many and large.
    """

    def __init__(self, file: Path, names: Sequence[str], on: RunOn = HERE) -> None:
        """Open the graph. ``names`` are the tensors to observe: inputs, or values that a node writes.

        ``threads`` 0 is all cores. Raises ValueError for a name that the graph lacks, BackendError where ONNX Runtime
        cannot load it.
        """
        self.names = tuple(dict.fromkeys(names))
        proto = read_graph(file)
        self._inputs = tuple(input_names(proto.graph))
        written = {name for node in proto.graph.node for name in node.output}
        require_tensors(self.names, {*written, *self._inputs}, file)
        self._written = [name for name in self.names if name in written]
        self._session: Any = observe(proto, file, self._written, on)

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the graph on ``feeds``; returns the observed tensors by name, in the order of ``names``.

        Raises BackendError where ONNX Runtime fails.
        """
        known = {name: feeds[name] for name in self._inputs if name in feeds}
        found = dict(zip(self._written, run_observed(self._session, self._written, known), strict=True))
        return {name: found[name] if name in found else known[name] for name in self.names}

    def close(self) -> None:
        self._session = None

    def __enter__(self) -> Tap:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


def read_graph(file: Path):  # type: ignore[no-untyped-def]
    import onnx

    return onnx.load(file, load_external_data=False)


def require_tensors(names: Iterable[str], known: set[str], file: Path) -> None:
    unknown = sorted(set(names) - known)
    if unknown:
        raise ValueError(f"{file.name} computes no tensor {', '.join(unknown)}")


def input_names(graph):  # type: ignore[no-untyped-def]
    constant = {tensor.name for tensor in graph.initializer}
    return [value.name for value in graph.input if value.name not in constant]


def observe(proto, file: Path, names: Sequence[str], on: RunOn):  # type: ignore[no-untyped-def]
    """Open a session of ``proto`` with ``names`` as further outputs. It reads the weights in the folder of ``file``."""
    from onnx import ValueInfoProto

    present = {value.name for value in proto.graph.output}
    proto.graph.output.extend(ValueInfoProto(name=name) for name in names if name not in present)
    try:
        return reference_runtime().open_graph(proto.SerializeToString(), on, weights=file.resolve().parent)
    except Exception as error:
        raise BackendError(
            f"ONNX Runtime cannot observe {file.name}: {error}",
            remedy="Check that the graph runs by itself: `torchlift verify`.",
        ) from error


def run_observed(session: Any, names: Sequence[str], feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    try:
        return session.run(list(names), dict(feeds)) if names else []
    except Exception as error:
        raise BackendError(
            f"ONNX Runtime cannot run the observed graph: {error}",
            remedy="Check that the samples have the shapes and dtypes of the model's inputs.",
        ) from error
