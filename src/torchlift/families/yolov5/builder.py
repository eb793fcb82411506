"""Builds a network from records: every layer that is known, by what the record says of it. Others are refused by name.

The records say all: kernels, strides and groups of convolutions, the ``eps`` of batch normalisations, activations, and
whether a bottleneck adds its input. No number is taken from the name of a model.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import torch
from torch import Tensor, nn

from torchlift.errors import CheckpointError, some
from torchlift.families.attention import Attention
from torchlift.families.transformers_folder import as_float32
from torchlift.families.yolov5 import blocks
from torchlift.families.yolov5.records import Record

EXPECTED = (
    "A YOLO source is a .pt file of YOLOv5 (3.1 to 7.0) or of a YOLOv8 or YOLO11 detection model as its training saved "
    "it, or a .wts file made of a YOLOv5."
)

_MOST_MODULES = 20_000
"""The largest published network has some 1,500. A file may name one module many times within itself."""

_ACTIVATIONS = {
    "SiLU": nn.SiLU,
    "Swish": nn.SiLU,
    "Hardswish": nn.Hardswish,
    "Mish": nn.Mish,
    "ReLU": nn.ReLU,
    "ReLU6": nn.ReLU6,
    "Sigmoid": nn.Sigmoid,
    "Identity": nn.Identity,
    "Dropout": nn.Identity,
}
"""Activations without settings. Dropout does nothing after training."""


def origin_of(record: Record) -> str:
    """Whose class a record is of: ``torch``, ``yolo``, or "" for what is no layer."""
    if record.kind.startswith("torch.nn.modules."):
        return "torch"
    layers = ("models.", "yolov5.models.", "ultralytics.nn.", "utils.activations.", "yolov5.utils.activations.")
    return "yolo" if record.kind.startswith(layers) else ""


class Builder:
    """Builds modules, with weights as float32. ``style`` is how attention is written."""

    def __init__(self, style: Attention = "sdpa") -> None:
        self._style: Attention = style
        self._made = 0

    def build(self, record: Record, path: str) -> nn.Module:
        """The module of a record. ``path`` is its place in the network, for messages.

        Raises CheckpointError for a layer that is not known, and for one whose record does not fit.
        """
        self._made += 1
        if self._made > _MOST_MODULES:
            raise CheckpointError(f"the file has more than {_MOST_MODULES:,} layers", remedy=EXPECTED)
        maker = _MAKERS.get((origin_of(record), record.name))
        if maker is not None:
            return maker(self, record, path)
        activation = _ACTIVATIONS.get(record.name) if origin_of(record) else None
        if activation is None:
            known = sorted({name for _, name in _MAKERS} | _ACTIVATIONS.keys())
            raise CheckpointError(
                f"{path} is a {record.kind}, a layer that is not known here", remedy=f"Known are {', '.join(known)}."
            )
        return activation()

    def parts(self, record: Record, path: str, *names: str) -> list[nn.Module]:
        """Some of the modules within one, by name."""
        return [self.build(record.module(name), f"{path}.{name}") for name in names]

    def every(self, record: Record, path: str) -> list[nn.Module]:
        """The modules within a Sequential or a ModuleList, in their order."""
        return [self.build(module, f"{path}.{name}") for name, module in record.modules.items()]

    def sequential(self, record: Record, path: str) -> nn.Module:
        return nn.Sequential(*self.every(record, path))

    def _list(self, record: Record, path: str, name: str) -> list[nn.Module]:
        return self.every(record.module(name), f"{path}.{name}")

    def conv2d(self, record: Record, path: str) -> nn.Module:
        if record.get("padding_mode", "zeros") != "zeros":
            raise CheckpointError(f"{path} pads by {record.get('padding_mode')!r}", remedy=EXPECTED)
        weight, groups = weight_of(record, path, "weight", 4), whole(record, path, "groups", 1)
        kernel = tuple(weight.shape[2:])
        said = {name: pair(record, path, name, default) for name, default in (("stride", 1), ("dilation", 1))}
        padding = pair(record, path, "padding", 0, least=0)
        bias = weight_of(record, path, "bias", 1) if record.tensor("bias") is not None else None
        if weight.shape[0] % groups or (bias is not None and len(bias) != len(weight)):
            raise CheckpointError(f"{path} has weights that do not fit each other", remedy="The file is damaged.")
        made = nn.Conv2d(
            weight.shape[1] * groups,
            weight.shape[0],
            kernel,
            padding=padding,
            groups=groups,
            bias=bias is not None,
            device="meta",
            **said,
        )
        made.weight = _fixed(weight)
        if bias is not None:
            made.bias = _fixed(bias)
        return made

    def batch_norm(self, record: Record, path: str) -> nn.Module:
        eps = record.get("eps", None)
        if not isinstance(eps, float) or not 0 <= eps < 1:
            raise CheckpointError(f"{path} has eps {eps!r}", remedy="The file is damaged.")
        names = ("weight", "bias", "running_mean", "running_var")
        tensors = [weight_of(record, path, name, 1) for name in names]
        if len({len(tensor) for tensor in tensors}) > 1:
            raise CheckpointError(f"{path} has weights that do not fit each other", remedy="The file is damaged.")
        made = nn.BatchNorm2d(len(tensors[0]), eps=eps, device="meta")
        made.weight, made.bias = _fixed(tensors[0]), _fixed(tensors[1])
        made.running_mean, made.running_var = tensors[2:]
        made.num_batches_tracked = None
        return made

    def leaky(self, record: Record, path: str) -> nn.Module:
        return nn.LeakyReLU(float(record.get("negative_slope", 0.01)))

    def upsample(self, record: Record, path: str) -> nn.Module:
        factor, mode = record.get("scale_factor"), record.get("mode", "nearest")
        factor = factor[0] if isinstance(factor, tuple) and len({*factor}) == 1 else factor
        if mode != "nearest" or not isinstance(factor, (int, float)) or factor != int(factor) or not 1 <= factor <= 8:
            raise CheckpointError(
                f"{path} enlarges by {factor!r}, {mode!r}", remedy="Known is nearest, by a whole number."
            )
        return nn.Upsample(scale_factor=float(factor), mode="nearest")

    def max_pool(self, record: Record, path: str) -> nn.Module:
        if record.get("ceil_mode", False) or record.get("dilation", 1) not in (1, (1, 1)):
            raise CheckpointError(f"{path} is a MaxPool2d with ceil_mode or dilation", remedy=EXPECTED)
        kernel = pair(record, path, "kernel_size", 0)
        return nn.MaxPool2d(kernel, pair(record, path, "stride", kernel[0]), pair(record, path, "padding", 0, least=0))

    def zero_pad(self, record: Record, path: str) -> nn.Module:
        padding = record.get("padding")
        if not isinstance(padding, (tuple, list)) or len(padding) != 4 or not all(type(n) is int for n in padding):
            raise CheckpointError(f"{path} pads by {padding!r}", remedy="The file is damaged.")
        return nn.ZeroPad2d(tuple(padding))

    def conv(self, record: Record, path: str) -> nn.Module:
        conv, act = self.parts(record, path, "conv", "act")
        folded = "bn" not in record.modules
        return blocks.Conv(conv, nn.Identity() if folded else self.build(record.module("bn"), f"{path}.bn"), act)

    def focus(self, record: Record, path: str) -> nn.Module:
        return blocks.Focus(*self.parts(record, path, "conv"))

    def bottleneck(self, record: Record, path: str) -> nn.Module:
        first, second = self.parts(record, path, "cv1", "cv2")
        return blocks.Bottleneck(first, second, flag(record, path, "add"))

    def csp(self, record: Record, path: str) -> nn.Module:
        return blocks.BottleneckCSP(*self.parts(record, path, "cv1", "cv2", "cv3", "cv4", "bn", "act", "m"))

    def c3(self, record: Record, path: str) -> nn.Module:
        return blocks.C3(*self.parts(record, path, "cv1", "cv2", "cv3", "m"))

    def c2f(self, record: Record, path: str) -> nn.Module:
        first, second = self.parts(record, path, "cv1", "cv2")
        return blocks.C2f(first, second, self._list(record, path, "m"))

    def spp(self, record: Record, path: str) -> nn.Module:
        first, second = self.parts(record, path, "cv1", "cv2")
        return blocks.SPP(first, second, self._list(record, path, "m"))

    def sppf(self, record: Record, path: str) -> nn.Module:
        times, add = whole(record, path, "n", 3), bool(record.get("add", False))
        first, second, pool = self.parts(record, path, "cv1", "cv2", "m")
        return blocks.SPPF(first, second, pool, times, add)

    def attention(self, record: Record, path: str) -> nn.Module:
        heads, key, width = (whole(record, path, name, 0) for name in ("num_heads", "key_dim", "head_dim"))
        qkv, proj, pe = self.parts(record, path, "qkv", "proj", "pe")
        return blocks.PositionAttention(qkv, proj, pe, heads, key, width, self._style)

    def psa_block(self, record: Record, path: str) -> nn.Module:
        attn, ffn = self.parts(record, path, "attn", "ffn")
        return blocks.PSABlock(attn, ffn, bool(record.get("add", True)))

    def c2(self, record: Record, path: str) -> nn.Module:
        first, second, inner = self.parts(record, path, "cv1", "cv2", "m")
        return blocks.C2(first, second, inner, record.name == "C2")

    def ghost(self, record: Record, path: str) -> nn.Module:
        return blocks.GhostConv(*self.parts(record, path, "cv1", "cv2"))

    def ghost_bottleneck(self, record: Record, path: str) -> nn.Module:
        return blocks.GhostBottleneck(*self.parts(record, path, "conv", "shortcut"))

    def concat(self, record: Record, path: str) -> nn.Module:
        if record.get("d", 1) != 1:
            raise CheckpointError(f"{path} joins maps along dimension {record.get('d')!r}", remedy=EXPECTED)
        return blocks.Concat()


_MAKERS: dict[tuple[str, str], Callable[[Builder, Record, str], nn.Module]] = {
    ("torch", "Sequential"): Builder.sequential,
    ("torch", "Conv2d"): Builder.conv2d,
    ("torch", "BatchNorm2d"): Builder.batch_norm,
    ("torch", "LeakyReLU"): Builder.leaky,
    ("torch", "Upsample"): Builder.upsample,
    ("torch", "MaxPool2d"): Builder.max_pool,
    ("torch", "ZeroPad2d"): Builder.zero_pad,
    ("yolo", "Conv"): Builder.conv,
    ("yolo", "DWConv"): Builder.conv,
    ("yolo", "Focus"): Builder.focus,
    ("yolo", "Bottleneck"): Builder.bottleneck,
    ("yolo", "CrossConv"): Builder.bottleneck,
    ("yolo", "BottleneckCSP"): Builder.csp,
    ("yolo", "C3"): Builder.c3,
    ("yolo", "C3x"): Builder.c3,
    ("yolo", "C3k"): Builder.c3,
    ("yolo", "C3SPP"): Builder.c3,
    ("yolo", "C3Ghost"): Builder.c3,
    ("yolo", "C2f"): Builder.c2f,
    ("yolo", "C3k2"): Builder.c2f,
    ("yolo", "SPP"): Builder.spp,
    ("yolo", "SPPF"): Builder.sppf,
    ("yolo", "Attention"): Builder.attention,
    ("yolo", "PSABlock"): Builder.psa_block,
    ("yolo", "C2"): Builder.c2,
    ("yolo", "C2PSA"): Builder.c2,
    ("yolo", "GhostConv"): Builder.ghost,
    ("yolo", "GhostBottleneck"): Builder.ghost_bottleneck,
    ("yolo", "Concat"): Builder.concat,
}
"""Origin and name of a layer -> what builds it."""


def weight_of(record: Record, path: str, name: str, rank: int) -> Tensor:
    """A weight as float32. Raises CheckpointError where it is not there, of another rank, or not finite."""
    tensor = record.tensor(name)
    if tensor is None or tensor.dim() != rank or not tensor.numel() or tensor.layout != torch.strided:
        found = "no tensor" if tensor is None else f"a tensor {list(tensor.shape)}"
        raise CheckpointError(f"{path}.{name} is {found}", remedy=f"It must have {rank} dimensions. {EXPECTED}")
    return as_float32(f"{path}.{name}", tensor, torch.empty(0))


def whole(record: Record, path: str, name: str, default: int) -> int:
    """A whole number of 1 or more that a record states."""
    value = record.get(name, default)
    if type(value) is not int or value < 1:
        raise CheckpointError(f"{path} has {name} {value!r}", remedy="The file is damaged.")
    return value


def flag(record: Record, path: str, name: str) -> bool:
    """A yes or no that a record states."""
    value = record.get(name)
    if not isinstance(value, bool):
        raise CheckpointError(f"{path} has {name} {value!r}", remedy="The file is damaged.")
    return value


def pair(record: Record, path: str, name: str, default: int, least: int = 1) -> tuple[int, int]:
    """Two whole numbers, of height and width, that a record states as one or as two."""
    value: Any = record.get(name, default)
    numbers: Sequence[Any] = value if isinstance(value, (tuple, list)) else (value, value)
    if len(numbers) != 2 or not all(type(number) is int and least <= number <= 1024 for number in numbers):
        raise CheckpointError(f"{path} has {name} {some([repr(value)])}", remedy="The file is damaged.")
    return numbers[0], numbers[1]


def _fixed(tensor: Tensor) -> nn.Parameter:
    return nn.Parameter(tensor, requires_grad=False)
