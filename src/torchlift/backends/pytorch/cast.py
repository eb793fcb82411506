"""Moves a float32 module to a device and casts it. In a program, the nodes that name a device or a type change too."""

from __future__ import annotations

import math
import operator
from typing import Any

import torch
from torch import nn
from torch.fx import GraphModule, Node
from torch.fx.node import map_aggregate

_FILLS = frozenset(
    {
        torch.ops.aten.full.default,
        torch.ops.aten.full_like.default,
        torch.ops.aten.new_full.default,
        torch.ops.aten.scalar_tensor.default,
        torch.ops.aten.fill.Scalar,
        torch.ops.aten.masked_fill.Scalar,
        torch.ops.aten.masked_fill_.Scalar,
        torch.ops.aten.where.Scalar,
        torch.ops.aten.where.ScalarOther,
        torch.ops.aten.where.ScalarSelf,
    }
)
"""Operators that write a number as it is. A mask may be filled with the lowest float32, for example, which float16 does
not hold. Then the lowest or highest number of the type takes its place."""


def move(module: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Make a float32 module compute on ``device`` in ``dtype``. Inputs must then have that device and type."""
    if isinstance(module, GraphModule):
        _retarget(module, device, dtype)
    else:
        module.to(device, None if dtype == torch.float32 else dtype)


def _retarget(program: GraphModule, device: torch.device, dtype: torch.dtype) -> None:
    """Move a program and its weights, and change each node accordingly.

    An operator with a float32 input gets an input of ``dtype``, and its result has that type too. An argument that
    names float32 is changed. An operator that has no float32 input but writes float32, such as one that counts or
    fills, still computes in float32, and its result is cast. Kernels of normalisation and softmax accumulate in float32
    by themselves.
    """
    for node in list(program.graph.nodes):
        _change(program, node, device, dtype)
    program.recompile()
    _move_weights(program, device, dtype)


def _move_weights(program: nn.Module, device: torch.device, dtype: torch.dtype) -> None:
    """Replace all tensors of a program by moved ones. A tensor that two modules share stays shared.

    They are not changed in place, since some are views, and a view keeps the type of its base.
    """
    moved: dict[object, nn.Parameter] = {}
    for part in program.modules():
        for name, tensor in [*part.named_parameters(recurse=False)]:
            lies = (tensor.data_ptr(), tensor.shape, tensor.stride())
            if lies not in moved:
                moved[lies] = nn.Parameter(_moved(tensor.detach(), device, dtype), requires_grad=False)
            setattr(part, name, moved[lies])
        for name, tensor in [*part.named_buffers(recurse=False)]:
            setattr(part, name, _moved(tensor, device, dtype))


def _moved(tensor: torch.Tensor, device: torch.device, dtype: torch.dtype) -> torch.Tensor:
    """A tensor on ``device``; cast to ``dtype`` if it is float32. Finite numbers stay finite: they are clamped."""
    tensor = tensor.to(device)
    if tensor.dtype != torch.float32 or dtype == torch.float32:
        return tensor
    limit = torch.finfo(dtype).max
    return torch.where(tensor.isinf(), tensor, tensor.clamp(-limit, limit)).to(dtype)


def _change(program: GraphModule, node: Node, device: torch.device, dtype: torch.dtype) -> None:
    if node.target == torch.ops.aten._assert_tensor_metadata.default:
        program.graph.erase_node(node)
        return
    if node.op != "call_function":
        return
    follows = any(_is_float32(source) for source in node.all_input_nodes)
    limit = torch.finfo(dtype).max

    def changed(value: Any) -> Any:
        if isinstance(value, torch.device):
            return device
        if value is torch.float32 and follows:
            return dtype
        if isinstance(value, float) and node.target in _FILLS and math.isfinite(value):
            return min(max(value, -limit), limit)
        return value

    node.args, node.kwargs = map_aggregate(node.args, changed), map_aggregate(node.kwargs, changed)
    if _is_float32(node) and not follows and node.target is not operator.getitem and dtype != torch.float32:
        with program.graph.inserting_after(node):
            cast = program.graph.call_function(torch.ops.aten.to.dtype, (node, dtype))
        cast.meta["val"] = node.meta["val"]
        node.replace_all_uses_with(cast, delete_user_cb=lambda user: user is not cast)


def _is_float32(node: Node) -> bool:
    """Whether the result of a node was a float32 tensor when the program was traced."""
    return getattr(node.meta.get("val"), "dtype", None) == torch.float32
