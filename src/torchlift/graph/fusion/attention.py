"""Fuses attention, written as MatMul, Softmax and MatMul, to ONNX Runtime's MultiHeadAttention."""

from __future__ import annotations

from dataclasses import dataclass

import onnx_ir as ir

from torchlift.graph.fusion.base import CONTRIB, FLOATS, PatternFusion, Tape
from torchlift.graph.fusion.pattern import Found, OneOf, Op, Pattern, Scalar, attribute, same_sizes, scalar

_SPLIT = (0, 2, 1, 3)
"""The permutation from [batch, length, heads, width] to [batch, heads, length, width], and back."""


def _scaled(pattern: Pattern, name: str) -> OneOf:
    """A pattern, or that pattern multiplied or divided by a number."""
    return OneOf(Op("Mul", pattern, Scalar(f"{name}*")), Op("Div", pattern, Scalar(f"{name}/")), pattern)


_KEY = OneOf(
    Op("Transpose", "key", perm=(0, 2, 3, 1)),
    Op("Transpose", Op("Transpose", "key", perm=_SPLIT), perm=(0, 1, 3, 2)),
)
_SCORES = _scaled(Op("MatMul", _scaled("query", "query"), _scaled(_KEY, "key")), "scores")


@dataclass(frozen=True)
class _Heads:
    """A value [batch, length, count, width] that is split into heads.

    With length 1 it may also be [batch, count, 1, width], which is the same in memory.
    """

    value: ir.Value
    batch: int | ir.SymbolicDim
    length: int | ir.SymbolicDim
    count: int
    width: int

    def rows(self, tape: Tape) -> ir.Value:
        """The value as [batch, length, count * width]: the value that it was split from if known, else a Reshape."""
        source = self.value.producer()
        if source is not None and source.op_type == "Reshape" and not source.domain:
            shape = source.inputs[0].shape
            if shape is not None and same_sizes(list(shape), [self.batch, self.length, self.count * self.width]):
                return source.inputs[0]
        length = 1 if self.length == 1 else 0
        return tape.op("Reshape", self.value, tape.integers(0, length, self.count * self.width))


class FuseAttention(PatternFusion):
    """softmax(scale * query @ key^T + bias) @ value -> com.microsoft::MultiHeadAttention.

    An attention is fused under these conditions:

    - Heads are split from [batch, length, heads * width] by Reshape and Transpose. A query of length 1 may be split by
      Reshape alone.
    - The type is float32 or float16. The number and the width of the heads are known. All inputs have one batch.
    - The scale is one number. The bias broadcasts to [batch, heads, query's length, key's length].

    The operator does not broadcast a bias along the query's length. So a bias that is the same for every query is
    expanded here, once for all layers.

    The bias is passed as a bias, and not as the operator's key_padding_mask, which would bring nothing. On a GPU flash
    attention takes neither of them. The kernel of cutlass takes a bias where the query's length is a multiple of 8 (in
    FP16). Of masks it takes only lengths with offsets, and not every mask can be written so
    (contrib_ops/cuda/bert/multihead_attention.cc of ONNX Runtime).
    """

    name = "attention"
    least_opset = 15
    patterns = (
        Op(
            "MatMul",
            Op("Softmax", OneOf(Op("Add", _SCORES, "bias"), _SCORES), name="softmax"),
            Op("Transpose", "value", perm=_SPLIT),
        ),
    )

    def fuse(self, graph: ir.Graph) -> int:
        """Replace every occurrence of the patterns; returns how many there were."""
        self._expanded: dict[tuple[ir.Value, object, object], ir.Value] = {}
        return super().fuse(graph)

    def replace(self, found: Found, tape: Tape) -> dict[ir.Value, ir.Value] | None:
        query = _query_heads(found.values["query"])
        key, value = (_split_heads(found.values[name]) for name in ("key", "value"))
        softmax = found.named["softmax"]
        if query is None or key is None or value is None or not found.is_private():
            return None
        if attribute(softmax, "axis") not in (None, -1, 3) or softmax.outputs[0].dtype not in FLOATS:
            return None
        if not (query.count == key.count == value.count and query.width == key.width):
            return None
        if not (_alike(query.batch, key.batch) and _alike(value.batch, key.batch)):
            return None
        bias = found.values.get("bias")
        if bias is not None and not _fits(bias, query.count):
            return None
        inputs = [heads.rows(tape) for heads in (query, key, value)]
        if bias is not None:
            inputs += [None, None, self._full(bias, (query, inputs[0]), (key, inputs[1]), tape)]
        mixed = tape.op("MultiHeadAttention", *inputs, domain=CONTRIB, num_heads=query.count, scale=_scale(found))
        return _merged(found.output, mixed, query, value, tape)

    def _full(
        self, bias: ir.Value, query: tuple[_Heads, ir.Value], key: tuple[_Heads, ir.Value], tape: Tape
    ) -> ir.Value:
        """The bias, expanded to the query's and the key's length. ``query`` and ``key`` are heads with their rows."""
        lengths = [heads.length for heads, _ in (query, key)]
        if len(bias.shape) == 4 and same_sizes(list(bias.shape)[2:], lengths):
            return bias
        place = (bias, *(getattr(length, "value", length) for length in lengths))
        if None in place or place not in self._expanded:
            told = same_sizes(list(bias.shape)[-1:], lengths[1:])
            sizes = [tape.op("Shape", bias, start=len(bias.shape) - 1) if told else _length(*key, tape)]
            sizes.insert(0, sizes[0] if same_sizes(lengths[:1], lengths[1:]) else _length(*query, tape))
            one = tape.integers(1)
            self._expanded[place] = tape.op("Expand", bias, tape.op("Concat", one, one, *sizes, axis=0))
        return self._expanded[place]


