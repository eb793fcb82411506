"""Draws coloured shapes on noise, with their boxes: a data set in YOLO's format."""

from pathlib import Path

import numpy as np
from PIL import Image, ImageDraw

NAMES = ("circle", "square", "triangle")
SIDE = 128
"""Pixels of a picture's sides."""


def draw(rng):
    """A picture uint8 [128, 128, 3], and its boxes as rows class, x, y, width, height in shares."""
    noise = rng.normal(110, 30, (SIDE // 8, SIDE // 8, 3)).clip(0, 255).astype(np.uint8)
    picture = Image.fromarray(noise).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
    canvas, rows, taken = ImageDraw.Draw(picture), [], []
    for _ in range(rng.integers(1, 5)):
        side = int(rng.integers(14, 60))
        x, y = (int(v) for v in rng.integers(0, SIDE - side, 2))
        if any(abs(x - a) < (side + s) * 0.6 and abs(y - b) < (side + s) * 0.6 for a, b, s in taken):
            continue
        taken.append((x, y, side))
        kind = int(rng.integers(len(NAMES)))
        colour = tuple(int(v) for v in rng.integers(0, 256, 3))
        edge = (x, y, x + side, y + side)
        if NAMES[kind] == "circle":
            canvas.ellipse(edge, fill=colour, outline="white")
        elif NAMES[kind] == "square":
            canvas.rectangle(edge, fill=colour, outline="white")
        else:
            canvas.polygon([(x, y + side), (x + side, y + side), (x + side / 2, y)], fill=colour, outline="white")
        rows.append((kind, (x + side / 2) / SIDE, (y + side / 2) / SIDE, side / SIDE, side / SIDE))
    return np.asarray(picture), rows


def write(folder, split, count, seed):
    """Write pictures and labels of a split, and the data.yaml that names it."""
    rng = np.random.default_rng(seed)
    for part in ("images", "labels"):
        (folder / part / split).mkdir(parents=True, exist_ok=True)
    for number in range(count):
        picture, rows = draw(rng)
        Image.fromarray(picture).save(folder / "images" / split / f"{number:04}.png")
        lines = [f"{kind} " + " ".join(f"{value:.6f}" for value in box) for kind, *box in rows]
        (folder / "labels" / split / f"{number:04}.txt").write_text("\n".join(lines) + "\n")
    names = ", ".join(NAMES)
    Path(folder, "data.yaml").write_text(
        f"path: .\ntrain: images/train\nval: images/val\nnc: {len(NAMES)}\nnames: [{names}]\n"
    )
