"""Reads a ``.wts`` file of YOLOv5, as C++ deployments use them: the weights by name, as texts without shapes.

The first line counts the weights. Each other line is ``name n hex hex ...``, with n float32 as big-endian hexadecimal.
Shapes, kernels and channels follow from the numbers of values. What no number tells is as in the releases that such
files were made of: the layers by the number of the last one, eps 1e-3, and the activations by the kind of the blocks.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from torchlift.errors import CheckpointError, some
from torchlift.families.yolov5.builder import EXPECTED
from torchlift.families.yolov5.found import Found
from torchlift.families.yolov5.records import Record
from torchlift.storage import open_regular

_EPS = 1e-3
"""Of every batch normalisation of YOLOv5. The file does not hold it."""

_P5 = "conv conv block conv block conv block conv block pool conv up cat:-1,6 plain conv up cat:-1,4 plain conv "
_P6 = "conv conv block conv block conv block conv block conv block pool conv up cat:-1,8 plain conv up cat:-1,6 plain "
_LAYOUTS = {
    24: _P5 + "cat:-1,14 plain conv cat:-1,10 plain detect:17,20,23",
    33: _P6 + "conv up cat:-1,4 plain conv cat:-1,20 plain conv cat:-1,16 plain conv cat:-1,12 plain "
    "detect:23,26,29,32",
}
"""The layers of each release by the number of the head. The bottlenecks of a ``block`` add their input, those of a
``plain`` one do not. Releases to 5.0 begin with a Focus, and have the pool before the last block of the backbone, which
is plain there.
"""

_HALVING = {24: (1, 3, 5, 7, 18, 21), 33: (1, 3, 5, 7, 9, 24, 27, 30)}
"""The convolutions that halve the map, by the number of the head. The first layer does too."""


def read_wts(file: Path) -> Found:
    """The network in a ``.wts`` file. Raises CheckpointError for one that is damaged or of another network."""
    weights = _read(file)
    heads = [number for number in _LAYOUTS if f"model.{number}.m.0.weight" in weights]
    if not heads:
        raise CheckpointError(f"{file} is no YOLOv5: it has {some([*weights])}", remedy=EXPECTED)
    try:
        return _Walk(weights, heads[0]).found()
    except KeyError as error:
        raise CheckpointError(f"{file} has no weights {error.args[0]}", remedy=EXPECTED) from error
    except (ValueError, ZeroDivisionError, RuntimeError) as error:
        raise CheckpointError(f"{file} has weights that do not fit each other: {error}", remedy=EXPECTED) from error


def _read(file: Path) -> dict[str, Tensor]:
    """Weight name -> float32 [n]."""
    weights: dict[str, Tensor] = {}
    try:
        with open_regular(file) as stream:
            count = int(stream.readline(32))
            for number, line in enumerate(stream, start=2):
                name, size, values = [*line.split(b" ", 2), b"", b""][:3]
                if not name.strip():
                    continue
                raw = bytes.fromhex(values.decode("ascii"))
                if len(raw) != 4 * int(size):
                    raise ValueError(f"line {number} has {len(raw) // 4} values and says {int(size)}")
                weights[name.decode("ascii")] = torch.from_numpy(np.frombuffer(raw, ">f4").astype(np.float32))
    except (ValueError, OSError) as error:
        raise CheckpointError(f"{file} is damaged or no .wts file: {error}", remedy=EXPECTED) from error
    if len(weights) != count:
        raise CheckpointError(f"{file} has {len(weights)} weights and says {count}: it is cut off", remedy=EXPECTED)
    return weights


class _Walk:
    """Goes through the layers in their order, so that the channels of each are known from those before it."""

    def __init__(self, weights: Mapping[str, Tensor], last: int) -> None:
        self._weights, self._last = weights, last
        self._focus = "model.0.conv.conv.weight" in weights
        self._csp = any(name.endswith(".cv4.conv.weight") for name in weights)
        self._channels: list[int] = []

    def found(self) -> Found:
        kinds = _LAYOUTS[self._last].split()
        if self._focus:
            pool = kinds.index("pool")
            kinds[pool - 1 : pool + 1] = ["pool", "plain"]
        layers = [self._layer(number, *kind.partition(":")[::2]) for number, kind in enumerate(kinds)]
        return Found(tuple(layers), self._strides(), ())

    def _layer(self, number: int, kind: str, read: str) -> Record:
        path, source = f"model.{number}", [int(n) for n in read.split(",")] if read else -1
        before = 3 if not self._channels else self._channels[-1]
        if isinstance(source, list):
            before = sum(self._channels[n] for n in source)
        made, channels = None, before
        if kind == "conv":
            made, channels = self._first(path) if number == 0 else self._conv(path, before, self._stride(number))
        elif kind in ("block", "plain"):
            made, channels = (self._csp_block if self._csp else self._c3)(path, before, kind == "block")
        elif kind == "pool":
            made, channels = self._pool(path, before)
        elif kind == "up":
            made = _record("torch.nn.modules.upsampling.Upsample", scale_factor=2.0, mode="nearest")
        elif kind == "cat":
            made = _record("models.common.Concat", d=1)
        else:
            made = self._detect(path, [self._channels[n] for n in source] if isinstance(source, list) else [])
        self._channels.append(channels)
        made.state["f"] = source
        return made

    def _stride(self, number: int) -> int:
        return 2 if number in _HALVING[self._last] else 1

    def _strides(self) -> tuple[int, ...]:
        stored = self._weights.get(f"model.{self._last}.strides")
        levels = 3 if self._last == 24 else 4
        return tuple(int(s) for s in stored.tolist()) if stored is not None else tuple(8 << n for n in range(levels))

    def _first(self, path: str) -> tuple[Record, int]:
        if not self._focus:
            return self._conv(path, 3, 2)
        conv, channels = self._conv(f"{path}.conv", 12, 1)
        return _record("models.common.Focus", {"conv": conv}), channels

    def _bare(self, path: str, channels: int, outputs: int, stride: int = 1) -> Record:
        """A convolution. Its kernel is square, and keeps or halves the size of a map."""
        values = self._weights[f"{path}.weight"]
        side = math.isqrt(len(values) // (channels * outputs))
        weight = values.reshape(outputs, channels, side, side)
        bias = self._weights.get(f"{path}.bias")
        tensors = {"weight": weight} | ({} if bias is None else {"bias": bias})
        padding = 2 if side == 6 else side // 2
        return _record("torch.nn.modules.conv.Conv2d", {}, tensors, stride=stride, padding=padding, groups=1)

    def _norm(self, path: str) -> Record:
        names = ("weight", "bias", "running_mean", "running_var")
        tensors = {name: self._weights[f"{path}.{name}"] for name in names}
        return _record("torch.nn.modules.batchnorm.BatchNorm2d", {}, tensors, eps=_EPS)

    def _conv(self, path: str, channels: int, stride: int = 1) -> tuple[Record, int]:
        outputs = len(self._weights[f"{path}.bn.weight"])
        act = _record(f"torch.nn.modules.activation.{'Hardswish' if self._csp else 'SiLU'}")
        conv = self._bare(f"{path}.conv", channels, outputs, stride)
        return _record("models.common.Conv", {"conv": conv, "bn": self._norm(f"{path}.bn"), "act": act}), outputs

    def _bottlenecks(self, path: str, channels: int, add: bool) -> Record:
        found: dict[str, Record] = {}
        while f"{path}.{len(found)}.cv1.conv.weight" in self._weights:
            at = f"{path}.{len(found)}"
            first, hidden = self._conv(f"{at}.cv1", channels)
            second, _ = self._conv(f"{at}.cv2", hidden)
            found[str(len(found))] = _record("models.common.Bottleneck", {"cv1": first, "cv2": second}, add=add)
        return _record("torch.nn.modules.container.Sequential", found)

    def _c3(self, path: str, channels: int, add: bool) -> tuple[Record, int]:
        first, hidden = self._conv(f"{path}.cv1", channels)
        second, other = self._conv(f"{path}.cv2", channels)
        third, outputs = self._conv(f"{path}.cv3", hidden + other)
        parts = {"cv1": first, "cv2": second, "cv3": third, "m": self._bottlenecks(f"{path}.m", hidden, add)}
        return _record("models.common.C3", parts), outputs

    def _csp_block(self, path: str, channels: int, add: bool) -> tuple[Record, int]:
        first, hidden = self._conv(f"{path}.cv1", channels)
        last, outputs = self._conv(f"{path}.cv4", 2 * hidden)
        parts = {
            "cv1": first,
            "cv2": self._bare(f"{path}.cv2", channels, hidden),
            "cv3": self._bare(f"{path}.cv3", hidden, hidden),
            "cv4": last,
            "bn": self._norm(f"{path}.bn"),
            "act": _record("torch.nn.modules.activation.LeakyReLU", negative_slope=0.1),
            "m": self._bottlenecks(f"{path}.m", hidden, add),
        }
        return _record("models.common.BottleneckCSP", parts), outputs

    def _pool(self, path: str, channels: int) -> tuple[Record, int]:
        """Max pools of 5, 9 and 13. One of 5 three times over gives the same."""
        first, hidden = self._conv(f"{path}.cv1", channels)
        second, outputs = self._conv(f"{path}.cv2", 4 * hidden)
        pool = _record("torch.nn.modules.pooling.MaxPool2d", kernel_size=5, stride=1, padding=2)
        return _record("models.common.SPPF", {"cv1": first, "cv2": second, "m": pool}), outputs

    def _detect(self, path: str, channels: list[int]) -> Record:
        anchors, levels = self._weights[f"{path}.anchor_grid"], len(channels)
        outputs = [len(self._weights[f"{path}.m.{n}.bias"]) for n in range(levels)]
        pairs = enumerate(zip(channels, outputs, strict=True))
        convs = {str(n): self._bare(f"{path}.m.{n}", inputs, count) for n, (inputs, count) in pairs}
        grid = anchors.reshape(levels, -1, 2)
        shares = grid / torch.tensor(self._strides(), dtype=torch.float32)[:, None, None]
        listed = _record("torch.nn.modules.container.ModuleList", convs)
        return _record("models.yolo.Detect", {"m": listed}, {"anchors": shares, "anchor_grid": grid})


def _record(
    kind: str, modules: Mapping[str, Record] | None = None, tensors: Mapping[str, Tensor] | None = None, **said: Any
) -> Record:
    """A record as a pickle gives one."""
    made = type("Record", (Record,), {"kind": kind})()
    made.state = {**said, "_modules": dict(modules or {}), "_parameters": dict(tensors or {})}
    return made
