"""The architecture of a Swin Transformer: from the shapes of Microsoft's weights, or from transformers' config.json."""

from __future__ import annotations

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from math import gcd, isqrt
from typing import Any

from torchlift.errors import CheckpointError, SourceError
from torchlift.families.weights import Shapes, shape_of

_shape = partial(shape_of, what="Swin")

MASKED = -100.0
"""It is added to the score of a pair of tokens that lie apart in the picture, though in one window."""

_MERGE = 2
"""A stage halves the sides of the map before it."""


@dataclass(frozen=True)
class Architecture:
    """The sizes of a Swin Transformer.

    - ``resolution`` is the side of the picture and ``patch`` that of a patch, in pixels.
    - ``width`` is that of the first stage; each later stage doubles it. ``depths`` count the blocks, ``heads`` the
      attention heads, and ``windows`` are the sides of the windows in tokens, stage by stage.
    - ``expansion`` is the factor of the MLPs.
    - ``version`` 2 is Swin V2. Its ``pretrained`` windows are those that the position bias was trained at, stage by
      stage; 0 is the stage's own window.
    - ``masked`` is what is added to the scores of tokens that lie apart. transformers adds it twice in Swin V2.
    """

    resolution: int
    patch: int
    width: int
    depths: tuple[int, ...]
    heads: tuple[int, ...]
    windows: tuple[int, ...]
    classes: int
    expansion: float = 4.0
    qkv_bias: bool = True
    eps: float = 1e-5
    version: int = 1
    pretrained: tuple[int, ...] = ()
    masked: float = MASKED

    @property
    def name(self) -> str:
        """The published name with the resolution, such as ``swin-base-384``, or one such as ``swin-24x2x2-64``."""
        kind = "swin" if self.version == 1 else "swinv2"
        size = PUBLISHED.get((self.width, self.depths, self.heads), "x".join(map(str, (self.width, *self.depths))))
        return f"{kind}-{size}-{self.resolution}"

    @property
    def stages(self) -> range:
        return range(len(self.depths))

    def side(self, stage: int) -> int:
        """The side of a stage's map, in tokens."""
        return self.resolution // self.patch // _MERGE**stage

    def channels(self, stage: int) -> int:
        """The width of a stage."""
        return self.width * _MERGE**stage

    def shift(self, stage: int, block: int) -> int:
        """By how many tokens the windows of a block are shifted. One window that has all tokens is not shifted."""
        window = self.windows[stage]
        return window // 2 if block % 2 and window < self.side(stage) else 0

    def at(self, resolution: int) -> Architecture:
        """The same network for pictures of another size.

        Windows grow with the picture, so that there are as many of them: 7 at 224 become 12 at 384, as Microsoft
        fine-tunes. Raises SourceError where a window would not be a whole number of tokens.
        """
        if resolution == self.resolution:
            return self
        if resolution < 1 or any(window * resolution % self.resolution for window in self.windows):
            step = self.resolution // gcd(self.resolution, *self.windows)
            near = max(1, round(resolution / step)) * step
            raise SourceError(
                f"pictures of {resolution} x {resolution} pixels do not divide into windows",
                remedy=f"Windows grow with the picture, and this model has windows of {self.windows[0]} at "
                f"{self.resolution}: use `resolution={near}`.",
            )
        trained = tuple(p or w for p, w in zip(self.pretrained, self.windows, strict=True)) if self.pretrained else ()
        windows = tuple(window * resolution // self.resolution for window in self.windows)
        return checked(replace(self, resolution=resolution, windows=windows, pretrained=trained))


PUBLISHED: Mapping[tuple[int, tuple[int, ...], tuple[int, ...]], str] = {
    (96, (2, 2, 6, 2), (3, 6, 12, 24)): "tiny",
    (96, (2, 2, 18, 2), (3, 6, 12, 24)): "small",
    (128, (2, 2, 18, 2), (4, 8, 16, 32)): "base",
    (192, (2, 2, 18, 2), (6, 12, 24, 48)): "large",
}
"""Width, depths and heads of the published sizes (https://arxiv.org/abs/2103.14030) -> their names."""


def checked(shape: Architecture) -> Architecture:
    """The architecture, whose maps must divide into windows and halves. Raises CheckpointError where they do not."""
    sizes = (shape.resolution, shape.patch, shape.width, *shape.depths, *shape.heads, *shape.windows, shape.classes)
    counts = {len(shape.depths), len(shape.heads), len(shape.windows), len(shape.pretrained or shape.depths)}
    if not all(size >= 1 for size in sizes) or len(counts) > 1 or not shape.depths:
        raise CheckpointError(
            f"a Swin Transformer cannot have these sizes: {shape}", remedy="Give a checkpoint as it was saved."
        )
    if shape.resolution % (shape.patch * _MERGE ** (len(shape.depths) - 1)):
        raise CheckpointError(
            f"pictures of {shape.resolution} pixels do not divide into patches of {shape.patch} that are halved "
            f"{len(shape.depths) - 1} times",
            remedy="Padded maps are not supported: use a model whose sizes divide.",
        )
    for stage in shape.stages:
        if shape.side(stage) % shape.windows[stage]:
            raise CheckpointError(
                f"stage {stage} has a map of {shape.side(stage)} x {shape.side(stage)} tokens, which does not divide "
                f"into windows of {shape.windows[stage]}",
                remedy="Padded windows are not supported: use a model whose sizes divide.",
            )
        if shape.channels(stage) % shape.heads[stage]:
            raise CheckpointError(
                f"stage {stage} has {shape.channels(stage)} channels, which do not divide into {shape.heads[stage]} "
                "heads",
                remedy="Give a checkpoint as it was saved.",
            )
    return shape


def architecture_of(shapes: Shapes) -> Architecture:
    """Find the architecture from the shapes of the weights, by Microsoft's names.

    The resolution is told by a stored ``attn_mask``, which has a row for each window. Without one the last stage has
    one window, as in all published checkpoints. Raises CheckpointError for a tensor that is missing or has an
    impossible shape.
    """
    width, _, patch, _ = _shape(shapes, "patch_embed.proj.weight", 4)
    stages = _count(shapes, r"layers\.(\d{1,9})\.blocks")
    depths = tuple(_count(shapes, rf"layers\.{stage}\.blocks\.(\d{{1,9}})\.") for stage in range(stages))
    tables = [_shape(shapes, f"layers.{s}.blocks.0.attn.relative_position_bias_table", 2) for s in range(stages)]
    windows = tuple((isqrt(rows) + 1) // 2 for rows, _ in tables)
    if wrong := next((rows for (rows, _), w in zip(tables, windows, strict=True) if (2 * w - 1) ** 2 != rows), None):
        raise CheckpointError(
            f"a relative_position_bias_table has {wrong} rows: that is no window",
            remedy="Give a Swin checkpoint as it was saved.",
        )
    first = _shape(shapes, "layers.0.blocks.0.mlp.fc1.weight", 2)
    return checked(
        Architecture(
            resolution=_resolution(shapes, patch, windows),
            patch=patch,
            width=width,
            depths=depths,
            heads=tuple(heads for _, heads in tables),
            windows=windows,
            classes=_shape(shapes, "head.weight", 2)[0],
            expansion=first[0] / first[1],
            qkv_bias="layers.0.blocks.0.attn.qkv.bias" in shapes,
        )
    )


def architecture_from(config: Mapping[str, Any], classes: int) -> Architecture:
    """The architecture in transformers' config.json of a ``swin`` or ``swinv2``; defaults are those of transformers.

    Raises CheckpointError for a value that no such network has, and for what is not supported, by name.
    """
    second = config.get("model_type") == "swinv2"
    unsupported = {"use_absolute_embeddings": False, "num_channels": 3, "hidden_act": "gelu"}
    for key, value in unsupported.items():
        if config.get(key, value) != value:
            raise CheckpointError(
                f"config.json says {key}: {config[key]!r}; only {value!r} is supported",
                remedy="Try the family image-classifier, which runs transformers' own network.",
            )
    try:
        depths = tuple(int(depth) for depth in config.get("depths", (2, 2, 6, 2)))
        patch, resolution = int(config.get("patch_size", 4)), int(config.get("image_size", 224))
        window = int(config.get("window_size", 7))
        sides = [resolution // patch // _MERGE**stage for stage in range(len(depths))]
        pretrained = tuple(int(w) for w in config.get("pretrained_window_sizes") or (0,) * len(depths))
        shape = Architecture(
            resolution=resolution,
            patch=patch,
            width=int(config.get("embed_dim", 96)),
            depths=depths,
            heads=tuple(int(count) for count in config.get("num_heads", (3, 6, 12, 24))),
            windows=tuple(min(window, side) for side in sides),
            classes=classes,
            expansion=float(config.get("mlp_ratio", 4.0)),
            qkv_bias=bool(config.get("qkv_bias", True)),
            eps=float(config.get("layer_norm_eps", 1e-5)),
            version=2 if second else 1,
            pretrained=pretrained[: len(depths)] if second else (),
            masked=2 * MASKED if second else MASKED,
        )
    except (TypeError, ValueError, OverflowError, ZeroDivisionError) as error:
        raise CheckpointError(f"config.json cannot be used: {error}", remedy="Download the folder again.") from error
    return checked(shape)


def _resolution(shapes: Shapes, patch: int, windows: tuple[int, ...]) -> int:
    """Pixels of a side of the picture."""
    for stage, window in enumerate(windows):
        mask = shapes.get(f"layers.{stage}.blocks.1.attn_mask")
        if mask and isqrt(mask[0]) ** 2 == mask[0]:
            return isqrt(mask[0]) * window * patch * _MERGE**stage
    return windows[-1] * patch * _MERGE ** (len(windows) - 1)


def _count(shapes: Shapes, pattern: str) -> int:
    """How many there are, by the largest number in the names. Raises CheckpointError for more than can be."""
    count = 1 + max((int(match[1]) for name in shapes if (match := re.match(pattern, name))), default=-1)
    if not 1 <= count <= len(shapes):
        found = f"a weight has the number {count - 1:,}" if count else "there is no layers.0.blocks.0"
        raise CheckpointError(f"{found}, with {len(shapes):,} weights in all", remedy="Give a whole Swin checkpoint.")
    return count
