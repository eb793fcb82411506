"""Converts a graph from FP32 to FP16, except for nodes that FP16 cannot hold. Inputs and outputs keep their types."""

from __future__ import annotations

from collections.abc import Collection, Mapping
from dataclasses import dataclass

import onnx_ir as ir

from torchlift.errors import ConversionError
from torchlift.graph.conditions import Pass, require_opset, require_order
from torchlift.graph.half_rules import Ports, Rules, misfit, moves, passes_on, reads_any, scale_misfit
from torchlift.graph.types import converted, infer_types
from torchlift.graph.units import Unit, name_nodes, require_nodes, units

LEAST_SHARE = 0.1
"""A graph with a smaller share of converted nodes does not count as FP16."""

_FLOAT, _HALF = ir.DataType.FLOAT, ir.DataType.FLOAT16


@dataclass(frozen=True)
class Kept:
    """A node that computes with floats and stays FP32, and the reason in words."""

    unit: Unit
    reason: str


@dataclass(frozen=True)
class HalfReport:
    """What a conversion did to the nodes that compute with floats.

    Nodes that only move data (Reshape, Gather), arithmetic of shapes, and Casts do not count, since their type follows
    from their neighbours. ``weight_bytes`` is the size of all float weights in FP32. ``half_bytes`` is the part of it,
    also counted in FP32, whose weights are now FP16.
    """

    converted: tuple[Unit, ...]
    kept: tuple[Kept, ...]
    casts: int
    weight_bytes: int
    half_bytes: int

    @property
    def share(self) -> float:
        """The share of converted nodes among those that compute with floats, 0..1. It is 0 where there are none."""
        return len(self.converted) / max(1, len(self.converted) + len(self.kept))

    @property
    def weight_share(self) -> float:
        """The share of weights that are now FP16, by bytes, 0..1. It is 0 where there are no weights."""
        return self.half_bytes / max(1, self.weight_bytes)


@dataclass
class HalfResult(ir.passes.PassResult):
    """The result of :class:`ToHalf`, with its report."""

    report: HalfReport


def half_candidates(model: ir.Model) -> list[Unit]:
    """The nodes that compute with floats and that :class:`ToHalf` would convert, in the graph's order.

    The model is prepared as by the pass: nodes get unique names, Constant nodes become initializers, values get types.
    """
    _prepare(model)
    rules = Rules(model)
    reasons = _reasons(model, rules, {})
    return units(model.graph, lambda node: rules.computes(node) and node not in reasons)


def require_half(report: HalfReport, least: float = LEAST_SHARE) -> None:
    """Raise ConversionError where the share of converted nodes is below ``least``, or no node was converted."""
    if report.share >= least and report.converted:
        return
    total = len(report.converted) + len(report.kept)
    named = "; ".join(f"{kept.unit}: {kept.reason}" for kept in report.kept[:5])
    rest = f"; and {len(report.kept) - 5} more" if len(report.kept) > 5 else ""
    raise ConversionError(
        f"only {len(report.converted)} of {total} nodes would compute in FP16 "
        f"({report.share:.0%}, at least {least:.0%})" + (f"; FP32 stay {named}{rest}" if report.kept else ""),
        remedy="Such a variant is FP32 in all but name: use FP32 or BF16, or allow a larger loss.",
    )


