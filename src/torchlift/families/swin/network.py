"""The published Swin Transformer and Swin V2. Modules have the names of Microsoft's checkpoints.

It follows https://arxiv.org/abs/2103.14030 and https://arxiv.org/abs/2111.09883. Position indices and masks, which
Microsoft's files hold as buffers, are computed.
"""

from __future__ import annotations

import math
from typing import cast

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchlift.families.swin.architecture import Architecture
from torchlift.families.swin.geometry import apart, pair_index

POSITION_WIDTH = 512
"""The width of the MLP that computes the position bias in Swin V2."""


class PatchEmbed(nn.Module):
    """Image [batch, 3, R, R] -> tokens [batch, length, width], row by row."""

    def __init__(self, shape: Architecture) -> None:
        super().__init__()
        self.proj = nn.Conv2d(3, shape.width, shape.patch, shape.patch)
        self.norm = nn.LayerNorm(shape.width)

    def forward(self, image: Tensor) -> Tensor:
        tokens: Tensor = self.norm(self.proj(image).flatten(2).transpose(1, 2))
        return tokens


class WindowAttention(nn.Module):
    """Attention within windows: [batch * windows, tokens, width] -> the same shape. The bias is a learnt table."""

    def __init__(self, shape: Architecture, stage: int) -> None:
        super().__init__()
        width, self.heads, self.window = shape.channels(stage), shape.heads[stage], shape.windows[stage]
        self.qkv = nn.Linear(width, 3 * width, bias=shape.qkv_bias)
        self.proj = nn.Linear(width, width)
        self.add_position(shape, stage)

    def add_position(self, shape: Architecture, stage: int) -> None:
        """Add the weights of the position bias."""
        self.relative_position_bias_table = nn.Parameter(torch.empty((2 * self.window - 1) ** 2, self.heads))
        nn.init.trunc_normal_(self.relative_position_bias_table, std=0.02)

    @property
    def width(self) -> int:
        """The width of a head."""
        return self.proj.in_features // self.heads

    def position_bias(self) -> Tensor:
        """What is added to the scores of each pair of tokens: [heads, tokens, tokens]."""
        index = torch.from_numpy(pair_index(self.window))
        return self.relative_position_bias_table[index].permute(2, 0, 1)

    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        """Tensors [batch * windows, heads, tokens, head's width] -> [batch * windows, heads, tokens, tokens]."""
        return (query * self.width**-0.5) @ key.transpose(-2, -1)

    def forward(self, x: Tensor, mask: Tensor | None) -> Tensor:
        """``mask`` [windows, tokens, tokens] is added to the scores."""
        count, tokens, width = x.shape
        split = self.qkv(x).reshape(count, tokens, 3, self.heads, self.width).permute(2, 0, 3, 1, 4)
        query, key, value = split.unbind(0)
        scores = self.scores(query, key) + self.position_bias()
        if mask is not None:
            by_picture = scores.view(-1, len(mask), self.heads, tokens, tokens) + mask[:, None]
            scores = by_picture.view(-1, self.heads, tokens, tokens)
        mixed: Tensor = self.proj((scores.softmax(dim=-1) @ value).transpose(1, 2).reshape(count, tokens, width))
        return mixed


class CosineAttention(WindowAttention):
    """The attention of Swin V2: scores are cosines, and the bias is computed from the relative positions.

    ``qkv.bias`` holds 0 for the key.
    """

    def add_position(self, shape: Architecture, stage: int) -> None:
        self.pretrained = shape.pretrained[stage] or self.window
        self.logit_scale = nn.Parameter(torch.full((self.heads, 1, 1), math.log(10)))
        self.cpb_mlp = nn.Sequential(
            nn.Linear(2, POSITION_WIDTH), nn.ReLU(), nn.Linear(POSITION_WIDTH, self.heads, bias=False)
        )

    def position_bias(self) -> Tensor:
        steps = torch.arange(1 - self.window, self.window, dtype=torch.float32)
        steps = 8 * steps / max(1, self.pretrained - 1)
        steps = steps.sign() * torch.log2(steps.abs() + 1) / math.log2(8)
        table = self.cpb_mlp(torch.cartesian_prod(steps, steps))
        return 16 * table[torch.from_numpy(pair_index(self.window))].permute(2, 0, 1).sigmoid()

    def scale(self) -> Tensor:
        """What cosines are multiplied by: [heads, 1, 1], at most 100."""
        return self.logit_scale.clamp(max=math.log(100)).exp()

    def scores(self, query: Tensor, key: Tensor) -> Tensor:
        cosines = F.normalize(query, dim=-1) @ F.normalize(key, dim=-1).transpose(-2, -1)
        return cosines * self.scale()


