"""The detection model within a checkpoint: its layers, what each reads, its head, strides and names."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from torchlift.errors import CheckpointError, some
from torchlift.families.attention import Attention
from torchlift.families.yolov5.builder import EXPECTED, Builder, origin_of, weight_of
from torchlift.families.yolov5.heads import AnchorDecode, AnchorHead, FreeDecode, FreeHead, Head
from torchlift.families.yolov5.network import Network
from torchlift.families.yolov5.records import Record

MODELS = ("Model", "DetectionModel")
"""The classes of detection models, the first until release 6.1."""

_WRAPPERS = ("DataParallel", "DistributedDataParallel")


@dataclass(frozen=True)
class Found:
    """What a checkpoint says of its network: the layers, the last of them the head, and the ``names`` of its classes,
    empty where it has none. ``strides`` are pixels of the input a cell, level by level.
    """

    layers: tuple[Record, ...]
    strides: tuple[int, ...]
    names: tuple[str, ...]

    def build(self, style: Attention = "sdpa") -> Network:
        """The network with its weights. Raises CheckpointError for what is not known or does not fit."""
        try:
            return self._built(style)
        except RecursionError as error:
            raise CheckpointError("the file has a layer within itself", remedy=EXPECTED) from error

    def _built(self, style: Attention) -> Network:
        builder, last = Builder(style), self.layers[-1]
        layers = [builder.build(layer, f"model.{n}") for n, layer in enumerate(self.layers[:-1])]
        head = self._head(builder, last, f"model.{len(layers)}")
        read = [_sources(layer, n) for n, layer in enumerate(self.layers)]
        if len(read[-1]) != len(self.strides):
            raise CheckpointError(
                f"the head reads {len(read[-1])} maps and has {len(self.strides)} strides", remedy=EXPECTED
            )
        lists = [layer.name == "Concat" for layer in self.layers[:-1]] + [True]
        single = next(
            (n for n, (source, many) in enumerate(zip(read, lists, strict=True)) if len(source) != 1 and not many), None
        )
        if single is not None:
            raise CheckpointError(f"model.{single} reads {len(read[single])} maps and takes one", remedy=EXPECTED)
        return Network(layers, head, read, lists).eval().requires_grad_(False)

    def _head(self, builder: Builder, record: Record, path: str) -> Head:
        if origin_of(record) != "yolo" or record.name != "Detect":
            raise CheckpointError(
                f"{path}, the last layer, is a {record.kind}: no head of plain detection", remedy=EXPECTED
            )
        second = [name for name in record.modules if name.startswith("one2one")]
        if second:
            raise CheckpointError(f"{path} is a head without NMS ({second[0]}), which is not known", remedy=EXPECTED)
        if "cv2" in record.modules:
            boxes, classes = (builder.every(record.module(name), f"{path}.{name}") for name in ("cv2", "cv3"))
            return FreeHead(boxes, classes, FreeDecode(_bins(record, path), self.strides))
        return AnchorHead(
            builder.every(record.module("m"), f"{path}.m"),
            AnchorDecode(self._anchors(record, path), self.strides),
        )

    def _anchors(self, record: Record, path: str) -> Tensor:
        """Width and height in pixels, float32 [levels, anchors, 2].

        Releases to 5.0 store them in pixels, and decode with those; later ones only as a share of the stride.
        """
        shares = weight_of(record, path, "anchors", 3)
        levels, count, width = shares.shape
        if levels != len(self.strides) or width != 2:
            raise CheckpointError(f"{path}.anchors is {list(shares.shape)}", remedy=EXPECTED)
        pixels = record.tensor("anchor_grid")
        if pixels is not None and pixels.numel() == shares.numel():
            return pixels.float().reshape(levels, count, 2)
        return shares * torch.tensor(self.strides, dtype=torch.float32)[:, None, None]


def find_model(content: Any, where: str) -> Found:
    """The detection model in what a checkpoint holds: its average over training where it has one.

    Raises CheckpointError for a checkpoint of something else, ``where`` naming the file.
    """
    said = content
    if isinstance(content, Mapping):
        said = content.get("model") if content.get("ema") is None else content["ema"]
    while isinstance(said, Record) and said.name in _WRAPPERS:
        said = said.module("module")
    if not isinstance(said, Record):
        held = f"a dict with {some([str(key) for key in content])}" if isinstance(content, Mapping) else "no model"
        raise CheckpointError(f"{where} holds {held}, and no network of YOLO", remedy=EXPECTED)
    if said.name not in MODELS or origin_of(said) != "yolo":
        raise CheckpointError(f"{where} holds a {said.kind}, and no detection model", remedy=EXPECTED)
    layers = tuple(said.module("model").modules.values())
    if not layers:
        raise CheckpointError(f"{where} holds a model without layers", remedy=EXPECTED)
    strides = layers[-1].get("stride")
    return Found(layers, _strides(said.get("stride") if strides is None else strides, where), _names(said, where))


def _strides(found: Any, where: str) -> tuple[int, ...]:
    values = found.flatten().tolist() if isinstance(found, Tensor) and 1 <= found.numel() <= 8 else []
    if not values or any(value != int(value) or not 1 <= value <= 1024 for value in values):
        raise CheckpointError(f"{where} states no strides of its levels in whole pixels", remedy=EXPECTED)
    return tuple(int(value) for value in values)


def _names(model: Record, where: str) -> tuple[str, ...]:
    """The names of the classes, which are stored as a list, or as a dict by number."""
    found = model.get("names")
    if isinstance(found, Mapping):
        if {*found} != {*range(len(found))}:
            raise CheckpointError(f"{where} names the classes {some([str(key) for key in found])}", remedy=EXPECTED)
        found = [found[number] for number in range(len(found))]
    return tuple(str(name) for name in found) if isinstance(found, (list, tuple)) else ()


def _sources(layer: Record, number: int) -> tuple[int, ...]:
    """The layers that a layer reads; -1 is the picture. A record counts -1, -2 from the layer itself."""
    said = layer.get("f")
    listed: Sequence[Any] = said if isinstance(said, (list, tuple)) else [said]
    found = tuple(n if type(n) is not int or n >= 0 else number + n for n in listed)
    if not found or not all(type(n) is int and (0 <= n < number or (n == -1 and number == 0)) for n in found):
        raise CheckpointError(f"model.{number} reads {said!r}", remedy=f"Layers read earlier ones. {EXPECTED}")
    return found


def _bins(record: Record, path: str) -> Tensor | None:
    """What the bins of a side stand for, in cells, float32 [bins]; None where a side is one number."""
    found = record.modules.get("dfl")
    if found is None or found.name != "DFL":
        return None
    return weight_of(found.module("conv"), f"{path}.dfl.conv", "weight", 4).flatten()
