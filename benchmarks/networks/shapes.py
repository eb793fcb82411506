"""Shapes: sizes taken as numbers, reshapes with constants, products of axes, layouts that depend on a size."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from zoo_case import Axis, Input, case, f32

PICTURE = f32("x", "batch", 3, "height", "width")
SERIES = f32("x", "batch", "steps", 8)


@case("shapes", SERIES)
class SizesAsNumbers(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(8, 12)

    def forward(self, x):
        batch, steps = int(x.shape[0]), int(x.size(1))
        return self.net(x).view(batch, steps, 3, 4).permute(0, 2, 1, 3).reshape(batch, 3, steps * 4)


@case("shapes", SERIES)
class LengthInAShape(nn.Module):
    def forward(self, x):
        return x.reshape(len(x), -1, 4).cumsum(1)[:, :5]


@case("shapes", f32("x", "batch", 24))
class ReshapeWithConstants(nn.Module):
    def forward(self, x):
        return x.reshape(-1, 2, 3, 4).permute(0, 3, 1, 2).flatten(1)


@case("shapes", f32("x", "rows", 8))
class ReshapeAcrossRows(nn.Module):
    def forward(self, x):
        return x.reshape(4, -1).cumsum(1)


@case("shapes", PICTURE)
class TokensOfPixels(nn.Module):
    """Height times width tokens, and back."""

    def __init__(self):
        super().__init__()
        self.inwards, self.mix, self.out = nn.Conv2d(3, 8, 1), nn.Linear(8, 8), nn.Conv2d(8, 3, 1)

    def forward(self, x):
        y = self.inwards(x)
        b, c, h, w = y.shape
        tokens = y.flatten(2).transpose(1, 2)
        assert tokens.shape == (b, h * w, c)
        tokens = self.mix(F.layer_norm(tokens, (c,)))
        return self.out(tokens.transpose(1, 2).reshape(b, c, h, w)), tokens


@case("shapes", PICTURE, axes=(Axis("height", 16, 32, 64, 16), Axis("width", 16, 48, 80, 16)))
class PatchesByReshape(nn.Module):
    """What einops calls ``b c (h p) (w q) -> b (h w) (p q c)``."""

    def __init__(self):
        super().__init__()
        self.net = nn.Linear(3 * 64, 12)

    def forward(self, x):
        b, c, h, w = x.shape
        x = x.reshape(b, c, h // 8, 8, w // 8, 8).permute(0, 2, 4, 3, 5, 1)
        return self.net(x.reshape(b, (h // 8) * (w // 8), 64 * c))


@case("shapes", PICTURE, axes=(Axis("height", 16, 32, 64, 8), Axis("width", 16, 48, 80, 8)))
class WindowAttention(nn.Module):
    """Windows of 8 by 8, shifted, as in Swin."""

    def __init__(self):
        super().__init__()
        self.inwards, self.qkv = nn.Conv2d(3, 8, 1), nn.Linear(8, 24)

    def forward(self, x):
        x = torch.roll(self.inwards(x).permute(0, 2, 3, 1), (-4, -4), (1, 2))
        b, h, w, c = x.shape
        windows = x.view(b, h // 8, 8, w // 8, 8, c).permute(0, 1, 3, 2, 4, 5).reshape(-1, 64, c)
        q, k, v = self.qkv(windows).chunk(3, -1)
        y = F.scaled_dot_product_attention(q, k, v)
        y = y.view(b, h // 8, w // 8, 8, 8, c).permute(0, 1, 3, 2, 4, 5).reshape(b, h, w, c)
        return torch.roll(y, (4, 4), (1, 2))


@case("shapes", PICTURE)
class PadsPictureToMultiple(nn.Module):
    """Pads to a multiple of 8, computes, and cuts back."""

    def __init__(self):
        super().__init__()
        self.down, self.up = nn.Conv2d(3, 8, 8, stride=8), nn.ConvTranspose2d(8, 3, 8, stride=8)

    def forward(self, x):
        h, w = x.shape[-2:]
        padded = F.pad(x, (0, -w % 8, 0, -h % 8), mode="reflect")
        return self.up(self.down(padded))[..., :h, :w]


@case("shapes", SERIES)
class SinePositions(nn.Module):
    def forward(self, x):
        positions = torch.arange(x.shape[1]).unsqueeze(1)
        frequencies = torch.exp(torch.arange(0, 8, 2) * (-math.log(10000.0) / 8))
        table = torch.zeros(x.shape[1], 8)
        table[:, 0::2] = torch.sin(positions * frequencies)
        table[:, 1::2] = torch.cos(positions * frequencies)
        return x + table


@case("shapes", PICTURE)
class CoordinateChannels(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Conv2d(5, 6, 3, padding=1)

    def forward(self, x):
        h, w = x.shape[2:]
        ys, xs = torch.meshgrid(torch.linspace(-1, 1, h), torch.linspace(-1, 1, w), indexing="ij")
        return self.net(torch.cat([x, torch.stack([xs, ys]).expand(x.shape[0], -1, -1, -1)], 1))


@case("shapes", SERIES)
class HalvesOfTheSeries(nn.Module):
    def forward(self, x):
        half = x.shape[1] // 2
        first, second = x[:, :half], x[:, -half:]
        return first * second, x[:, half:].mean(1)


@case("shapes", SERIES)
class ChunksOfTheSeries(nn.Module):
    def forward(self, x):
        parts = x.chunk(3, dim=1)
        return torch.stack([part.amax(1) for part in parts], 1)


@case("shapes", SERIES)
class SplitFourSteps(nn.Module):
    def forward(self, x):
        parts = torch.split(x, 4, dim=1)
        return torch.stack([part.mean(1) for part in parts], 1).sum(1), parts[0]


@case("shapes", f32("x", "batch", "steps", "features"), axes=(Axis("features", 6, 10, 19),))
class ThreeAxes(nn.Module):
    def forward(self, x):
        return x.transpose(1, 2).softmax(-1) @ x, x.flatten(1).amax(1)


@case("shapes", SERIES)
class ScaleBySize(nn.Module):
    def forward(self, x):
        return x / math.sqrt(x.shape[1]) + 1.0 / x.shape[1] + float(x.shape[1]) ** 0.3


@case("shapes", SERIES)
class StridedSlices(nn.Module):
    def forward(self, x):
        return x[:, ::2], x[:, 1::3, ::2], x[:, -2:], x[..., None, 3]


@case("shapes", SERIES)
class MovingAverage(nn.Module):
    def forward(self, x):
        padded = F.pad(x.transpose(1, 2), (2, 2), mode="replicate")
        return F.avg_pool1d(padded, 5, stride=1).transpose(1, 2)


@case("shapes", SERIES)
class RelativeDistances(nn.Module):
    def __init__(self):
        super().__init__()
        self.bias = nn.Embedding(17, 4)
        self.qk = nn.Linear(8, 64)

    def forward(self, x):
        n = x.shape[1]
        distance = (torch.arange(n)[None] - torch.arange(n)[:, None]).clamp(-8, 8) + 8
        q, k = self.qk(x).view(x.shape[0], n, 4, 16).transpose(1, 2).chunk(2, -1)
        return q @ k.mT / 8 + self.bias(distance).permute(2, 0, 1)


@case("shapes", f32("a", "batch", "steps", 4), f32("b", "batch", "steps", 4))
class EqualAxes(nn.Module):
    def forward(self, a, b):
        return torch.cat([a * b, a - b], -1).sum(1)


@case(
    "shapes",
    f32("a", "batch", "first", 4),
    f32("b", "batch", "second", 4),
    axes=(Axis("first", 2, 5, 12), Axis("second", 3, 7, 15)),
)
class ConcatenatedAxes(nn.Module):
    def __init__(self):
        super().__init__()
        self.attend = nn.MultiheadAttention(4, 2, batch_first=True)

    def forward(self, a, b):
        x = torch.cat([a, b], 1)
        y, weights = self.attend(x, x, x)
        return y[:, : a.shape[1]], weights


@case("shapes", Input("x", "float32", ("rows", 4)), axes=(Axis("rows", 1, 6, 20),))
class MatrixOfAllPairs(nn.Module):
    def forward(self, x):
        n = x.shape[0]
        pairs = torch.cat([x[:, None].expand(n, n, 4), x[None].expand(n, n, 4)], -1)
        return pairs.reshape(n * n, 8).square().sum(-1)


@case("shapes", f32("x", "batch", "steps", 8), axes=(Axis("steps", 4, 8, 32, 4),))
class PixelShuffleOfTime(nn.Module):
    def forward(self, x):
        b, n, c = x.shape
        return x.view(b, n // 4, 4 * c).view(b, -1, 2, 2 * c).transpose(2, 3).reshape(b, -1, 4)
