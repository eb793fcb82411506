"""Attention written out and as modules, transformers, mixers."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import nn

from zoo_case import Axis, case, f32, i64, lively, mask

SERIES = f32("x", "batch", "steps", 16)
KEEP = mask("keep", "batch", "steps", dtype="bool")


@case("attention", SERIES, KEEP)
class MultiheadWithPadding(nn.Module):
    def __init__(self):
        super().__init__()
        self.attend = nn.MultiheadAttention(16, 4, batch_first=True)

    def forward(self, x, keep):
        return self.attend(x, x, x, key_padding_mask=~keep, need_weights=False)[0]


@case("attention", SERIES)
class MultiheadCausalWithWeights(nn.Module):
    def __init__(self):
        super().__init__()
        self.attend = nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, x):
        causal = torch.triu(torch.ones(x.shape[1], x.shape[1], dtype=torch.bool), 1)
        return self.attend(x, x, x, attn_mask=causal, average_attn_weights=False)


@case("attention", SERIES, f32("memory", "batch", "sources", 16), axes=(Axis("sources", 2, 5, 12),))
class TransformerDecoderLayers(nn.Module):
    def __init__(self):
        super().__init__()
        layer = nn.TransformerDecoderLayer(16, 4, 32, batch_first=True, norm_first=True)
        self.decoder = nn.TransformerDecoder(layer, 2)

    def forward(self, x, memory):
        causal = nn.Transformer.generate_square_subsequent_mask(x.shape[1])
        return self.decoder(x, memory, tgt_mask=causal, tgt_is_causal=True)


@case("attention", SERIES, KEEP)
def transformer_encoder_with_padding():
    class Network(nn.Module):
        def __init__(self):
            super().__init__()
            self.encoder = nn.TransformerEncoder(nn.TransformerEncoderLayer(16, 4, 32, batch_first=True), 2)

        def forward(self, x, keep):
            return self.encoder(x, src_key_padding_mask=~keep) * keep[..., None]

    return lively(Network())


@case(
    "attention", f32("src", "sources", "batch", 16), f32("tgt", "steps", "batch", 16), axes=(Axis("sources", 2, 5, 12),)
)
def full_transformer():
    return lively(nn.Transformer(16, 4, 1, 1, 32))


@case("attention", SERIES)
class RotaryAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(16, 48)

    def forward(self, x):
        b, n, _ = x.shape
        q, k, v = self.qkv(x).view(b, n, 3, 2, 8).permute(2, 0, 3, 1, 4)
        angles = torch.arange(n)[:, None] * 10000.0 ** (-torch.arange(0, 8, 2) / 8)
        sin, cos = angles.sin().repeat(1, 2), angles.cos().repeat(1, 2)
        q, k = (t * cos + torch.cat([-t[..., 4:], t[..., :4]], -1) * sin for t in (q, k))
        return F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2)


@case("attention", SERIES)
class RotaryByComplexNumbers(nn.Module):
    def forward(self, x):
        pairs = torch.view_as_complex(x.view(*x.shape[:-1], 8, 2))
        angles = torch.arange(x.shape[1])[:, None] * 100.0 ** (-torch.arange(8) / 8)
        return torch.view_as_real(pairs * torch.polar(torch.ones_like(angles), angles)).flatten(-2)


@case("attention", SERIES)
class SlidingWindow(nn.Module):
    def forward(self, x):
        n = torch.arange(x.shape[1])
        near = (n[:, None] - n[None]).abs() < 3
        return F.scaled_dot_product_attention(x, x, x, attn_mask=near)


@case("attention", SERIES, mask("keep", "batch", "steps", dtype="float32"))
class GroupedQueries(nn.Module):
    def __init__(self):
        super().__init__()
        self.q, self.k, self.v = nn.Linear(16, 16), nn.Linear(16, 8), nn.Linear(16, 8)

    def forward(self, x, keep):
        b, n, _ = x.shape
        q = self.q(x).view(b, n, 4, 4).transpose(1, 2)
        k, v = (layer(x).view(b, n, 2, 4).transpose(1, 2) for layer in (self.k, self.v))
        bias = (1 - keep[:, None, None]) * -1e4
        return F.scaled_dot_product_attention(q, k, v, attn_mask=bias, enable_gqa=True).transpose(1, 2).flatten(2)


@case(
    "attention",
    f32("x", "batch", 1, 16),
    f32("keys", "batch", 2, "past", 8),
    f32("values", "batch", 2, "past", 8),
    axes=(Axis("past", 1, 7, 30),),
)
class OneStepWithCache(nn.Module):
    """One token, and the keys and values of those before it: gives the cache back, one longer."""

    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(16, 48)

    def forward(self, x, keys, values):
        q, k, v = self.qkv(x).view(x.shape[0], 1, 3, 2, 8).permute(2, 0, 3, 1, 4)
        keys, values = torch.cat([keys, k], 2), torch.cat([values, v], 2)
        return F.scaled_dot_product_attention(q, keys, values).flatten(1), (keys, values)


@case("attention", SERIES)
class LinearAttention(nn.Module):
    def __init__(self):
        super().__init__()
        self.qkv = nn.Linear(16, 48)

    def forward(self, x):
        q, k, v = self.qkv(x).chunk(3, -1)
        q, k = F.elu(q) + 1, F.elu(k) + 1
        above = torch.einsum("bnd,bnde->bne", q, torch.einsum("bnd,bne->bnde", k, v).cumsum(1))
        return above / torch.einsum("bnd,bnd->bn", q, k.cumsum(1))[..., None]


@case("attention", SERIES)
class AlibiAttention(nn.Module):
    def forward(self, x):
        n = x.shape[1]
        slopes = torch.tensor([0.5, 0.25])
        distance = torch.arange(n)[None] - torch.arange(n)[:, None]
        bias = (slopes[:, None, None] * distance).masked_fill(distance > 0, float("-inf"))
        heads = x.unflatten(-1, (2, 8)).transpose(1, 2)
        return ((heads @ heads.mT) / math.sqrt(8) + bias).softmax(-1) @ heads


@case("attention", i64("ids", "batch", "sequence", below=60))
class AttentionPooling(nn.Module):
    def __init__(self):
        super().__init__()
        self.words, self.score = nn.Embedding(60, 16, padding_idx=0), nn.Linear(16, 1)

    def forward(self, ids):
        x = self.words(ids)
        scores = self.score(x).squeeze(-1).masked_fill(ids == 0, -1e9)
        return torch.bmm(scores.softmax(1).unsqueeze(1), x).squeeze(1)


@case("attention", f32("x", "batch", 3, 32, 32))
class MlpMixer(nn.Module):
    def __init__(self):
        super().__init__()
        self.patches = nn.Conv2d(3, 16, 8, stride=8)
        self.tokens = nn.Sequential(nn.LayerNorm(16), nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))
        self.places = nn.Sequential(nn.Linear(16, 32), nn.GELU(), nn.Linear(32, 16))

    def forward(self, x):
        x = self.patches(x).flatten(2).transpose(1, 2)
        x = x + self.places(x.transpose(1, 2)).transpose(1, 2)
        return (x + self.tokens(x)).mean(1)


@case("attention", f32("points", "batch", "rows", 3))
class SetAttention(nn.Module):
    """Learnt seeds attend to a set of any size."""

    def __init__(self):
        super().__init__()
        self.seeds = nn.Parameter(torch.randn(1, 4, 16))
        self.inwards, self.attend = nn.Linear(3, 16), nn.MultiheadAttention(16, 2, batch_first=True)

    def forward(self, points):
        x = self.inwards(points)
        return self.attend(self.seeds.expand(x.shape[0], -1, -1), x, x)[0]
