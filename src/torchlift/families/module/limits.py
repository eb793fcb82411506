"""Which values an integer input may have, found from the embeddings that read it."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn


def embedding_limits(network: nn.Module, names: Sequence[str], tensors: Sequence[Tensor]) -> dict[str, int]:
    """Input name -> the number of rows of the smallest embedding that reads it as it is. The network runs once.

    For example ``input_ids`` of a BERT -> 21,128. An input that no embedding reads is left out.
    """
    whole = {name: tensor for name, tensor in zip(names, tensors, strict=True) if not tensor.is_floating_point()}
    found: dict[str, int] = {}

    def look(module: nn.Module, arguments: tuple[Any, ...]) -> None:
        read = arguments[0] if arguments else None
        if isinstance(read, Tensor):
            rows = module.num_embeddings
            for name, tensor in whole.items():
                if (
                    tensor.shape == read.shape
                    and tensor.dtype != torch.bool
                    and torch.equal(tensor.long(), read.long())
                ):
                    found[name] = min(rows, found.get(name, rows))

    embeddings = [module for module in network.modules() if isinstance(module, (nn.Embedding, nn.EmbeddingBag))]
    hooks = [module.register_forward_pre_hook(look) for module in embeddings]
    try:
        if hooks and whole:
            with torch.inference_mode():
                network(*tensors)
    finally:
        for hook in hooks:
            hook.remove()
    return found


def bounds_of(tensors: Mapping[str, Tensor]) -> dict[str, tuple[int, int]]:
    """The least value of each integer input and the greatest plus 1, from examples. Inputs of floats are left out."""
    whole = {name: t for name, t in tensors.items() if not t.is_floating_point() and t.dtype != torch.bool}
    return {name: (int(t.min()), int(t.max()) + 1) if t.numel() else (0, 1) for name, t in whole.items()}
