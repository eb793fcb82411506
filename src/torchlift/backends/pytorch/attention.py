"""Lets a program's attention over few keys run as one kernel of ours, where PyTorch's are made for long sequences."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.nn import functional as F

_ATTENTION = torch.ops.aten.scaled_dot_product_attention.default
_EXPAND = torch.ops.aten.expand.default

DEVICE = "cuda"
"""Where the kernel runs."""

LONGEST = 64
"""Queries and keys: up to here the scores of a head are in registers, all at once."""

WIDTHS = (16, 32, 64, 128)
"""Sizes of a head that the kernel takes: Triton's tiles are powers of two."""

_HALF = (torch.float16, torch.bfloat16)


def shorten_attention(program: GraphModule) -> int:
    """Replace the program's attention by :func:`attention`; in place. What drops out, is causal, or groups heads stays.
    A mask is given as it was before it was expanded to a row for each query, which would be written out for the kernel.

    Returns how many calls were replaced. The kernel must have been registered by importing
    :mod:`torchlift.backends.pytorch.kernels` before the program runs on a GPU.
    """
    replaced = 0
    for node in program.graph.nodes:
        if node.target is _ATTENTION and len(node.args) <= 4 and {*node.kwargs} <= {"scale"}:
            node.target = attention
            node.args = (*node.args[:3], *map(_unexpanded, node.args[3:]))
            replaced += 1
    program.graph.eliminate_dead_code()
    program.recompile()
    return replaced


def _unexpanded(mask: object) -> object:
    if isinstance(mask, Node) and mask.target is _EXPAND and mask.args[0].meta["val"].dim() == mask.meta["val"].dim():
        return mask.args[0]
    return mask


def attention(
    query: Tensor, key: Tensor, value: Tensor, attn_mask: Tensor | None = None, *, scale: float | None = None
) -> Tensor:
    """softmax(query @ key^T * scale + attn_mask) @ value, as torch's scaled_dot_product_attention: [batch, heads,
    queries, width] and twice [batch, heads, keys, width] -> as the query. ``scale`` is width ** -0.5 where it is None.

    Which kernel computes it is decided by shapes, when it is compiled for them.
    """
    if not _fits_kernel(query, key, value, attn_mask):
        return F.scaled_dot_product_attention(query, key, value, attn_mask, scale=scale)
    bias = None if attn_mask is None else attn_mask[(None,) * (4 - attn_mask.dim())]
    scale = query.shape[3] ** -0.5 if scale is None else scale
    return torch.ops.torchlift.short_attention(query, key, value, bias, scale)


def _fits_kernel(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> bool:
    """Whether the kernel takes these: on a GPU, in half precision, with heads that lie densely."""
    inputs = (query, key, value)
    if not all(
        t.device.type == DEVICE and t.dim() == 4 and t.dtype == query.dtype and t.stride(3) == 1 for t in inputs
    ):
        return False
    if query.dtype not in _HALF or not (mask is None or mask.is_floating_point()):
        return False
    alike = key.shape == value.shape and key.shape[:2] == query.shape[:2] and key.shape[3] == query.shape[3]
    return alike and query.shape[3] in WIDTHS and max(query.shape[2], key.shape[2]) <= LONGEST
