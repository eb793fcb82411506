"""How a program is written for a GPU before it is compiled."""

from __future__ import annotations

import torch
from torch.fx import GraphModule

from torchlift.backends.pytorch.attention import shorten_attention
from torchlift.backends.pytorch.patches import multiply_patches
from torchlift.backends.pytorch.projections import fuse_projections

_VIEW, _RESHAPE = torch.ops.aten.view.default, torch.ops.aten.reshape.default


def rewrite_for_gpu(program: GraphModule) -> None:
    """Write projections, patches and short attention as a GPU computes them fast, with the same answers; in place.

    What takes the place of an operator may lie in memory otherwise, so views of it become reshapes.
    """
    fuse_projections(program)
    multiply_patches(program)
    shorten_attention(program)
    for node in program.graph.nodes:
        if node.target is _VIEW:
            node.target = _RESHAPE
    program.recompile()
