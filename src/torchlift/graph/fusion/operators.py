"""Fuses LayerNormalization and Gelu that are written out, and a residual sum with the normalisation behind it."""

from __future__ import annotations

import onnx_ir as ir

from torchlift.graph.fusion.base import CONTRIB, FLOATS, PatternFusion, Tape
from torchlift.graph.fusion.pattern import (
    Found,
    OneOf,
    Op,
    Pattern,
    Scalar,
    addends,
    attribute,
    is_vector,
    readers,
    same_sizes,
    scalar,
    tensor_of,
)


def _mean(of: Pattern, name: str) -> OneOf:
    """A mean. Its axes are an attribute up to opset 17, and an input since 18."""
    return OneOf(Op("ReduceMean", of, name=name), Op("ReduceMean", of, f"{name} axes", name=name))


_CENTRED = Op("Sub", "x", _mean("x", "mean"))
_VARIANCE = _mean(OneOf(Op("Pow", _CENTRED, 2.0), Op("Mul", _CENTRED, _CENTRED)), "variance")
_SPREAD = Op("Sqrt", OneOf(Op("Add", _VARIANCE, Scalar("epsilon")), _VARIANCE))
"""The epsilon is optional, since TorchScript's exporter leaves out one of 1e-12."""

_NORMAL = OneOf(Op("Div", _CENTRED, _SPREAD), Op("Mul", _CENTRED, Op("Reciprocal", _SPREAD)))
_WEIGHTED = Op("Mul", _NORMAL, "weight")


class FuseLayerNorm(PatternFusion):
    """(x - mean) / sqrt(variance + epsilon) * weight [+ bias] -> LayerNormalization.

    It must be over the last axis, of known size, and weight and bias must be constants of that size. The operator is
    written in the standard's domain at any opset: ONNX Runtime has it there from opset 1 on, ONNX from 17 on.
    """

    name = "layer-norm"
    patterns = (Op("Add", _WEIGHTED, "bias"), _WEIGHTED)

    def replace(self, found: Found, tape: Tape) -> dict[ir.Value, ir.Value] | None:
        x, bias = found.values["x"], found.values.get("bias")
        parameters = [found.values["weight"]] if bias is None else [found.values["weight"], bias]
        if x.shape is None or x.dtype not in FLOATS or not found.is_private():
            return None
        if not all(is_vector(p, x.shape[-1]) for p in parameters):
            return None
        if not all(_over_last(found.named[name], len(x.shape)) for name in ("mean", "variance")):
            return None
        epsilon = scalar(found.values.get("epsilon")) or 0.0
        return {found.output: tape.op("LayerNormalization", x, *parameters, axis=-1, epsilon=epsilon)}


class FuseSkipLayerNorm(PatternFusion):
    """LayerNormalization(x + skip) -> com.microsoft::SkipLayerNormalization, whose fourth output is the sum.

    Where x or skip is itself the sum of a value and a constant vector, and nothing else reads that sum, the operator
    adds the vector too.

    x and skip must be [batch, length, width] of equal sizes, normalised over the width, with constant weight and bias.
    ONNX Runtime has this fusion too, but only where nothing else reads the sum. A transformer that normalises first
    reads it in every layer.
    """

    name = "skip-layer-norm"
    patterns = (Op("LayerNormalization", Op("Add", "x", "skip", name="sum"), "weight", "bias", name="norm"),)

    def replace(self, found: Found, tape: Tape) -> dict[ir.Value, ir.Value] | None:
        x, skip, norm = found.values["x"], found.values["skip"], found.named["norm"]
        total = found.named["sum"].outputs[0]
        if x.shape is None or skip.shape is None or x.dtype not in FLOATS or len(norm.outputs) != 1:
            return None
        if len(x.shape) != 3 or not same_sizes(list(x.shape), list(skip.shape)):
            return None
        if attribute(norm, "axis") not in (None, -1, 2):
            return None
        if not all(is_vector(found.values[name], x.shape[-1]) for name in ("weight", "bias")):
            return None
        skip, *added = _bias_apart(skip)
        if not added:
            x, *added = _bias_apart(x)
        epsilon = attribute(norm, "epsilon")
        kept = readers(total) > 1
        fused = tape.node(
            "SkipLayerNormalization",
            x,
            skip,
            found.values["weight"],
            found.values["bias"],
            *added,
            domain=CONTRIB,
            outputs=4 if kept else 1,
            epsilon=1e-5 if epsilon is None else epsilon,
        )
        replaced = {found.output: fused.outputs[0]}
        if kept:
            for unused in fused.outputs[1:3]:
                unused.name = ""
            replaced[total] = fused.outputs[3]
        return replaced


_ERF = Op("Add", Op("Erf", OneOf(Op("Div", "x", 2**0.5), Op("Mul", "x", 0.5**0.5))), 1.0)


class FuseGelu(PatternFusion):
    """x / 2 * (1 + erf(x / sqrt(2))), in any order -> Gelu: the standard one from opset 20, else com.microsoft's."""

    name = "gelu"
    patterns = (
        Op("Mul", Op("Mul", "x", _ERF), 0.5),
        Op("Mul", Op("Mul", "x", 0.5), _ERF),
        Op("Mul", "x", Op("Mul", _ERF, 0.5)),
    )

    def call(self, model: ir.Model) -> ir.passes.PassResult:
        """Returns whether anything was replaced."""
        self._domain = "" if model.graph.opset_imports.get("", 0) >= 20 else CONTRIB
        return super().call(model)

    def replace(self, found: Found, tape: Tape) -> dict[ir.Value, ir.Value] | None:
        x = found.values["x"]
        if x.dtype not in FLOATS or not found.is_private():
            return None
        return {found.output: tape.op("Gelu", x, domain=self._domain)}


def _bias_apart(value: ir.Value) -> tuple[ir.Value, ...]:
    """Split ``value`` into a value of the same sizes and a constant vector over the last axis that are its addends.

    Where it is no such sum, or has more than one reader, ``value`` alone.
    """
    parts = addends(value)
    if parts is None or readers(value) != 1 or value.shape is None:
        return (value,)
    rest, vector = parts
    fits = rest.shape is not None and same_sizes(list(rest.shape), list(value.shape))
    return parts if fits and is_vector(vector, value.shape[-1]) else (value,)


def _over_last(node: ir.Node, rank: int) -> bool:
    """Whether a reduction is over the last axis only, and keeps that axis."""
    if len(node.inputs) == 1:
        axes = attribute(node, "axes")
    else:
        tensor = tensor_of(node.inputs[1])
        axes = None if tensor is None else tuple(tensor.numpy().tolist())
    return axes in ((-1,), (rank - 1,)) and attribute(node, "keepdims") in (None, 1)
