"""Generation, fields of coordinates, tabular and ranking models."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from zoo_case import Axis, Input, case, f32, i64


@case("generative", f32("x", "batch", 2, 16, 16), i64("t", "batch", below=1000))
class DiffusionUNet(nn.Module):
    def __init__(self):
        super().__init__()
        self.time = nn.Sequential(nn.Linear(16, 16), nn.SiLU(), nn.Linear(16, 8))
        self.a, self.b, self.c = nn.Conv2d(2, 8, 3, padding=1), nn.Conv2d(8, 8, 3, 2, 1), nn.Conv2d(16, 2, 3, padding=1)
        self.norm = nn.GroupNorm(4, 8)

    def forward(self, x, t):
        frequencies = torch.exp(-math.log(10000) * torch.arange(8) / 8)
        angles = t[:, None].float() * frequencies
        emb = self.time(torch.cat([angles.cos(), angles.sin()], -1))
        skip = self.a(x)
        h = F.silu(self.norm(skip) + emb[:, :, None, None])
        h = F.interpolate(self.b(h), scale_factor=2.0, mode="nearest")
        return self.c(torch.cat([h, skip], 1))


@case("generative", f32("x", "batch", 6))
class CouplingFlow(nn.Module):
    def __init__(self):
        super().__init__()
        self.nets = nn.ModuleList(nn.Sequential(nn.Linear(3, 16), nn.Tanh(), nn.Linear(16, 6)) for _ in range(3))

    def forward(self, x):
        total = torch.zeros(x.size(0))
        for net in self.nets:
            a, b = x.chunk(2, dim=1)
            scale, shift = net(a).chunk(2, dim=1)
            scale = scale.tanh()
            x = torch.cat([b * scale.exp() + shift, a], 1)
            total = total + scale.sum(1)
        return x, total


@case("generative", f32("z", "batch", 12))
class Generator(nn.Module):
    def __init__(self):
        super().__init__()
        self.inwards = nn.Linear(12, 8 * 4 * 4)
        self.net = nn.Sequential(
            nn.Upsample(scale_factor=2),
            nn.Conv2d(8, 8, 3, padding=1),
            nn.InstanceNorm2d(8, affine=True),
            nn.ReLU(),
            nn.ConvTranspose2d(8, 3, 4, 2, 1),
            nn.Tanh(),
        )

    def forward(self, z):
        return self.net(self.inwards(z).view(z.size(0), 8, 4, 4))


@case("generative", f32("x", "batch", 1, 12, 12))
class StyleModulation(nn.Module):
    """Weights scaled by a style and normalised, one set a sample, as in StyleGAN2."""

    def __init__(self):
        super().__init__()
        self.weight, self.style = nn.Parameter(torch.randn(6, 4, 3, 3)), nn.Linear(144, 4)
        self.inwards = nn.Conv2d(1, 4, 1)

    def forward(self, x):
        style = self.style(x.flatten(1)) + 1
        weight = self.weight[None] * style[:, None, :, None, None]
        weight = weight * torch.rsqrt((weight**2).sum((2, 3, 4), keepdim=True) + 1e-8)
        y = self.inwards(x).reshape(1, -1, 12, 12)
        return F.conv2d(y, weight.reshape(-1, 4, 3, 3), padding=1, groups=x.shape[0]).view(-1, 6, 12, 12)


@case("generative", f32("x", "batch", 16))
class TiedAutoencoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.randn(6, 16) / 4)
        self.a, self.b = nn.Parameter(torch.randn(6)), nn.Parameter(torch.randn(16))

    def forward(self, x):
        code = F.linear(x, self.weight, self.a).sigmoid()
        return F.linear(code, self.weight.t(), self.b), code


@case("generative", f32("x", "batch", 8))
class SparseAutoencoder(nn.Module):
    def __init__(self):
        super().__init__()
        self.up, self.down = nn.Linear(8, 32), nn.Linear(32, 8)

    def forward(self, x):
        hidden = self.up(x)
        values, places = hidden.topk(5, -1)
        return self.down(torch.zeros_like(hidden).scatter_(-1, places, values.relu()))


@case("fields", f32("origin", "rows", 3), f32("direction", "rows", 3))
class RadianceField(nn.Module):
    """Colours along rays, by positional encodings and cumulated transparency."""

    def __init__(self):
        super().__init__()
        self.net = nn.Sequential(nn.Linear(3 + 3 * 8, 24), nn.ReLU(), nn.Linear(24, 4))

    def forward(self, origin, direction):
        depths = torch.linspace(0.5, 3, 12)
        points = origin[:, None] + F.normalize(direction, dim=-1)[:, None] * depths[:, None]
        angles = points[..., None] * 2.0 ** torch.arange(4)
        encoded = torch.cat([points, angles.sin().flatten(-2), angles.cos().flatten(-2)], -1)
        colour, density = self.net(encoded).split([3, 1], -1)
        alpha = 1 - torch.exp(-density.relu().squeeze(-1) * (depths[1] - depths[0]))
        passed = torch.cumprod(torch.cat([torch.ones_like(alpha[:, :1]), 1 - alpha + 1e-10], 1), 1)[:, :-1]
        weights = alpha * passed
        return (weights[..., None] * colour.sigmoid()).sum(1), (weights * depths).sum(1)


@case("fields", f32("x", "rows", 2))
class SineNetwork(nn.Module):
    def __init__(self):
        super().__init__()
        self.layers = nn.ModuleList([nn.Linear(2, 16), nn.Linear(16, 16), nn.Linear(16, 3)])

    def forward(self, x):
        for layer in self.layers[:-1]:
            x = torch.sin(8 * layer(x))
        return self.layers[-1](x)


@case("fields", f32("x", "rows", 3, within=(0, 1)))
class HashGrid(nn.Module):
    """Features by a spatial hash of the cell, interpolated."""

    def __init__(self):
        super().__init__()
        self.table = nn.Parameter(torch.randn(4, 64, 2))

    def forward(self, x):
        found = []
        for level in range(4):
            scaled = x * 4 * 2**level
            low = scaled.floor().long()
            part = scaled - low
            total = 0
            for corner in range(8):
                bits = torch.tensor([(corner >> axis) & 1 for axis in range(3)])
                cell = low + bits
                places = (cell[:, 0] ^ (cell[:, 1] * 2654435761) ^ (cell[:, 2] * 805459861)) % 64
                weight = torch.where(bits.bool(), part, 1 - part).prod(-1, keepdim=True)
                total = total + weight * self.table[level][places]
            found.append(total)
        return torch.cat(found, -1)


@case("fields", f32("q", "batch", 4), f32("v", "batch", 3))
class Quaternions(nn.Module):
    def forward(self, q, v):
        q = F.normalize(q, dim=-1)
        w, xyz = q[:, :1], q[:, 1:]
        turned = torch.linalg.cross(xyz, v, dim=-1)
        return v + 2 * (w * turned + torch.linalg.cross(xyz, turned, dim=-1)), torch.atan2(xyz.norm(dim=-1), w[:, 0])


@case("tabular", f32("numbers", "batch", 6), i64("kinds", "batch", 3, below=10))
class WideAndDeep(nn.Module):
    def __init__(self):
        super().__init__()
        self.tables = nn.ModuleList(nn.Embedding(10, 4) for _ in range(3))
        self.norm = nn.BatchNorm1d(6)
        self.deep, self.wide = nn.Sequential(nn.Linear(18, 16), nn.ReLU(), nn.Linear(16, 1)), nn.Linear(18, 1)

    def forward(self, numbers, kinds):
        x = torch.cat([self.norm(numbers), *(t(kinds[:, i]) for i, t in enumerate(self.tables))], 1)
        return torch.sigmoid(self.deep(x) + self.wide(x)).squeeze(1)


@case("tabular", f32("numbers", "batch", 4), i64("kinds", "batch", 5, below=10))
class FactorisationMachine(nn.Module):
    def __init__(self):
        super().__init__()
        self.table, self.inwards = nn.Embedding(50, 6), nn.Linear(4, 6)
        self.register_buffer("offsets", torch.arange(5) * 10)

    def forward(self, numbers, kinds):
        fields = torch.cat([self.table(kinds + self.offsets), self.inwards(numbers)[:, None]], 1)
        pairs = torch.bmm(fields, fields.mT)
        rows, columns = torch.triu_indices(6, 6, 1)
        return pairs[:, rows, columns]


@case("tabular", f32("x", "batch", 8))
class NeuralDecisionTree(nn.Module):
    def __init__(self):
        super().__init__()
        self.split, self.leaves = nn.Linear(8, 7), nn.Parameter(torch.randn(8, 3))

    def forward(self, x):
        right = self.split(x).sigmoid()
        paths = x.new_ones(x.size(0), 1)
        for depth in range(3):
            part = right[:, 2**depth - 1 : 2 ** (depth + 1) - 1]
            paths = torch.stack([paths * (1 - part), paths * part], 2).flatten(1)
        return paths @ self.leaves


@case("tabular", f32("emissions", "batch", "steps", 4))
class ViterbiDecoding(nn.Module):
    def __init__(self):
        super().__init__()
        self.transitions = nn.Parameter(torch.randn(4, 4))

    def forward(self, emissions):
        score, back = emissions[:, 0], []
        for step in range(1, emissions.shape[1]):
            best, from_ = (score[:, :, None] + self.transitions).max(1)
            score = best + emissions[:, step]
            back.append(from_)
        best, tag = score.max(-1)
        tags = [tag]
        for from_ in reversed(back):
            tag = from_.gather(1, tag[:, None]).squeeze(1)
            tags.append(tag)
        return best, torch.stack(tags[::-1], 1)


@case("tabular", f32("cost", "batch", 5, 5))
class SinkhornMatching(nn.Module):
    def forward(self, cost):
        plan = -cost * 3
        for _ in range(8):
            plan = plan - plan.logsumexp(2, keepdim=True)
            plan = plan - plan.logsumexp(1, keepdim=True)
        return plan.exp()


@case("tabular", Input("x", "float32", ("batch", 5)), f32("action", "batch", 2), axes=(Axis("batch", 1, 4, 32),))
class TwinCritics(nn.Module):
    def __init__(self):
        super().__init__()
        self.critics = nn.ModuleDict({name: nn.Linear(7, 1) for name in ("first", "second")})

    def forward(self, x, action):
        values = {name: critic(torch.cat([x, action], -1)) for name, critic in self.critics.items()}
        values["least"] = torch.minimum(values["first"], values["second"])
        return values
