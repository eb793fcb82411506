"""How pictures become Swin's input: as transformers' file says, or as Microsoft's and timm's evaluation does."""

from __future__ import annotations

import math
from pathlib import Path

from torchlift.declare.inputs import ImageInput
from torchlift.errors import CheckpointError
from torchlift.families.preprocessing import (
    IMAGENET_MEAN,
    IMAGENET_STD,
    at_resolution,
    preprocessing_file,
    read_processor,
)
from torchlift.families.swin.checkpoint import Origin

_FINE_TUNED = 384
"""Pixels. From this size on Microsoft stretches the whole picture, and timm crops only what makes it a square."""

_MICROSOFT = 256 / 224
"""By how much a picture's shorter side is longer than the crop, in Microsoft's evaluation."""

_TIMM = 0.9
"""The share of a picture's shorter side that timm's crop has."""


def find_preprocessing(folder: Path, origin: Origin, resolution: int, asked: int | None) -> ImageInput:
    """The preprocessing of a checkpoint for the network's ``resolution``; ``asked`` is the one that the user states.

    A preprocessor_config.json beside the checkpoint counts before the habits of who wrote it. Raises CheckpointError
    for a file that cannot be used, or that makes pictures of another size than the network takes.
    """
    if preprocessing_file(folder) is None:
        return _usual(origin, asked or resolution)
    remedy = "Correct the file: for example, copy it from the model on the hub."
    stated = at_resolution(read_processor(folder, remedy), asked)
    if stated.size != (asked or resolution,) * 2:
        raise CheckpointError(
            f"{preprocessing_file(folder)} makes pictures of {stated.size}; the network takes {resolution} x "
            f"{resolution}",
            remedy=f"Use `resolution={resolution}`, or correct one of the two.",
        )
    return stated


def _usual(origin: Origin, resolution: int) -> ImageInput:
    """How the checkpoints of an author are evaluated, where no file says more."""
    size, large = (resolution, resolution), resolution >= _FINE_TUNED
    if origin == "transformers" or (large and origin == "microsoft"):
        return ImageInput(size, IMAGENET_MEAN, IMAGENET_STD, convert="first")
    share = 1.0 if large else _TIMM
    shorter = math.floor(resolution / share) if origin == "timm" else int(resolution * _MICROSOFT)
    return ImageInput(size, IMAGENET_MEAN, IMAGENET_STD, fit="crop", shorter_side=shorter, convert="first")
