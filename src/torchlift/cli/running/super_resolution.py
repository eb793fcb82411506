"""Runs a network that enlarges pictures, and writes them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from PIL import Image

from torchlift.cli.running import Answered, Given
from torchlift.cli.running.show import show_answers
from torchlift.errors import InputError
from torchlift.pipelines.super_resolution import SuperResolution
from torchlift.processing.image import size_of
from torchlift.storage import replacing

if TYPE_CHECKING:
    from collections.abc import Sequence

TAKES = ("images", "factor")

_LONGEST = {"JPEG": 65_500, "WEBP": 16_383}
"""Format -> the longest side, in pixels, that it holds."""

_OPTIONS: dict[str, dict[str, Any]] = {"JPEG": {"quality": 95}, "WEBP": {"lossless": True}, "PNG": {}}
_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}


def answer(pipeline: SuperResolution, given: Given, outputs: tuple[str, ...]) -> Answered:
    """Each picture, enlarged, in a file: of several pictures in a folder, as PNG."""
    images = tuple(dict.fromkeys(given.get("images", ())))
    if not images:
        raise click.UsageError("give at least one --image.")
    if len(outputs) != 1:
        raise click.UsageError("say where the picture goes, once: --output FILE.png.")
    factor = pipeline.enlarger.checked(given.get("factor"))
    files = _files(outputs[0], images)
    for image, file in files.items():
        _require_holds(pipeline, image, file, factor)
    said, written = {}, []
    for image, enlarged in zip(images, pipeline.each(images, factor), strict=True):
        file = files[image]
        file.parent.mkdir(parents=True, exist_ok=True)
        _write(file, enlarged)
        said[image] = {"file": str(file), "width": enlarged.shape[1], "height": enlarged.shape[0]}
        written.append(f"{file}: {enlarged.shape[1]} x {enlarged.shape[0]} pixels")
    return Answered(said, partial(show_answers, {}), written)


def _files(target: str, images: Sequence[str]) -> dict[str, Path]:
    """The file of each picture: of several, ``target`` is a folder. Raises UsageError."""
    file = Path(target)
    if len(images) == 1 and not file.is_dir():
        if file.suffix.lower() not in _FORMATS:
            raise click.UsageError(f"--output {target}: write a file that ends in {', '.join(_FORMATS)}.")
        return {images[0]: file}
    if file.suffix.lower() in _FORMATS or (file.exists() and not file.is_dir()):
        raise click.UsageError(f"--output {target}: it must be a folder, since there are {len(images)} pictures.")
    names = [f"{Path(image).stem}.png" for image in images]
    if len({*names}) != len(names):
        raise click.UsageError("--output: two pictures have the same name; enlarge them one by one.")
    return {image: file / name for image, name in zip(images, names, strict=True)}


def _require_holds(pipeline: SuperResolution, image: str, file: Path, factor: float) -> None:
    """Raise InputError for an enlarged picture that the format of the file cannot hold."""
    height, width = pipeline.enlarger.size(*size_of(pipeline.enlarger.declared, image), factor)
    kind = _FORMATS[file.suffix.lower()]
    if max(height, width) > _LONGEST.get(kind, 1 << 31):
        raise InputError(
            f"{image} becomes {width} x {height} pixels, and {kind} holds {_LONGEST[kind]:,} a side",
            remedy="Write a .png file.",
        )


def _write(file: Path, pixels: np.ndarray) -> None:
    kind = _FORMATS[file.suffix.lower()]
    with replacing(file) as stream:
        Image.fromarray(pixels).save(stream, kind, **_OPTIONS[kind])
