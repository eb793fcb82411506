"""Fuses the patch embedding of a ViT, a convolution whose windows do not overlap, to one product."""

from __future__ import annotations

import onnx_ir as ir

from torchlift.graph.fusion.base import FLOATS, PatternFusion, Tape
from torchlift.graph.fusion.pattern import Found, OneOf, Op, attribute, tensor_of


class FusePatches(PatternFusion):
    """Transpose(Reshape(Conv(x, weight) + bias)) -> the product of the patches with the weight.

    The pictures must have known sizes, and windows of more than one pixel must cover them side by side. There must be
    one group, float32 or float16, a constant weight, and no other reader of the convolution. On a GPU such a
    convolution is slow: cuDNN converts the layout of pictures and weights, and with 3 channels its kernels are mostly
    idle.
    """

    name = "patches"
    patterns = (
        Op(
            "Transpose",
            Op(
                "Reshape",
                OneOf(Op("Conv", "x", "weight", "bias", name="conv"), Op("Conv", "x", "weight", name="conv")),
                "shape",
            ),
            perm=(0, 2, 1),
        ),
    )

    def replace(self, found: Found, tape: Tape) -> dict[ir.Value, ir.Value] | None:
        x, weight, conv = found.values["x"], tensor_of(found.values["weight"]), found.named["conv"]
        if x.shape is None or weight is None or len(weight.shape) != 4 or x.dtype not in FLOATS:
            return None
        sizes, (outputs, channels, height, width) = list(x.shape)[1:], map(int, weight.shape)
        if not all(isinstance(size, int) for size in sizes) or not found.is_private() or height * width == 1:
            return None
        if not _side_by_side(conv, (height, width)) or sizes[1] % height or sizes[2] % width or sizes[0] != channels:
            return None
        rows, columns, numbers = sizes[1] // height, sizes[2] // width, channels * height * width
        shape = found.output.shape
        if shape is None or list(shape)[1:] != [rows * columns, outputs]:
            return None
        parts = tape.op("Reshape", x, tape.integers(0, channels, rows, height, columns, width))
        parts = tape.op("Transpose", parts, perm=(0, 2, 4, 1, 3, 5))
        parts = tape.op("Reshape", parts, tape.integers(0, rows * columns, numbers))
        matrix = tape.op("Reshape", found.values["weight"], tape.integers(outputs, numbers))
        product = tape.op("MatMul", parts, tape.op("Transpose", matrix, perm=(1, 0)))
        bias = found.values.get("bias")
        return {found.output: product if bias is None else tape.op("Add", product, bias)}


def _side_by_side(conv: ir.Node, kernel: tuple[int, int]) -> bool:
    """Whether a convolution has a stride of its kernel's size, and no padding, dilation or groups."""
    allowed = {
        "strides": (kernel,),
        "pads": (None, (0, 0, 0, 0)),
        "dilations": (None, (1, 1)),
        "group": (None, 1),
        "auto_pad": (None, "NOTSET", "VALID"),
    }
    return all(attribute(conv, name) in values for name, values in allowed.items())
