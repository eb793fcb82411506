"""Writes parts of the pictures that scikit-image carries, without labels, as a data set in two splits.

python examples/imagenet/pictures.py OUTPUT_FOLDER

No picture is in both splits: INT8 finds its ranges on those of `train`, and is scored on those of `valid`.
"""

from __future__ import annotations

import argparse
from pathlib import Path

import numpy as np
from PIL import Image, ImageOps
from skimage import data

SPLITS = {
    "train": ("astronaut", "camera", "coins", "gravel", "immunohistochemistry", "rocket", "page", "colorwheel"),
    "valid": ("cat", "coffee", "moon", "brick", "retina", "clock", "text", "grass", "hubble_deep_field"),
}
PARTS = 24
"""Parts of each picture."""


def part(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """A part of a picture, with 30 to 100 percent of its width and as much of its height; half of them are mirrored."""
    share = rng.uniform(0.3, 1)
    width, height = (max(1, round(share * side)) for side in picture.size)
    left, upper = rng.integers(picture.width - width + 1), rng.integers(picture.height - height + 1)
    cut = picture.crop((left, upper, left + width, upper + height))
    return ImageOps.mirror(cut) if rng.random() < 0.5 else cut


def write(folder: Path) -> None:
    """The files ``SPLIT/PICTURE-NUMBER.png``, always the same ones."""
    rng = np.random.default_rng(0)
    for split, names in SPLITS.items():
        (folder / split).mkdir(parents=True, exist_ok=True)
        for name in names:
            picture = Image.fromarray(getattr(data, name)()).convert("RGB")
            for number in range(PARTS):
                part(picture, rng).save(folder / split / f"{name}-{number:02}.png")


if __name__ == "__main__":
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path, help="Where the folders of the splits go.")
    write(parser.parse_args().folder)
