"""Joins the projections of query, key and value of an attention into one product."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass

import onnx_ir as ir

from torchlift.graph.fusion.base import CONTRIB, FLOATS, Fusion, Tape, replace_values
from torchlift.graph.fusion.pattern import addends, attribute, is_vector, readers, tensor_of

_SCORES_BIAS = 5
"""The position of the input that is added to the scores, in MultiHeadAttention and in Attention."""


@dataclass(frozen=True)
class _Projection:
    """``output`` = x @ weight + bias, where weight is [inner, width] and bias is [width] or None."""

    output: ir.Value
    x: ir.Value
    weight: ir.Value
    width: int
    bias: ir.Value | None

    def joins(self, other: _Projection) -> bool:
        """Whether one product can compute both projections."""
        alike = (self.x, self.weight.dtype, self.bias is None) == (other.x, other.weight.dtype, other.bias is None)
        return alike and self.output is not other.output


class FuseQkv(Fusion):
    """Joins the projections x @ q + b, x @ k + c, x @ v + d of one MultiHeadAttention.

    - Where it fits, they become com.microsoft::Attention, which multiplies once and adds the biases as it splits the
      product. It needs three projections of equal width, all with a bias, that nothing else reads.
    - Otherwise projections of one x become one product and a Split. It needs at least two, all with a bias or all
      without. Key and value of an attention with one query are such a pair.

    Both need constant matrices in float32 or float16, and no other reader of a product before its bias is added. The
    graph joins the matrices by a Concat. The runtime computes that once when it builds, so no weight is read here. The
    opset must be 13 or later.

    On a Hopper GPU both operators use cuDNN's kernel, also with a bias of the scores (seen with ONNX Runtime 1.31.1).
    Attention does since pull request 29717 of July 2026. Earlier releases use flash attention in Attention only for
    lengths above 512, else cutlass's kernel.
    """

    name = "qkv"
    least_opset = 13

    def fuse(self, graph: ir.Graph) -> int:
        """Join the projections of every attention; returns how many groups of them became one product."""
        attentions = [node for node in graph if (node.domain, node.op_type) == (CONTRIB, "MultiHeadAttention")]
        found = [(group, attention) for attention in attentions for group in _groups(attention)]
        for group, attention in found:
            write = _write_attention if _fits_attention(group, attention) else _write_product
            write(group, attention, graph)
        return len(found)


def _groups(attention: ir.Node) -> Iterator[list[_Projection]]:
    """Groups of projections, of query, key and value, that one product can compute. A group has two at least."""
    found = [p for value in attention.inputs[:3] if (p := _projection(value)) is not None]
    while found:
        group = [found[0], *(p for p in found[1:] if p.joins(found[0]))]
        found = [p for p in found if p not in group]
        if len(group) > 1:
            yield group


def _projection(value: ir.Value | None) -> _Projection | None:
    if value is None or value.is_graph_output():
        return None
    node, bias = value.producer(), None
    if (parts := addends(value)) is not None:
        product, bias = parts
        if readers(product) != 1:
            return None
        node = product.producer()
    if node is None or (node.domain, node.op_type) != ("", "MatMul"):
        return None
    x, weight = node.inputs
    matrix = tensor_of(weight)
    if x is None or weight is None or matrix is None or len(matrix.shape) != 2 or matrix.dtype not in FLOATS:
        return None
    width = int(matrix.shape[1])
    if bias is not None and not is_vector(bias, width):
        return None
    return _Projection(value, x, weight, width, bias)


def _fits_attention(group: Sequence[_Projection], attention: ir.Node) -> bool:
    """Whether Attention can replace a MultiHeadAttention.

    The MultiHeadAttention must read nothing but these three projections and a bias of the scores. The projections must
    have one width and a bias each, and nothing else may read them.
    """
    others = [value for place, value in enumerate(attention.inputs) if place > 2 and place != _SCORES_BIAS]
    return (
        [p.output for p in group] == list(attention.inputs[:3])
        and all(p.bias is not None and p.width == group[0].width and readers(p.output) == 1 for p in group)
        and all(value is None for value in others)
        and len(attention.outputs) == 1
        and {*attention.attributes} <= {"num_heads", "scale"}
    )


def _write_attention(group: Sequence[_Projection], attention: ir.Node, graph: ir.Graph) -> None:
    tape = Tape(graph, str(attention.outputs[0].name), attention.metadata_props)
    absent = [None] * (_SCORES_BIAS - 3)
    inputs = [group[0].x, *_joined(group, tape), *absent, *attention.inputs[_SCORES_BIAS : _SCORES_BIAS + 1]]
    kept = {name: attribute(attention, name) for name in attention.attributes}
    fused = tape.op("Attention", *inputs, domain=CONTRIB, **kept)
    replace_values(graph, attention, tape, {attention.outputs[0]: fused})


def _write_product(group: Sequence[_Projection], attention: ir.Node, graph: ir.Graph) -> None:
    tape = Tape(graph, f"{attention.outputs[0].name}/projected", attention.metadata_props)
    weight, bias = _joined(group, tape)
    product = tape.op("MatMul", group[0].x, weight)
    if bias is not None:
        product = tape.op("Add", product, bias)
    parts = tape.node("Split", product, tape.integers(*(p.width for p in group)), outputs=len(group), axis=-1).outputs
    place = group[0].output.producer()
    assert place is not None
    replace_values(graph, place, tape, {p.output: part for p, part in zip(group, parts, strict=True)})


def _joined(group: Sequence[_Projection], tape: Tape) -> tuple[ir.Value, ir.Value | None]:
    """The matrices side by side as one, and the biases one after the other; None where there are no biases."""
    weight = tape.op("Concat", *(p.weight for p in group), axis=1)
    return weight, None if group[0].bias is None else tape.op("Concat", *(p.bias for p in group), axis=0)
