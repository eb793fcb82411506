"""How graphs are written for a compiler that chooses its own types (TensorRT before 10): what it computes slowly, or
wrongly, in the form that is usual elsewhere.
"""

from __future__ import annotations

from collections.abc import Mapping

import onnx_ir as ir

from torchlift.graph.fusion.pattern import tensor_of
from torchlift.graph.lower_steps import Rule, Steps

_ON_THE_WAY = frozenset({"Add", "Cast", "Where"})
"""What may come between the scores of an attention and their Softmax: a mask."""


def scaled_scores(steps: Steps) -> ir.Value | None:
    """Softmax((q * scale) k) becomes Softmax((q k) * scale): only so does TensorRT take an attention for one.

    Unscaled scores overflow half precision where scaled ones are beyond 65504 * scale. That is 8188 for heads of 64:
    numbers that are 4 apart there, of which no softmax is right.
    """
    if not _reach_softmax(steps.node.outputs[0]):
        return None
    query, scale = _unscaled(steps.node.inputs[0])
    if scale is None:
        return None
    product = steps.op("product", "MatMul", query, steps.node.inputs[1])
    return steps.op("scaled", "Mul", product, scale)


def _reach_softmax(value: ir.Value) -> bool:
    users = [use.node for use in value.uses()]
    if len(users) != 1 or value.is_graph_output():
        return False
    return users[0].op_type == "Softmax" or (users[0].op_type in _ON_THE_WAY and _reach_softmax(users[0].outputs[0]))


def _unscaled(value: ir.Value | None) -> tuple[ir.Value | None, ir.Value | None]:
    """What a value is a multiple of, and the constant that it is multiplied by: None where there is none, or others
    read the multiple.
    """
    node = None if value is None else value.producer()
    if value is None or node is None or node.op_type != "Mul" or len(value.uses()) != 1 or value.is_graph_output():
        return value, None
    for multiplied, factor in (node.inputs, node.inputs[::-1]):
        tensor = None if factor is None else tensor_of(factor)
        if tensor is not None and tensor.size == 1 and len(tensor.shape) <= 1:
            return multiplied, factor
    return value, None


def clamped_product(steps: Steps) -> ir.Value | None:
    """Relu after a product of integers becomes Max(..., 0): TensorRT 8.5.3 leaves out a Relu that it may fuse into a
    kernel that reads INT8 and writes half precision.
    """
    node = steps.node.inputs[0].producer()
    if node is not None and node.op_type == "Add":
        node = next((n for v in node.inputs if (n := v.producer()) is not None and n.op_type == "MatMul"), None)
    if node is None or node.op_type not in ("Gemm", "MatMul") or not _of_integers(node):
        return None
    return steps.op("clamped", "Max", steps.node.inputs[0], steps.number("zero", 0, steps.node.inputs[0]))


def _of_integers(node: ir.Node) -> bool:
    """Whether both factors come from DequantizeLinear, a cast or a transposition between at most."""
    for value in node.inputs[:2]:
        writer = None if value is None else value.producer()
        while writer is not None and writer.op_type in ("Cast", "Transpose"):
            writer = writer.inputs[0].producer()
        if writer is None or writer.op_type != "DequantizeLinear":
            return False
    return True


UNTYPED: Mapping[str, Rule] = {"MatMul": scaled_scores, "Relu": clamped_product}
"""Operator -> how it is written for such a compiler."""
