"""The schemes of INT8 that runtimes compute fast, and the nodes of a graph that they can quantise."""

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
"""The operators that are quantised, since they hold nearly all arithmetic of a network. Their weight must be a
constant: the two products within an attention stay in floating point, and so do LayerNorm and softmax.
"""

LEAST_OPSET = 13
"""The first opset whose DequantizeLinear has an axis, for scales by channel."""

_CLAMPS = frozenset({"Clip", "Relu"})


@dataclass(frozen=True)
class Scheme:
    """One way to quantise. Weights are always symmetric int8, with a scale for each output channel.

    - ``activations`` is the integer type of the tensor that a node reads. A pair of QuantizeLinear and DequantizeLinear
      with one scale converts it. None: no pair.
    - ``dynamic``: DynamicQuantizeLinear finds the range of that tensor at run time, and MatMulInteger multiplies.
    - ``biases`` is the type of the biases of Conv and Gemm. With int32, the output of a Conv gets a pair too: ONNX
      Runtime has integer kernels only for that form.
    - ``stem``: convolutions that read the graph's inputs are quantised too. By default they stay FP32, since they are
      little work, and 8 bits would coarsen the image itself.
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
"""The schemes by name. u8s8 is for ONNX Runtime on x86, s8s8 for OpenVINO and TensorRT, dynamic for ONNX Runtime
without calibration. weights quantises weights alone, for networks that were trained with fake quantisation of weights
only.
"""


def quantizable(model: ir.Model, scheme: Scheme) -> list[Unit]:
    """The nodes that ``scheme`` can quantise, in the order of the graph.

    The model is changed: all nodes get names, and Constant nodes become initializers. Raises ConversionError for an
    opset before 13.
    """
    return [unit_of(node) for node in candidates(model, scheme)]


def observed(model: ir.Model, scheme: Scheme, keep: Collection[str] = ()) -> list[str]:
    """The tensors whose ranges are needed to quantise all nodes but those of ``keep``, in the order of the graph.

    Raises ConversionError for an opset before 13.
    """
    names: dict[str, None] = {}
    if scheme.activations:
        for node in candidates(model, scheme):
            if node.name not in keep:
                names |= dict.fromkeys([node.inputs[0].name, *(v.name for v in results(node, scheme))])
    return list(names)


def candidates(model: ir.Model, scheme: Scheme) -> list[ir.Node]:
    """The nodes that :func:`quantizable` describes."""
    from onnx_ir.passes.common import LiftConstantsToInitializersPass

    require_opset(model, LEAST_OPSET, needs="scales by channel")
    name_nodes(model)
    LiftConstantsToInitializersPass(lift_all_constants=True, size_limit=0)(model)
    return [node for node in model.graph if _fits(node, scheme) and (scheme.stem or not is_stem(node))]


def unit_of(node: ir.Node) -> Unit:
    return Unit(node.name or "", node.op_type, module_of(node))


def results(node: ir.Node, scheme: Scheme) -> list[ir.Value]:
    """The outputs of a node that get a pair: of a Conv with int32 biases, behind its ReLU or Clip if it has one."""
    if node.op_type != "Conv" or scheme.activations is None or scheme.biases != "int32":
        return []
    value = node.outputs[0]
    users = value.uses()
    if len(users) == 1 and not value.is_graph_output() and users[0].node.op_type in _CLAMPS:
        value = users[0].node.outputs[0]
    return [value]


def _fits(node: ir.Node, scheme: Scheme) -> bool:
    """Whether a node multiplies a float32 tensor by a constant float32 weight in a form that integers can compute."""
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
    """Whether a node is a convolution that reads the graph's inputs, with no other product in between."""
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
    """Whether a graph has an Attention, or a MatMul that reads a Softmax, with or without a mask between them."""
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
    """The axis of the output channels in the weight of a node."""
    return 0 if node.op_type == "Conv" or attribute(node, "transB", 0) else 1


def work(node: ir.Node) -> int:
    """The number of multiplications of a Conv, Gemm or MatMul. A size that varies or is unknown counts as 1."""
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
