"""Takes a network as people have it to a plain one: out of its wrappers, in eval mode, in float32, on the CPU."""

from __future__ import annotations

import contextlib
import copy
from collections.abc import Callable, Collection

import torch
from torch import nn

from torchlift.errors import ModuleSourceError

_WRAPPERS = {"OptimizedModule": "_orig_mod", "DataParallel": "module", "DistributedDataParallel": "module"}
"""Classes that wrap a network without changing what it computes, and their attribute that has it."""

_CONVERTED = ("torch.ao.nn.quantized", "torch.ao.nn.intrinsic.quantized", "torch.nn.quantized", "torchao.")
"""Python modules whose layers compute with INT8 kernels of torch's own."""


def plain(network: nn.Module, *, copied: bool) -> nn.Module:
    """The network in eval mode, on the CPU, without gradients, and without torch.compile and DataParallel.

    ``copied`` leaves the given network as it is, and takes a copy; where it cannot be copied, it is changed itself.
    Raises ModuleSourceError for what has no plain form: layers converted to INT8, sparse weights, weights that are not
    there.
    """
    network = _unwrapped(network)
    _require_plain(network)
    if copied:
        try:
            network = copy.deepcopy(network)
        except Exception:  # deepcopy calls the user's code; a tensor with a history is the usual cause
            copied = False
    for module in [*network.modules()]:
        for name, child in [*module.named_children()]:
            if (inner := _unwrapped(child)) is not child:
                setattr(module, name, inner)
    network = network.cpu().eval()
    for parameter in network.parameters():
        if parameter.is_leaf:  # those of a copied ScriptModule are not
            parameter.requires_grad_(False)
    return network


def in_float32(network: nn.Module, taken: Collection[str], run: Callable[[nn.Module], object]) -> nn.Module:
    """The network computing in float32, as far as that does not change what its code says.

    One that was loaded in half precision as a whole is cast. One of several dtypes casts by itself, and stays. So does
    one in the dtype of an input: ``taken`` are the dtypes of the inputs. One in float64 stays where it runs, which
    ``run`` tries.
    """
    tensors = (*network.parameters(), *network.buffers())
    dtypes = {str(t.dtype).removeprefix("torch.") for t in tensors if t.is_floating_point()}
    if len(dtypes) != 1 or dtypes & {"float32", *taken}:
        return network
    if dtypes == {"float64"}:
        with contextlib.suppress(Exception):
            run(network)
            return network
    return network.float()


def is_scripted(network: nn.Module) -> bool:
    """Whether the network, or a part of it, was scripted or traced by torch.jit."""
    return any(isinstance(module, torch.jit.ScriptModule) for module in network.modules())


def _unwrapped(network: nn.Module) -> nn.Module:
    while (attribute := _WRAPPERS.get(type(network).__name__)) and isinstance(
        inner := getattr(network, attribute, None), nn.Module
    ):
        network = inner
    return network


def _require_plain(network: nn.Module) -> None:
    for path, module in network.named_modules():
        if type(module).__module__.startswith(_CONVERTED) and ".qat" not in type(module).__module__:
            raise ModuleSourceError(
                f"the layer {path or 'of the whole network'} is a {type(module).__name__}, which was converted to INT8",
                remedy="Give the network as it was before torch.ao's convert(), with its fake quantisation if it was "
                "trained with it. torchlift makes the INT8 variants.",
            )
    for path, tensor in (*network.named_parameters(), *network.named_buffers()):
        said = None
        if isinstance(tensor, nn.parameter.UninitializedTensorMixin):
            said = "has no values yet: it belongs to a lazy layer", "Run the network once before you ship it."
        elif tensor.is_meta:
            said = "is on the device meta, without values", "Load the weights first."
        elif tensor.layout is not torch.strided:
            kind = str(tensor.layout).removeprefix("torch.")
            said = f"is sparse ({kind}), and ONNX has no such tensors", "Make it dense: tensor.to_dense()."
        if said:
            raise ModuleSourceError(f"the weight {path} {said[0]}", remedy=said[1])
