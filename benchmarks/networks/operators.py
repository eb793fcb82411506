"""Operators that exporters and runtimes often get wrong or lack: sorting, indexing, scans, transforms, the odd."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from zoo_case import Axis, Feeds, Input, Sizes, case, f32, i64

ROWS = f32("x", "batch", 12)
TABLE = f32("x", "rows", 12)
SERIES = f32("x", "batch", "steps", 8)
SIGNAL = f32("x", "batch", "samples")


def _bags(sizes: Sizes, rng: np.random.Generator) -> Feeds:
    """Ids, and where each of three bags begins."""
    return {"x": rng.integers(0, 20, 12), "y": np.array([0, *np.sort(rng.integers(0, 12, 2))])}


def operator(name: str, function: Callable[..., Any], *inputs: Input, **more: Any) -> None:
    """Add a network that is a linear layer over the last dimension of ``x`` and then ``function``, of ``y`` too where
    that is an input.
    """
    width = inputs[0].shape[-1]
    layer = nn.Linear if inputs[0].dtype == "float32" and isinstance(width, int) else nn.Identity

    class OfOne(nn.Module):
        def __init__(self):
            super().__init__()
            self.linear = layer(width, width)

        def forward(self, x):
            return function(self.linear(x))

    class OfTwo(OfOne):
        def forward(self, x, y):
            return function(self.linear(x), y)

    case("operators", *inputs, name=name, **more)(OfOne if len(inputs) == 1 else OfTwo)


operator("topk-sorted", lambda x: x.topk(3, dim=-1), ROWS)
operator("topk-of-a-varying-axis", lambda x: x.topk(3, dim=1, largest=False), SERIES)
operator("topk-by-share", lambda x: x.topk(max(1, x.shape[1] // 3), dim=1).values, SERIES)
operator("argsort-gather", lambda x: x.gather(1, x.argsort(1, descending=True)), SERIES)
operator("sort-stable", lambda x: torch.sort((x * 2).round(), dim=-1, stable=True)[0], ROWS)
operator("argmax-argmin", lambda x: (x.argmax(-1), x.argmin(0), x.argmax()), TABLE)
operator("kthvalue", lambda x: x.kthvalue(3, dim=-1).values, ROWS)
operator("median", lambda x: x.median(-1).values, ROWS)
operator("quantile", lambda x: torch.quantile(x, 0.3, dim=-1), ROWS)
operator("svd", lambda x: torch.linalg.svd(x)[1], f32("x", "batch", 4, 5))
operator("inverse", lambda x: torch.linalg.inv(x @ x.mT + torch.eye(4)), f32("x", "batch", 4, 5))
operator("determinant", lambda x: torch.linalg.det(x), f32("x", "batch", 4, 4))
operator("cholesky", lambda x: torch.linalg.cholesky(x @ x.mT + torch.eye(4)), f32("x", "batch", 4, 5))
operator("bessel", lambda x: torch.special.i0e(x), ROWS)
operator("erfinv-digamma", lambda x: torch.erfinv(x.tanh() * 0.9) + torch.digamma(x.abs() + 1), ROWS)
operator("lgamma-erf", lambda x: torch.lgamma(x.abs() + 0.5) * torch.erf(x), ROWS)
operator("cumsum", lambda x: x.cumsum(1), SERIES)
operator("cumprod", lambda x: x.tanh().cumprod(1), SERIES)
operator("cummax", lambda x: x.cummax(1).values, SERIES)
operator("logcumsumexp", lambda x: x.logcumsumexp(1), SERIES)
operator("logsumexp", lambda x: (x * 20).logsumexp((1, 2)), SERIES)
operator("log-softmax-of-large", lambda x: F.log_softmax(x * 200, -1), ROWS)
operator("masked-softmax", lambda x: x.masked_fill(x < 0, float("-inf")).softmax(-1).nan_to_num(0), ROWS)
operator(
    "softmax-over-nothing",
    lambda x: (x, x.masked_fill(x < x[..., :1] + 0.5, float("-inf")).softmax(-1)),
    ROWS,
    refused="PyTorch's own answers are NaN",
)
operator("roll-flip", lambda x: x.roll(2, 1).flip(1) + x.roll((1, -3), (0, 2)), f32("x", "rows", "steps", 8))
operator("rotate-transpose", lambda x: torch.rot90(x, 1, (1, 2)).movedim(0, 1), f32("x", "rows", "steps", 8))
operator("tril-triu", lambda x: (x @ x.mT).tril(-1) + (x @ x.mT).triu(2) * 2, SERIES)
operator(
    "diagonal",
    lambda x: torch.diagonal(x @ x.mT, dim1=1, dim2=2) + torch.diag_embed(x[:, 0]).sum((1, 2))[:, None],
    SERIES,
)
operator("repeat-interleave", lambda x: x.repeat_interleave(3, 1), SERIES)
operator(
    "repeat-interleave-by-counts",
    lambda x, counts: x.repeat_interleave(counts, 0),
    TABLE,
    i64("y", "rows", below=4, least=1),
)
operator("tile-expand", lambda x: x[:, None].expand(-1, 3, -1, -1).tile(1, 1, 2, 1), SERIES)
operator("meshgrid", lambda x: torch.stack(torch.meshgrid(x[0], x[1], indexing="ij")), f32("x", 2, 6))
operator(
    "einsum-bilinear",
    lambda x, y: torch.einsum("bti,bsi->bts", x, y),
    SERIES,
    f32("y", "batch", "others", 8),
    axes=(Axis("others", 2, 5, 13),),
)
operator("einsum-ellipsis", lambda x: torch.einsum("...i,...j->...ij", x, x[..., :3]), SERIES)
operator("outer-kron", lambda x: torch.kron(x[0, :3].contiguous(), x[1, :4].contiguous()), f32("x", 2, 6))
operator("nonzero", lambda x: (x > 0).nonzero(), TABLE)
operator("boolean-mask", lambda x: x[x > 0.2], TABLE)
operator("boolean-rows", lambda x: x[x.sum(-1) > 0] * 2, TABLE, axes=(Axis("rows", 6, 9, 17),))
operator("unique", lambda x: torch.unique((x * 2).round()), TABLE)
operator(
    "unique-with-counts", lambda x: torch.unique(x, return_inverse=True, return_counts=True), i64("x", "items", below=6)
)
operator("bincount", lambda x: torch.bincount(x, minlength=6), i64("x", "items", below=6))
operator("one-hot", lambda x: F.one_hot(x, 6).float().cumsum(1), i64("x", "batch", "steps", below=6))
operator("bucketize", lambda x: torch.bucketize(x, torch.linspace(-1, 1, 9)), ROWS)
operator("searchsorted", lambda x: torch.searchsorted(torch.linspace(-2, 2, 11), x, right=True), ROWS)
operator("histogram", lambda x: torch.histc(x, 8, -2, 2), TABLE)
operator(
    "scatter-add", lambda x, i: torch.zeros(x.shape[0], 6).scatter_add(1, i, x), ROWS, i64("y", "batch", 12, below=6)
)
operator(
    "scatter-reduce",
    lambda x, i: torch.zeros(x.shape[0], 6).scatter_reduce(1, i, x, "amax", include_self=False),
    ROWS,
    i64("y", "batch", 12, below=6),
)
operator("index-add", lambda x, i: torch.zeros(7, 12).index_add(0, i, x), TABLE, i64("y", "rows", below=7))
operator(
    "index-put-accumulate",
    lambda x, i: torch.zeros(7, 12).index_put((i,), x, accumulate=True),
    TABLE,
    i64("y", "rows", below=7),
)
operator("take-along", lambda x, i: torch.take_along_dim(x, i, 1), SERIES, i64("y", "batch", 2, 8, below=3))
operator("fft-magnitude", lambda x: torch.fft.rfft(x).abs(), ROWS)
operator("fft-filter", lambda x: torch.fft.irfft(torch.fft.rfft(x) * torch.linspace(1, 0, 7), n=12), ROWS)
operator("fft-of-a-varying-axis", lambda x: torch.fft.rfft(x, dim=1).real, SERIES)
operator(
    "complex-multiplication", lambda x: torch.view_as_real(torch.polar(x.abs() + 1, x) * torch.complex(x, -x)), ROWS
)
operator(
    "stft-log",
    lambda x: torch.stft(x, 64, 16, window=torch.hann_window(64), return_complex=True).abs().add(1e-3).log(),
    SIGNAL,
)
operator("clamp-by-tensors", lambda x: torch.clamp(x, min=x.mean(-1, keepdim=True), max=torch.tensor(1.0)), ROWS)
operator("rounding", lambda x: (x * 3).round() + (x * 3).floor() + x.trunc() + x.frac() + x.sign(), ROWS)
operator("remainder", lambda x: torch.remainder(x, 0.7) + torch.fmod(x, -0.4) + x // 0.3, ROWS)
operator(
    "integer-division",
    lambda x: (x // 3, x % 3, torch.div(x, -3, rounding_mode="trunc"), x >> 1, x & 6),
    i64("x", "batch", 5, below=50, least=-50),
)
operator("logsigmoid", lambda x: F.logsigmoid(x * 30), ROWS)
operator(
    "activations",
    lambda x: F.celu(x) + F.hardswish(x) + F.mish(x) + F.softshrink(x) + F.glu(torch.cat([x, x], -1)) + F.selu(x),
    ROWS,
)
operator("prelu-rrelu", lambda x: F.rrelu(x) + F.prelu(x, torch.tensor([0.3])), ROWS)
operator("norms", lambda x: x.norm(dim=-1) + x.norm(p=1, dim=-1) + torch.linalg.vector_norm(x, float("inf"), -1), ROWS)
operator(
    "variance",
    lambda x: torch.cat([x.var(1), x.std(1, unbiased=False), torch.var_mean(x, (1, 2))[0][:, None]], -1),
    SERIES,
)
operator("where-broadcast", lambda x: torch.where(x > x.mean(), x, x.new_tensor(-1.0)), TABLE)
operator("in-place-writes", lambda x: _write(x.clone()), f32("x", "batch", 12))
operator("slice-assignment", lambda x: _assign(x.clone()), SERIES)
operator(
    "embedding-bag",
    lambda x: F.embedding_bag(x, torch.linspace(-1, 1, 120).view(20, 6), mode="mean"),
    i64("x", "batch", 5, below=20),
)
operator(
    "embedding-bag-offsets",
    lambda x, o: F.embedding_bag(x, torch.linspace(-1, 1, 120).view(20, 6), o, mode="sum"),
    i64("x", 12, below=20),
    Input("y", "int64", (3,), (0, 12)),
    sample=_bags,
)
operator(
    "cross-entropy",
    lambda x, y: F.cross_entropy(x, y, label_smoothing=0.1, reduction="none"),
    ROWS,
    i64("y", "batch", below=12),
)
operator("pairwise-distance", lambda x: F.pdist(x), TABLE)
operator("cosine-similarity", lambda x: F.cosine_similarity(x[:, None], x[None], dim=-1), TABLE)
operator("unfold-windows", lambda x: x.unfold(1, 3, 2).mean(-1), SERIES)
operator("as-strided", lambda x: torch.as_strided(x.contiguous(), (3, 4), (2, 1)), f32("x", 2, 6))
operator("bit-packing", lambda x: ((x > 0).long() * (2 ** torch.arange(12))).sum(-1), ROWS)
operator("float8-like-rounding", lambda x: x.to(torch.bfloat16).to(torch.float32) + x.half().float(), ROWS)


def _write(x: torch.Tensor) -> torch.Tensor:
    x[:, 0] = 1
    x[:, 2:5] += x[:, 5:8]
    x[x < -1] = 0
    x.mul_(2).clamp_(max=3)
    return x


def _assign(x: torch.Tensor) -> torch.Tensor:
    x[:, 1:, :4] = x[:, :-1, :4].clone()
    x[:, -1] *= 2
    x[:, ::2, 0] = 5
    return x