class Mlp(nn.Module):
    """Linear, Gelu, Linear."""

    def __init__(self, width: int, hidden: int) -> None:
        super().__init__()
        self.fc1, self.act, self.fc2 = nn.Linear(width, hidden), nn.GELU(), nn.Linear(hidden, width)

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fc2(self.act(self.fc1(x)))
        return y


class Block(nn.Module):
    """Attention within windows, and an MLP: [batch, length, width] -> the same shape.

    Swin normalises before each of the two, Swin V2 after.
    """

    def __init__(self, shape: Architecture, stage: int, block: int) -> None:
        super().__init__()
        width = shape.channels(stage)
        self.side, self.window, self.shift = shape.side(stage), shape.windows[stage], shape.shift(stage, block)
        self.masked, self.post = shape.masked, shape.version == 2
        self.norm1 = nn.LayerNorm(width, eps=shape.eps)
        self.attn = CosineAttention(shape, stage) if self.post else WindowAttention(shape, stage)
        self.norm2 = nn.LayerNorm(width, eps=shape.eps)
        self.mlp = Mlp(width, int(shape.expansion * width))

    def forward(self, x: Tensor) -> Tensor:
        if self.post:
            x = x + self.norm1(self._mixed(x))
            return x + cast(Tensor, self.norm2(self.mlp(x)))
        x = x + self._mixed(self.norm1(x))
        return x + cast(Tensor, self.mlp(self.norm2(x)))

    def _mixed(self, x: Tensor) -> Tensor:
        batch, length, width = x.shape
        grid = x.view(batch, self.side, self.side, width)
        if self.shift:
            grid = grid.roll((-self.shift, -self.shift), (1, 2))
        count, window = self.side // self.window, self.window
        windows = grid.view(batch, count, window, count, window, width).transpose(2, 3).reshape(-1, window**2, width)
        mixed = self.attn(windows, self._mask()).view(batch, count, count, window, window, width)
        grid = mixed.transpose(2, 3).reshape(batch, self.side, self.side, width)
        if self.shift:
            grid = grid.roll((self.shift, self.shift), (1, 2))
        return grid.reshape(batch, length, width)

    def _mask(self) -> Tensor | None:
        if not self.shift:
            return None
        return torch.from_numpy(apart(self.side, self.window, self.shift)) * self.masked


class PatchMerging(nn.Module):
    """Four neighbours become one token: [batch, length, width] -> [batch, length / 4, 2 * width]."""

    def __init__(self, shape: Architecture, stage: int) -> None:
        super().__init__()
        width, self.side, self.post = shape.channels(stage), shape.side(stage), shape.version == 2
        self.reduction = nn.Linear(4 * width, 2 * width, bias=False)
        self.norm = nn.LayerNorm(2 * width if self.post else 4 * width)

    def forward(self, x: Tensor) -> Tensor:
        batch, _, width = x.shape
        grid = x.view(batch, self.side, self.side, width)
        four = torch.cat([grid[:, row::2, column::2] for column in (0, 1) for row in (0, 1)], dim=-1)
        return self.merged(four.view(batch, -1, 4 * width))

    def merged(self, four: Tensor) -> Tensor:
        """[batch, length, 4 * width] -> [batch, length, 2 * width]."""
        y: Tensor = self.norm(self.reduction(four)) if self.post else self.reduction(self.norm(four))
        return y


class Stage(nn.Module):
    """Blocks on maps of one size. All stages but the last end with a merging of tokens."""

    def __init__(self, shape: Architecture, stage: int) -> None:
        super().__init__()
        self.blocks = nn.ModuleList(Block(shape, stage, block) for block in range(shape.depths[stage]))
        self.downsample = PatchMerging(shape, stage) if stage + 1 < len(shape.depths) else None

    def forward(self, x: Tensor) -> Tensor:
        for block in self.blocks:
            x = block(x)
        return x if self.downsample is None else self.downsample(x)


class Swin(nn.Module):
    """Images float32 [batch, 3, R, R] -> logits float32 [batch, classes]."""

    def __init__(self, shape: Architecture) -> None:
        super().__init__()
        self.shape = shape
        self.patch_embed = PatchEmbed(shape)
        self.layers = nn.ModuleList(Stage(shape, stage) for stage in shape.stages)
        last = shape.channels(shape.stages[-1])
        self.norm = nn.LayerNorm(last, eps=shape.eps)
        self.head = nn.Linear(last, shape.classes)

    def forward(self, image: Tensor) -> Tensor:
        x = self.patch_embed(image)
        for layer in self.layers:
            x = layer(x)
        logits: Tensor = self.head(self.norm(x).mean(dim=1))
        return logits
