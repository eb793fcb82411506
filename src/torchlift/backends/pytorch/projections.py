"""Joins linear layers that read the same tensor, such as query, key and value of an attention, into one."""

from __future__ import annotations

import operator
from collections import defaultdict
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.fx import GraphModule, Node

_LINEAR = torch.ops.aten.linear.default


def fuse_projections(program: GraphModule) -> int:
    """Join linear layers of one input: one product with the joined weights, split afterwards. In place.

    Returns how many layers were replaced. On a GPU one large product keeps more of its processors busy than three small
    ones, above all at batch 1. A layer whose weight is read elsewhere too stays as it is.
    """
    readers: dict[tuple[Node, bool], list[Node]] = defaultdict(list)
    for node in program.graph.nodes:
        if node.target is _LINEAR and _is_private(node):
            readers[node.args[0], _bias(node) is not None].append(node)
    groups = [nodes for nodes in readers.values() if len(nodes) > 1]
    for number, nodes in enumerate(groups):
        _join(program, nodes, f"joined_{number}")
    program.graph.eliminate_dead_code()
    program.delete_all_unused_submodules()
    program.recompile()
    return sum(len(nodes) for nodes in groups)


def _bias(node: Node) -> Node | None:
    found = node.args[2] if len(node.args) > 2 else None
    return found if isinstance(found, Node) else None


def _is_private(node: Node) -> bool:
    parameters = [node.args[1], *([bias] if (bias := _bias(node)) is not None else [])]
    return all(isinstance(p, Node) and p.op == "get_attr" and len(p.users) == 1 for p in parameters)


def _join(program: GraphModule, nodes: Sequence[Node], name: str) -> None:
    first = nodes[0]
    sizes = [_tensor(program, node.args[1]).shape[0] for node in nodes]
    with program.graph.inserting_before(first):
        weight = _joined(program, [node.args[1] for node in nodes], f"{name}_weight")
        biases = [bias for node in nodes if (bias := _bias(node)) is not None]
        given = (first.args[0], weight, *([_joined(program, biases, f"{name}_bias")] if biases else []))
        product = program.graph.call_function(_LINEAR, given)
        parts = program.graph.call_function(torch.ops.aten.split_with_sizes.default, (product, sizes, -1))
        values = [program.graph.call_function(operator.getitem, (parts, index)) for index in range(len(nodes))]
    product.meta["val"] = torch.cat([node.meta["val"] for node in nodes], -1)
    parts.meta["val"] = [node.meta["val"] for node in nodes]
    for node, value in zip(nodes, values, strict=True):
        value.meta = dict(node.meta)
        node.replace_all_uses_with(value)
        program.graph.erase_node(node)


def _joined(program: GraphModule, parameters: Sequence[object], name: str) -> Node:
    """Replace several parameters by one, joined along the first axis; returns the node that reads it."""
    joined = torch.cat([_tensor(program, p) for p in parameters])
    program.register_parameter(name, nn.Parameter(joined, requires_grad=False))
    node = program.graph.get_attr(name)
    node.meta["val"] = torch.cat([p.meta["val"] for p in parameters if isinstance(p, Node)])
    return node


def _tensor(program: GraphModule, node: object) -> Tensor:
    assert isinstance(node, Node)
    owner, _, attribute = str(node.target).rpartition(".")
    found: Tensor = getattr(program.get_submodule(owner), attribute)
    return found.detach()