class ToHalf(Pass):
    """Converts the main graph from FP32 to FP16, except for the nodes named in ``keep``.

    ``keep`` holds names of nodes as :func:`torchlift.graph.units.name_nodes` gives them. It may map them to a reason,
    which goes into the report.

    - No tensor is cast to one type twice. Between two nodes of one type there is no Cast.
    - Arithmetic of shapes, integers and subgraphs stay as they are.
    - A weight that FP16 cannot hold stays FP32, with the nodes that read it: its numbers are too large, or too many of
      them would become 0.
    - Weights are converted when they are written, one at a time.

    Returns :class:`HalfResult`. Raises ConversionError for a name in ``keep`` that the graph lacks.
    """

    def __init__(self, keep: Mapping[str, str] | Collection[str] = ()) -> None:
        self._keep = dict(keep) if isinstance(keep, Mapping) else dict.fromkeys(keep, "was asked to")
        self._casts: list[ir.Node] = []

    def requires(self, model: ir.Model) -> None:
        """The model states its opset, and each node follows the nodes that it reads."""
        require_opset(model)
        require_order(model)

    def ensures(self, model: ir.Model) -> None:
        """No tensor is cast to one type twice, and none to the type that it has."""
        seen: set[tuple[ir.Value, ir.DataType]] = set()
        for node in self._casts:
            value, written = node.inputs[0], node.outputs[0]
            if value.dtype == written.dtype or (value, written.dtype) in seen:
                raise ir.passes.PostconditionError(f"{node.name} casts {value.name} to {written.dtype} needlessly")
            seen.add((value, written.dtype))

    def call(self, model: ir.Model) -> HalfResult:
        name_nodes(model)
        require_nodes(model, self._keep)
        _prepare(model)
        rules = Rules(model)
        reasons = _reasons(model, rules, self._keep)
        halves = _settle(model, rules, {node for node in model.graph if rules.ports(node) and node not in reasons})
        for node in halves:
            if node.op_type == "Cast":
                node.attributes["to"] = ir.AttrInt64("to", _HALF.value)
        computing = [node for node in model.graph if rules.computes(node)]
        weights = [v for v in model.graph.initializers.values() if v.dtype == _FLOAT]
        total = sum(v.const_value.nbytes for v in weights)
        self._casts = _Rewriter(model, rules, halves).rewrite()
        report = HalfReport(
            converted=tuple(units(computing, halves.__contains__)),
            kept=tuple(Kept(units([n], lambda _: True)[0], reasons[n]) for n in computing if n in reasons),
            casts=len(self._casts),
            weight_bytes=total,
            half_bytes=sum(2 * v.const_value.nbytes for v in weights if v.dtype == _HALF),
        )
        return HalfResult(model, modified=bool(halves), report=report)


def _prepare(model: ir.Model) -> None:
    from onnx_ir.passes.common import LiftConstantsToInitializersPass

    name_nodes(model)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    infer_types(model)


def _reasons(model: ir.Model, rules: Rules, keep: Mapping[str, str]) -> dict[ir.Node, str]:
    """Node -> why it must stay FP32, in the graph's order. Nodes without floats are left out."""
    weights = _Weights()
    reasons: dict[ir.Node, str] = {}
    for node in model.graph:
        refusal, ports = rules.refusal(node), rules.ports(node)
        unfit = weights.spoil(node, ports)
        if refusal or (ports and (node.name in keep or unfit)):
            reasons[node] = refusal or keep.get(node.name or "", "") or unfit
    return reasons


class _Weights:
    """Finds weights that FP16 cannot hold, also behind nodes that only move them. It reads each weight once."""

    def __init__(self) -> None:
        self._found: dict[ir.Value, str] = {}

    def spoil(self, node: ir.Node, ports: Ports | None) -> str:
        """Why an input of ``node`` cannot be FP16; "" where all can. Call it for nodes in the order of the graph."""
        said = next(
            (why for index, value in enumerate(node.inputs) if (why := self._why(node, ports, index, value))), ""
        )
        if said and passes_on(node):
            self._found.update(dict.fromkeys(node.outputs, said))
        return said

    def _why(self, node: ir.Node, ports: Ports | None, index: int, value: ir.Value | None) -> str:
        if value is None or (ports is not None and not ports.inputs[index]):
            return ""
        constant = value.const_value if value.is_initializer() and value.dtype == _FLOAT else None
        if value not in self._found:
            said = misfit(constant.numpy()) if constant is not None else ""
            self._found[value] = f"{value.name} {said}" if said else ""
        if constant is not None and not self._found[value]:
            said = scale_misfit(node, index, constant.numpy())
            return f"{value.name} {said}" if said else ""
        return self._found[value]


def _settle(model: ir.Model, rules: Rules, possible: set[ir.Node]) -> set[ir.Node]:
    """The nodes that become FP16, of those that may: nodes that only move data follow their neighbours.

    A node that moves data between FP32 nodes stays FP32. So does a Cast, unless all its readers are FP16.
    """
    halves = set(possible)
    followers = [node for node in model.graph if node in halves and moves(node)]
    while demoted := [node for node in followers if node in halves and not _follows(node, rules, halves)]:
        halves.difference_update(demoted)
    return halves


def _follows(node: ir.Node, rules: Rules, halves: set[ir.Node]) -> bool:
    wanted = [_wants(use, rules, halves) for v in node.outputs for use in v.uses()]
    if node.op_type == "Cast":
        return True in wanted and False not in wanted and not node.outputs[0].is_graph_output()
    ports = rules.ports(node)
    read = [v for v, half in zip(node.inputs, ports.inputs, strict=True) if half] if ports else []
    return True in wanted or any(_is_written_half(v, rules, halves) for v in read)


