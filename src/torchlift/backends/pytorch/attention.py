"""Short attention: a kernel of ours replaces PyTorch's, whose kernels are made for long sequences."""

from __future__ import annotations

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.nn import functional as F

_ATTENTION = torch.ops.aten.scaled_dot_product_attention.default
_EXPAND = torch.ops.aten.expand.default

DEVICE = "cuda"
"""The type of device that the kernel runs on."""

LONGEST = 64
"""The most queries and keys that the kernel takes: up to here, all scores of a head fit into registers."""

WIDTHS = (16, 32, 64, 128)
"""The widths of a head that the kernel takes. Triton's tiles are powers of two."""

_HALF = (torch.float16, torch.bfloat16)


def shorten_attention(program: GraphModule) -> int:
    """Replace each attention of a program by :func:`attention`, in place; returns how many were replaced.

    Attention with dropout, causal attention and grouped heads stay as they are. A mask is passed without its expansion
    to one row for each query: expanded, it would be written to memory for the kernel.

    Import :mod:`torchlift.backends.pytorch.kernels` before the program runs on a GPU: that registers the kernel.
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
    """softmax(query @ key^T * scale + attn_mask) @ value, as torch's scaled_dot_product_attention.

    The query is [batch, heads, queries, width], and so is the result. Key and value are [batch, heads, keys, width].
    ``scale`` is width ** -0.5 where it is None. The shapes decide, at compilation, which kernel computes it.
    """
    if not _fits_kernel(query, key, value, attn_mask):
        return F.scaled_dot_product_attention(query, key, value, attn_mask, scale=scale)
    bias = None if attn_mask is None else attn_mask[(None,) * (4 - attn_mask.dim())]
    scale = query.shape[3] ** -0.5 if scale is None else scale
    return torch.ops.torchlift.short_attention(query, key, value, bias, scale)


def _fits_kernel(query: Tensor, key: Tensor, value: Tensor, mask: Tensor | None) -> bool:
    """Whether the kernel takes these tensors: on a GPU, in half precision, with contiguous rows of a head."""
    inputs = (query, key, value)
    if not all(
        t.device.type == DEVICE and t.dim() == 4 and t.dtype == query.dtype and t.stride(3) == 1 for t in inputs
    ):
        return False
    if query.dtype not in _HALF or not (mask is None or mask.is_floating_point()):
        return False
    alike = key.shape == value.shape and key.shape[:2] == query.shape[:2] and key.shape[3] == query.shape[3]
    return alike and query.shape[3] in WIDTHS and max(query.shape[2], key.shape[2]) <= LONGEST
