"""The detection heads. Boxes come out as x, y, width and height in pixels of the network's input, scores as 0 to 1."""

from __future__ import annotations

from collections.abc import Iterable, Sequence

import torch
from torch import Tensor, nn


def cells(rows: int, columns: int) -> Tensor:
    """The column and the row of each cell of a map, float32 [rows * columns, 2], row by row."""
    y = torch.arange(rows, dtype=torch.float32)[:, None].expand(rows, columns)
    x = torch.arange(columns, dtype=torch.float32)[None, :].expand(rows, columns)
    return torch.stack([x, y], -1).reshape(rows * columns, 2)


class AnchorDecode(nn.Module):
    """YOLOv5's: raw maps of each level to float32 [batch, boxes, 5 + classes].

    ``anchors`` are in pixels, float32 [levels, anchors a cell, 2]: width and height. With s = sigmoid(raw), the middle
    of a box is (2 s - 0.5 + cell) * stride, and its size (2 s)^2 * anchor. Then come objectness and a score a class.
    Boxes are in the order of levels, anchors, rows and columns.
    """

    anchors: Tensor

    def __init__(self, anchors: Tensor, strides: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("anchors", anchors, persistent=False)
        self.strides = tuple(strides)

    def forward(self, maps: list[Tensor]) -> Tensor:
        levels = enumerate(zip(maps, self.strides, strict=True))
        return torch.cat([self._level(raw, level, stride) for level, (raw, stride) in levels], 1)

    def _level(self, raw: Tensor, level: int, stride: float) -> Tensor:
        rows, columns = raw.shape[-2:]
        anchors = self.anchors[level]
        count, width = len(anchors), raw.shape[1] // len(anchors)
        apart = raw.view(-1, count, width, rows * columns).transpose(2, 3).sigmoid()
        middle = (apart[..., :2] * 2 - 0.5 + cells(rows, columns)) * stride
        double = apart[..., 2:4] * 2
        size = double * double * anchors[:, None]
        return torch.cat([middle, size, apart[..., 4:]], 3).view(-1, count * rows * columns, width)


class AnchorHead(nn.Module):
    """YOLOv5's head: a convolution 1 x 1 a level."""

    objectness = True

    def __init__(self, m: Iterable[nn.Module], decode: AnchorDecode) -> None:
        super().__init__()
        self.m, self.decode = nn.ModuleList(m), decode

    @property
    def boxes_a_cell(self) -> int:
        return int(self.decode.anchors.shape[1])

    def forward(self, maps: list[Tensor]) -> Tensor:
        boxes: Tensor = self.decode([conv(x) for conv, x in zip(self.m, maps, strict=True)])
        return boxes


class FreeDecode(nn.Module):
    """YOLOv8's and 11's: distributions and logits of each level to float32 [batch, 4 + classes, boxes].

    A side of a box is as far from the middle of its cell as the mean of a distribution over ``bins``, float32 [bins],
    in cells. Without ``bins`` the network gives that distance itself.
    """

    bins: Tensor | None

    def __init__(self, bins: Tensor | None, strides: Sequence[float]) -> None:
        super().__init__()
        self.register_buffer("bins", bins, persistent=False)
        self.strides = tuple(strides)

    def forward(self, sides: list[Tensor], logits: list[Tensor]) -> Tensor:
        levels = zip(sides, logits, self.strides, strict=True)
        return torch.cat([self._level(*level) for level in levels], 2)

    def _level(self, sides: Tensor, logits: Tensor, stride: float) -> Tensor:
        rows, columns = sides.shape[-2:]
        middle = cells(rows, columns).transpose(0, 1) + 0.5
        distances = self._distances(sides.flatten(2))
        before, behind = distances[:, :2], distances[:, 2:]
        box = torch.cat([middle + (behind - before) / 2, before + behind], 1) * stride
        return torch.cat([box, logits.flatten(2).sigmoid()], 1)

    def _distances(self, sides: Tensor) -> Tensor:
        """Left, top, right and bottom, float32 [batch, 4, cells]."""
        if self.bins is None:
            return sides
        apart = sides.view(-1, 4, len(self.bins), sides.shape[-1]).softmax(2)
        return (apart * self.bins[:, None]).sum(2)


class FreeHead(nn.Module):
    """YOLOv8's and 11's head: a branch for boxes and one for classes a level, without anchors and objectness."""

    objectness = False
    boxes_a_cell = 1

    def __init__(self, cv2: Iterable[nn.Module], cv3: Iterable[nn.Module], decode: FreeDecode) -> None:
        super().__init__()
        self.cv2, self.cv3, self.decode = nn.ModuleList(cv2), nn.ModuleList(cv3), decode

    def forward(self, maps: list[Tensor]) -> Tensor:
        sides = [branch(x) for branch, x in zip(self.cv2, maps, strict=True)]
        logits = [branch(x) for branch, x in zip(self.cv3, maps, strict=True)]
        boxes: Tensor = self.decode(sides, logits)
        return boxes


Head = AnchorHead | FreeHead
