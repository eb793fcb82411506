"""Rules for a compiler that chooses types itself (TensorRT before 10). They write patterns in the form that it computes
fast.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import Any

import onnx_ir as ir

from torchlift.graph.fusion.pattern import tensor_of
from torchlift.graph.lower_steps import Steps

_BEFORE_SOFTMAX = frozenset({"Add", "Cast", "Where"})
"""Operators that may stand between the scores of an attention and their Softmax: a mask, a Cast."""

_LEAST_SCALE = 1 / 32
"""The scale for heads of width 1024; smaller ones stay. Unscaled scores overflow FP16 where scaled ones exceed
65504 times the scale."""


def scaled_scores(steps: Steps) -> ir.Value | None:
    """Write Softmax((q * a) (k * b)) as Softmax((q k) * ab). TensorRT recognises an attention only in that form.

    In FP16 the unscaled scores overflow earlier. For heads of width 64 that is at scaled scores of 8188, where a
    softmax has long been saturated. Scales below those of attentions stay as they are, and so do products with a
    constant.
    """
    factors = [_scaled(value) for value in steps.node.inputs]
    scale = math.prod(factor.scale for factor in factors)
    fixed = any(tensor_of(value) is not None for value in steps.node.inputs)
    if fixed or scale == 1 or not scale >= _LEAST_SCALE or not _reach_softmax(steps.node.outputs[0]):
        return None
    product = steps.op("product", "MatMul", *(factor.unscaled(steps) for factor in factors))
    return steps.op("scaled", "Mul", product, steps.number("scale", scale, product))


def _reach_softmax(value: ir.Value) -> bool:
    users = [use.node for use in value.uses()]
    if len(users) != 1 or value.is_graph_output():
        return False
    user = users[0]
    return user.op_type == "Softmax" or (user.op_type in _BEFORE_SOFTMAX and _reach_softmax(user.outputs[0]))


@dataclass(frozen=True)
class _Scaled:
    """A value that is ``scale`` times the value ``of``, transposed by the nodes ``turns`` (the last one first)."""

    of: ir.Value
    scale: float = 1.0
    turns: tuple[ir.Node, ...] = ()

    def unscaled(self, steps: Steps) -> ir.Value:
        value = self.of
        for turn in reversed(self.turns):
            kept = {name: attribute.value for name, attribute in turn.attributes.items()}
            value = steps.op("turned", "Transpose", value, **kept)
        return value


def _scaled(value: Any) -> _Scaled:
    """The value that ``value`` is a constant multiple of. A multiple that others read too does not count: scale 1."""
    found, turns = value, []
    while (node := _writer_for_one(found)) is not None:
        if node.op_type == "Transpose":
            turns.append(node)
            found = node.inputs[0]
            continue
        for multiplied, factor in (node.inputs, node.inputs[::-1]) if node.op_type == "Mul" else ():
            tensor = None if factor is None else tensor_of(factor)
            if tensor is not None and tensor.size == 1 and len(tensor.shape) <= 1:
                return _Scaled(multiplied, float(tensor.numpy().item()), tuple(turns))
        break
    return _Scaled(value)


def _writer_for_one(value: ir.Value) -> ir.Node | None:
    """The node that writes a value, where exactly one node reads the value; else None."""
    return value.producer() if len(value.uses()) == 1 and not value.is_graph_output() else None
