"""Runs an FP16 graph on a processor in true half precision: every tensor between two nodes is rounded to FP16.

On a processor ONNX Runtime computes an FP16 graph in FP32, and leaves out the roundings between nodes. So a number
beyond 65504 passes through unharmed, which becomes infinite on a GPU.

Here each node is a session of its own, so that no optimiser joins two nodes. Its FP16 inputs are widened to FP32, it
computes in FP32, and its results are rounded to FP16. A number that is too large becomes infinite.

GPUs compute in the same way. Tensor cores add the products of MatMul, Gemm and Conv in FP32. Softmax, reductions and
LayerNormalization (its stash_type) accumulate in FP32. A single sum, product or root that is computed in FP32 and then
rounded is exact half arithmetic.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx_ir as ir

from torchlift.backends import Session, reference_runtime
from torchlift.errors import BackendError, ConversionError
from torchlift.graph.files import load_model
from torchlift.graph.half_rules import passes_on
from torchlift.graph.types import infer_types
from torchlift.machine import HERE, RunOn
from torchlift.signature import Signature

Arrays = Mapping[str, np.ndarray]


def run_half(model: Path | ir.Model, feeds: Arrays, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
    """Run a graph once; see :meth:`HalfOracle.run`."""
    return HalfOracle(model).run(feeds, names)


class HalfOracle:
    """Runs a graph of FP16 and FP32 tensors node by node.

    Weights are read from their file at every run. Nodes that are equal share one session.
    """

    def __init__(self, model: Path | ir.Model, on: RunOn = HERE) -> None:
        """Prepare a graph. Raises ConversionError for a graph with functions of its own."""
        self._model = model if isinstance(model, ir.Model) else load_model(model)
        infer_types(self._model)
        self._on = on
        self._alike: dict[bytes, Any] = {}
        self._sessions: dict[tuple[ir.Node, tuple[np.dtype, ...]], Any] = {}
        self._steps = [_step(node) for node in self._model.graph]
        self._weights = {v.name: v.const_value for v in self._model.graph.initializers.values()}
        self._outputs = tuple(v.name for v in self._model.graph.outputs)
        if self._model.functions:
            raise ConversionError(
                "the graph calls functions of its own", remedy="Inline them first: onnx.inliner.inline_local_functions."
            )

    @property
    def sessions(self) -> int:
        """The number of sessions that the runs so far needed."""
        return len(self._alike)

    def run(self, feeds: Arrays, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """Run the graph; returns the tensors ``names`` by name, or the outputs where ``names`` is None.

        FP16 tensors are float16; numbers that are too large are infinite. Raises BackendError where a node fails,
        ValueError for a tensor that the graph lacks.
        """
        wanted = self._outputs if names is None else tuple(names)
        found: dict[str, np.ndarray] = {}
        self.trace(feeds, lambda name, array: found.update({name: array}) if name in wanted else None)
        found.update({name: feeds[name] for name in wanted if name in feeds and name not in found})
        found.update({n: self._weights[n].numpy() for n in wanted if n in self._weights and n not in found})
        if missing := [name for name in wanted if name not in found]:
            raise ValueError(f"the graph computes no tensor {', '.join(missing)}")
        return {name: found[name] for name in wanted}

    def trace(self, feeds: Arrays, watch: Callable[[str, np.ndarray], object]) -> None:
        """Run the graph, and call ``watch`` with each tensor that a node writes.

        Tensors are freed after their last use.
        """
        left = Counter(name for step in self._steps for name in step.reads)
        alive = dict(feeds)
        for step in self._steps:
            inputs = [alive[name] if name in alive else self._weights[name].numpy() for name in step.reads]
            for name, array in zip(step.writes, self._compute(step, inputs), strict=True):
                watch(name, array)
                if left[name]:
                    alive[name] = array
            left.subtract(step.reads)
            for name in set(step.reads):
                if not left[name]:
                    alive.pop(name, None)

    def _compute(self, step: _Step, inputs: list[np.ndarray]) -> list[np.ndarray]:
        session = self._session(step, tuple(a.dtype for a in inputs))
        try:
            return session.run(None, dict(zip((i.name for i in session.get_inputs()), inputs, strict=True)))
        except Exception as error:
            raise BackendError(
                f"{step.node.name} ({step.node.op_type}) fails in the half-precision check: {error}",
                remedy="Check that the samples have the shapes and dtypes of the model's inputs.",
            ) from error

    def _session(self, step: _Step, dtypes: tuple[np.dtype, ...]) -> Any:
        if (step.node, dtypes) not in self._sessions:
            content = _by_itself(step, dtypes, self._model)
            if content not in self._alike:
                self._alike[content] = self._open(step, content)
            self._sessions[step.node, dtypes] = self._alike[content]
        return self._sessions[step.node, dtypes]

    def _open(self, step: _Step, content: bytes) -> Any:
        try:
            return reference_runtime().open_graph(content, self._on, optimised=False)
        except Exception as error:
            raise BackendError(
                f"ONNX Runtime cannot load the node {step.node.name} ({step.node.op_type}) by itself: {error}",
                remedy="The half-precision check takes graphs of ONNX operators with explicit types.",
            ) from error


@dataclass(frozen=True)
class _Step:
    """A node as a graph of its own.

    ``reads`` and ``writes`` are the names of its tensors in the whole graph, ``inputs`` and ``outputs`` the names in
    its own graph. ``halves`` says of each output whether it is FP16. None stands for an unknown type: the output is
    FP16 if an input is.
    """

    node: ir.Node
    proto: Any
    reads: tuple[str, ...]
    writes: tuple[str, ...]
    inputs: tuple[str, ...]
    outputs: tuple[str, ...]
    halves: tuple[bool | None, ...]

    @property
    def is_exact(self) -> bool:
        """Whether the node computes nothing, so that it needs no FP32: it may read and write FP16."""
        return self.node.op_type == "Cast" or passes_on(self.node)


def _step(node: ir.Node) -> _Step:
    from onnx import NodeProto

    proto = NodeProto()
    proto.CopyFrom(ir.to_proto(node))
    proto.name = ""
    del proto.metadata_props[:]
    captured = _captured(proto)
    reads = tuple(dict.fromkeys((*(v.name for v in node.inputs if v), *captured)))
    written = [v for v in node.outputs if v.name]
    writes = tuple(v.name for v in written)
    inputs = {name: name if name in captured else f"input{n}" for n, name in enumerate(reads)}
    outputs = {name: f"output{n}" for n, name in enumerate(writes)}
    proto.input[:] = [inputs[name] if name else "" for name in proto.input]
    proto.output[:] = [outputs[name] if name else "" for name in proto.output]
    halves = tuple(None if v.dtype is None else v.dtype == ir.DataType.FLOAT16 for v in written)
    return _Step(node, proto, reads, writes, tuple(inputs.values()), tuple(outputs.values()), halves)


def _by_itself(step: _Step, dtypes: Sequence[np.dtype], model: ir.Model) -> bytes:
    """A serialised model of one node. FP16 inputs are cast to FP32 in front of it, FP16 outputs back behind it."""
    from onnx import TensorProto, ValueInfoProto, helper

    given, before, after, results = [], [], [], []
    for name, dtype in zip(step.inputs, dtypes, strict=True):
        widen = dtype == np.float16 and not step.is_exact
        outer = f"{name}.half" if widen else name
        given.append(helper.make_tensor_value_info(outer, helper.np_dtype_to_tensor_dtype(dtype), None))
        if widen:
            before.append(helper.make_node("Cast", [outer], [name], to=TensorProto.FLOAT))
    any_half = bool(before)
    for name, is_half in zip(step.outputs, step.halves, strict=True):
        narrow = (any_half if is_half is None else is_half) and not step.is_exact
        outer = f"{name}.half" if narrow else name
        results.append(ValueInfoProto(name=outer))
        if narrow:
            after.append(helper.make_node("Cast", [name], [outer], to=TensorProto.FLOAT16))
    graph = helper.make_graph([*before, step.proto, *after], "node", given, results)
    opsets = [helper.make_opsetid(domain, version) for domain, version in sorted(model.opset_imports.items())]
    return helper.make_model(graph, opset_imports=opsets, ir_version=model.ir_version).SerializeToString()


def _captured(node: Any) -> list[str]:
    """The names of the tensors that the subgraphs of a NodeProto read from outside, each once."""
    found: dict[str, None] = {}
    for graph in (g for attribute in node.attribute for g in (attribute.g, *attribute.graphs)):
        own = {value.name for value in (*graph.input, *graph.initializer)}
        own.update(name for inner in graph.node for name in inner.output)
        read = (name for inner in graph.node for name in (*inner.input, *_captured(inner)))
        found.update((name, None) for name in read if name and name not in own)
    return list(found)


class HalfSession(Session):
    """The oracle as a session, so that goldens and tasks can be run on it."""

    def __init__(self, model: Path | ir.Model, signature: Signature, on: RunOn = HERE) -> None:
        super().__init__(signature, "half-precision oracle")
        self._oracle = HalfOracle(model, on)

    def _run(self, feeds: Arrays) -> dict[str, np.ndarray]:
        return self._oracle.run(feeds, self.signature.output_names)

    def _prepare(self, feeds: Arrays) -> Callable[[], None]:
        def call() -> None:
            self._run(feeds)

        return call
