"""Control flow in Python and in torch: on shapes, on values, loops, and numbers taken out of tensors."""

from __future__ import annotations

import itertools

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from zoo_case import case, f32, i64

ROWS = f32("x", "batch", 8)
SERIES = f32("x", "batch", "steps", 8)


def mlp(*widths: int) -> nn.Sequential:
    """Linear layers with ReLU between them."""
    layers: list[nn.Module] = []
    for a, b in itertools.pairwise(widths):
        layers += [nn.Linear(a, b), nn.ReLU()]
    return nn.Sequential(*layers[:-1])


@case("control flow", SERIES)
class IfOnShape(nn.Module):
    def __init__(self):
        super().__init__()
        self.short, self.long = mlp(8, 16, 4), mlp(8, 16, 4)

    def forward(self, x):
        if x.shape[1] > 6:
            return self.long(x)
        return self.short(x)


@case("control flow", SERIES)
class PadsToAMultiple(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = nn.Conv1d(8, 8, 4, stride=4)

    def forward(self, x):
        missing = (4 - x.shape[1] % 4) % 4
        if missing:
            x = F.pad(x, (0, 0, 0, missing))
        return self.net(x.transpose(1, 2))


@case("control flow", ROWS)
class IfOnValue(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = mlp(8, 16, 4)

    def forward(self, x):
        y = self.net(x)
        if y.sum() > 0:
            return y * 2
        return y - 1


@case("control flow", f32("x", "rows", 8))
class TorchCond(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = mlp(8, 16, 4)

    def forward(self, x):
        y = self.net(x)
        return torch.cond(y.sum() > 0, lambda t: t * 2, lambda t: t - 1, (y,))


@case("control flow", f32("x", "rows", 8))
class WhileOnValue(nn.Module):
    def forward(self, x):
        while x.abs().max() > 1:
            x = x / 2
        return x


@case("control flow", f32("x", "rows", 8))
class TorchWhileLoop(nn.Module):
    def forward(self, x):
        return torch.while_loop(lambda t: t.abs().max() > 1, lambda t: (t / 2,), (x,))[0]


@case("control flow", ROWS)
class NewtonSteps(nn.Module):
    def forward(self, x):
        target = x.abs() + 1
        y = target.clone()
        for _ in range(6):
            y = 0.5 * (y + target / y)
        return y


@case("control flow", ROWS, i64("exponent", below=4, least=1))
class ItemOfAnInput(nn.Module):
    def forward(self, x, exponent):
        return x ** exponent.item()


@case("control flow", f32("x", "rows", 8))
class ItemAsScale(nn.Module):
    def forward(self, x):
        scale = float(x.abs().max())
        return x / scale, (x * 127 / scale).round().to(torch.int8)


@case("control flow", SERIES, i64("length", below=4, least=1))
class SliceByItem(nn.Module):
    def forward(self, x, length):
        return x[:, : length.item()].sum(1)


@case("control flow", SERIES)
class LoopOverTime(nn.Module):
    def forward(self, x):
        y = torch.zeros_like(x[:, 0])
        for step in range(x.shape[1]):
            y = torch.tanh(y + x[:, step])
        return y


@case("control flow", SERIES)
class NumpyInside(nn.Module):
    def forward(self, x):
        positions = np.arange(x.shape[1], dtype=np.float32)
        angles = positions[:, None] / np.power(100.0, np.arange(8) / 8)
        return x + torch.from_numpy(np.sin(angles).astype(np.float32))


@case("control flow", ROWS)
class NumpyOfValues(nn.Module):
    def forward(self, x):
        return torch.from_numpy(np.tanh(x.detach().numpy()) * 2)


@case("control flow", f32("x", "rows", 8))
class EarlyExit(nn.Module):
    def __init__(self):
        super().__init__()
        self.stages = nn.ModuleList(mlp(8, 8) for _ in range(3))

    def forward(self, x):
        for stage in self.stages:
            x = stage(x)
            if x.abs().mean() < 0.4:
                break
        return x


@case("control flow", ROWS)
class TryExcept(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = mlp(8, 4)

    def forward(self, x):
        try:
            return self.net(x).reshape(-1, 4)
        except RuntimeError:
            return self.net(x)


@case("control flow", SERIES)
class AssertsShapes(nn.Module):
    def __init__(self):
        super().__init__()
        self.net = mlp(8, 4)

    def forward(self, x):
        assert x.ndim == 3, "expected three dimensions"
        assert x.shape[-1] == 8, f"expected 8 features, found {x.shape[-1]}"
        if not torch.jit.is_scripting() and not torch.compiler.is_compiling():
            assert torch.isfinite(x).all()
        return self.net(x)


@case("control flow", i64("kind", below=3), f32("x", "batch", 8))
class ExpertByIndex(nn.Module):
    def __init__(self):
        super().__init__()
        self.experts = nn.ModuleList(mlp(8, 8) for _ in range(3))

    def forward(self, kind, x):
        return self.experts[int(kind)](x)


@case("control flow", f32("x", "rows", 8))
class MixtureOfExpertsByLoop(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(8, 4)
        self.experts = nn.ModuleList(mlp(8, 16, 8) for _ in range(4))

    def forward(self, x):
        weights, chosen = self.gate(x).softmax(-1).topk(2, dim=-1)
        out = torch.zeros_like(x)
        for number, expert in enumerate(self.experts):
            row, place = torch.where(chosen == number)
            if len(row):
                out[row] += weights[row, place, None] * expert(x[row])
        return out


@case("control flow", ROWS)
class MixtureOfExpertsDense(nn.Module):
    def __init__(self):
        super().__init__()
        self.gate = nn.Linear(8, 4)
        self.up, self.down = nn.Parameter(torch.randn(4, 8, 16) / 3), nn.Parameter(torch.randn(4, 16, 8) / 4)

    def forward(self, x):
        scores, chosen = self.gate(x).topk(2)
        weights = torch.zeros(x.shape[0], 4).scatter(1, chosen, scores.softmax(-1))
        hidden = torch.einsum("bi,eio->beo", x, self.up).relu()
        return torch.einsum("beh,eho,be->bo", hidden, self.down, weights)
