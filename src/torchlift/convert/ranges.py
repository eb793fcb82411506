"""Observes the tensors inside a graph on real samples: their values, or only their ranges."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Any

import numpy as np
import onnx_ir as ir

from torchlift.backends import reference_runtime
from torchlift.errors import BackendError
from torchlift.graph.files import load_model
from torchlift.graph.half_rules import HALF_MAX
from torchlift.graph.types import infer_types
from torchlift.machine import HERE, RunOn
from torchlift.progress import SILENT, Progress

Feeds = list[dict[str, np.ndarray]]
"""Batches: input name -> array of the signature's dtype and shape."""

_REDUCTIONS = ("ReduceMin", "ReduceMax")

HEADROOM = 2.0
"""A tensor counts as too large for FP16 from :data:`HALF_MAX` divided by this on, since calibration sees few samples.
"""

_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE})


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
        proto = _read(file)
        self._inputs = tuple(_input_names(proto.graph))
        written = {name for node in proto.graph.node for name in node.output}
        _require(self.names, {*written, *self._inputs}, file)
        self._written = [name for name in self.names if name in written]
        self._session: Any = _observe(proto, file, self._written, on)

    def run(self, feeds: Mapping[str, np.ndarray]) -> dict[str, np.ndarray]:
        """Run the graph on ``feeds``; returns the observed tensors by name, in the order of ``names``.

        Raises BackendError where ONNX Runtime fails.
        """
        known = {name: feeds[name] for name in self._inputs if name in feeds}
        found = dict(zip(self._written, _run(self._session, self._written, known), strict=True))
        return {name: found[name] if name in found else known[name] for name in self.names}

    def close(self) -> None:
        self._session = None

    def __enter__(self) -> Tap:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()


@dataclass(frozen=True)
class Range:
    """The smallest and the largest value of a tensor over all samples."""

    low: float
    high: float

    @property
    def absmax(self) -> float:
        return max(abs(self.low), abs(self.high))


def ranges_of(
    file: Path,
    feeds: Iterable[Mapping[str, np.ndarray]],
    names: Sequence[str] | None = None,
    *,
    on: RunOn = HERE,
    progress: Progress = SILENT,
    total: int | None = None,
) -> dict[str, Range]:
    """The range of each of ``names`` over all feeds. None: of every float tensor that is an input or written by a node.

    Minimum and maximum are computed within the graph. So a tensor is freed after its last use, and the memory is that
    of an ordinary run. ``total`` is the number of feeds, if known, for the progress.

    Raises BackendError where ONNX Runtime fails, ValueError without feeds or for a tensor that the graph lacks.
    """
    proto = _read(file)
    inputs = tuple(_input_names(proto.graph))
    names = float_tensors(file) if names is None else list(dict.fromkeys(names))
    _require(names, {*inputs, *(name for node in proto.graph.node for name in node.output)}, file)
    ends = _add_reductions(proto, names)
    session = _observe(proto, file, ends, on)
    low, high = np.full(len(names), np.inf), np.full(len(names), -np.inf)
    samples = 0
    with progress.stage(f"ranges of {len(names)} tensors", total) as stage:
        for samples, feed in enumerate(feeds, 1):  # noqa: B007
            found = _run(session, ends, {name: feed[name] for name in inputs if name in feed})
            values = np.array(found, np.float64).reshape(-1, 2)
            low, high = np.fmin(low, values[:, 0]), np.fmax(high, values[:, 1])
            stage.advance()
    if not samples:
        raise ValueError("no feeds to find ranges on")
    return {name: Range(float(a), float(b)) for name, a, b in zip(names, low, high, strict=True)}


def float_tensors(file: Path) -> list[str]:
    """The names of all FP32 and FP64 tensors that are inputs or that a node of the main graph writes, in order."""
    model = load_model(file)
    infer_types(model)
    values = [v for v in model.graph.inputs if v.name not in model.graph.initializers]
    values += [v for node in model.graph for v in node.outputs]
    return [v.name for v in values if v.name and v.dtype in _FLOATS]


def overflowing(ranges: Mapping[str, Range], model: ir.Model, limit: float = HALF_MAX / HEADROOM) -> dict[str, str]:
    """Node -> reason, for the nodes that read or write a tensor whose largest magnitude exceeds ``limit``.

    Infinite values do not count, since FP16 has infinities. Weights are not checked here: the conversion does that. All
    nodes must have names (:func:`torchlift.graph.units.name_nodes`).
    """
    reasons = {}
    for node in model.graph:
        values = [(role, v) for role, vs in (("reads", node.inputs), ("writes", node.outputs)) for v in vs if v]
        sizes = [(_largest_finite(ranges[v.name]), role, v.name) for role, v in values if v.name in ranges]
        size, role, name = max((found for found in sizes if found[0] > limit), default=(0.0, "", ""))
        if name:
            fits = "" if size > HALF_MAX else f", within a factor of {HALF_MAX / limit:.3g} of the limit"
            reasons[node.name or ""] = f"{role} {name}, up to {size:.4g}{fits}; FP16 holds {HALF_MAX:.0f}"
    return reasons


def _largest_finite(found: Range) -> float:
    return max((abs(end) for end in (found.low, found.high) if np.isfinite(end)), default=0.0)


def _read(file: Path):  # type: ignore[no-untyped-def]
    import onnx

    return onnx.load(file, load_external_data=False)


def _require(names: Iterable[str], known: set[str], file: Path) -> None:
    unknown = sorted(set(names) - known)
    if unknown:
        raise ValueError(f"{file.name} computes no tensor {', '.join(unknown)}")


def _input_names(graph):  # type: ignore[no-untyped-def]
    constant = {tensor.name for tensor in graph.initializer}
    return [value.name for value in graph.input if value.name not in constant]


def _add_reductions(proto, names: Sequence[str]) -> list[str]:  # type: ignore[no-untyped-def]
    """Add nodes that compute the minimum and the maximum of each of ``names``; returns the results' names in pairs.

    A new node stands right behind the node that writes its tensor, so that the tensor can be freed as early as before.
    """
    from onnx import helper

    ends = {name: [f"torchlift.{operator}.{name}" for operator in _REDUCTIONS] for name in names}

    def reductions(name: str):  # type: ignore[no-untyped-def]
        for operator, end in zip(_REDUCTIONS, ends.get(name, ()), strict=False):
            yield helper.make_node(operator, [name], [end], keepdims=0)

    nodes = [node for name in _input_names(proto.graph) for node in reductions(name)]
    for node in proto.graph.node:
        nodes += [node, *(new for name in node.output for new in reductions(name))]
    graph = helper.make_graph(nodes, "observed", [], [])
    del proto.graph.node[:]
    proto.graph.node.extend(graph.node)
    return [end for pair in ends.values() for end in pair]


def _observe(proto, file: Path, names: Sequence[str], on: RunOn):  # type: ignore[no-untyped-def]
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


def _run(session: Any, names: Sequence[str], feeds: Mapping[str, np.ndarray]) -> list[np.ndarray]:
    try:
        return session.run(list(names), dict(feeds)) if names else []
    except Exception as error:
        raise BackendError(
            f"ONNX Runtime cannot run the observed graph: {error}",
            remedy="Check that the samples have the shapes and dtypes of the model's inputs.",
        ) from error
