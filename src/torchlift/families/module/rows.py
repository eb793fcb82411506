"""Finds which dimension of example inputs is the batch: the one whose rows a network answers each by itself."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import torch
from torch import Tensor, nn

from torchlift.families.fake_quant import is_fake_quantised
from torchlift.families.module.binding import Binding, Called

_ALIKE = 1e-3
"""The share of an output's largest magnitude by which answers to the same row may differ."""


def batch_dimension(network: nn.Module, binding: Binding, examples: Mapping[str, Tensor]) -> int | None:
    """The dimension, 0 or 1, that all examples share and along which rows are independent; None where there is none.

    For example an LSTM that takes [steps, batch, features] answers rows along dimension 1 by themselves, and steps
    along dimension 0 not. To find out, the rows of the examples are turned, and one of them is left out: the answers
    must follow. Examples of one row tell nothing, and are a batch as they are; so are those that the network does not
    run on, which is explained later, and those of fake quantisation, which learns from what it runs on.
    """
    tensors = [*examples.values()]
    called = Called(network, binding)
    for dimension in (0, 1):
        counts = {tensor.shape[dimension] if tensor.ndim > dimension else None for tensor in tensors}
        if len(counts) != 1 or None in counts:
            continue
        if counts == {1} or is_fake_quantised(network):
            return dimension
        try:
            if _independent(called, tensors, dimension):
                return dimension
        except Exception:  # the network is run again later, where its failure is explained
            return dimension if dimension == 0 else None
    return None


def _independent(called: Called, tensors: Sequence[Tensor], dimension: int) -> bool:
    count = tensors[0].shape[dimension]
    tensors = [_with_different_rows(tensor, dimension) for tensor in tensors]
    with torch.no_grad(), torch.random.fork_rng(devices=[]):
        usual = called(*(tensor.clone() for tensor in tensors))
        turned = called(*(tensor.roll(1, dimension) for tensor in tensors))
        fewer = called(*(tensor.narrow(dimension, 0, count - 1).clone() for tensor in tensors))
    return all(_follows(*answers, count) for answers in zip(usual, turned, fewer, strict=True))


def _with_different_rows(tensor: Tensor, dimension: int) -> Tensor:
    """The tensor, or where its rows are all alike, such as those of torch.zeros, numbers around it that differ."""
    if not tensor.is_floating_point() or not torch.equal(tensor.roll(1, dimension), tensor):
        return tensor
    noise = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(0))
    return tensor + noise.to(tensor.dtype)


def _follows(usual: Tensor, turned: Tensor, fewer: Tensor, count: int) -> bool:
    """Whether an output's rows turned by one too, and but for the last stayed without it, along any dimension."""
    limit = _ALIKE * float(usual.double().abs().max()) if usual.numel() else 0.0
    along = [dimension for dimension, size in enumerate(usual.shape) if size == count]
    return any(
        _alike(usual.roll(1, d), turned, limit) and _alike(usual.narrow(d, 0, count - 1), fewer, limit) for d in along
    )


def _alike(one: Tensor, other: Tensor, limit: float) -> bool:
    return one.shape == other.shape and float((one.double() - other.double()).abs().max()) <= limit
