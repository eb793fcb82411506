"""The blocks of YOLOv5, v8 and 11. Each computes what the class of that name does, with modules given to it."""

from __future__ import annotations

from collections.abc import Iterable

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from torchlift.families.attention import Attention


class Conv(nn.Module):
    """A convolution, its batch normalisation where it has one, and the activation."""

    def __init__(self, conv: nn.Module, bn: nn.Module, act: nn.Module) -> None:
        super().__init__()
        self.conv, self.bn, self.act = conv, bn, act

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.act(self.bn(self.conv(x)))
        return y


class Focus(nn.Module):
    """Four pixels of 2 x 2 become channels: [batch, C, H, W] to [batch, 4 C, H / 2, W / 2]. Then a convolution."""

    def __init__(self, conv: nn.Module) -> None:
        super().__init__()
        self.conv = conv

    def forward(self, x: Tensor) -> Tensor:
        even, odd = x[..., ::2, :], x[..., 1::2, :]
        y: Tensor = self.conv(torch.cat([even[..., ::2], odd[..., ::2], even[..., 1::2], odd[..., 1::2]], 1))
        return y


class Bottleneck(nn.Module):
    """Two convolutions, with their input added where ``add`` says so."""

    def __init__(self, cv1: nn.Module, cv2: nn.Module, add: bool) -> None:
        super().__init__()
        self.cv1, self.cv2, self.add = cv1, cv2, add

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.cv2(self.cv1(x))
        return x + y if self.add else y


class BottleneckCSP(nn.Module):
    """The block of releases to 3.1: two branches, normalised and activated together."""

    def __init__(
        self,
        cv1: nn.Module,
        cv2: nn.Module,
        cv3: nn.Module,
        cv4: nn.Module,
        bn: nn.Module,
        act: nn.Module,
        m: nn.Module,
    ) -> None:
        super().__init__()
        self.cv1, self.cv2, self.cv3, self.cv4, self.bn, self.act, self.m = cv1, cv2, cv3, cv4, bn, act, m

    def forward(self, x: Tensor) -> Tensor:
        both = torch.cat([self.cv3(self.m(self.cv1(x))), self.cv2(x)], 1)
        y: Tensor = self.cv4(self.act(self.bn(both)))
        return y


class C3(nn.Module):
    """Two branches, one with bottlenecks, joined by a convolution."""

    def __init__(self, cv1: nn.Module, cv2: nn.Module, cv3: nn.Module, m: nn.Module) -> None:
        super().__init__()
        self.cv1, self.cv2, self.cv3, self.m = cv1, cv2, cv3, m

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.cv3(torch.cat([self.m(self.cv1(x)), self.cv2(x)], 1))
        return y


class C2f(nn.Module):
    """YOLOv8's block: each bottleneck reads the one before it, and all are joined."""

    def __init__(self, cv1: nn.Module, cv2: nn.Module, m: Iterable[nn.Module]) -> None:
        super().__init__()
        self.cv1, self.cv2, self.m = cv1, cv2, nn.ModuleList(m)

    def forward(self, x: Tensor) -> Tensor:
        parts = [*self.cv1(x).chunk(2, 1)]
        for block in self.m:
            parts.append(block(parts[-1]))
        y: Tensor = self.cv2(torch.cat(parts, 1))
        return y


class SPP(nn.Module):
    """Max pools of several sizes, side by side."""

    def __init__(self, cv1: nn.Module, cv2: nn.Module, m: Iterable[nn.Module]) -> None:
        super().__init__()
        self.cv1, self.cv2, self.m = cv1, cv2, nn.ModuleList(m)

    def forward(self, x: Tensor) -> Tensor:
        x = self.cv1(x)
        y: Tensor = self.cv2(torch.cat([x, *(pool(x) for pool in self.m)], 1))
        return y