def _wants(use: ir.Usage, rules: Rules, halves: set[ir.Node]) -> bool | None:
    """Whether a reader needs FP16 (True) or FP32 (False); None where it takes both. Subgraphs read FP32."""
    if reads_any(use.node):
        return None
    ports = rules.ports(use.node) if use.node in halves else None
    return ports is not None and ports.inputs[use.idx]


def _is_written_half(value: ir.Value, rules: Rules, halves: set[ir.Node]) -> bool:
    node = value.producer()
    ports = rules.ports(node) if node is not None and node in halves else None
    return ports is not None and ports.outputs[value.index()]


class _Rewriter:
    """Gives each tensor the type of the node that writes it, and casts it for readers that need the other type."""

    def __init__(self, model: ir.Model, rules: Rules, halves: set[ir.Node]) -> None:
        self._graph = model.graph
        self._rules = rules
        self._halves = halves
        self._names = set(ir.convenience.create_value_mapping(model.graph))
        self._casts: list[ir.Node] = []

    def rewrite(self) -> list[ir.Node]:
        """Returns the Casts that were inserted."""
        graph = self._graph
        written = [*graph.inputs, *(v for node in list(graph) for v in node.outputs)]
        values = dict.fromkeys((*written, *graph.initializers.values()))
        plan = [
            (value, _is_written_half(value, self._rules, self._halves), self._readers(value))
            for value in values
            if value.dtype == _FLOAT
        ]
        for value, is_half, readers in plan:
            if value.is_initializer() and not value.is_graph_input():
                self._convert_weight(value, readers)
            elif is_half:
                self._to_half(value, readers)
            elif readers[True]:
                self._redirect(readers[True], self._cast(value, _HALF))
        return self._casts

    def _readers(self, value: ir.Value) -> dict[bool, list[ir.Usage]]:
        """The readers of a value that need FP16 (True), and those that need FP32 (False)."""
        found: dict[bool, list[ir.Usage]] = {True: [], False: []}
        for use in value.uses():
            wanted = _wants(use, self._rules, self._halves)
            if wanted is not None:
                found[wanted].append(use)
        return found

    def _convert_weight(self, value: ir.Value, readers: Mapping[bool, list[ir.Usage]]) -> None:
        if not readers[True]:
            return
        if not readers[False] and not value.is_graph_output():
            value.const_value = converted(value.const_value, _HALF, value.name)
            value.dtype = _HALF
            return
        name = self._name(f"{value.name}.fp16")
        twin = ir.Value(
            name=name,
            shape=value.const_value.shape,
            type=ir.TensorType(_HALF),
            const_value=converted(value.const_value, _HALF, name),
        )
        self._graph.register_initializer(twin)
        self._redirect(readers[True], twin)

    def _to_half(self, value: ir.Value, readers: Mapping[bool, list[ir.Usage]]) -> None:
        value.dtype = _HALF
        if not readers[False] and not value.is_graph_output():
            return
        full = self._cast(value, _FLOAT)
        self._redirect(readers[False], full)
        if value.is_graph_output():
            for position, output in enumerate(self._graph.outputs):
                if output is value:
                    self._graph.outputs[position] = full
            value.name, full.name = self._name(f"{value.name}.fp16"), value.name

    def _cast(self, value: ir.Value, to: ir.DataType) -> ir.Value:
        suffix = "fp16" if to == _HALF else "fp32"
        name = self._name(f"{value.name}.{suffix}")
        node = ir.Node("", "Cast", [value], [ir.AttrInt64("to", to.value)], num_outputs=1, name=name)
        result = node.outputs[0]
        result.name, result.type = name, ir.TensorType(to)
        result.shape = None if value.shape is None else value.shape.copy()
        producer = value.producer()
        if producer is None:
            self._graph.insert_before(self._graph[0], node)
        else:
            self._graph.insert_after(producer, node)
        self._casts.append(node)
        return result

    def _name(self, wish: str) -> str:
        while wish in self._names:
            wish += "_"
        self._names.add(wish)
        return wish

    @staticmethod
    def _redirect(uses: list[ir.Usage], to: ir.Value) -> None:
        for use in uses:
            use.node.replace_input_with(use.idx, to)
