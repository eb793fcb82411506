"""Draws boxes and their names onto a picture."""

from __future__ import annotations

import colorsys
from collections.abc import Sequence

from PIL import Image, ImageDraw, ImageFont

from torchlift.processing.boxes import Detection

_TURN = 0.618034
"""Of the colour circle, from one class to the next: neighbours never look alike."""


def drawn(picture: Image.Image, found: Sequence[Detection], names: Sequence[str]) -> Image.Image:
    """A copy of a picture with the boxes, each in the colour of its class, with its name and score."""
    canvas = picture.convert("RGB")
    draw = ImageDraw.Draw(canvas)
    thickness = max(1, round(max(canvas.size) / 400))
    font = ImageFont.load_default(max(10.0, max(canvas.size) / 45))
    for name, score, (x0, y0, x1, y1) in reversed(found):  # the best last, on top
        colour = _colour(names.index(name))
        draw.rectangle((x0, y0, max(x0, x1), max(y0, y1)), outline=colour, width=thickness)
        text = f"{_shown(name)} {score:.2f}"
        left, top, right, bottom = draw.textbbox((0, 0), text, font=font)
        height = bottom - top + 2 * thickness
        above = y0 - height if y0 >= height else y0
        draw.rectangle((x0, above, x0 + right - left + 2 * thickness, above + height), fill=colour)
        draw.text((x0 + thickness - left, above + thickness - top), text, fill=(0, 0, 0), font=font)
    return canvas


def _colour(number: int) -> tuple[int, int, int]:
    red, green, blue = colorsys.hsv_to_rgb(number * _TURN % 1, 0.65, 1)
    return round(255 * red), round(255 * green), round(255 * blue)


def _shown(name: str) -> str:
    """A name without what no font draws: control characters and line ends."""
    return "".join(character if character.isprintable() else " " for character in name)
