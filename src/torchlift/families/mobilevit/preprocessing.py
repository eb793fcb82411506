"""How pictures become MobileViT's input: by transformers' preprocessor_config.json, or as in the reference project."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from PIL import Image

from torchlift.declare.inputs import ImageInput
from torchlift.errors import SourceError
from torchlift.families.mobilevit.architecture import PATCH, STRIDE
from torchlift.families.preprocessing import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    at_resolution,
    declared,
    image_input,
    preprocessing_file,
    read_statement,
)

REFERENCE = ImageInput((256, 256), IMAGENET_MEAN, IMAGENET_STD, resample="bilinear", convert="first")
"""The reference project: pictures become RGB, then torchvision's Resize((256, 256)), ToTensor and Normalize."""

GRID = STRIDE * PATCH
"""Pixels. The side of an image must be a multiple of this, so that the last feature map divides into patches."""

_DEFAULTS = {
    "size": {"shortest_edge": 224},
    "crop_size": {"height": 256, "width": 256},
    "resample": Image.Resampling.BICUBIC,
    "do_center_crop": True,
    "do_flip_channel_order": True,
}
"""The defaults of transformers' MobileViTImageProcessor, for what a file does not state."""


def find_preprocessing(folder: Path, resolution: int | None) -> ImageInput:
    """The preprocessing that a file in ``folder`` states, or that of the reference project.

    ``resolution``, in pixels, replaces the size. Raises CheckpointError for a file that states something unsupported,
    and SourceError for a resolution that does not fit.
    """
    file = preprocessing_file(folder)
    stated = REFERENCE if file is None else _stated(file)
    size = (stated.size or (0, 0)) if resolution is None else (resolution, resolution)
    if size[0] != size[1] or size[0] < GRID or size[0] % GRID:
        near = max(1, round(size[0] / GRID)) * GRID
        raise SourceError(
            f"pictures of {size[0]} x {size[1]} pixels do not divide into patches",
            remedy=f"They must be square and a multiple of {GRID}: use `resolution={near}`.",
        )
    return at_resolution(stated, resolution)


def _stated(file: Path) -> ImageInput:
    remedy = "Correct the file; without it pictures are prepared as by the reference project."
    return declared(file, remedy, lambda: _image_input(read_statement(file)))


def _image_input(said: Mapping[str, Any]) -> ImageInput:
    """The preprocessing from the keys of transformers' MobileViTImageProcessor, with its defaults."""
    if not said.get("do_resize", True) or not said.get("do_rescale", True):
        raise ValueError("do_resize and do_rescale must be true")
    if abs(said.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-3:
        raise ValueError(f"rescale_factor is {said['rescale_factor']}, not 1/255")
    return image_input({**_DEFAULTS, **said})
