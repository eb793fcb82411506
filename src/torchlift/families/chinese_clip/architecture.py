"""The architecture of a Chinese-CLIP network, found from the shapes of its weights."""

from __future__ import annotations

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, replace
from functools import partial
from typing import Any

from torchlift.errors import CheckpointError
from torchlift.families.weights import Shapes, shape_of

_shape = partial(shape_of, what="Chinese-CLIP")

HEAD_WIDTH = 64
"""The width of an attention head, where no other is known."""

HEADS_BY_WIDTH = {1280: 16}
"""Width of a vision transformer -> its heads, where these are not 64 wide. 1280 is ViT-H-14."""

RESNET_STRIDE = 32
"""The side of the image area that one token of the attention pool stands for, in pixels."""


@dataclass(frozen=True)
class VisionTransformer:
    """The sizes of a vision transformer. ``patch`` is in pixels; ``feed_forward`` is the width inside the MLP."""

    width: int
    layers: int
    heads: int
    feed_forward: int
    patch: int
    activation: str = "quick_gelu"
    eps: float = 1e-5

    @property
    def stride(self) -> int:
        return self.patch


@dataclass(frozen=True)
class ResNet:
    """The sizes of a ResNet.

    ``width`` is the number of channels after the stem. ``layers`` are those of each of the four stages. ``heads`` are
    those of the attention pool.
    """

    width: int
    layers: tuple[int, ...]
    heads: int

    @property
    def stride(self) -> int:
        return RESNET_STRIDE

    @property
    def features(self) -> int:
        """The channels that the attention pool reads."""
        return self.width * 32


@dataclass(frozen=True)
class Bert:
    """The sizes of a BERT. ``vocabulary``, ``positions`` and ``types`` are the rows of its three embeddings."""

    width: int
    layers: int
    heads: int
    feed_forward: int
    vocabulary: int = 21128
    positions: int = 512
    types: int = 2
    activation: str = "gelu"
    eps: float = 1e-12


@dataclass(frozen=True)
class Architecture:
    """Both towers. ``embedding`` is the length of a feature, ``resolution`` the size of images in pixels."""

    embedding: int
    resolution: int
    vision: VisionTransformer | ResNet
    text: Bert

    @property
    def name(self) -> str:
        """The published name, or a name such as ``vit-128x4-64px`` with width, layers and resolution."""
        for name, known in PUBLISHED.items():
            if self == known:
                return name
        if isinstance(self.vision, ResNet):
            return f"resnet-{self.vision.width}x{'-'.join(map(str, self.vision.layers))}-{self.resolution}px"
        return f"vit-{self.vision.width}x{self.vision.layers}-{self.resolution}px"

    @property
    def grid(self) -> int:
        """The number of tokens along a side of the image."""
        return self.resolution // self.vision.stride


_ROBERTA_BASE = Bert(width=768, layers=12, heads=12, feed_forward=3072)
_VIT_L = VisionTransformer(width=1024, layers=24, heads=16, feed_forward=4096, patch=14)

PUBLISHED = {
    "RN50": Architecture(1024, 224, ResNet(64, (3, 4, 6, 3), 32), replace(_ROBERTA_BASE, layers=3)),
    "ViT-B-16": Architecture(512, 224, VisionTransformer(768, 12, 12, 3072, 16), _ROBERTA_BASE),
    "ViT-L-14": Architecture(768, 224, _VIT_L, _ROBERTA_BASE),
    "ViT-L-14-336": Architecture(768, 336, _VIT_L, _ROBERTA_BASE),
    "ViT-H-14": Architecture(1024, 224, VisionTransformer(1280, 32, 16, 5120, 14), Bert(1024, 24, 16, 4096)),
}
"""The released models (https://github.com/OFA-Sys/Chinese-CLIP)."""


def architecture_of(shapes: Shapes, config: Mapping[str, Any] | None = None) -> Architecture:
    """Find the architecture from the shapes of the weights, which have transformers' names.

    ``config`` is the content of a transformers config.json. Heads, activations and epsilons do not follow from shapes,
    so they are taken from it. Raises CheckpointError for a tensor that is missing or has an impossible shape.
    """
    text = _bert(shapes)
    vision, resolution = _resnet(shapes) if "visual.conv1.weight" in shapes else _vision_transformer(shapes)
    embedding, _ = _shape(shapes, "text_projection.weight", 2)
    found = Architecture(embedding, resolution, vision, text)
    return _with_config(found, config) if config is not None else found


def _bert(shapes: Shapes) -> Bert:
    vocabulary, width = _shape(shapes, "text_model.embeddings.word_embeddings.weight", 2)
    positions, _ = _shape(shapes, "text_model.embeddings.position_embeddings.weight", 2)
    types, _ = _shape(shapes, "text_model.embeddings.token_type_embeddings.weight", 2)
    feed_forward, _ = _shape(shapes, "text_model.encoder.layer.0.intermediate.dense.weight", 2)
    return Bert(
        width=width,
        layers=_count(shapes, r"text_model\.encoder\.layer\.(\d{1,9})\."),
        heads=_heads("text", width),
        feed_forward=feed_forward,
        vocabulary=vocabulary,
        positions=positions,
        types=types,
    )


