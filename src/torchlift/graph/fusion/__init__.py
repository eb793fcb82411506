"""Fusions that a backend needs before the runtime's own optimiser sees the graph."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import onnx_ir as ir
from onnx_ir.passes.common import RemoveUnusedNodesPass, ShapeInferencePass

from torchlift.graph.conditions import require_order
from torchlift.graph.files import load_model
from torchlift.graph.fusion.attention import FuseAttention
from torchlift.graph.fusion.base import Fusion
from torchlift.graph.fusion.operators import FuseGelu, FuseLayerNorm, FuseSkipLayerNorm
from torchlift.graph.fusion.patches import FusePatches
from torchlift.graph.fusion.projections import FuseQkv

Target = Literal["processor", "gpu"]
"""What ONNX Runtime runs the graph on."""

FUSIONS: Mapping[Target, tuple[type[Fusion], ...]] = {
    "processor": (FuseLayerNorm, FuseGelu, FuseAttention),
    "gpu": (FusePatches, FuseLayerNorm, FuseGelu, FuseAttention, FuseSkipLayerNorm, FuseQkv),
}
"""Target -> its fusions, in the order in which they run.

ONNX Runtime itself makes QuickGelu (also of SiLU), BiasGelu, and LayerNormalization and Gelu of their usual forms.
These passes add the forms that its patterns miss. On a processor, fused attention changes the time by 3% at most in
either direction, and a residual sum within the normalisation is slower. On a GPU, query, key and value become one
product, biases join the operators that read them, and patches become a product.

A runtime that names no target gets the graph as it was exported. OpenVINO makes its own attention, normalisation and
Gelu of standard operators. TensorRT fuses attention by itself, and reads LayerNormalization from release 10 on. Neither
knows the operators of com.microsoft.
"""


@dataclass(frozen=True)
class Fused:
    """A fused graph, serialised, and how many occurrences each pass replaced, by the name of the pass.

    The graph names its weights relative to the folder of the file that it was made from.
    """

    graph: bytes = field(repr=False)
    counts: Mapping[str, int]


def fuse(model: ir.Model, passes: Sequence[type[Fusion]]) -> dict[str, int]:
    """Run ``passes`` over ``model``, in place, and remove nodes that nothing reads any more. Weights are not read.

    Returns how many occurrences each pass replaced, by its name. Raises ConversionError where a node stands before a
    node that it reads.
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
    """Let onnx infer shapes where a size has no name, as in many graphs of TorchScript's exporter.

    Fusions compare sizes, and only named sizes can be known to be equal. Weights are not read.
    """
    shapes = [value.shape for node in model.graph for value in node.outputs if value.name]
    if any(shape is None or ir.SymbolicDim(None) in shape for shape in shapes):
        ShapeInferencePass(check_type=False, strict_mode=False)(model)


def fuse_file(source: Path, target: Target) -> Fused | None:
    """Run the fusions for a target over the ONNX file ``source``. None where nothing was fused."""
    model = load_model(source)
    counts = fuse(model, FUSIONS[target])
    return Fused(ir.to_proto(model).SerializeToString(), counts) if any(counts.values()) else None
