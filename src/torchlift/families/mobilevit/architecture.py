"""The architecture of a MobileViT of the ``.pth.tar`` checkpoints, found from the shapes of its weights."""

from __future__ import annotations

import re
from dataclasses import dataclass
from functools import partial

from torchlift.errors import CheckpointError
from torchlift.families.weights import Shapes, shape_of

_shape = partial(shape_of, what="MobileViT")

PATCH = 2
"""The side of a patch that the transformers mix, in cells of the feature map."""

STRIDE = 32
"""The side of the image area that one cell of the last feature map stands for, in pixels."""


@dataclass(frozen=True)
class Architecture:
    """The sizes of a MobileViT.

    ``channels`` are those after the stem's convolution, after its block, and after the nine blocks and convolutions
    that follow. ``widths``, ``layers`` and ``feed_forward`` (the width inside the MLP) are of the three transformers.
    ``expansion`` is the factor of the inverted residuals. ``head`` is the width of the one attention head.
    """

    channels: tuple[int, ...]
    widths: tuple[int, ...]
    feed_forward: tuple[int, ...]
    expansion: float
    layers: tuple[int, ...] = (2, 4, 3)
    head: int = 32
    classes: int = 1000

    @property
    def name(self) -> str:
        """The published name, or a name such as ``mobilevit-16x24x32`` with the widths of the transformers."""
        for name, known in PUBLISHED.items():
            if (self.channels, self.widths, self.layers) == (known.channels, known.widths, known.layers):
                return name
        return f"mobilevit-{'x'.join(map(str, self.widths))}"

    def hidden(self, channels: int) -> int:
        """The channels inside an inverted residual with ``channels`` inputs."""
        return round(channels * self.expansion)


def _published(channels: tuple[int, ...], widths: tuple[int, int, int], expansion: float) -> Architecture:
    first, second, third = widths
    return Architecture(channels, widths, (2 * first, 4 * second, 4 * third), expansion)


PUBLISHED = {
    "mobilevit-xxs": _published((16, 16, 24, 24, 48, 48, 64, 64, 80, 80, 320), (64, 80, 96), 2),
    "mobilevit-xs": _published((16, 32, 48, 48, 64, 64, 80, 80, 96, 96, 384), (96, 120, 144), 4),
    "mobilevit-s": _published((16, 32, 64, 64, 96, 96, 128, 128, 160, 160, 640), (144, 192, 240), 4),
}
"""The published sizes (https://arxiv.org/abs/2110.02178) in the ``.pth.tar`` variant."""


def architecture_of(shapes: Shapes) -> Architecture:
    """Find the architecture from the shapes of the weights, with the names of a ``.pth.tar`` without ``module.``.

    Raises CheckpointError for a tensor that is missing or has an impossible shape.
    """
    stem = _shape(shapes, "stem.0.weight", 4)[0]
    hidden, _, kernel, _ = _shape(shapes, "stem.1.conv.0.conv.weight", 4)
    last = "conv.2.weight" if kernel == 1 else "conv.1.weight"
    channels = [stem]
    for name in ("stem.1", "stage1.0", "stage1.2"):
        channels.append(_shape(shapes, f"{name}.{last}", 4)[0])
    for stage in _STAGES:
        channels.append(_shape(shapes, f"{stage}.0.{last}", 4)[0])
        channels.append(_shape(shapes, f"{stage}.1.fusion_block2.weight", 4)[0])
    channels.append(_shape(shapes, "stage4.2.weight", 4)[0])
    return Architecture(
        channels=tuple(channels),
        widths=tuple(_shape(shapes, f"{s}.1.local_representation.1.conv.weight", 4)[0] for s in _STAGES),
        feed_forward=tuple(_shape(shapes, f"{s}.1.transformer.layers.0.1.fn.net.0.weight", 2)[0] for s in _STAGES),
        expansion=hidden / stem,
        layers=tuple(_layers(shapes, stage) for stage in _STAGES),
        head=_shape(shapes, "stage2.1.transformer.layers.0.0.fn.w_out.weight", 2)[1],
        classes=_shape(shapes, "fc.weight", 2)[0],
    )


_STAGES = ("stage2", "stage3", "stage4")
"""The stages with a transformer."""


def _layers(shapes: Shapes, stage: str) -> int:
    """How many layers there are, by the largest number in the names. Raises CheckpointError for more than can be."""
    pattern = re.compile(rf"{stage}\.1\.transformer\.layers\.(\d{{1,9}})\.")
    count = 1 + max((int(match[1]) for name in shapes if (match := pattern.match(name))), default=-1)
    if count > len(shapes):
        raise CheckpointError(
            f"a weight is of layer {count - 1:,}, and there are {len(shapes):,} weights in all",
            remedy="Give a MobileViT checkpoint as it was saved.",
        )
    return count
