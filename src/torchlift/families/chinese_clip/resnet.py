"""The image tower of RN50: a ResNet with a three-convolution stem, anti-aliased strides and attention pooling.

The architecture is the ModifiedResNet of CLIP (https://arxiv.org/abs/2103.00020, section 2.4); parameters are named as
in its checkpoints.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchlift.families.attention import Attention, Heads
from torchlift.families.chinese_clip.architecture import ResNet

EXPANSION = 4
"""The output of a block has this many times the channels of its inner convolutions."""


class Bottleneck(nn.Module):
    """A residual block. A stride is an average pooling, behind the 3x3 convolution and in front of the shortcut's."""

    def __init__(self, channels: int, inner: int, stride: int) -> None:
        super().__init__()
        outer = inner * EXPANSION
        self.stride = stride
        self.conv1, self.bn1 = _conv(channels, inner, 1), nn.BatchNorm2d(inner)
        self.conv2, self.bn2 = _conv(inner, inner, 3), nn.BatchNorm2d(inner)
        self.conv3, self.bn3 = _conv(inner, outer, 1), nn.BatchNorm2d(outer)
        self.downsample = nn.Sequential(_conv(channels, outer, 1), nn.BatchNorm2d(outer)) if channels != outer else None

    def forward(self, x: Tensor) -> Tensor:
        y = F.relu(self.bn1(self.conv1(x)))
        y = self._pool(F.relu(self.bn2(self.conv2(y))))
        y = self.bn3(self.conv3(y))
        shortcut = x if self.downsample is None else self.downsample(self._pool(x))
        return F.relu(y + shortcut)

    def _pool(self, x: Tensor) -> Tensor:
        return F.avg_pool2d(x, self.stride) if self.stride > 1 else x


class AttentionPool(nn.Module):
    """Attention with the mean of all tokens as its only query: [batch, channels, grid, grid] -> [batch, embedding]."""

    def __init__(self, tokens: int, channels: int, embedding: int, heads: int, attention: Attention) -> None:
        super().__init__()
        self.heads = Heads(heads, channels // heads, attention)
        self.tokens, self.channels = tokens, channels
        self.positional_embedding = nn.Parameter(torch.empty(tokens, channels))
        self.q_proj = nn.Linear(channels, channels)
        self.k_proj = nn.Linear(channels, channels)
        self.v_proj = nn.Linear(channels, channels)
        self.c_proj = nn.Linear(channels, embedding)

    def forward(self, x: Tensor) -> Tensor:
        grid = x.reshape(-1, self.channels, self.tokens - 1)
        tokens = torch.cat([grid.mean(dim=2, keepdim=True), grid], dim=2).transpose(1, 2) + self.positional_embedding
        query, key, value = self.q_proj(tokens[:, 0]), self.k_proj(tokens), self.v_proj(tokens)
        pooled: Tensor = self.c_proj(self.heads.attend_one(query, key, value, (-1, self.tokens), None))
        return pooled


class ModifiedResNet(nn.Module):
    """The ResNet: [batch, 3, resolution, resolution] -> [batch, embedding]."""

    def __init__(self, shape: ResNet, grid: int, embedding: int, attention: Attention) -> None:
        super().__init__()
        width = shape.width
        self.conv1, self.bn1 = _conv(3, width // 2, 3, stride=2), nn.BatchNorm2d(width // 2)
        self.conv2, self.bn2 = _conv(width // 2, width // 2, 3), nn.BatchNorm2d(width // 2)
        self.conv3, self.bn3 = _conv(width // 2, width, 3), nn.BatchNorm2d(width)
        channels = width
        for stage, blocks in enumerate(shape.layers):
            inner = width << stage
            first = Bottleneck(channels, inner, stride=2 if stage else 1)
            channels = inner * EXPANSION
            rest = (Bottleneck(channels, inner, stride=1) for _ in range(1, blocks))
            self.add_module(f"layer{stage + 1}", nn.Sequential(first, *rest))
        self.attnpool = AttentionPool(grid * grid + 1, channels, embedding, shape.heads, attention)

    def forward(self, image: Tensor) -> Tensor:
        x = F.relu(self.bn1(self.conv1(image)))
        x = F.relu(self.bn2(self.conv2(x)))
        x = F.avg_pool2d(F.relu(self.bn3(self.conv3(x))), 2)
        for stage in (self.layer1, self.layer2, self.layer3, self.layer4):
            x = stage(x)
        features: Tensor = self.attnpool(x)
        return features


def _conv(channels: int, outputs: int, kernel: int, stride: int = 1) -> nn.Conv2d:
    return nn.Conv2d(channels, outputs, kernel, stride=stride, padding=kernel // 2, bias=False)
