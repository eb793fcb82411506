"""Noise, dropout, statistics of a batch, and state that is kept from call to call."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from zoo_case import Axis, case, f32

ROWS = f32("x", "batch", 8)
SERIES = f32("x", "batch", "steps", 8)


@case("chance and state", ROWS, refused="noise is drawn at each call")
class NoiseInside(nn.Module):
    def forward(self, x):
        return x + torch.randn(x.shape)


@case("chance and state", ROWS, refused="noise is drawn at each call")
class VariationalSample(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(8, 8), nn.Linear(4, 8)

    def forward(self, x):
        mean, log_variance = self.encoder(x).chunk(2, -1)
        return self.decoder(mean + torch.randn_like(mean) * (log_variance / 2).exp())


@case("chance and state", ROWS)
class VariationalMean(nn.Module):
    def __init__(self):
        super().__init__()
        self.encoder, self.decoder = nn.Linear(8, 8), nn.Linear(4, 8)

    def forward(self, x):
        mean, log_variance = self.encoder(x).chunk(2, -1)
        if self.training:
            mean = mean + torch.randn_like(mean) * (log_variance / 2).exp()
        return self.decoder(mean), mean, log_variance


@case("chance and state", ROWS, refused="dropout is on at each call")
class DropoutForgotten(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(8, 8)

    def forward(self, x):
        return F.dropout(self.net(x), 0.5)


@case("chance and state", ROWS, refused="dropout is on at each call")
class MonteCarloDropout(nn.Module):
    def __init__(self):
        super().__init__()
        self.net, self.drop = nn.Linear(8, 8), nn.Dropout(0.3)

    def forward(self, x):
        self.drop.train()
        return torch.stack([self.drop(self.net(x)) for _ in range(4)]).mean(0)


@case("chance and state", ROWS, refused="tokens are drawn at each call")
class Multinomial(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Linear(8, 20)

    def forward(self, x):
        return torch.multinomial(self.net(x).softmax(-1), 3)


@case("chance and state", ROWS, refused="each call answers otherwise")
class CountsCalls(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("calls", torch.zeros(()))

    def forward(self, x):
        self.calls += 1
        return x * self.calls


@case("chance and state", ROWS, refused="each call answers otherwise")
class RunningMean(nn.Module):
    def __init__(self):
        super().__init__()
        self.register_buffer("mean", torch.zeros(8))

    def forward(self, x):
        self.mean = 0.9 * self.mean + 0.1 * x.mean(0)
        return x - self.mean


@case("chance and state", f32("x", "rows", 6), axes=(Axis("rows", 4, 8, 16),))
class BatchNormOfTheBatch(nn.Module):
    """Statistics of the batch itself, none kept: rows depend on each other, and the axis is not called batch."""

    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm1d(6, track_running_stats=False)

    def forward(self, x):
        return self.norm(x)


@case("chance and state", f32("x", "rows", 6), axes=(Axis("rows", 4, 8, 16),))
class BatchNormLeftTraining(nn.Module):
    """``forward`` puts the norm into training mode: the answers are of the batch, and a count is kept."""

    def __init__(self):
        super().__init__()
        self.norm, self.head = nn.BatchNorm1d(6), nn.Linear(6, 3)

    def forward(self, x):
        self.norm.train()
        return self.head(self.norm(x))


@case("chance and state", SERIES)
class MaskCachedByLength(nn.Module):
    """A causal mask that is kept until a longer one is needed."""

    def __init__(self):
        super().__init__()
        self.register_buffer("mask", torch.empty(0, 0), persistent=False)
        self.qkv = nn.Linear(8, 24)

    def forward(self, x):
        length = x.shape[1]
        if self.mask.shape[0] < length:
            self.mask = torch.full((length, length), float("-inf")).triu(1)
        q, k, v = self.qkv(x).chunk(3, -1)
        scores = q @ k.transpose(1, 2) / 8**0.5 + self.mask[:length, :length]
        return scores.softmax(-1) @ v


@case("chance and state", SERIES)
class PositionsCachedInADict(nn.Module):
    def __init__(self):
        super().__init__()
        self.kept = {}

    def forward(self, x):
        length = x.shape[1]
        if length not in self.kept:
            self.kept[length] = torch.linspace(0, 1, length)[:, None] * torch.ones(8)
        return x + self.kept[length]


@case("chance and state", f32("x", "batch", 3, "height", "width"))
class BatchNormInEval(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Conv2d(3, 8, 3, bias=False), nn.BatchNorm2d(8), nn.ReLU(), nn.Conv2d(8, 4, 1))
        self.net[1].running_mean.normal_(0, 0.3)
        self.net[1].running_var.uniform_(0.2, 0.8)

    def forward(self, x):
        return self.net(x)