def _length(heads: _Heads, rows: ir.Value, tape: Tape) -> ir.Value:
    """The length of ``rows`` as a vector of one number."""
    return tape.integers(1) if heads.length == 1 else tape.op("Shape", rows, start=1, end=2)


def _scale(found: Found) -> float:
    scale = 1.0
    for name, value in found.values.items():
        number = scalar(value) if name[-1] in "*/" else None
        if number is not None:
            scale = scale * number if name[-1] == "*" else scale / number
    return scale


def _alike(a: int | ir.SymbolicDim, b: int | ir.SymbolicDim) -> bool:
    """Whether two batches are the same number, or both vary. If they then differ, the operator refuses to run."""
    return a == b or not (isinstance(a, int) or isinstance(b, int))


def _fits(bias: ir.Value, heads: int) -> bool:
    """Whether a bias fits so many heads: at most four axes, and along the heads 1, all heads, or an unknown size.

    Otherwise the original is no attention over so many heads, and the operator would refuse to run.
    """
    if bias.shape is None or len(bias.shape) > 4:
        return False
    size = bias.shape[-3] if len(bias.shape) > 2 else 1
    return not isinstance(size, int) or size in (1, heads)


def _split_heads(value: ir.Value) -> _Heads | None:
    """The heads of a value [batch, length, heads, width]; None where their number or width is not known.

    Where only the width is known, the number follows from the value that was split.
    """
    if value.shape is None or len(value.shape) != 4:
        return None
    batch, length, count, width = value.shape
    source = value.producer()
    if isinstance(width, int) and not isinstance(count, int) and source is not None and source.op_type == "Reshape":
        rows = source.inputs[0].shape
        if rows is not None and same_sizes(list(rows)[:-1], [batch, length]) and isinstance(rows[-1], int):
            count = rows[-1] // width
    if isinstance(count, int) and isinstance(width, int):
        return _Heads(value, batch, length, count, width)
    return None


def _query_heads(value: ir.Value) -> _Heads | None:
    """The heads of a query [batch, heads, length, width], split by a Transpose or of length 1; else None."""
    source = value.producer()
    if source is not None and source.op_type == "Transpose" and attribute(source, "perm") == _SPLIT:
        return _split_heads(source.inputs[0])
    if value.shape is None or len(value.shape) != 4:
        return None
    batch, count, length, width = value.shape
    if length == 1 and isinstance(count, int) and isinstance(width, int):
        return _Heads(value, batch, 1, count, width)
    return None


def _merged(output: ir.Value, mixed: ir.Value, query: _Heads, value: _Heads, tape: Tape) -> dict[ir.Value, ir.Value]:
    """The replacement for ``output`` [batch, heads, length, width], given ``mixed`` [batch, length, heads * width].

    Where the graph goes on to merge the heads, ``mixed`` replaces the merged value; otherwise it is split again.
    """
    if query.length == 1:
        return {output: tape.op("Reshape", mixed, tape.integers(0, query.count, 1, value.width))}
    rows = [query.batch, query.length, query.count * value.width]
    turned = _only_reader(output)
    if turned is not None and turned.op_type == "Transpose" and attribute(turned, "perm") == _SPLIT:
        merged = _only_reader(turned.outputs[0])
        if merged is not None and merged.op_type == "Reshape":
            shape = merged.outputs[0].shape
            if shape is not None and same_sizes(list(shape), rows):
                return {merged.outputs[0]: mixed}
    heads = tape.op("Reshape", mixed, tape.integers(0, 0, query.count, value.width))
    return {output: tape.op("Transpose", heads, perm=_SPLIT)}


def _only_reader(value: ir.Value) -> ir.Node | None:
    readers = [use.node for use in value.uses()]
    return readers[0] if len(readers) == 1 and not value.is_graph_output() else None
