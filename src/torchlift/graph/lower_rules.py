"""Rules that write an operator as its previous version, and rules for what a parser lacks of an operator it has."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
import onnx_ir as ir

from torchlift.graph.fusion.pattern import tensor_of
from torchlift.graph.lower_steps import AXES_AS_INPUT, FLOAT, HALVES, Rule, Steps

# rules from one version of an operator to the version before

_ANYTHING = object()


def _same(steps: Steps) -> None:
    """The new version only takes more types, so nothing changes."""


def _without(**harmless: object) -> Rule:
    """A rule that removes attributes of the new version. It refuses values other than the harmless ones."""

    def drop(steps: Steps) -> None:
        for name, value in harmless.items():
            given = steps.given(name, ())
            if value is not _ANYTHING and not {*np.ravel(given).tolist()} <= {value}:
                raise steps.refused(f"has {name} = {given}, which came later")
            steps.node.attributes.pop(name, None)

    return drop


def _not_yet(name: str, *values: str) -> Rule:
    """A rule that refuses values of an attribute that only the new version has."""

    def refuse(steps: Steps) -> None:
        if (given := steps.given(name, "")) in values:
            raise steps.refused(f"has {name} = {given}, which came later")

    return refuse


def _reduce(steps: Steps) -> ir.Value:
    """Reductions: the axes are an input since 18, and become an attribute."""
    data, axes = steps.input(0), steps.input(1)
    tensor = None if axes is None else tensor_of(axes)
    if axes is not None and tensor is None:
        raise steps.refused("finds its axes at run time")
    numbers = [] if tensor is None else tensor.numpy().tolist()
    if numbers or not steps.given("noop_with_empty_axes", 0):
        return steps.again(data, axes=numbers or None, noop_with_empty_axes=None)
    if steps.node.op_type in ("ReduceMax", "ReduceMean", "ReduceMin", "ReduceProd"):
        return steps.op("same", "Identity", data)
    raise steps.refused("reduces no axis")


def _pad(steps: Steps) -> ir.Value | None:
    """Pad: since 18 an input may choose axes. The sizes for these become sizes for all axes."""
    data, pads, filling, axes = (steps.input(i) for i in range(4))
    if axes is None:
        return None if len(steps.node.inputs) < 4 else steps.again(data, pads, filling)
    chosen, sizes = tensor_of(axes), tensor_of(pads)
    if chosen is None or data.shape is None:
        raise steps.refused("finds its axes at run time, or pads a tensor of unknown rank")
    rank, numbers = len(data.shape), chosen.numpy().tolist()
    places = np.full(2 * rank, 2 * len(numbers), np.int64)
    for place, axis in enumerate(numbers):
        places[axis % rank], places[rank + axis % rank] = place, len(numbers) + place
    if sizes is not None:
        return steps.again(data, steps.constant("pads", np.append(sizes.numpy(), 0)[places]), filling)
    extended = steps.op("pads", "Concat", pads, steps.integers("none", 0), axis=0)
    return steps.again(data, steps.op("all", "Gather", extended, steps.constant("places", places)), filling)


def _split(steps: Steps) -> ir.Value | None:
    """Split: 18 brought the number of parts. Equal parts need no attribute before; other sizes become an input."""
    if (parts := steps.given("num_outputs", None)) is None:
        return None
    data = steps.node.inputs[0]
    size = None if data.shape is None else data.shape[steps.given("axis", 0)]
    if not isinstance(size, int):
        raise steps.refused("splits an axis of unknown size into a number of parts")
    if size % parts == 0:
        steps.node.attributes.pop("num_outputs")
        return None
    part = -(-size // parts)
    sizes = np.clip(size - part * np.arange(parts), 0, part)
    return steps.again(data, steps.integers("sizes", *sizes.tolist()), num_outputs=None)


def _pool(steps: Steps) -> None:
    """Pools: since 22, where sizes are rounded up, a window that starts in the padding at the end is left out.

    The rule refuses a node that may have such a window.
    """
    if not steps.given("ceil_mode", 0):
        return
    shape, kernel = steps.node.inputs[0].shape, steps.given("kernel_shape", ())
    sizes = [None] * len(kernel) if shape is None else list(shape)[2:]
    pads = steps.given("pads", [0] * 2 * len(kernel))
    ones = [1] * len(kernel)
    strides, dilations = steps.given("strides", ones), steps.given("dilations", ones)
    certain = steps.given("auto_pad", "NOTSET") == "NOTSET" and all(isinstance(size, int) for size in sizes)
    for axis, size in enumerate(sizes if certain else ()):
        start, end = pads[axis], pads[axis + len(kernel)]
        rest = start + size + end - dilations[axis] * (kernel[axis] - 1) - 1
        certain &= -(-rest // strides[axis]) * strides[axis] < start + size
    if not certain:
        raise steps.refused("rounds sizes up, and may have a window in the padding, which came later")


def _grid_sample(steps: Steps) -> None:
    """GridSample: 20 renamed the modes, and brought grids of more than two dimensions."""
    shape = steps.node.inputs[0].shape
    if shape is None or len(shape) != 4:
        raise steps.refused("samples no pictures")
    mode = steps.given("mode", "linear")
    steps.node.attributes["mode"] = ir.AttrString("mode", {"linear": "bilinear", "cubic": "bicubic"}.get(mode, mode))


def _quantize(steps: Steps) -> ir.Value | None:
    """QuantizeLinear: before 19 it takes no half precision, so a Cast to float32 comes first.

    ``saturate`` concerns 8-bit floats only, and is removed.
    """
    steps.node.attributes.pop("saturate", None)
    data, scale, *zero = steps.node.inputs
    if not {data.dtype, scale.dtype} & HALVES:
        return None
    data = steps.cast("float32", data, FLOAT) if data.dtype in HALVES else data
    return steps.again(data, steps.widened("scale", scale), *zero)


def _dequantize(steps: Steps) -> ir.Value | None:
    """DequantizeLinear: before 19 it writes no half precision, so a Cast from float32 comes behind."""
    data, scale, *zero = steps.node.inputs
    if scale.dtype not in HALVES:
        return None
    floats = steps.again(data, steps.widened("scale", scale), *zero, kind=FLOAT)
    return steps.cast("half", floats, scale.dtype)


_REDUCTIONS = "L1 L2 LogSum LogSumExp Max Mean Min Prod SumSquare"

_HOLD_ANYTHING = (
    "CastLike Constant ConstantOfShape Flatten Identity If Loop Pad Reshape Scan Shape Size Squeeze Transpose Unsqueeze"
)
"""Operators that never look at elements. They take every new type from the opset on that brings the type."""

_MORE_TYPES: Mapping[int, str] = {
    19: "Constant DequantizeLinear Equal Identity If Loop Reshape Scan Shape Size",
    20: "ConstantOfShape IsInf IsNaN ReduceMax ReduceMin",
    21: f"{_HOLD_ANYTHING} Cast QLinearMatMul",
    22: """
        Acos Acosh Asin Asinh Atan Atanh Bernoulli Conv ConvTranspose Cos Cosh DeformConv Det Dropout Elu EyeLike GRU
        GlobalAveragePool GlobalLpPool GlobalMaxPool GridSample HardSigmoid HardSwish InstanceNormalization LSTM
        LpNormalization LpPool MaxRoiPool MaxUnpool Mish Multinomial NegativeLogLikelihoodLoss RNN RandomNormal
        RandomNormalLike RandomUniform RandomUniformLike RoiAlign Round Selu Sin Sinh Softplus Softsign Tan
        ThresholdedRelu
    """,
    23: f"{_HOLD_ANYTHING} Cast",
    24: f"{_HOLD_ANYTHING} DequantizeLinear QuantizeLinear SplitToSequence TopK",
    25: f"{_HOLD_ANYTHING} Cast DequantizeLinear QuantizeLinear",
}
"""Opset -> operators whose version of that opset only takes more types."""

CHANGES: Mapping[tuple[str, int], Rule] = {
    **{(operator, opset): _same for opset, operators in _MORE_TYPES.items() for operator in operators.split()},
    **{(f"Reduce{kind}", AXES_AS_INPUT): _reduce for kind in _REDUCTIONS.split()},
    ("AveragePool", 19): _without(dilations=1),
    ("AveragePool", 22): _pool,
    ("Cast", 19): _without(saturate=_ANYTHING),
    ("Cast", 24): _without(round_mode=_ANYTHING),
    ("CastLike", 19): _without(saturate=_ANYTHING),
    ("CastLike", 24): _without(round_mode=_ANYTHING),
    ("DequantizeLinear", 19): _dequantize,
    ("DequantizeLinear", 21): _without(block_size=0),
    ("DequantizeLinear", 23): _without(output_dtype=0),
    ("GridSample", 20): _grid_sample,
    ("MaxPool", 22): _pool,
    ("Pad", 18): _pad,
    ("Pad", 19): _not_yet("mode", "wrap"),
    ("QuantizeLinear", 19): _quantize,
    ("QuantizeLinear", 21): _without(block_size=0, output_dtype=0),
    ("QuantizeLinear", 23): _without(precision=0),
    ("Resize", 18): _without(antialias=0, axes=None, keep_aspect_ratio_policy="stretch"),
    ("Resize", 19): _not_yet("coordinate_transformation_mode", "half_pixel_symmetric"),
    ("ScatterElements", 18): _not_yet("reduction", "max", "min"),
    ("ScatterND", 18): _not_yet("reduction", "max", "min"),
    ("Split", 18): _split,
}
"""(Operator, opset of its version) -> the rule that writes it as the version before. A version that is not listed was
not compared with the one before, so it is refused. The types are checked afterwards against the schemas.
"""


# rules for what a parser lacks of an operator that it has

COMPARISONS = frozenset({"Equal", "Greater", "GreaterOrEqual", "Less", "LessOrEqual"})

_INTEGERS = frozenset({ir.DataType.INT32, ir.DataType.INT64})

_EXACT = 2**24
"""float32 holds every integer up to here, and rounds no larger integer to a smaller value."""


def compare_as_floats(steps: Steps) -> None:
    """Compare integers with a constant in float32. The result is the same for constants below 2**24.

    Ids and positions are that small. An integer rounds to such a constant only if it is equal to it. A comparison with
    a larger constant stays as it is.
    """
    found = {place: tensor_of(value) for place, value in enumerate(steps.node.inputs)}
    constants = [(place, tensor) for place, tensor in found.items() if tensor is not None]
    if len(constants) != 1:
        return
    ((place, tensor),) = constants
    numbers = tensor.numpy()
    small = numbers.max(initial=0) < _EXACT and numbers.min(initial=0) > -_EXACT
    if tensor.dtype not in _INTEGERS or not small:
        return
    floats = steps.cast("float32", steps.node.inputs[1 - place], FLOAT)
    steps.node.replace_input_with(1 - place, floats)
    steps.node.replace_input_with(place, steps.constant("constant", numbers.astype(np.float32)))


def whole_shape(steps: Steps) -> ir.Value | None:
    """Write Shape of some axes as Shape of all and a Slice, for a parser that ignores the part (TensorRT 8.5)."""
    start, end = steps.given("start", 0), steps.given("end", None)
    if start == 0 and end is None:
        return None
    whole = steps.op("whole", "Shape", steps.node.inputs[0], kind=ir.DataType.INT64)
    last = np.iinfo(np.int64).max if end is None else end
    return steps.op("part", "Slice", whole, *(steps.integers(n, v) for n, v in (("start", start), ("end", last))))


_OF_ONE_SHAPE = frozenset({"Cast", "DequantizeLinear", "Identity", "QuantizeLinear"})
"""Operators whose result has the shape of their first input."""


def sized_kernel(steps: Steps) -> None:
    """Write the size of a convolution's kernel as an attribute.

    The parser of TensorRT 8.5 finds it by itself only for a constant weight, and not for one that DequantizeLinear
    writes.
    """
    weight = steps.input(1)
    while weight.shape is None and (writer := weight.producer()) is not None and writer.op_type in _OF_ONE_SHAPE:
        weight = writer.inputs[0]
    size = [] if weight.shape is None else list(weight.shape)[2:]
    if size and "kernel_shape" not in steps.node.attributes and all(isinstance(number, int) for number in size):
        steps.node.attributes["kernel_shape"] = ir.AttrInt64s("kernel_shape", size)


_SCALES = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max) / 256
"""For a scale within these limits, its product with a difference of two 8-bit integers is a normal number or zero."""


def weight_as_float(steps: Steps) -> ir.Value | None:
    """Write a dequantised constant with float weights.

    An 8-bit constant becomes a float32 constant, QuantizeLinear and DequantizeLinear. A wider one becomes a float
    constant. The 8-bit integers stay exactly the same. The product and the quotient of a number up to 255 each have a
    relative error of 2**-24. That is far less than the 0.5 that rounding removes. Scales for which float32 would
    overflow or lose bits are refused.
    """
    data, scale, zero = (steps.input(i) for i in range(3))
    integers, steps_of, zeros = (None if v is None else tensor_of(v) for v in (data, scale, zero))
    if integers is None:
        return None
    if steps_of is None or (zero is not None and zeros is None) or steps.given("block_size", 0):
        raise steps.refused("has a scale or a zero point that is computed, or blocks")
    factors, output = steps_of.numpy().astype(np.float32), steps.node.outputs[0]
    eight = integers.dtype in (ir.DataType.INT8, ir.DataType.UINT8)
    floats = _dequantized(integers, factors, zeros, steps.given("axis", 1), FLOAT if eight else output.dtype)
    weight = steps.initializer("float", floats)
    if not eight:
        return steps.op("same", "Identity", weight) if output.is_graph_output() else weight
    low, high = _SCALES
    if not ((factors >= low) & (factors <= high)).all():
        raise steps.refused(f"has a scale outside of {low:.3g}..{high:.3g}")
    if zero is None:
        zero = steps.constant("zero", np.zeros(factors.shape, integers.dtype.numpy()))
    scale, axis = steps.widened("scale", scale), {k: a.value for k, a in steps.node.attributes.items() if k == "axis"}
    quantized = steps.op("quantized", "QuantizeLinear", weight, scale, zero, kind=integers.dtype, **axis)
    pair = steps.op("dequantized", "DequantizeLinear", quantized, scale, zero, kind=FLOAT, **axis)
    return steps.cast("half", pair, output.dtype)


def _dequantized(
    integers: ir.TensorProtocol, scale: np.ndarray, zero: ir.TensorProtocol | None, axis: int, kind: ir.DataType
) -> ir.LazyTensor:
    """(integers - zero) * scale, computed in float32 when the values are needed."""

    def compute() -> ir.Tensor:
        values = integers.numpy()
        along = [-1 if d == axis % values.ndim else 1 for d in range(values.ndim)] if scale.size > 1 else []
        shift = 0 if zero is None else zero.numpy().astype(np.int64).reshape(along)
        differences = (values.astype(np.int64) - shift).astype(np.float32)
        return ir.Tensor((differences * scale.reshape(along)).astype(kind.numpy()), name=lazy.name)

    lazy = ir.LazyTensor(compute, dtype=kind, shape=integers.shape, name=None)
    return lazy
