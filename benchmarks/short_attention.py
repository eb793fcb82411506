"""Attention of short sequences by itself on an NVIDIA GPU: our kernel against PyTorch's, on the same tensors.

    python benchmarks/short_attention.py

Query, key and value are parts of one product, as in BERT-base (12 heads of 64) in FP16, with a mask of padded keys.
"""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F
from torch.nn.attention import SDPBackend, sdpa_kernel
from triton.testing import do_bench_cudagraph

import torchlift.backends.pytorch.kernels  # noqa: F401, registers what attention calls
from torchlift.backends.pytorch.attention import attention

HEADS, WIDTH = 12, 64
SHAPES = [(1, 16), (1, 52), (416, 8), (256, 12), (208, 16), (138, 24), (104, 32), (64, 52)]
"""Texts and their length."""

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
    """The median of a call that is replayed from a CUDA graph."""
    with torch.cuda.stream(torch.cuda.Stream()):
        return 1000 * do_bench_cudagraph(call, rep=50, return_mode="median")


def main() -> None:
    print(f"{torch.cuda.get_device_name()}, torch {torch.__version__}; microseconds\n")
    print(f"| texts | length | ours | PyTorch's choice | {' | '.join(BACKENDS)} | products | times the best of them |")
    print("|--:" * (6 + len(BACKENDS)) + "|")
    for texts, length in SHAPES:
        query, key, value, mask = heads(texts, length)
        peers = [microseconds(lambda: F.scaled_dot_product_attention(query, key, value, mask))]  # noqa: B023
        for backend in BACKENDS.values():
            with sdpa_kernel(backend):
                peers.append(microseconds(lambda: F.scaled_dot_product_attention(query, key, value, mask)))  # noqa: B023
        scaled, turned = query * WIDTH**-0.5, key.transpose(2, 3)
        peers.append(microseconds(lambda: (scaled @ turned + mask).softmax(-1) @ value))  # noqa: B023
        ours = microseconds(lambda: attention(query, key, value, mask))  # noqa: B023
        times = " | ".join(f"{time:.1f}" for time in (ours, *peers))
        print(f"| {texts} | {length} | {times} | {min(peers) / ours:.2f} |", flush=True)


if __name__ == "__main__":
    main()
