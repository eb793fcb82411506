"""Multi-head attention written so that it exports to MatMul, Softmax, MatMul, and nothing that guards them."""

from __future__ import annotations

from typing import Literal

from torch import Tensor

Attention = Literal["sdpa", "eager"]
STYLES: tuple[Attention, ...] = ("sdpa", "eager")
"""``sdpa`` scales the query before the product, which keeps float16 scores small and is what fused kernels are matched
by; ``eager`` scales the scores, as transformers' plain attention does and pattern-matching optimisers expect."""


def attend(query: Tensor, key: Tensor, value: Tensor, heads: int, bias: Tensor | None, style: Attention) -> Tensor:
    """Attention of every position: query, key and value [batch, length, width] -> [batch, length, width].

    ``bias`` [batch, 1, 1, length] is added to the scores. scaled_dot_product_attention is not called: the exporter
    writes it with eight operators more, which reshape the key by its own shape.
    """
    query = _split(query, heads).transpose(1, 2)
    return _mix(query, key, value, heads, bias, style).transpose(1, 2).flatten(2)


def attend_one(query: Tensor, key: Tensor, value: Tensor, heads: int, bias: Tensor | None, style: Attention) -> Tensor:
    """Attention of one position: query [batch, width], key and value [batch, length, width] -> [batch, width]."""
    width = query.shape[-1]
    query = query.view(-1, heads, 1, width // heads)
    return _mix(query, key, value, heads, bias, style).view(-1, width)


def _mix(query: Tensor, key: Tensor, value: Tensor, heads: int, bias: Tensor | None, style: Attention) -> Tensor:
    scale = float(query.shape[-1]) ** -0.5
    key = _split(key, heads).permute(0, 2, 3, 1)
    value = _split(value, heads).transpose(1, 2)
    scores = (query * scale) @ key if style == "sdpa" else (query @ key) * scale
    if bias is not None:
        scores = scores + bias
    return scores.softmax(dim=-1) @ value


def _split(states: Tensor, heads: int) -> Tensor:
    return states.unflatten(-1, (heads, states.shape[-1] // heads))
