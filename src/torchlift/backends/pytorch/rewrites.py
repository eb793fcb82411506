"""Rewrites a program for a GPU before it is compiled."""

from __future__ import annotations

import torch
from torch.fx import GraphModule

from torchlift.backends.pytorch.attention import shorten_attention
from torchlift.backends.pytorch.patches import multiply_patches
from torchlift.backends.pytorch.projections import fuse_projections

_VIEW, _RESHAPE = torch.ops.aten.view.default, torch.ops.aten.reshape.default


def rewrite_for_gpu(program: GraphModule) -> None:
    """Write projections, patches and short attention in forms that are fast on a GPU. The answers stay the same.

    The program is changed in place. A new operator may lay out its result in memory in another way than the one it
    replaces. So each view becomes a reshape, which copies where it must.
    """
    fuse_projections(program)
    multiply_patches(program)
    shorten_attention(program)
    for node in program.graph.nodes:
        if node.target is _VIEW:
            node.target = _RESHAPE
    program.recompile()
