"""Finds which provider runs each node, and makes sure that no node that computes runs on the processor."""

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

PLACES = "session.record_ep_graph_assignment_info"
"""An option of a session. With 1 it can tell which provider runs each node (release 1.24 and later)."""

_SMALL = 100
"""ONNX Runtime may compute on the processor with constants of up to this many elements (kSmallInitializerThreshold in
its fallback_cpu_capability.cc)."""

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
    """Where each node of a session runs. The session must have been opened with the option PLACES."""
    return [
        Placed(node.name, node.op_type, part.ep_name)
        for part in session.get_provider_graph_assignment_info()
        for node in part.get_nodes()
    ]


def require_placed(placed: Collection[Placed], model: Path, providers: tuple[str, ...]) -> None:
    """Raise ProviderError where the file ``model`` does not run on ``providers``.

    The first of ``providers`` must run at least one node. A provider that is not among them may run only nodes that
    compute with sizes. ``placed`` must be of that very file, since nodes are looked up in it by name. Weights are not
    read.
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
    """Those of ``placed`` that belong on the GPU: they compute with more than sizes.

    Sizes of tensors and small constants, such as a shape for Reshape or a scale, are computed on the processor on
    purpose. Where CUDA graphs are recorded, that happens only once for each shape.
    """
    nodes: dict[tuple[str, str], list[ir.Node]] = defaultdict(list)
    for node in graph.all_nodes():
        nodes[node.name or "", node.op_type].append(node)
    sized = _from_sizes(graph)
    return [p for p in placed if not (found := nodes[p.node, p.operator]) or not sized.issuperset(found)]


def _from_sizes(graph: ir.Graph) -> set[ir.Node]:
    """The nodes that compute with sizes and small constants only. Nodes of ``graph`` must follow what they read."""
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
