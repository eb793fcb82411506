"""Random pictures with the statistics of real ones, for goldens and timing."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

PATCHES = 8
"""The number of patches of one colour along a side of a random picture."""


@dataclass(frozen=True)
class PictureSampler:
    """Draws the input ``name``, float32 [batch, 3, resolution, resolution].

    A picture is made of coloured patches with noise, and is normalised by ``mean`` and ``std`` of each channel.
    """

    name: str
    resolution: int
    mean: Sequence[float]
    std: Sequence[float]

    def __call__(self, sizes: Mapping[str, int], rng: np.random.Generator) -> dict[str, np.ndarray]:
        patch = -(-self.resolution // PATCHES)
        colours = rng.random((sizes["batch"], 3, PATCHES, PATCHES), dtype=np.float32)
        image = colours.repeat(patch, axis=2).repeat(patch, axis=3)[..., : self.resolution, : self.resolution]
        image = image + 0.1 * rng.standard_normal(image.shape, dtype=np.float32)
        mean, std = (np.array(values, np.float32).reshape(3, 1, 1) for values in (self.mean, self.std))
        return {self.name: (image.clip(0, 1) - mean) / std}
