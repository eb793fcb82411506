"""Writes newer operators, such as LayerNormalization and Gelu, with operators that every parser knows."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from torchlift.graph.lower_steps import FLOAT, HALVES, Rule, Steps


def _one_output(steps: Steps) -> None:
    if any(value.uses() or value.is_graph_output() for value in steps.node.outputs[1:]):
        raise steps.refused("has more than its first output read")


def _wide_input(steps: Steps) -> ir.Value:
    """The input of a normalisation in the type in which the standard computes it (``stash_type`` 1).

    In a typed network half precision is cast to float32. A compiler that chooses types itself does that by itself.
    """
    _one_output(steps)
    data = steps.node.inputs[0]
    if (kind := steps.given("stash_type", 1)) != FLOAT.value:
        raise steps.refused(f"computes in type {kind}, not in float32")
    return steps.cast("float32", data, FLOAT) if data.dtype in HALVES and steps.typed else data


def _last_axes(steps: Steps) -> list[int]:
    axis, shape = steps.given("axis", -1), steps.node.inputs[0].shape
    if axis >= 0 and shape is None:
        raise steps.refused("normalises a tensor of unknown rank")
    return [*range(axis, 0 if axis < 0 else len(shape))]


def _divided(steps: Steps, data: ir.Value, axes: list[int]) -> ir.Value:
    """``data`` divided by the root of the mean of its squares: data / sqrt(mean(data ** 2) + epsilon)."""
    squares = steps.op("squares", "Pow", data, steps.number("two", 2, data))
    epsilon = steps.number("epsilon", steps.given("epsilon", 1e-5), data)
    raised = steps.op("raised", "Add", steps.mean("variance", squares, axes), epsilon)
    return steps.op("normal", "Div", data, steps.op("spread", "Sqrt", raised))


def _weighted(steps: Steps, data: ir.Value, weight: ir.Value, bias: ir.Value | None) -> ir.Value:
    product = steps.op("weighted", "Mul", steps.cast("narrow", data, weight.dtype), weight)
    return product if bias is None else steps.op("biased", "Add", product, bias)


def _layer_normalization(steps: Steps) -> ir.Value:
    """LayerNormalization as TorchScript's exporter writes it. Weight and bias are applied in the input's type."""
    wide, axes = _wide_input(steps), _last_axes(steps)
    centred = steps.op("centred", "Sub", wide, steps.mean("mean", wide, axes))
    return _weighted(steps, _divided(steps, centred, axes), steps.node.inputs[1], steps.input(2))


def _rms_normalization(steps: Steps) -> ir.Value:
    return _weighted(steps, _divided(steps, _wide_input(steps), _last_axes(steps)), steps.node.inputs[1], None)


def _group_normalization(steps: Steps) -> ir.Value:
    """GroupNormalization by an InstanceNormalization of the groups. Weight and bias are [channels], as since 21."""
    data, weight, bias = steps.node.inputs
    groups, shape = steps.given("num_groups", 1), data.shape
    if shape is None or weight.shape is None or not isinstance(shape[1], int) or weight.shape[0] != shape[1]:
        raise steps.refused("has not one weight for each channel, or an unknown number of them")
    grouped = steps.op("grouped", "Reshape", _wide_input(steps), steps.integers("groups", 0, groups, -1))
    ones, zeros = (steps.constant(name, make(groups, grouped.dtype.numpy())) for name, make in _UNITS.items())
    normal = steps.op("normal", "InstanceNormalization", grouped, ones, zeros, epsilon=steps.given("epsilon", 1e-5))
    back = steps.op("back", "Reshape", normal, steps.op("shape", "Shape", data, kind=ir.DataType.INT64))
    channels = steps.integers("channels", -1, *[1] * (len(shape) - 2))
    weight, bias = (
        steps.op(f"{name}.spread", "Reshape", v, channels) for name, v in (("weight", weight), ("bias", bias))
    )
    return _weighted(steps, back, weight, bias)


_UNITS = {"ones": np.ones, "zeros": np.zeros}


def _gelu(steps: Steps) -> ir.Value:
    """X / 2 * (1 + erf(x / sqrt(2))), or the form with tanh. In half precision, x is halved first: no overflow."""
    x = steps.node.inputs[0]
    one = steps.number("one", 1, x)
    if steps.given("approximate", "none") == "tanh":
        cube = steps.op("cube", "Mul", steps.op("square", "Mul", x, x), x)
        bent = steps.op("bent", "Add", x, steps.op("small", "Mul", cube, steps.number("bend", 0.044715, x)))
        inner = steps.op("tanh", "Tanh", steps.op("inner", "Mul", bent, steps.number("root", (2 / np.pi) ** 0.5, x)))
    else:
        inner = steps.op("erf", "Erf", steps.op("inner", "Div", x, steps.number("root", 2**0.5, x)))
    halved = steps.op("halved", "Mul", x, steps.number("half", 0.5, x))
    return steps.op("product", "Mul", halved, steps.op("raised", "Add", inner, one))


def _hard_swish(steps: Steps) -> ir.Value:
    x = steps.node.inputs[0]
    return steps.op("product", "Mul", x, steps.op("gate", "HardSigmoid", x, alpha=1 / 6, beta=0.5))


def _mish(steps: Steps) -> ir.Value:
    x = steps.node.inputs[0]
    return steps.op("product", "Mul", x, steps.op("gate", "Tanh", steps.op("softplus", "Softplus", x)))


def _attention(steps: Steps) -> ir.Value:
    """softmax(scale * query @ key^T + mask) @ value. All are [batch, heads, length, width] and of one type."""
    _one_output(steps)
    query, key, value, mask = (steps.input(i) for i in range(4))
    shapes = [list(v.shape or ()) for v in (query, key, value)]
    plain = {**_PLAIN_ATTENTION, "softmax_precision": query.dtype.value}
    other = [
        f"{name} = {steps.given(name, value)}" for name, value in plain.items() if steps.given(name, value) != value
    ]
    if other or any(v is not None for v in steps.node.inputs[4:]):
        raise steps.refused(f"has {', '.join(other) or 'states of the past'}, for which there is no rule")
    if any(len(shape) != 4 for shape in shapes) or not shapes[0][1] == shapes[1][1] == shapes[2][1]:
        raise steps.refused("has not as many heads of keys as of queries, as an axis of their own")
    if mask is not None and mask.dtype != query.dtype:
        raise steps.refused(f"has a mask of {mask.dtype.name}, for which there is no rule")
    width = shapes[0][3]
    scale = steps.given("scale", width**-0.5 if isinstance(width, int) else None)
    if scale is None:
        raise steps.refused("scales by a width that is not known")
    turned = steps.op("turned", "Transpose", key, perm=[0, 1, 3, 2])
    factor = steps.number("scale", scale, query)
    if steps.typed:
        scores = steps.op("scores", "MatMul", steps.op("scaled", "Mul", query, factor), turned)
    else:
        scores = steps.op("scaled", "Mul", steps.op("scores", "MatMul", query, turned), factor)
    masked = scores if mask is None else steps.op("masked", "Add", scores, mask)
    return steps.op("mixed", "MatMul", steps.op("weights", "Softmax", masked, axis=-1), value)


_PLAIN_ATTENTION = {
    "is_causal": 0,
    "kv_num_heads": 0,
    "left_window_size": -1,
    "q_num_heads": 0,
    "right_window_size": -1,
    "softcap": 0,
}
"""The attributes of an Attention that PyTorch's exporter writes, with four axes and no cache."""


EXPANSIONS: Mapping[str, Rule] = {
    "Attention": _attention,
    "Gelu": _gelu,
    "GroupNormalization": _group_normalization,
    "HardSwish": _hard_swish,
    "LayerNormalization": _layer_normalization,
    "Mish": _mish,
    "RMSNormalization": _rms_normalization,
}
"""Operator -> the rule that writes it with others, for an opset or a parser that does not have it."""
