"""Kernels for NVIDIA GPUs, written in Triton, which comes with PyTorch there. Importing this registers them."""

from __future__ import annotations

import torch
import triton
import triton.language as tl
from torch import Tensor

_TILES = (16, 32, 64)
"""Sizes of a tile of scores: 16 is the smallest product of the matrix units, 64 the largest that registers hold."""

_SCORES_A_WARP = 512
"""A program gets one warp for this many scores."""


@torch.library.triton_op("torchlift::short_attention", mutates_args=())
def short_attention(query: Tensor, key: Tensor, value: Tensor, bias: Tensor | None, scale: float) -> Tensor:
    """softmax(query @ key^T * scale + bias) @ value, in float16 or bfloat16.

    - ``query`` is [batch, heads, queries, width], ``key`` and ``value`` are [batch, heads, keys, width]. The last axis
      of each is contiguous.
    - ``bias`` is [batch, heads, queries, keys], where any size may be 1 instead. A query whose keys are all masked by
      -inf gets zeros.
    - The result has the shape of the query. In memory it lies as [batch, queries, heads, width], the order in which the
      next layer reads it.

    One program of the GPU computes one head of one sequence, with all its scores in registers, in float32. Flash
    attention has tiles of 64 and more, which would be mostly empty for short sequences.
    """
    batch, heads, queries, width = query.shape
    keys = key.shape[2]
    tile_rows, tile_columns = (next(tile for tile in _TILES if tile >= size) for size in (queries, keys))
    mixed = torch.empty((batch, queries, heads, width), dtype=query.dtype, device=query.device)
    mixed_batch, mixed_row, mixed_head, _ = mixed.stride()
    bias_strides = [0] * 4 if bias is None else [bias.stride(i) if bias.shape[i] > 1 else 0 for i in range(4)]
    torch.library.wrap_triton(_attend)[(batch * heads,)](
        query, key, value, bias, mixed,
        scale, heads, queries, keys,
        *query.stride()[:3], *key.stride()[:3], *value.stride()[:3],
        *bias_strides, mixed_batch, mixed_head, mixed_row,
        biased=bias is not None, one_row=bias_strides[2] == 0,
        tile_rows=tile_rows, tile_columns=tile_columns, width=width,
        num_warps=max(1, min(4, tile_rows * tile_columns // _SCORES_A_WARP)),
    )  # fmt: skip
    return mixed.transpose(1, 2)


@triton.jit
def _attend(  # type: ignore[no-untyped-def]
    query, key, value, bias, mixed,
    scale, heads, queries, keys,
    query_batch, query_head, query_row,
    key_batch, key_head, key_row,
    value_batch, value_head, value_row,
    bias_batch, bias_head, bias_row, bias_column,
    mixed_batch, mixed_head, mixed_row,
    biased: tl.constexpr, one_row: tl.constexpr,
    tile_rows: tl.constexpr, tile_columns: tl.constexpr, width: tl.constexpr,
):  # fmt: skip
    place = tl.program_id(0)
    batch, head = (place // heads).to(tl.int64), place % heads
    rows, columns, widths = tl.arange(0, tile_rows), tl.arange(0, tile_columns), tl.arange(0, width)
    in_rows, in_columns, in_scores = rows[:, None] < queries, columns[:, None] < keys, columns[None, :] < keys
    query += batch * query_batch + head * query_head
    key += batch * key_batch + head * key_head
    value += batch * value_batch + head * value_head
    mixed += batch * mixed_batch + head * mixed_head
    q = tl.load(query + rows[:, None] * query_row + widths[None, :], mask=in_rows, other=0.0)
    k = tl.load(key + columns[:, None] * key_row + widths[None, :], mask=in_columns, other=0.0)
    v = tl.load(value + columns[:, None] * value_row + widths[None, :], mask=in_columns, other=0.0)
    scores = tl.dot(q, tl.trans(k)) * scale
    if biased:
        bias += batch * bias_batch + head * bias_head
        if one_row:
            row = tl.load(bias + columns * bias_column, mask=columns < keys, other=0.0)
            scores += row.to(tl.float32)[None, :]
        else:
            at = bias + rows[:, None] * bias_row + columns[None, :] * bias_column
            scores += tl.load(at, mask=in_rows & in_scores, other=0.0).to(tl.float32)
    scores = tl.where(in_scores, scores, float("-inf"))
    top = tl.max(scores, 1)
    shares = tl.exp(scores - tl.where(top == float("-inf"), 0.0, top)[:, None])
    total = tl.sum(shares, 1)
    found = tl.dot(shares.to(v.dtype), v) / tl.where(total == 0.0, 1.0, total)[:, None]
    tl.store(mixed + rows[:, None] * mixed_row + widths[None, :], found.to(q.dtype), mask=in_rows)
