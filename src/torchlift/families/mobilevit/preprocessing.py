"""How pictures become MobileViT's input: by transformers' preprocessor_config.json, or as in the reference project."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, get_args

from msgspec.structs import replace
from PIL import Image

from torchlift.declare.inputs import ImageInput, Resample
from torchlift.errors import CheckpointError, InputError, SourceError
from torchlift.families.mobilevit.architecture import PATCH, STRIDE
from torchlift.families.transformers_folder import PREPROCESSING_FILES, read_json

MEAN = (0.485, 0.456, 0.406)
STD = (0.229, 0.224, 0.225)
"""Mean and standard deviation of red, green and blue in ImageNet. The reference project normalises with them."""

REFERENCE = ImageInput((256, 256), MEAN, STD, resample="bilinear", convert="first")
"""The reference project: pictures become RGB, then torchvision's Resize((256, 256)), ToTensor and Normalize."""

GRID = STRIDE * PATCH
"""Pixels. The side of an image must be a multiple of this, so that the last feature map divides into patches."""

_DEFAULT_RESAMPLE = Image.Resampling.BICUBIC
"""The default of transformers' MobileViTImageProcessor, for a file that states no method."""


def find_preprocessing(folder: Path, resolution: int | None) -> ImageInput:
    """The preprocessing that a file in ``folder`` states, or that of the reference project.

    ``resolution``, in pixels, replaces the size. Raises CheckpointError for a file that states something unsupported,
    and SourceError for a resolution that does not fit.
    """
    file = next((folder / name for name in PREPROCESSING_FILES if (folder / name).is_file()), None)
    stated = REFERENCE if file is None else _stated(file)
    if resolution is not None:
        shorter = stated.shorter_side and round(stated.shorter_side * resolution / (stated.size or (1,))[0])
        if resolution >= 1:
            stated = replace(stated, size=(resolution, resolution), shorter_side=shorter)
    size = (stated.size or (0, 0)) if resolution is None else (resolution, resolution)
    if size[0] != size[1] or size[0] < GRID or size[0] % GRID:
        near = max(1, round(size[0] / GRID)) * GRID
        raise SourceError(
            f"pictures of {size[0]} x {size[1]} pixels do not divide into patches",
            remedy=f"They must be square and a multiple of {GRID}: use `resolution={near}`.",
        )
    return stated


def _stated(file: Path) -> ImageInput:
    content = read_json(file)
    said = {name: value for name, value in (content.get("image_processor") or content).items() if value is not None}
    try:
        return _image_input(said)
    except (InputError, ValueError, KeyError, TypeError, AttributeError, OverflowError, StopIteration) as error:
        reason = error.message if isinstance(error, InputError) else f"{type(error).__name__}: {error}"
        raise CheckpointError(
            f"{file} cannot be used: {reason}",
            remedy="Correct the file; without it pictures are prepared as by the reference project.",
        ) from error


def _image_input(said: Mapping[str, Any]) -> ImageInput:
    """The preprocessing from the keys of transformers' MobileViTImageProcessor.

    With do_normalize, image_mean and image_std are read too.
    """
    if not said.get("do_resize", True) or not said.get("do_rescale", True):
        raise ValueError("do_resize and do_rescale must be true")
    if abs(said.get("rescale_factor", 1 / 255) * 255 - 1) > 1e-3:
        raise ValueError(f"rescale_factor is {said['rescale_factor']}, not 1/255")
    resample = Image.Resampling(said.get("resample", _DEFAULT_RESAMPLE)).name.lower()
    cropped = said.get("do_center_crop", True)
    resized = said.get("size", {"shortest_edge": 224})
    shortest = resized if isinstance(resized, int) else resized.get("shortest_edge")
    if cropped:
        crop = said.get("crop_size", {"height": 256, "width": 256})
        size = (crop, crop) if isinstance(crop, int) else (crop["height"], crop["width"])
        if shortest is None and (resized["height"], resized["width"]) != size:
            raise ValueError(f"size is {resized}: with a crop it must be shortest_edge")
    elif shortest is not None:
        raise ValueError(f"size is {resized}: without a crop it must be height and width")
    else:
        size = (resized["height"], resized["width"])
    normal = said.get("do_normalize", False)
    return ImageInput(
        size=size,
        mean=tuple(said["image_mean"]) if normal else (0.0, 0.0, 0.0),
        std=tuple(said["image_std"]) if normal else (1.0, 1.0, 1.0),
        resample=next(known for known in get_args(Resample) if known == resample),
        fit="stretch" if shortest is None else "crop",
        shorter_side=shortest,
        convert="first",
        channels="bgr" if said.get("do_flip_channel_order", True) else "rgb",
    )
