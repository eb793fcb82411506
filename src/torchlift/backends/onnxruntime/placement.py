"""Which provider runs each node, and the proof that none of those that compute fell to the processor."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Collection, Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

import onnx_ir as ir

from torchlift.errors import ProviderError

if TYPE_CHECKING:
    import onnxruntime as ort

RECORDING = "session.record_ep_graph_assignment_info"
"""A session's option: 1 lets it tell where its nodes were placed, from release 1.24."""

_SMALL = 100
"""Elements of a constant up to which ONNX Runtime computes with it on the processor (kSmallInitializerThreshold of its
fallback_cpu_capability.cc)."""

_NAMED = 5
"""How many nodes an error names."""


@dataclass(frozen=True)
class Placed:
    """A node and the provider that runs it."""

    node: str
    operator: str
    provider: str

    def __str__(self) -> str:
        return f"{self.node or 'a node without a name'} ({self.operator}) by {self.provider}"


def placements(session: ort.InferenceSession) -> list[Placed]:
    """Where each node of a session runs that was opened with RECORDING."""
    return [
        Placed(node.name, node.op_type, part.ep_name)
        for part in session.get_provider_graph_assignment_info()
        for node in part.get_nodes()
    ]


def require_placed(placed: Collection[Placed], model: Path, providers: tuple[str, ...]) -> None:
    """Raise ProviderError unless the first of ``providers`` runs a node of the file ``model``, and others than them run
    only what follows from sizes.

    ``placed`` must be of that file as it is: names are looked up in it. Its weights are not read.
    """
    if not any(p.provider == providers[0] for p in placed):
        raise ProviderError(
            f"{providers[0]} runs none of the {len(placed)} nodes of {model.name}",
            remedy="Use a backend that runs the model's operators.",
        )
    elsewhere = [p for p in placed if p.provider not in providers]
    stray = strays(elsewhere, ir.load(model).graph) if elsewhere else []
    if stray:
        named = "; ".join(map(str, stray[:_NAMED]))
        rest = f"; and {len(stray) - _NAMED} more" if len(stray) > _NAMED else ""
        raise ProviderError(
            f"{providers[0]} does not run {len(stray)} of the {len(placed)} nodes of {model.name}: {named}{rest}",
            remedy="Export the model without these operators, or use another backend.",
        )


def strays(placed: Iterable[Placed], graph: ir.Graph) -> list[Placed]:
    """Those of ``placed`` that compute with more than sizes: they belong on the device.

    What follows from the sizes of tensors and small constants alone (a shape to reshape to, a scale) a runtime computes
    on the processor by choice, and once for each shape where it records CUDA graphs.
    """
    nodes: dict[tuple[str, str], list[ir.Node]] = defaultdict(list)
    for node in graph.all_nodes():
        nodes[node.name or "", node.op_type].append(node)
    sized = _from_sizes(graph)
    return [p for p in placed if not (found := nodes[p.node, p.operator]) or not sized.issuperset(found)]


def _from_sizes(graph: ir.Graph) -> set[ir.Node]:
    """The nodes of the main graph, which must be in order, that compute with sizes and small constants alone."""
    sized: set[ir.Node] = set()
    for node in graph:
        read = [value for value in node.inputs if value is not None]
        computed = [value for value in read if not _is_small_constant(value)]
        finds = node.op_type in ("Shape", "Size") and not node.domain
        if finds or (computed and all(value.producer() in sized for value in computed)):
            sized.add(node)
    return sized


def _is_small_constant(value: ir.Value) -> bool:
    tensor = ir.convenience.get_const_tensor(value)
    return tensor is not None and tensor.size <= _SMALL