class SPPF(nn.Module):
    """One max pool, ``n`` times one after the other. With ``add``, the input is added."""

    def __init__(self, cv1: nn.Module, cv2: nn.Module, m: nn.Module, n: int, add: bool) -> None:
        super().__init__()
        self.cv1, self.cv2, self.m, self.n, self.add = cv1, cv2, m, n, add

    def forward(self, x: Tensor) -> Tensor:
        parts = [self.cv1(x)]
        for _ in range(self.n):
            parts.append(self.m(parts[-1]))
        y: Tensor = self.cv2(torch.cat(parts, 1))
        return x + y if self.add else y


class PositionAttention(nn.Module):
    """YOLO11's attention over all positions of a map [batch, heads * width, H, W].

    Query and key have ``key`` channels a head, the value ``width``. ``pe`` is a convolution of the value that tells
    positions apart.
    """

    def __init__(
        self, qkv: nn.Module, proj: nn.Module, pe: nn.Module, heads: int, key: int, width: int, style: Attention
    ) -> None:
        super().__init__()
        self.qkv, self.proj, self.pe = qkv, proj, pe
        self.heads, self.key, self.width, self.style = heads, key, width, style

    def forward(self, x: Tensor) -> Tensor:
        rows, columns = x.shape[-2:]
        maps = self.qkv(x).view(-1, self.heads, 2 * self.key + self.width, rows * columns)
        query, key, value = maps.split([self.key, self.key, self.width], dim=2)
        mixed = self._mixed(query, key, value).reshape(-1, self.heads * self.width, rows, columns)
        y: Tensor = self.proj(mixed + self.pe(value.reshape(-1, self.heads * self.width, rows, columns)))
        return y

    def _mixed(self, query: Tensor, key: Tensor, value: Tensor) -> Tensor:
        """All three are [batch, heads, channels, positions], and so is the result."""
        scale = self.key**-0.5
        if self.style == "node":
            query, key, value = (part.transpose(2, 3) for part in (query, key, value))
            return F.scaled_dot_product_attention(query, key, value, scale=scale).transpose(2, 3)
        if self.style == "eager":
            scores = query.transpose(2, 3) @ key * scale
        else:
            scores = (query * scale).transpose(2, 3) @ key
        return value @ scores.softmax(dim=-1).transpose(2, 3)


class PSABlock(nn.Module):
    """Attention and two convolutions, each with its input added where ``add`` says so."""

    def __init__(self, attn: nn.Module, ffn: nn.Module, add: bool) -> None:
        super().__init__()
        self.attn, self.ffn, self.add = attn, ffn, add

    def forward(self, x: Tensor) -> Tensor:
        x = x + self.attn(x) if self.add else self.attn(x)
        y: Tensor = x + self.ffn(x) if self.add else self.ffn(x)
        return y


class C2(nn.Module):
    """Half of the channels go through inner blocks, the ``first`` half or the second."""

    def __init__(self, cv1: nn.Module, cv2: nn.Module, m: nn.Module, first: bool) -> None:
        super().__init__()
        self.cv1, self.cv2, self.m, self.first = cv1, cv2, m, first

    def forward(self, x: Tensor) -> Tensor:
        a, b = self.cv1(x).chunk(2, 1)
        both = [self.m(a), b] if self.first else [a, self.m(b)]
        y: Tensor = self.cv2(torch.cat(both, 1))
        return y


class GhostConv(nn.Module):
    """Half of the channels by a convolution, the rest by a cheap one of those."""

    def __init__(self, cv1: nn.Module, cv2: nn.Module) -> None:
        super().__init__()
        self.cv1, self.cv2 = cv1, cv2

    def forward(self, x: Tensor) -> Tensor:
        y = self.cv1(x)
        return torch.cat([y, self.cv2(y)], 1)


class GhostBottleneck(nn.Module):
    """Convolutions with a shortcut that may have convolutions too."""

    def __init__(self, conv: nn.Module, shortcut: nn.Module) -> None:
        super().__init__()
        self.conv, self.shortcut = conv, shortcut

    def forward(self, x: Tensor) -> Tensor:
        y: Tensor = self.conv(x) + self.shortcut(x)
        return y


class Concat(nn.Module):
    """Joins maps along their channels."""

    def forward(self, maps: list[Tensor]) -> Tensor:
        return torch.cat(maps, 1)
