"""Swin in the form that is exported: the same weights and answers, with a smaller graph.

- The bias of the positions and the mask of shifted windows are one constant of each block.
- Tokens lie window after window, also between blocks. A block whose windows are shifted reorders them once, before it;
  in the published form they are rolled, split, joined and rolled back within each block. Merging four tokens is one
  more order.
- In every reshape only the batch varies. Attention is written in the form that runtimes fuse.

Modules keep their names from the checkpoint.
"""

from __future__ import annotations

from typing import cast

import torch
from torch import Tensor, nn

from torchlift.families.attention import Attention, Heads
from torchlift.families.swin.geometry import Indices, apart, merge_order, places, window_order
from torchlift.families.swin.network import Block, CosineAttention, Swin, WindowAttention

LEAST_NORM = 1e-12
"""What a vector is divided by at least when it is scaled to length 1, as in torch's normalize."""


class ExportedSwin(nn.Module):
    """Computes the same as Swin, with the same parameters."""

    def __init__(self, reference: Swin, attention: Attention) -> None:
        super().__init__()
        self.patch_embed, self.layers = reference.patch_embed, reference.layers
        self.norm, self.head = reference.norm, reference.head
        self.attention: Attention = attention
        self.shape = shape = reference.shape
        for stage, layer in enumerate(self.layers):
            side, window, current = shape.side(stage), shape.windows[stage], 0
            for number, block in enumerate(layer.blocks):
                self._keep(f"bias_{stage}_{number}", _bias(block))
                if block.shift != current:
                    before = places(window_order(side, window, current))
                    self._keep(f"order_{stage}_{number}", before[window_order(side, window, block.shift)])
                    current = block.shift
            if layer.downsample is not None:
                before = places(window_order(side, window, current))
                self._keep(f"merge_{stage}", before[merge_order(side, shape.windows[stage + 1])])

    def _keep(self, name: str, value: Tensor | Indices) -> None:
        tensor = value if isinstance(value, Tensor) else torch.from_numpy(value)
        self.register_buffer(name, tensor, persistent=False)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patch_embed.norm(self._patches(image))
        for stage, layer in enumerate(self.layers):
            for number, block in enumerate(layer.blocks):
                x = self._reordered(x, f"order_{stage}_{number}")
                x = self._through(x, block, getattr(self, f"bias_{stage}_{number}"))
            if layer.downsample is not None:
                four = self._reordered(x, f"merge_{stage}")
                x = layer.downsample.merged(four.reshape(-1, four.shape[1] // 4, 4 * four.shape[2]))
        logits: Tensor = self.head(self.norm(x).mean(dim=1))
        return logits

    def _patches(self, image: Tensor) -> Tensor:
        """Tokens [batch, length, width], window after window."""
        window, width = self.shape.windows[0], self.shape.width
        count = self.shape.side(0) // window
        grid = self.patch_embed.proj(image).reshape(-1, width, count, window, count, window)
        return grid.permute(0, 2, 4, 3, 5, 1).reshape(-1, (count * window) ** 2, width)

    def _reordered(self, x: Tensor, name: str) -> Tensor:
        order = getattr(self, name, None)
        return x if order is None else x.index_select(1, order)

    def _through(self, x: Tensor, block: Block, bias: Tensor) -> Tensor:
        if block.post:
            x = x + block.norm1(self._mixed(x, block.attn, bias))
            return x + cast(Tensor, block.norm2(block.mlp(x)))
        x = x + self._mixed(block.norm1(x), block.attn, bias)
        return x + cast(Tensor, block.mlp(block.norm2(x)))

    def _mixed(self, x: Tensor, attn: WindowAttention, bias: Tensor) -> Tensor:
        query, key, value = attn.qkv(x).chunk(3, dim=-1)
        heads = Heads(attn.heads, attn.width, self.attention)
        if isinstance(attn, CosineAttention):
            heads = Heads(attn.heads, attn.width, self.attention, scale=1.0)
            query, key = _unit(query, attn, attn.scale().flatten().detach()), _unit(key, attn, None)
        mixed = heads.attend_windows(query, key, value, x.shape[1] // attn.window**2, bias)
        y: Tensor = attn.proj(mixed)
        return y


def _unit(x: Tensor, attn: WindowAttention, scale: Tensor | None) -> Tensor:
    """Scale the part of each head to length 1, or to ``scale`` [heads]: [batch, length, width] -> the same shape."""
    split = x.reshape(-1, x.shape[1], attn.heads, attn.width)
    unit = split / split.norm(dim=-1, keepdim=True).clamp(min=LEAST_NORM)
    return (unit if scale is None else unit * scale[:, None]).reshape(-1, *x.shape[1:])


def _bias(block: Block) -> Tensor:
    """What is added to the scores of a block: [windows or 1, heads, tokens, tokens]."""
    bias: Tensor = block.attn.position_bias()[None]
    if block.shift:
        mask = torch.from_numpy(apart(block.side, block.window, block.shift))
        bias = bias + (mask * block.masked)[:, None]
    return bias.contiguous()


def exported_of(reference: Swin, attention: Attention) -> nn.Module:
    """The module to export for a network that has its weights. It is in eval mode."""
    with torch.no_grad():
        return ExportedSwin(reference, attention).eval()
