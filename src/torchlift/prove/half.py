"""True half precision on a processor: what an FP16 graph answers where every tensor really is FP16.

ONNX Runtime's processor kernels compute an FP16 graph through FP32 and drop the roundings between nodes, so that a
number beyond 65504 passes through unharmed. Here each node is a session of its own, past which no optimiser sees: its
FP16 inputs are widened, it computes in FP32, and what it writes is rounded to FP16, where too large becomes infinite.
GPUs do the same: tensor cores add the products of MatMul, Gemm and Conv in FP32; Softmax, LayerNormalization (its
stash_type) and reductions accumulate in FP32. A single sum, product or root in FP32, rounded, is exact half arithmetic.
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
    """A graph of FP16 and FP32 tensors, computed node by node.

    Weights are read where they lie, at every run; sessions are made once for all nodes that are alike.
    """

    def __init__(self, model: Path | ir.Model, on: RunOn = HERE) -> None:
        """Raises ConversionError for a graph with functions of its own."""
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
        """How many sessions the runs so far needed."""
        return len(self._alike)

    def run(self, feeds: Arrays, names: Sequence[str] | None = None) -> dict[str, np.ndarray]:
        """The tensors ``names``, None for the outputs, by name; FP16 tensors are float16, infinite where too large.

        Raises BackendError where a node fails, ValueError for a tensor that the graph lacks.
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
        """Run, and show ``watch`` each tensor that a node writes, in order. Tensors are freed after their last use."""
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
    """A node made a graph of its own. ``reads`` and ``writes`` name its tensors, ``inputs`` and ``outputs`` say what
    they are called there; ``halves`` whether each output is FP16 (None, where the type is unknown: if an input is).
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
        """Whether the node computes nothing, so that it may run on FP16 as it is."""
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
    """A model of one node, with a Cast to FP32 before it for each FP16 input, and one back for each FP16 output."""
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
    """What the subgraphs of a NodeProto read from outside of them, by name, each once."""
    found: dict[str, None] = {}
    for graph in (g for attribute in node.attribute for g in (attribute.g, *attribute.graphs)):
        own = {value.name for value in (*graph.input, *graph.initializer)}
        own.update(name for inner in graph.node for name in inner.output)
        read = (name for inner in graph.node for name in (*inner.input, *_captured(inner)))
        found.update((name, None) for name in read if name and name not in own)
    return list(found)


class HalfSession(Session):
    """The oracle behind the contract of a runtime's session, so that a task or a golden can be run on it."""

    def __init__(self, model: Path | ir.Model, signature: Signature, on: RunOn = HERE) -> None:
        super().__init__(signature, "half-precision oracle")
        self._oracle = HalfOracle(model, on)

    def _run(self, feeds: Arrays) -> dict[str, np.ndarray]:
        return self._oracle.run(feeds, self.signature.output_names)

    def _prepare(self, feeds: Arrays) -> Callable[[], None]:
        def call() -> None:
            self._run(feeds)

        return call
