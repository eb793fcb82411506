"""Writes pictures and captions that training never saw, as a retrieval set in the format of MUGE: `valid` to score
with, and `train` to calibrate with.

    python examples/shapes/evaluation.py OUTPUT_FOLDER [--pictures N] [--texts N]
"""

from __future__ import annotations

import argparse
import io
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path

import numpy as np
from PIL import Image

import shapes
from torchlift.datasets import Text, write_retrieval

SEEDS = {"train": 1_000_001, "valid": 1_000_002}
"""Split -> seed; far from the seeds that training draws its own pictures with."""

PIXELS = 64

NOISE, CAST = 40.0, 0.35
"""Standard deviation of the noise on the pictures, in 0..255, and by how much a colour may be dimmed, at most. Training
saw clean pictures: so the model errs, and what it loses by a lower precision shows.
"""

DETAILS = tuple(t for t in shapes.TEMPLATES if "{size}" in t)
"""Captions that tell colour, shape and size, so that they fit few pictures."""


def draw_split(count: int, seed: int) -> list[shapes.Sample]:
    """``count`` pictures of all combinations as if badly lit, each sample by the seed and its number alone."""
    return [
        replace(sample, picture=badly_lit(sample.picture, np.random.default_rng((seed, number, 1))))
        for number, sample in enumerate(shapes.samples(count, seed))
    ]


def badly_lit(picture: Image.Image, rng: np.random.Generator) -> Image.Image:
    """The picture at PIXELS x PIXELS, in a coloured light and with noise."""
    small = np.asarray(picture.resize((PIXELS, PIXELS), Image.Resampling.BICUBIC), np.float32)
    lit = small * rng.uniform(1 - CAST, 1, 3) + NOISE * rng.standard_normal(small.shape)
    return Image.fromarray(lit.clip(0, 255).astype(np.uint8))


def write_captions(scenes: Sequence[shapes.Scene], count: int, seed: int) -> list[Text]:
    """Up to ``count`` different captions of the scenes, each with the ids of all pictures that it fits.

    The id of a picture is its scene's place.
    """
    rng = np.random.default_rng(seed)
    texts: dict[str, tuple[int, ...]] = {}
    for attempt in range(20 * count):
        if len(texts) == count:
            break
        told = shapes.caption(scenes[attempt % len(scenes)], rng, DETAILS)
        if told.text not in texts:
            texts[told.text] = tuple(i for i, scene in enumerate(scenes) if told.fits(scene))
    return [Text(number, text, ids) for number, (text, ids) in enumerate(texts.items())]


def as_png(picture: Image.Image) -> bytes:
    """The picture as a PNG file."""
    file = io.BytesIO()
    picture.save(file, "PNG")
    return file.getvalue()


def write_split(folder: Path, split: str, pictures: int, texts: int) -> int:
    """Write one split; returns the number of its texts."""
    samples = draw_split(pictures, SEEDS[split])
    captions = write_captions([sample.scene for sample in samples], texts, SEEDS[split])

    def images() -> Iterator[tuple[int, bytes]]:
        for number, sample in enumerate(samples):
            yield number, as_png(sample.picture)

    write_retrieval(folder, split, images(), captions)
    return len(captions)


def main(arguments: Sequence[str] | None = None) -> None:
    """The command line."""
    parser = argparse.ArgumentParser(description="Write a retrieval set of coloured shapes.")
    parser.add_argument("output", type=Path, help="folder for {train,valid}_imgs.tsv and _texts.jsonl")
    parser.add_argument("--pictures", type=int, default=400, help="in valid; train has half (default: %(default)s)")
    parser.add_argument("--texts", type=int, default=600, help="in valid; train has half (default: %(default)s)")
    options = parser.parse_args(arguments)
    options.output.mkdir(parents=True, exist_ok=True)
    for split, share in (("train", 2), ("valid", 1)):
        pictures = options.pictures // share
        texts = write_split(options.output, split, pictures, options.texts // share)
        print(f"{options.output / split}: {pictures} pictures, {texts} texts")


if __name__ == "__main__":
    main()
