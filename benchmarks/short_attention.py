"""Attention of short sequences by itself on an NVIDIA GPU: our kernel against PyTorch's, on the same tensors.

    python benchmarks/short_attention.py

Query, key and value are parts of one product, as in BERT-base (12 heads of 64) in FP16, with a mask of padded keys.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from triton.testing import do_bench_cudagraph

import torchlift.backends.pytorch.kernels  # noqa: F401, registers what attention calls
from captions import CONTEXT
from torchlift.backends.pytorch.attention import attention
from torchlift.pipelines.texts import recorded_lengths

HEADS, WIDTH = 12, 64
TOKENS = 64 * CONTEXT
SHAPES = [(1, CONTEXT), *((TOKENS // length, length) for length in recorded_lengths(CONTEXT, 7))]
"""Texts and their length: one, and what shares a batch."""

BACKENDS = {"efficient": SDPBackend.EFFICIENT_ATTENTION, "cuDNN": SDPBackend.CUDNN_ATTENTION}
"""Those of PyTorch's that take a mask."""


def heads(texts: int, length: int) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Query, key and value [texts, HEADS, length, WIDTH], and a mask [texts, 1, 1, length]."""
    product = torch.randn(texts, length, 3 * HEADS * WIDTH, device="cuda", dtype=torch.float16)
    query, key, value = (t.unflatten(2, (HEADS, WIDTH)).transpose(1, 2) for t in product.chunk(3, -1))
    mask = torch.zeros(texts, 1, 1, length, device="cuda", dtype=torch.float16)
    mask[..., length - 3 :] = -10000.0
    return query, key, value, mask


def microseconds(call: Callable[[], Tensor]) -> float:
    """The median of a call that is replayed from a CUDA graph; infinite where there is no kernel for it."""
    try:
        with torch.cuda.stream(torch.cuda.Stream()):
            return 1000 * do_bench_cudagraph(call, rep=50, return_mode="median")
    except RuntimeError:
        return math.inf


def products(query: Tensor, key: Tensor, value: Tensor, mask: Tensor) -> Tensor:
    return ((query * WIDTH**-0.5) @ key.transpose(2, 3) + mask).softmax(-1) @ value


def main() -> None:
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; microseconds\n")
    print(f"| texts | length | ours | PyTorch's choice | {' | '.join(BACKENDS)} | products | times the best of them |")
    print("|--:" * (6 + len(BACKENDS)) + "|")
    for texts, length in SHAPES:
        given = heads(texts, length)
        torchs = partial(F.scaled_dot_product_attention, *given)
        peers = [microseconds(torchs)]
        for backend in BACKENDS.values():
            with sdpa_kernel(backend):
                peers.append(microseconds(torchs))
        peers.append(microseconds(partial(products, *given)))
        ours = microseconds(partial(attention, *given))
        times = " | ".join(f"{time:.1f}" for time in (ours, *peers))
        print(f"| {texts} | {length} | {times} | {min(peers) / ours:.2f} |", flush=True)


if __name__ == "__main__":
    main()
