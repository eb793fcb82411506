"""The ranges of the tensors inside a graph on real samples."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import onnx_ir as ir

from torchlift.graph.files import load_model
from torchlift.graph.half_rules import HALF_MAX
from torchlift.graph.types import infer_types
from torchlift.machine import HERE, RunOn
from torchlift.progress import SILENT, Progress
from torchlift.prove.tap import input_names, observe, read_graph, require_tensors, run_observed

Feeds = list[dict[str, np.ndarray]]
"""Batches: input name -> array of the signature's dtype and shape."""

_REDUCTIONS = ("ReduceMin", "ReduceMax")

HEADROOM = 2.0
"""A tensor counts as too large for FP16 from :data:`HALF_MAX` divided by this on, since calibration sees few samples.
"""

_FLOATS = frozenset({ir.DataType.FLOAT, ir.DataType.DOUBLE})


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
    proto = read_graph(file)
    inputs = tuple(input_names(proto.graph))
    names = float_tensors(file) if names is None else list(dict.fromkeys(names))
    require_tensors(names, {*inputs, *(name for node in proto.graph.node for name in node.output)}, file)
    ends = _add_reductions(proto, names)
    session = observe(proto, file, ends, on)
    low, high = np.full(len(names), np.inf), np.full(len(names), -np.inf)
    samples = 0
    with progress.stage(f"ranges of {len(names)} tensors", total) as stage:
        for samples, feed in enumerate(feeds, 1):  # noqa: B007
            found = run_observed(session, ends, {name: feed[name] for name in inputs if name in feed})
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


def _add_reductions(proto, names: Sequence[str]) -> list[str]:  # type: ignore[no-untyped-def]
    """Add nodes that compute the minimum and the maximum of each of ``names``; returns the results' names in pairs.

    A new node stands right behind the node that writes its tensor, so that the tensor can be freed as early as before.
    """
    from onnx import helper

    ends = {name: [f"torchlift.{operator}.{name}" for operator in _REDUCTIONS] for name in names}

    def reductions(name: str):  # type: ignore[no-untyped-def]
        for operator, end in zip(_REDUCTIONS, ends.get(name, ()), strict=False):
            yield helper.make_node(operator, [name], [end], keepdims=0)

    nodes = [node for name in input_names(proto.graph) for node in reductions(name)]
    for node in proto.graph.node:
        nodes += [node, *(new for name in node.output for new in reductions(name))]
    graph = helper.make_graph(nodes, "observed", [], [])
    del proto.graph.node[:]
    proto.graph.node.extend(graph.node)
    return [end for pair in ends.values() for end in pair]
