"""Rules for FP16: which tensors of a node the ONNX standard allows in FP16, and which weights FP16 can hold."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
import onnx_ir as ir

from torchlift.graph.conditions import standard_opset

HALF_MAX = 65504.0
"""The largest finite number of FP16 (IEEE 754 binary16)."""

HALF_NORMAL = 2.0**-14
"""The smallest number that FP16 holds with full precision (11 bits)."""

LOST_SHARE = 0.01
"""A weight stays FP32 where more than this share of its non-zero elements would become 0."""

_STANDARD = frozenset({"", "ai.onnx"})

_SHAPES = frozenset({"Shape", "Size"})

_MOVES = frozenset({
    "Compress", "Concat", "DepthToSpace", "DequantizeLinear", "Dropout", "Expand", "Flatten", "Gather",
    "GatherElements", "GatherND", "Identity", "Pad", "QuantizeLinear", "Reshape", "ReverseSequence", "Scatter",
    "ScatterElements", "ScatterND", "Slice", "SpaceToDepth", "Split", "Squeeze", "Tile", "Transpose", "Trilu",
    "Unsqueeze",
})  # fmt: skip
"""Operators that move or reshape numbers and compute nothing. Their type follows from their neighbours."""

_PASSES_ON = (_MOVES | {"Where"}) - {"QuantizeLinear", "DequantizeLinear"}
"""Operators that pass the numbers of their inputs on unchanged. A number that FP16 cannot hold stays in the result."""

_RANDOM = "random numbers: a stated type and seed"
_STATED = "an attribute or another tensor states its type"
_COORDINATES = "coordinates: FP16 holds 11 bits, too few for positions"

_REFUSED = {
    "AffineGrid": _COORDINATES,
    "Bernoulli": _RANDOM,
    "BlackmanWindow": _STATED,
    "CastLike": _STATED,
    "Constant": _STATED,
    "ConstantOfShape": _STATED,
    "EyeLike": _STATED,
    "GridSample": _COORDINATES,
    "HammingWindow": _STATED,
    "HannWindow": _STATED,
    "MelWeightMatrix": _STATED,
    "Multinomial": _RANDOM,
    "RandomNormal": _RANDOM,
    "RandomNormalLike": _RANDOM,
    "RandomUniform": _RANDOM,
    "RandomUniformLike": _RANDOM,
    "RoiAlign": _COORDINATES,
}
"""Operators that stay FP32, although the standard allows them in FP16, and the reason in words."""

_FULL_INPUTS = {"Resize": frozenset({1, 2})}
"""Operator -> positions of inputs that stay FP32 in a converted node: regions and scales."""

_SCALE_INPUTS = {"QuantizeLinear": 1, "DequantizeLinear": 1}
"""Operator -> the input that is a quantisation scale. FP16 must hold it with full precision, since every quantised
number is a multiple of it."""

_NOT_COMPUTING = _MOVES | _SHAPES | {"Cast", "CastLike", "Constant", "ConstantOfShape", "EyeLike", "Range"}


@dataclass(frozen=True)
class Ports:
    """For each input and output of a node, whether it is FP16 once the node is converted."""

    inputs: tuple[bool, ...]
    outputs: tuple[bool, ...]


class Rules:
    """Which nodes of a graph can be converted. It looks at the graph before the conversion; values must have types."""

    def __init__(self, model: ir.Model) -> None:
        self._opset = standard_opset(model) or 1
        self._sized = _computed_from_sizes(model.graph)
        self._ports: dict[ir.Node, Ports] = {}
        self._refusals: dict[ir.Node, str] = {}
        for node in model.graph:
            if not any(_is_float(value) for value in (*node.inputs, *node.outputs)):
                continue
            ports = self._find_ports(node)
            reason = self._find_refusal(node, ports)
            if reason:
                self._refusals[node] = reason
            elif ports is not None:
                self._ports[node] = ports
        self._computing = {
            node
            for node in (*self._ports, *self._refusals)
            if node.op_type not in _NOT_COMPUTING and not any(v in self._sized for v in node.outputs)
        }

    def ports(self, node: ir.Node) -> Ports | None:
        """The inputs and outputs of a node that become FP16. None where it cannot be converted, or has no floats."""
        return self._ports.get(node)

    def refusal(self, node: ir.Node) -> str:
        """Why a node with floats cannot be converted, in words; "" where it can."""
        return self._refusals.get(node, "")

    def computes(self, node: ir.Node) -> bool:
        """Whether a node computes with floats. One that moves or casts them, or computes shapes, does not."""
        return node in self._computing

    def _find_refusal(self, node: ir.Node, ports: Ports | None) -> str:
        values = [v for v in (*node.inputs, *node.outputs) if v is not None and (v.name or v.type)]
        checks = (
            (any(a.type in _GRAPHS for a in node.attributes.values()), "it holds a subgraph"),
            (node.op_type in _REFUSED and node.domain in _STANDARD, _REFUSED.get(node.op_type, "")),
            (any(v in self._sized for v in node.outputs), "it is computed from sizes alone"),
            (ports is None, "it is no operator of the ONNX standard"),
            (any(v.dtype is None for v in values), "the type of one of its tensors is unknown"),
            (
                any(_is_float(v) and not isinstance(v.type, ir.TensorType) for v in values),
                "it takes no plain tensors",
            ),
            (ports is not None and not any((*ports.inputs, *ports.outputs)), _no_form(node)),
        )
        return next((reason for applies, reason in checks if applies), "")

    def _find_ports(self, node: ir.Node) -> Ports | None:
        import onnx

        if node.domain not in _STANDARD:
            return None
        try:
            schema = onnx.defs.get_schema(node.op_type, self._opset, "")
        except onnx.defs.SchemaError:
            return None
        full = _FULL_INPUTS.get(node.op_type, frozenset())
        if reads_any(node):
            full = frozenset({0})
        return Ports(
            tuple(i not in full and _is_float(v) and _allows(schema.inputs, i) for i, v in enumerate(node.inputs)),
            tuple(_is_float(v) and _allows(schema.outputs, i) for i, v in enumerate(node.outputs)),
        )


_GRAPHS = frozenset({ir.AttributeType.GRAPH, ir.AttributeType.GRAPHS})


def moves(node: ir.Node) -> bool:
    """Whether a node is a Cast or only moves numbers, so that its type follows from its neighbours."""
    return node.domain in _STANDARD and (node.op_type in _MOVES or node.op_type == "Cast")


def passes_on(node: ir.Node) -> bool:
    """Whether the result of a node holds the numbers of its inputs unchanged."""
    return node.domain in _STANDARD and node.op_type in _PASSES_ON


def reads_any(node: ir.Node) -> bool:
    """Whether a node reads FP32 and FP16 with the same result, as Shape and Cast do."""
    return node.domain in _STANDARD and (node.op_type in _SHAPES or node.op_type == "Cast")


def scale_misfit(node: ir.Node, index: int, array: np.ndarray) -> str:
    """Why input ``index`` of ``node``, if it is a quantisation scale, is too small for FP16, in words.

    "" where FP16 holds it, and for all other inputs.
    """
    if _SCALE_INPUTS.get(node.op_type) != index:
        return ""
    small = float(np.abs(array[array != 0]).min(initial=np.inf))
    return f"is a scale of {small:.3g}, of which FP16 loses bits" if small < HALF_NORMAL else ""


def misfit(array: np.ndarray) -> str:
    """Why FP16 cannot hold a weight (float32 of any shape), in words; "" where it can.

    Infinite elements do not count, since FP16 has infinities.
    """
    large = lost = nonzero = 0
    top = 0.0
    flat = array.reshape(-1)
    for start in range(0, flat.size, _CHUNK):
        size = np.abs(flat[start : start + _CHUNK])
        filled = int(np.count_nonzero(size))
        nonzero += filled
        lost += int(np.count_nonzero(size <= _LARGEST_LOST)) - (size.size - filled)
        if size.max() >= _SMALLEST_BEYOND:
            beyond = size[(size >= _SMALLEST_BEYOND) & (size < np.inf)]
            large += beyond.size
            top = max(top, float(beyond.max(initial=0.0)))
    alone = flat.size == 1
    if large:
        return f"is {flat[0]:.4g}, beyond 65504" if alone else f"holds {large} numbers beyond 65504, up to {top:.4g}"
    if lost > LOST_SHARE * nonzero:
        return f"is {flat[0]:.3g}, which FP16 rounds to 0" if alone else f"would lose {lost / nonzero:.0%} to 0"
    return ""


_SMALLEST_BEYOND, _LARGEST_LOST = 65520.0, 2.0**-25
"""Rounded to FP16 (to nearest, ties to even), a magnitude from the first number on becomes infinite, and one up to the
second becomes 0."""

_CHUNK = 1 << 18
"""How many elements are looked at together, so that a large weight is not copied as a whole."""


def _no_form(node: ir.Node) -> str:
    return f"the ONNX standard has no {node.op_type} in FP16 at this opset"


def _is_float(value: ir.Value | None) -> bool:
    return value is not None and value.dtype == ir.DataType.FLOAT


def _allows(parameters, index: int) -> bool:  # type: ignore[no-untyped-def]
    return "tensor(float16)" in parameters[min(index, len(parameters) - 1)].types


def _computed_from_sizes(graph: ir.Graph) -> set[ir.Value]:
    """The values that are computed from sizes of tensors, single numbers and integer constants only.

    Positions that are made from a sequence's length are an example.
    """
    sized: set[ir.Value] = set()
    for node in graph:
        read = [v for v in node.inputs if v is not None]
        alone = any(v in sized for v in read) and all(v in sized or _is_number(v) for v in read)
        if alone or (node.op_type in _SHAPES and node.domain in _STANDARD):
            sized.update(node.outputs)
    return sized


def _is_number(value: ir.Value) -> bool:
    constant = value.const_value if value.is_initializer() else None
    return constant is not None and (constant.size <= 1 or not constant.dtype.is_floating_point())
