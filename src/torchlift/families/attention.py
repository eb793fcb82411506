"""Multi-head attention in the forms that it is exported in: three plain operators, or the one of opset 23."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

Attention = Literal["sdpa", "eager", "node"]
STYLES: tuple[Attention, ...] = ("sdpa", "eager", "node")
"""``sdpa`` scales the query before the product, which keeps float16 scores small and is what fused kernels are matched
by; ``eager`` scales the scores, as transformers' plain attention does and pattern-matching optimisers expect; ``node``
is what exporters write as the operator Attention, which ONNX has from opset 23."""


@dataclass(frozen=True)
class Heads:
    """``count`` heads of ``width``; ``scale`` of the scores is width ** -0.5 where it is None.

    torch's scaled_dot_product_attention is called by the style ``node`` only: below opset 23 exporters write it with
    eight operators more than MatMul, Softmax, MatMul, which reshape the key by its own shape.
    """

    count: int
    width: int
    style: Attention
    scale: float | None = None

    def attend(self, query: Tensor, key: Tensor, value: Tensor, shape: tuple[int, int], bias: Tensor | None) -> Tensor:
        """Attention of every position: query, key and value [batch, length, count * width] -> the same shape.

        ``shape`` is (batch, length), of which one may be -1; given by the caller, it is in the graph once, or constant.
        ``bias`` [batch, 1, 1, length] is added to the scores.
        """
        query = query.view(*shape, self.count, self.width).transpose(1, 2)
        mixed = self._mix(query, key, value, shape, bias)
        return mixed.transpose(1, 2).reshape(*shape, self.count * self.width)

    def attend_one(
        self, query: Tensor, key: Tensor, value: Tensor, shape: tuple[int, int], bias: Tensor | None
    ) -> Tensor:
        """Attention of one position: query [batch, count * width] -> the same shape; the rest as in ``attend``."""
        query = query.view(-1, self.count, 1, self.width)
        return self._mix(query, key, value, shape, bias).view(-1, self.count * self.width)

    def attend_apart(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """Attention of every position where tensors are apart as heads are: [batch, count, length, width], also out."""
        if self.style == "node":
            return self._node(query, key, value, None)
        return self._scores(query, key.transpose(2, 3)).softmax(dim=-1) @ value

    def _mix(self, query: Tensor, key: Tensor, value: Tensor, shape: tuple[int, int], bias: Tensor | None) -> Tensor:
        key = key.view(*shape, self.count, self.width)
        value = value.view(*shape, self.count, self.width).transpose(1, 2)
        if self.style == "node":
            rows = bias if bias is None else bias.expand(-1, -1, query.shape[2], -1)
            return self._node(query, key.transpose(1, 2), value, rows)
        scores = self._scores(query, key.permute(0, 2, 3, 1))
        if bias is not None:
            scores = scores + bias
        return scores.softmax(dim=-1) @ value

    def _scores(self, query: Tensor, key: Tensor) -> Tensor:
        """``key`` comes transposed."""
        return (query * self._scale) @ key if self.style == "sdpa" else (query @ key) * self._scale

    def _node(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        """``bias`` must have a row for each query: ONNX Runtime's Attention does not broadcast it."""
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=self._scale)

    @property
    def _scale(self) -> float:
        return float(self.width) ** -0.5 if self.scale is None else self.scale
