"""Random images and texts that look to the towers like real ones: for goldens, calibration of shapes, and timing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from torchlift.families.chinese_clip.vocabulary import Vocabulary
from torchlift.processing import clip

MEAN, STD = (np.array(value, np.float32).reshape(3, 1, 1) for value in (clip.MEAN, clip.STD))

PATCHES = 8
"""Patches of even colour along a side of a random image."""


@dataclass(frozen=True)
class ImageSampler:
    """Draws ``image`` float32 [batch, 3, resolution, resolution]: coloured patches with noise, normalised."""

    resolution: int

    def __call__(self, sizes: Mapping[str, int], rng: np.random.Generator) -> dict[str, np.ndarray]:
        patch = -(-self.resolution // PATCHES)
        colours = rng.random((sizes["batch"], 3, PATCHES, PATCHES), dtype=np.float32)
        image = colours.repeat(patch, axis=2).repeat(patch, axis=3)[..., : self.resolution, : self.resolution]
        image = image + 0.1 * rng.standard_normal(image.shape, dtype=np.float32)
        return {"image": (image.clip(0, 1) - MEAN) / STD}


@dataclass(frozen=True)
class TextSampler:
    """Draws ``text`` int64 [batch, sequence]: [CLS], random tokens, [SEP], then 0; the first row is of full length."""

    vocabulary: Vocabulary

    def __call__(self, sizes: Mapping[str, int], rng: np.random.Generator) -> dict[str, np.ndarray]:
        batch, sequence = sizes["batch"], sizes["sequence"]
        ordinary = np.array(self.vocabulary.ordinary or range(1, len(self.vocabulary.entries)), np.int64)
        start, end = self.vocabulary.id_of("[CLS]"), self.vocabulary.id_of("[SEP]")
        lengths = rng.integers(min(3, sequence), sequence + 1, batch)
        lengths[0] = sequence
        text = rng.choice(ordinary, (batch, sequence))
        if end is not None:
            text[np.arange(batch), lengths - 1] = end
        if start is not None:
            text[:, 0] = start
        text[np.arange(sequence)[None, :] >= lengths[:, None]] = 0
        return {"text": text}
