"""What a component takes, input by input: pictures, texts, or arrays. Plain data, which a manifest holds.

How a declaration is carried out is known in :mod:`torchlift.processing`, on a processor, and needs no PyTorch.
"""

from __future__ import annotations

import math
from typing import Literal, get_args

import msgspec

from torchlift.errors import InputError

Resample = Literal["nearest", "bilinear", "bicubic", "lanczos", "linear"]
Fit = Literal["stretch", "crop", "letterbox"]
Scale = Literal["unit", "byte"]
Convert = Literal["last", "first"]
Channels = Literal["rgb", "bgr"]
Part = Literal["mask", "types"]

LARGEST_SIDE = 1 << 15
"""Pixels: the longest side that a picture may be resized to. One of 32,768 x 32,768 takes 12 GiB as float32."""

LONGEST_TEXT = 4096
"""Characters of a text that are taken where nothing else is declared. A caption has some ten."""

MOST_TOKENS = 1 << 20
"""The most tokens that a text input may declare."""


class ImageInput(msgspec.Struct, frozen=True, tag_field="kind", tag="image"):
    """How a picture becomes a float32 [3, height, width] of the model's input.

    For example ``ImageInput((224, 224), mean, std)`` resizes any picture to 224 x 224 and normalises it.

    - ``size``: (height, width) of the result, in pixels. None takes a picture as large as it is, for a model whose
      height and width are axes.
    - ``mean``, ``std``: per channel R, G, B, applied as (x - mean) / std to what ``scale`` gives.
    - ``resample``: the filter of the resize, by Pillow's name. They average where they shrink. ``linear`` does not: it
      is OpenCV's INTER_LINEAR, which YOLOv5 was trained with.
    - ``fit``: ``stretch`` ignores the aspect. ``crop`` keeps it, covers ``size`` and takes the centre, as torchvision's
      Resize and CenterCrop do. ``letterbox`` keeps it, fits the picture into ``size`` and fills the rest, as YOLOv5
      does.
    - ``shorter_side``: with ``crop``, what the shorter side is resized to, in pixels. None just covers ``size``.
    - ``pad``: with ``letterbox`` or a ``stride``, the value that fills, 0 to 255.
    - ``stride``: the result is filled up only to a multiple of this many pixels, and may be smaller than ``size``. It
      is for models whose height and width are axes, with ``letterbox`` or without a ``size``.
    - ``scale``: ``unit`` divides the pixels by 255; ``byte`` leaves them 0 to 255.
    - ``convert``: whether the picture becomes RGB after resizing (Chinese-CLIP) or before (torchvision's datasets).
      This changes pictures with a palette or with transparency.
    - ``channels``: the order in which the model takes them; ``mean`` and ``std`` are R, G, B in either.

    Raises InputError where a value is not usable.
    """

    size: tuple[int, int] | None = None
    mean: tuple[float, float, float] = (0.0, 0.0, 0.0)
    std: tuple[float, float, float] = (1.0, 1.0, 1.0)
    resample: Resample = "bicubic"
    fit: Fit = "stretch"
    shorter_side: int | None = None
    scale: Scale = "unit"
    convert: Convert = "last"
    channels: Channels = "rgb"
    pad: int = 114
    stride: int | None = None

    def __post_init__(self) -> None:
        counts = {"mean": 3, "std": 3} | ({} if self.size is None else {"size": 2})
        for name, count in counts.items():
            values = tuple(getattr(self, name))
            msgspec.structs.force_setattr(self, name, values)
            if len(values) != count:
                raise InputError(f"{name} is {values}", remedy=f"It takes {count} numbers.")
        for name in ("mean", "std"):
            if not all(isinstance(value, (int, float)) and math.isfinite(value) for value in getattr(self, name)):
                raise InputError(f"{name} is {getattr(self, name)}", remedy="It takes finite numbers.")
        for name, choices in _CHOICES.items():
            if getattr(self, name) not in choices:
                raise InputError(
                    f"{name} {getattr(self, name)!r} is unknown", remedy=f"Use one of {', '.join(choices)}."
                )
        if self.size is not None and not all(_is_count(side) and side <= LARGEST_SIDE for side in self.size):
            raise InputError(
                f"size is {self.size}", remedy=f"Give height and width in whole pixels, from 1 to {LARGEST_SIDE}."
            )
        if 0 in self.std:
            raise InputError(f"std is {self.std}", remedy="It divides: no channel may be 0.")
        if not _is_count(self.pad, least=0) or self.pad > 255:
            raise InputError(f"pad is {self.pad}", remedy="It is a pixel's value, from 0 to 255.")
        self._check_shorter_side()
        self._check_stride()

    def _check_shorter_side(self) -> None:
        if self.shorter_side is None:
            return
        least = max(self.size or (1,))
        if self.size is None or self.fit != "crop" or not least <= self.shorter_side <= LARGEST_SIDE:
            raise InputError(
                f"shorter_side is {self.shorter_side} with fit {self.fit!r} and size {self.size}",
                remedy=f"Use it with a size and fit 'crop', from {least} to {LARGEST_SIDE}.",
            )

    def _check_stride(self) -> None:
        if self.size is None and self.fit != "stretch":
            raise InputError(
                f"fit is {self.fit!r} without a size", remedy="Give the size that pictures are fitted into."
            )
        if self.stride is None:
            return
        if not _is_count(self.stride) or (self.size is not None and self.fit != "letterbox"):
            raise InputError(
                f"stride is {self.stride} with fit {self.fit!r} and size {self.size}",
                remedy="Use 1 or more, with fit 'letterbox' or without a size.",
            )
        if self.size is not None and any(side % self.stride for side in self.size):
            raise InputError(
                f"size {self.size} is no multiple of the stride {self.stride}", remedy="Change one of them."
            )

    @property
    def varies(self) -> bool:
        """Whether the height and width of the result depend on the picture."""
        return self.size is None or self.stride is not None


