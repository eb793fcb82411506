"""Multi-head attention written so that it exports to MatMul, Softmax, MatMul, and nothing that guards them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor

Attention = Literal["sdpa", "eager"]
STYLES: tuple[Attention, ...] = ("sdpa", "eager")
"""``sdpa`` scales the query before the product, which keeps float16 scores small and is what fused kernels are matched
by; ``eager`` scales the scores, as transformers' plain attention does and pattern-matching optimisers expect."""


@dataclass(frozen=True)
class Heads:
    """``count`` heads of ``width``. torch's scaled_dot_product_attention is not called: exporters write it with eight
    operators more, which reshape the key by its own shape.
    """

    count: int
    width: int
    style: Attention

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

    def _mix(self, query: Tensor, key: Tensor, value: Tensor, shape: tuple[int, int], bias: Tensor | None) -> Tensor:
        scale = float(self.width) ** -0.5
        key = key.view(*shape, self.count, self.width).permute(0, 2, 3, 1)
        value = value.view(*shape, self.count, self.width).transpose(1, 2)
        scores = (query * scale) @ key if self.style == "sdpa" else (query @ key) * scale
        if bias is not None:
            scores = scores + bias
        return scores.softmax(dim=-1) @ value
