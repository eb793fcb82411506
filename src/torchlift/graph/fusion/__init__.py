"""Which operators are fused for which backend before the runtime's own optimiser sees the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass, ShapeInferencePass

from torchlift.graph.conditions import require_order
from torchlift.graph.files import load_model
from torchlift.graph.fusion.attention import FuseAttention
from torchlift.graph.fusion.base import Fusion
from torchlift.graph.fusion.operators import FuseGelu, FuseLayerNorm, FuseSkipLayerNorm
from torchlift.graph.fusion.patches import FusePatches
from torchlift.graph.fusion.projections import FuseQkv

FUSIONS: Mapping[str, tuple[type[Fusion], ...]] = {
    "onnxruntime": (FuseLayerNorm, FuseGelu, FuseAttention),
    "onnxruntime-cuda": (FusePatches, FuseLayerNorm, FuseGelu, FuseAttention, FuseSkipLayerNorm, FuseQkv),
}
"""Backend -> passes, in this order. ONNX Runtime itself makes QuickGelu (also of SiLU), BiasGelu and the usual forms of
LayerNormalization and Gelu; these passes add what its patterns miss.
Fused attention is worth 0.97-1.03 on a processor, and a residual sum in the normalisation costs there. On a GPU query,
key and value become one product, biases join what reads them, and patches are multiplied.

A backend that is not here gets the graph as it was exported, since it parses standard operators best: OpenVINO makes
its own attention of MatMul, Softmax and MatMul and its own normalisation and Gelu; TensorRT fuses attention by itself
and from release 10 reads LayerNormalization; neither knows com.microsoft.
"""


@dataclass(frozen=True)
class Fused:
    """A fused graph, serialised, and how many occurrences each pass replaced, by the pass's name. External weights are
    named relative to the folder of the file that it was made from.
    """

    graph: bytes = field(repr=False)
    counts: Mapping[str, int]


def fuse(model: ir.Model, passes: Sequence[type[Fusion]]) -> dict[str, int]:
    """Run ``passes`` over ``model``, in place, and remove what nothing reads any more; weights are not read. Returns
    how many occurrences each replaced, by its name. Raises ConversionError for nodes that are not in order.
    """
    require_order(model)
    _name_sizes(model)
    counts = {}
    for kind in passes:
        fusion = kind()
        fusion(model)
        counts[fusion.name] = fusion.count
    if any(counts.values()):
        RemoveUnusedNodesPass()(model)
    return counts


def _name_sizes(model: ir.Model) -> None:
    """Let onnx infer shapes where a size has no name (TorchScript's exporter leaves many): only what has one can be
    known to be equal. Weights are not read.
    """
    shapes = [value.shape for node in model.graph for value in node.outputs if value.name]
    if any(shape is None or ir.SymbolicDim(None) in shape for shape in shapes):
        ShapeInferencePass(check_type=False, strict_mode=False)(model)


def fuse_file(source: Path, backend: str) -> Fused | None:
    """The ONNX file ``source`` after the backend's fusions; None where nothing was fused."""
    passes = FUSIONS.get(backend, ())
    if not passes:
        return None
    model = load_model(source)
    counts = fuse(model, passes)
    return Fused(ir.to_proto(model).SerializeToString(), counts) if any(counts.values()) else None
