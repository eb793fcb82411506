"""Multi-head attention in the forms in which it is exported: plain operators, or the operator of opset 23."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

from torch import Tensor
from torch.nn import functional as F

from torchlift.errors import SourceError

Attention = Literal["sdpa", "eager", "node"]
STYLES: tuple[Attention, ...] = ("sdpa", "eager", "node")
"""How attention is written.

- ``sdpa`` scales the query before the product. That keeps scores in float16 small, and runtimes fuse this pattern.
- ``eager`` scales the scores after the product, like the plain attention of transformers. Older optimisers expect it.
- ``node`` becomes the operator Attention, which ONNX has from opset 23 on.
"""


def style_of(attention: str) -> Attention:
    """The style of that name. Raises SourceError for one that is not known."""
    style = next((s for s in STYLES if s == attention), None)
    if style is None:
        raise SourceError(f"attention {attention!r} is not known", remedy=f"Use {' or '.join(STYLES)}.")
    return style


@dataclass(frozen=True)
class Heads:
    """``count`` heads of ``width``. ``scale`` multiplies the scores; None is width ** -0.5.

    Only the style ``node`` calls torch's scaled_dot_product_attention. Below opset 23 exporters write that function
    with eight more operators than MatMul, Softmax and MatMul, to reshape the key by its own shape.
    """

    count: int
    width: int
    style: Attention
    scale: float | None = None

    def attend(self, query: Tensor, key: Tensor, value: Tensor, shape: tuple[int, int], bias: Tensor | None) -> Tensor:
        """Attention with all positions as queries: query, key and value are [batch, length, count * width].

        The result has the same shape. ``shape`` is (batch, length), and one of the two may be -1. The caller gives it,
        so that the graph computes it once or has it as a constant. ``bias`` is added to the scores, for
        example [batch, 1, 1, length].
        """
        query = query.view(*shape, self.count, self.width).transpose(1, 2)
        mixed = self._mix(query, key, value, shape, bias)
        return mixed.transpose(1, 2).reshape(*shape, self.count * self.width)

    def attend_one(
        self, query: Tensor, key: Tensor, value: Tensor, shape: tuple[int, int], bias: Tensor | None
    ) -> Tensor:
        """Attention with one position as query, [batch, count * width], as the result. All else as in ``attend``."""
        query = query.view(-1, self.count, 1, self.width)
        return self._mix(query, key, value, shape, bias).view(-1, self.count * self.width)

    def attend_windows(self, query: Tensor, key: Tensor, value: Tensor, windows: int, bias: Tensor) -> Tensor:
        """Attention within each of ``windows`` equal parts of a sequence: [batch, windows * tokens, count * width].

        The result has the same shape. ``bias`` [windows, count, tokens, tokens] is added to the scores, or one that is
        the same for all windows, [1, count, tokens, tokens].
        """
        tokens, whole = bias.shape[-1], query.shape[1:]
        if len(bias) == 1:
            query, key, value = (x.reshape(-1, tokens, whole[1]) for x in (query, key, value))
            return self.attend(query, key, value, (-1, tokens), bias).reshape(-1, *whole)
        bias = bias.reshape(1, windows * self.count, tokens, tokens)
        query, value = (self._apart(x, windows, tokens, (0, 1, 3, 2, 4)) for x in (query, value))
        if self.style == "node":
            mixed = self._node(query, self._apart(key, windows, tokens, (0, 1, 3, 2, 4)), value, bias)
        else:
            scores = self._scores(query, self._apart(key, windows, tokens, (0, 1, 3, 4, 2))) + bias
            mixed = scores.softmax(dim=-1) @ value
        mixed = mixed.view(-1, windows, self.count, tokens, self.width)
        return mixed.transpose(2, 3).reshape(-1, *whole)

    def _apart(self, x: Tensor, windows: int, tokens: int, order: tuple[int, ...]) -> Tensor:
        """[batch, windows * tokens, count * width] -> [batch, windows * count, ...], so that each head of each window
        is a head. ``order`` permutes [batch, windows, tokens, count, width].
        """
        parts = x.view(-1, windows, tokens, self.count, self.width).permute(*order)
        return parts.reshape(-1, windows * self.count, *parts.shape[3:])

    def attend_apart(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None = None) -> Tensor:
        """Attention with all positions as queries.

        Tensors and result are split into heads: [batch, count, length, width]. ``bias`` is as in ``attend``.
        """
        if self.style == "node":
            rows = bias if bias is None else bias.expand(-1, -1, query.shape[2], -1)
            return self._node(query, key, value, rows)
        scores = self._scores(query, key.transpose(2, 3))
        if bias is not None:
            scores = scores + bias
        return scores.softmax(dim=-1) @ value

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
        """The scaled product of query and key. ``key`` is transposed already: [..., width, length]."""
        if self._scale == 1:
            return query @ key
        return (query * self._scale) @ key if self.style == "sdpa" else (query @ key) * self._scale

    def _node(self, query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None) -> Tensor:
        """Attention by torch's function.

        ``bias`` must have a row for each query: ONNX Runtime does not broadcast it.
        """
        return F.scaled_dot_product_attention(query, key, value, attn_mask=bias, scale=self._scale)

    @property
    def _scale(self) -> float:
        return float(self.width) ** -0.5 if self.scale is None else self.scale
