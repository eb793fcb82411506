"""The published MobileViT of the ``.pth.tar`` checkpoints. Modules have the names of the checkpoints.

It follows https://arxiv.org/abs/2110.02178, with four differences. The first and the last convolution have neither
normalisation nor activation. The convolution that expands channels has no activation. Each attention has one head of
32. Its scores are scaled by the width of the tokens, and not by that of the head.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchlift.families.mobilevit.architecture import PATCH, Architecture


class ConvNorm(nn.Module):
    """A convolution, batch normalisation and, if ``active``, SiLU. With stride 1 the size stays the same."""

    def __init__(
        self, channels: int, outputs: int, kernel: int, *, stride: int = 1, groups: int = 1, active: bool = True
    ) -> None:
        super().__init__()
        self.conv = nn.Conv2d(channels, outputs, kernel, stride, kernel // 2, groups=groups, bias=False)
        self.norm_layer = nn.BatchNorm2d(outputs)
        self.act = nn.SiLU() if active else nn.Identity()

    def forward(self, x: Tensor) -> Tensor:
        normal: Tensor = self.act(self.norm_layer(self.conv(x)))
        return normal


class InvertedResidual(nn.Module):
    """MobileNetV2's block: expand to ``hidden`` channels (if these are more), mix in space, reduce to ``outputs``."""

    def __init__(self, channels: int, hidden: int, outputs: int, stride: int = 1) -> None:
        super().__init__()
        widen = [ConvNorm(channels, hidden, 1, active=False)] if hidden != channels else []
        self.conv = nn.Sequential(
            *widen,
            ConvNorm(hidden, hidden, 3, stride=stride, groups=hidden),
            nn.Conv2d(hidden, outputs, 1, bias=False),
            nn.BatchNorm2d(outputs),
        )
        self.residual = stride == 1 and channels == outputs

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x)
        return x + y if self.residual else y


class Attention(nn.Module):
    """Self-attention with one head: [..., length, width] -> the same shape."""

    def __init__(self, width: int, head: int) -> None:
        super().__init__()
        self.to_qvk = nn.Linear(width, 3 * head, bias=False)
        self.w_out = nn.Linear(head, width, bias=False)
        self.scale = width**-0.5

    def forward(self, x: Tensor) -> Tensor:
        query, key, value = self.to_qvk(x).chunk(3, dim=-1)
        scores = query @ key.transpose(-1, -2) * self.scale
        mixed: Tensor = self.w_out(scores.softmax(dim=-1) @ value)
        return mixed


class FeedForward(nn.Module):
    """Linear, SiLU, Linear. The dropouts keep the numbers of the layers as in the checkpoints."""

    def __init__(self, width: int, hidden: int, dropout: float) -> None:
        super().__init__()
        self.net = nn.Sequential(
            nn.Linear(width, hidden), nn.SiLU(), nn.Dropout(dropout), nn.Linear(hidden, width), nn.Dropout(dropout)
        )

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.net(x)
        return y


class PreNorm(nn.Module):
    """Applies ``fn`` to the normalised input."""

    def __init__(self, width: int, fn: nn.Module) -> None:
        super().__init__()
        self.norm = nn.LayerNorm(width)
        self.fn = fn

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.fn(self.norm(x))
        return y


class Transformer(nn.Module):
    """Layers of attention and MLP, each behind a norm; none at the end. [..., length, width] -> the same shape."""

    def __init__(self, width: int, layers: int, head: int, feed_forward: int, dropout: float) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            nn.ModuleList(
                [PreNorm(width, Attention(width, head)), PreNorm(width, FeedForward(width, feed_forward, dropout))]
            )
            for _ in range(layers)
        )

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            for part in layer:  # type: ignore[union-attr]
                x = x + part(x)
        return x


class MobileViTBlock(nn.Module):
    """Convolutions around a transformer. The transformer mixes the same position of all patches."""

    def __init__(
        self, channels: int, outputs: int, width: int, layers: int, head: int, feed_forward: int, dropout: float
    ) -> None:
        super().__init__()
        self.local_representation = nn.Sequential(ConvNorm(channels, channels, 3), ConvNorm(channels, width, 1))
        self.transformer = Transformer(width, layers, head, feed_forward, dropout)
        self.fusion_block1 = nn.Conv2d(width, channels, 1)
        self.fusion_block2 = nn.Conv2d(2 * channels, outputs, 3, padding=1)

    def forward(self, x: Tensor) -> Tensor:
        local = self.local_representation(x)
        mixed = to_map(self.transformer(to_tokens(local)), local.shape[-2], local.shape[-1])
        fused: Tensor = self.fusion_block2(torch.cat([x, self.fusion_block1(mixed)], dim=1))
        return fused


class MobileViT(nn.Module):
    """Images float32 [batch, 3, R, R], R a multiple of 64 -> logits float32 [batch, classes]."""

    def __init__(self, shape: Architecture, dropout: float = 0.1) -> None:
        super().__init__()
        channels = shape.channels

        def residual(index: int, outputs: int, stride: int = 1) -> InvertedResidual:
            """The inverted residual with ``channels[index]`` inputs."""
            return InvertedResidual(channels[index], shape.hidden(channels[index]), outputs, stride)

        def block(stage: int) -> MobileViTBlock:
            at = 4 + 2 * stage
            settings = (shape.widths[stage], shape.layers[stage], shape.head, shape.feed_forward[stage], dropout)
            return MobileViTBlock(channels[at], channels[at + 1], *settings)

        self.stem = nn.Sequential(nn.Conv2d(3, channels[0], 3, 2, 1), residual(0, channels[1]))
        self.stage1 = nn.Sequential(
            residual(1, channels[2], stride=2), residual(2, channels[2]), residual(2, channels[3])
        )
        self.stage2 = nn.Sequential(residual(3, channels[4], stride=2), block(0))
        self.stage3 = nn.Sequential(residual(5, channels[6], stride=2), block(1))
        self.stage4 = nn.Sequential(
            residual(7, channels[8], stride=2), block(2), nn.Conv2d(channels[9], channels[10], 1)
        )
        self.fc = nn.Linear(channels[10], shape.classes)

    def forward(self, image: Tensor) -> Tensor:
        x = self.stem(image)
        for stage in (self.stage1, self.stage2, self.stage3, self.stage4):
            x = stage(x)
        logits: Tensor = self.fc(F.avg_pool2d(x, x.shape[-1]).flatten(1))
        return logits


def to_tokens(x: Tensor) -> Tensor:
    """Split a map [batch, width, H, W] into one sequence for each position in a patch: [batch, 4, H * W / 4, width]."""
    width, rows, columns = x.shape[1], x.shape[2] // PATCH, x.shape[3] // PATCH
    split = x.reshape(-1, width, rows, PATCH, columns, PATCH)
    return split.permute(0, 3, 5, 2, 4, 1).reshape(-1, PATCH * PATCH, rows * columns, width)


def to_map(tokens: Tensor, height: int, across: int) -> Tensor:
    """The inverse of ``to_tokens``: [batch, width, height, across].

    Tokens may also be flattened to [batch * 4, ...].
    """
    width, rows, columns = tokens.shape[-1], height // PATCH, across // PATCH
    split = tokens.reshape(-1, PATCH, PATCH, rows, columns, width)
    return split.permute(0, 5, 3, 1, 4, 2).reshape(-1, width, height, across)
