"""Runs a detector: prints boxes, draws them, writes them."""

from __future__ import annotations

from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np
from PIL import Image
from rich.table import Table

from torchlift.cli.outputs import parse_outputs, write_outputs
from torchlift.cli.running import Answered, Given
from torchlift.errors import InputError
from torchlift.pipelines.detection import DetectionPipeline
from torchlift.processing.boxes import Detection
from torchlift.processing.drawing import drawn
from torchlift.storage import replacing, storage_errors

if TYPE_CHECKING:
    from collections.abc import Sequence

    from rich.console import Console

_FORMATS = {".png": "PNG", ".jpg": "JPEG", ".jpeg": "JPEG", ".webp": "WEBP"}
"""How a file ends that pictures are drawn into -> Pillow's name of its format."""

TAKES = ("images", "confidence", "overlap", "classes", "most", "agnostic", "draw")


def answer(pipeline: DetectionPipeline, given: Given, outputs: tuple[str, ...]) -> Answered:
    """The boxes of each picture, in its own pixels. In a file they are float32 [boxes, 6]: x0, y0, x1, y1, score and
    the number of the class.
    """
    images = tuple(dict.fromkeys(given.get("images", ())))
    if not images:
        raise click.UsageError("give at least one --image.")
    targets = parse_outputs(outputs)
    arrays_of = tuple(f"boxes{i}" for i in range(len(images))) if len(images) > 1 else ("boxes",)
    for target in targets:
        target.names(arrays_of)
    pictures = _drawings(given["draw"], images) if "draw" in given else {}
    options = {name: given[name] for name in TAKES if name in given and name not in ("images", "draw")}
    found = dict(zip(images, pipeline(images, **options), strict=True))
    if len(pictures) > 1:
        folder = Path(given["draw"])
        with storage_errors(folder):
            folder.mkdir(parents=True, exist_ok=True)
    written = [_draw(image, file, found[image], pipeline.names) for image, file in pictures.items()]
    arrays = dict(zip(arrays_of, (_array(boxes, pipeline.names) for boxes in found.values()), strict=True))
    written += write_outputs(targets, arrays)
    said = {image: [_told(one) for one in boxes] for image, boxes in found.items()}
    return Answered(said, partial(_show, found), written)


def _drawings(target: str, images: Sequence[str]) -> dict[str, Path]:
    """The file to draw each picture into: of several pictures ``target`` is a folder. Raises UsageError."""
    file = Path(target)
    if len(images) > 1 or file.is_dir():
        if file.exists() and not file.is_dir():
            raise click.UsageError(f"--draw {target}: it must be a folder, since there are {len(images)} pictures.")
        names = [f"{Path(image).stem}.png" for image in images]
        if len({*names}) != len(names):
            raise click.UsageError("--draw: two pictures have the same name; draw them one by one.")
        files = [file / name for name in names]
    elif file.suffix.lower() in _FORMATS:
        files = [file]
    else:
        raise click.UsageError(f"--draw {target}: write a file that ends in {', '.join(_FORMATS)}.")
    given = {Path(image).resolve() for image in images}
    lost = next((file for file in files if file.resolve() in given), None)
    if lost is not None:
        raise click.UsageError(f"--draw {target}: {lost} is a picture that you give; draw into another file.")
    return dict(zip(images, files, strict=True))


def _draw(image: str, file: Path, found: Sequence[Detection], names: Sequence[str]) -> str:
    try:
        with Image.open(image) as opened:
            picture = drawn(opened, found, names)
        with replacing(file) as stream:
            picture.save(stream, _FORMATS[file.suffix.lower()])
    except (OSError, ValueError) as error:  # a ValueError for a picture that is too large for the format
        raise InputError(f"{file} cannot be drawn: {error}", remedy="Choose another file with --draw.") from error
    return f"{file}: {len(found)} boxes"


def _array(found: Sequence[Detection], names: Sequence[str]) -> np.ndarray:
    rows = [(*one.box, one.score, names.index(one.name)) for one in found]
    return np.array(rows, np.float32).reshape(-1, 6)


def _told(one: Detection) -> dict[str, Any]:
    return {"name": one.name, "score": round(one.score, 6), "box": [round(edge, 2) for edge in one.box]}


def _show(found: dict[str, list[Detection]], out: Console) -> None:
    for image, boxes in found.items():
        table = Table(title=f"{image}: {len(boxes)} boxes", title_justify="left", box=None)
        for name in ("score", "name", "x0", "y0", "x1", "y1"):
            table.add_column(name, justify="left" if name == "name" else "right")
        for one in boxes:
            table.add_row(f"{one.score:.3f}", one.name, *(f"{edge:.1f}" for edge in one.box))
        out.print(table)