def _vision_transformer(shapes: Shapes) -> tuple[VisionTransformer, int]:
    width, _, patch, _ = _shape(shapes, "vision_model.embeddings.patch_embedding.weight", 4)
    tokens, _ = _shape(shapes, "vision_model.embeddings.position_embedding.weight", 2)
    feed_forward, _ = _shape(shapes, "vision_model.encoder.layers.0.mlp.fc1.weight", 2)
    vision = VisionTransformer(
        width=width,
        layers=_count(shapes, r"vision_model\.encoder\.layers\.(\d{1,9})\."),
        heads=HEADS_BY_WIDTH.get(width) or _heads("image", width),
        feed_forward=feed_forward,
        patch=patch,
    )
    return vision, _grid(tokens) * patch


def _resnet(shapes: Shapes) -> tuple[ResNet, int]:
    width, *_ = _shape(shapes, "visual.conv3.weight", 4)
    tokens, features = _shape(shapes, "visual.attnpool.positional_embedding", 2)
    stages = tuple(_count(shapes, rf"visual\.layer{stage}\.(\d{{1,9}})\.") for stage in range(1, 5))
    return ResNet(width, stages, _heads("image", features)), _grid(tokens) * RESNET_STRIDE


def _with_config(found: Architecture, config: Mapping[str, Any]) -> Architecture:
    from transformers import ChineseCLIPConfig

    try:
        said = ChineseCLIPConfig.from_dict(dict(config))
    except Exception as error:  # transformers' validators raise many kinds
        raise CheckpointError(f"config.json cannot be used: {error}", remedy="Download the folder again.") from error
    for tower, stated in (("text", said.text_config), ("image", said.vision_config)):
        _check_stated(tower, stated)
    parts = {"text": (found.text, said.text_config), "image": (found.vision, said.vision_config)}
    for tower, (part, stated) in parts.items():
        if part.width % stated.num_attention_heads:
            raise CheckpointError(
                f"config.json states {stated.num_attention_heads} heads for the {tower} tower, of width {part.width}",
                remedy="Use the config.json that belongs to these weights.",
            )
    if isinstance(found.vision, ResNet):
        return found
    return replace(
        found,
        text=replace(
            found.text,
            heads=said.text_config.num_attention_heads,
            activation=said.text_config.hidden_act,
            eps=said.text_config.layer_norm_eps,
        ),
        vision=replace(
            found.vision,
            heads=said.vision_config.num_attention_heads,
            activation=said.vision_config.hidden_act,
            eps=said.vision_config.layer_norm_eps,
        ),
    )


def _check_stated(tower: str, stated: Any) -> None:
    """Raise CheckpointError for heads, an activation or an epsilon that no tower can be built with."""
    from transformers.activations import ACT2FN

    heads, eps, activation = stated.num_attention_heads, stated.layer_norm_eps, stated.hidden_act
    wrong = {
        f"num_attention_heads {heads!r}": not isinstance(heads, int) or heads < 1,
        f"layer_norm_eps {eps!r}": not isinstance(eps, (int, float)) or not 0 < eps < 1,
        f"hidden_act {activation!r}": not isinstance(activation, str) or activation not in ACT2FN,
    }
    for said, is_wrong in wrong.items():
        if is_wrong:
            raise CheckpointError(
                f"config.json states {said[:100]} for the {tower} tower",
                remedy="Use the config.json that belongs to these weights.",
            )


def _count(shapes: Shapes, pattern: str) -> int:
    """How many layers there are, by the largest number in the names. Raises CheckpointError for more than can be."""
    count = 1 + max((int(match[1]) for name in shapes if (match := re.match(pattern, name))), default=-1)
    if count > len(shapes):
        raise CheckpointError(
            f"a weight is of layer {count - 1:,}, and there are {len(shapes):,} weights in all",
            remedy="Give a Chinese-CLIP checkpoint as it was saved.",
        )
    return count


def _heads(tower: str, width: int) -> int:
    if width % HEAD_WIDTH:
        raise CheckpointError(
            f"the width of the {tower} tower's attention is {width}: the number of heads cannot be told",
            remedy=f"The width must be a multiple of {HEAD_WIDTH}; a transformers folder, whose config.json states the "
            "heads, may have any.",
        )
    return width // HEAD_WIDTH


def _grid(tokens: int) -> int:
    side = math.isqrt(max(tokens - 1, 0))
    if side == 0 or side * side + 1 != tokens:
        raise CheckpointError(
            f"the image tower has {tokens} positions: that is not a square of patches and a class token",
            remedy="Give a Chinese-CLIP checkpoint as it was saved.",
        )
    return side