class TextInput(msgspec.Struct, frozen=True, tag_field="kind", tag="text"):
    """How a text becomes the token ids of the model's input, int64 or int32 [batch, tokens].

    For example ``TextInput("tokenizer.json", length=128)`` takes strings and cuts them to 128 tokens.

    - ``tokenizer``: the file that says how, ``tokenizer.json`` of the tokenizers library, or the ``vocab.txt`` of a
      BERT. In a declaration of a module of your own it is a path, relative to the module's file; in a manifest it is
      the role of an asset.
    - ``length``: the most tokens of a text, those that the tokenizer puts around it included. A longer text is cut.
    - ``lowercase``: with a vocab.txt, whether texts are made lower case and accents removed. A tokenizer.json says so
      itself.
    - ``characters``: a longer text is refused, since it was hardly meant.

    Raises InputError where a value is not usable.
    """

    tokenizer: str
    length: int
    lowercase: bool = True
    characters: int = LONGEST_TEXT

    def __post_init__(self) -> None:
        if not self.tokenizer:
            raise InputError(
                "a text input names no tokenizer", remedy="Give the path of a tokenizer.json or a vocab.txt."
            )
        if not _is_count(self.length, least=3) or self.length > MOST_TOKENS:
            raise InputError(
                f"the length of a text input is {self.length}", remedy=f"It counts tokens, from 3 to {MOST_TOKENS}."
            )
        if not _is_count(self.characters):
            raise InputError(f"characters is {self.characters}", remedy="Give how many a text may have, 1 or more.")


class TextPart(msgspec.Struct, frozen=True, tag_field="kind", tag="text-part"):
    """An input that follows from the text of another, as BERT's second and third do: nobody gives it.

    - ``of``: the name of the input that is declared as a TextInput.
    - ``part``: ``mask`` is 1 at tokens and 0 at padding; ``types`` numbers the texts of a pair, and is 0 for a single
      one.

    Raises InputError for an unknown part.
    """

    of: str
    part: Part = "mask"

    def __post_init__(self) -> None:
        if self.part not in get_args(Part):
            raise InputError(f"part {self.part!r} is unknown", remedy=f"Use one of {', '.join(get_args(Part))}.")


class ArrayInput(msgspec.Struct, frozen=True, tag_field="kind", tag="array"):
    """An array as it is: the signature says its dtype, shape and bounds.

    Numbers of Python, and lists of them, are taken too: ``{"x": [3, 7.5]}`` has two rows of an input float32 [batch],
    and ``{"x": 3}`` has one.
    """


Input = ImageInput | TextInput | TextPart | ArrayInput

_CHOICES = {
    "resample": get_args(Resample),
    "fit": get_args(Fit),
    "scale": get_args(Scale),
    "convert": get_args(Convert),
    "channels": get_args(Channels),
}


def _is_count(value: object, least: int = 1) -> bool:
    return isinstance(value, int) and not isinstance(value, bool) and value >= least
