"""SRCNN: a picture is enlarged by bicubic interpolation, and three convolutions make it sharp."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from torchlift.errors import CheckpointError

LAYERS = ("conv1", "conv2", "conv3")

MOST = 8
"""The largest factor."""

_CUBIC = 3
"""Pixels of the input on each side that count for an enlarged pixel: two for the cubic kernel, one for its place."""


@dataclass(frozen=True)
class Architecture:
    """``channels`` after the first and the second convolution, and the ``kernels`` of all three, in pixels."""

    channels: tuple[int, int]
    kernels: tuple[int, int, int]

    @property
    def name(self) -> str:
        return f"srcnn-{'-'.join(map(str, self.kernels))}"

    @property
    def margin(self) -> int:
        """Pixels of the input around a place that count for it, at every factor: most at the factor 1."""
        return sum(kernel // 2 for kernel in self.kernels) + _CUBIC


class Srcnn(nn.Module):
    """image float32 [batch, 3, H, W] and factor int64 [] to float32 [batch, 3, factor * H, factor * W]."""

    def __init__(self, architecture: Architecture) -> None:
        super().__init__()
        first, second = architecture.channels
        widths = ((3, first), (first, second), (second, 3))
        self.conv1, self.conv2, self.conv3 = (
            nn.Conv2d(taken, given, kernel, padding=kernel // 2)
            for (taken, given), kernel in zip(widths, architecture.kernels, strict=True)
        )

    def forward(self, image: Tensor, factor: Tensor) -> Tensor:
        times = factor.item()
        torch._check(times > 0)
        torch._check(times <= MOST)
        height, width = image.shape[-2:]
        x = F.interpolate(image, size=(height * times, width * times), mode="bicubic", align_corners=False)
        enlarged: Tensor = self.conv3(torch.relu(self.conv2(torch.relu(self.conv1(x)))))
        return enlarged


def architecture_of(shapes: Mapping[str, Sequence[int]], where: str, expected: str) -> Architecture:
    """Channels and kernels, from the shapes of weights. Raises CheckpointError for those of another network."""
    needed = [f"{layer}.{part}" for layer in LAYERS for part in ("weight", "bias")]
    missing, extra = [n for n in needed if n not in shapes], [n for n in shapes if n not in needed]
    if missing or extra:
        said = [f"missing {', '.join(missing)}"] * bool(missing) + [f"unexpected {', '.join(extra[:5])}"] * bool(extra)
        raise CheckpointError(f"{where} is not an SRCNN that can be read: {'; '.join(said)}", remedy=expected)
    weights = [tuple(shapes[f"{layer}.weight"]) for layer in LAYERS]
    ends = (3, *(weight[0] if weight else 0 for weight in weights))
    for layer, weight, taken in zip(LAYERS, weights, ends, strict=False):
        if len(weight) != 4 or weight[2] != weight[3] or weight[2] % 2 == 0 or weight[1] != taken:
            only_y = layer == LAYERS[0] and len(weight) == 4 and weight[1] == 1
            raise CheckpointError(
                f"{where}: {layer}.weight is {list(weight)}, not [channels, {taken}, k, k] with an odd k"
                + ("; a network of one channel enlarges only the brightness" if only_y else ""),
                remedy=expected,
            )
        if tuple(shapes[f"{layer}.bias"]) != weight[:1]:
            raise CheckpointError(
                f"{where}: {layer}.bias is {list(shapes[f'{layer}.bias'])}, not [{weight[0]}]", remedy=expected
            )
    if weights[2][0] != 3:
        raise CheckpointError(f"{where}: conv3.weight is {list(weights[2])}, not [3, ...]", remedy=expected)
    return Architecture((weights[0][0], weights[1][0]), (weights[0][2], weights[1][2], weights[2][2]))
