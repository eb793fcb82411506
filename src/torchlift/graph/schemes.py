"""The forms of INT8 that runtimes run fast, and which nodes of a graph can take them."""

from __future__ import annotations

from collections.abc import Collection
from dataclasses import dataclass
from math import prod
from typing import Literal

import onnx_ir as ir

from torchlift.graph.conditions import require_opset
from torchlift.graph.qdq import Integer
from torchlift.graph.units import Unit, module_of, name_nodes

PRODUCTS = frozenset({"Conv", "Gemm", "MatMul"})
"""Where nearly all arithmetic of a network is. They are quantised only where the weight is a constant: the two products
within attention stay in floating point, as do LayerNorm and softmax.
"""

LEAST_OPSET = 13
"""The first opset of which DequantizeLinear has an axis."""

_CLAMPS = frozenset({"Clip", "Relu"})


@dataclass(frozen=True)
class Scheme:
    """A form of INT8. Weights are int8, symmetric, with a scale for each output channel, in a quarter of the bytes.

    ``activations`` is the integer type that a pair of QuantizeLinear and DequantizeLinear gives to what a node reads,
    with one scale a tensor; None: no pair. ``dynamic``: instead, DynamicQuantizeLinear finds the range at run time, and
    MatMulInteger multiplies. ``biases``: biases of Conv and Gemm become int32, and what a Conv writes gets a pair too:
    ONNX Runtime has integer kernels for them only in that form. ``stem``: the convolutions that read the graph's inputs
    are quantised too; by default they stay FP32, since they are little work and hold the finest steps of an image.
    """

    name: str
    operators: frozenset[str] = PRODUCTS
    activations: Integer | None = None
    dynamic: bool = False
    biases: Literal["float32", "int32"] = "float32"
    stem: bool = False


SCHEMES: dict[str, Scheme] = {
    scheme.name: scheme
    for scheme in (
        Scheme("int8-u8s8", activations="uint8", biases="int32"),
        Scheme("int8-s8s8", activations="int8"),
        Scheme("int8-dynamic", operators=frozenset({"Gemm", "MatMul"}), dynamic=True),
        Scheme("int8-weights"),
    )
}
"""By name: for ONNX Runtime on x86; for OpenVINO and TensorRT; for ONNX Runtime without calibration; and weights alone,
for networks trained with weights-only fake quantisation.
"""


def quantizable(model: ir.Model, scheme: Scheme) -> list[Unit]:
    """The nodes that ``scheme`` quantises unless they are kept, in the order of the graph.

    Gives all nodes names and makes Constant nodes initializers. Raises ConversionError for an opset before 13.
    """
    return [unit_of(node) for node in candidates(model, scheme)]


def observed(model: ir.Model, scheme: Scheme, keep: Collection[str] = ()) -> list[str]:
    """The tensors whose ranges are needed to quantise all but the nodes named by ``keep``, in the order of the graph.

    Raises ConversionError for an opset before 13.
    """
    names: dict[str, None] = {}
    if scheme.activations:
        for node in candidates(model, scheme):
            if node.name not in keep:
                names |= dict.fromkeys([node.inputs[0].name, *(v.name for v in results(node, scheme))])
    return list(names)


def candidates(model: ir.Model, scheme: Scheme) -> list[ir.Node]:
    """The nodes of :func:`quantizable` themselves."""
    from onnx_ir.passes.common import LiftConstantsToInitializersPass

    require_opset(model, LEAST_OPSET, needs="scales by channel")
    name_nodes(model)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    return [node for node in model.graph if _fits(node, scheme) and (scheme.stem or not is_stem(node))]


def unit_of(node: ir.Node) -> Unit:
    return Unit(node.name or "", node.op_type, module_of(node))


def results(node: ir.Node, scheme: Scheme) -> list[ir.Value]:
    """What gets a pair because a node writes it: after its ReLU or Clip, where nothing else reads the node."""
    if node.op_type != "Conv" or scheme.activations is None or scheme.biases != "int32":
        return []
    value = node.outputs[0]
    users = value.uses()
    if len(users) == 1 and not value.is_graph_output() and users[0].node.op_type in _CLAMPS:
        value = users[0].node.outputs[0]
    return [value]


def _fits(node: ir.Node, scheme: Scheme) -> bool:
    """Whether a node multiplies a float32 tensor by a constant float32 weight in a way that has a form in integers."""
    if node.domain not in ("", "ai.onnx") or node.op_type not in scheme.operators:
        return False
    data, weight = node.inputs[:2]
    if data is None or data.is_initializer() or weight is None or not weight.is_initializer():
        return False
    if weight.const_value is None or weight.const_value.dtype != ir.DataType.FLOAT:
        return False
    rank = len(weight.const_value.shape)
    if node.op_type == "Conv":
        return rank >= 3 and not any(v.is_graph_output() for v in results(node, scheme))
    plain = attribute(node, "alpha", 1) == attribute(node, "beta", 1) == 1 and not attribute(node, "transA", 0)
    return rank == 2 and plain


def attribute(node: ir.Node, name: str, default: float) -> float:
    found = node.attributes.get(name)
    return default if found is None else found.value


def is_stem(node: ir.Node) -> bool:
    """Whether a node is a convolution that reads the graph's inputs, through nothing that multiplies."""
    if node.op_type != "Conv":
        return False
    seen: set[ir.Node] = set()
    todo = [node.inputs[0]]
    while todo:
        value = todo.pop()
        before = value.producer() if value is not None else None
        if before is None or before in seen:
            continue
        if before.op_type in PRODUCTS:
            return False
        seen.add(before)
        todo += before.inputs
    return True


def has_attention(model: ir.Model) -> bool:
    """Whether a softmax, or what moves or masks it, is multiplied by another activation; or an Attention is there."""
    for node in model.graph:
        if node.op_type in ("Attention", "MultiHeadAttention"):
            return True
        if node.op_type == "MatMul":
            before = _before(node, 0)
            while before is not None and before.op_type in ("Cast", "Dropout", "Reshape", "Where"):
                before = _before(before, 2 if before.op_type == "Where" else 0)
            if before is not None and before.op_type == "Softmax":
                return True
    return False


def _before(node: ir.Node, index: int) -> ir.Node | None:
    value = node.inputs[index]
    return value.producer() if value is not None else None


def channel_axis(node: ir.Node) -> int:
    """The axis of a weight along which the output channels lie."""
    return 0 if node.op_type == "Conv" or attribute(node, "transB", 0) else 1


def work(node: ir.Node) -> int:
    """The multiplications of a Conv, Gemm or MatMul; a size that varies or is unknown counts as 1."""
    left, right = (v.shape for v in node.inputs[:2])
    out = node.outputs[0].shape
    positions = list(out or ())
    if node.op_type == "Conv":
        return _known(right) * _known(positions[2:])
    if node.inputs[1].is_initializer():
        return _known(right) * _known(positions[:-1])
    return _known(positions) * _known(list(left or ())[-1:])


def _known(sizes) -> int:  # type: ignore[no-untyped-def]
    return prod(size for size in sizes or () if isinstance(size, int))
