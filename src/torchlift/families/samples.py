"""Random inputs for goldens and timing: pictures with the statistics of real ones, and values within bounds."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import numpy as np

from torchlift.errors import SignatureError
from torchlift.signature import TensorSpec

PATCHES = 8
"""The number of patches of one colour along a side of a random picture."""


@dataclass(frozen=True)
class PictureSampler:
    """Draws the input ``name``, float32 [batch, 3, *size]. Without a size height and width are axes of these names.

    A picture is made of coloured patches with noise, and is normalised by ``mean`` and ``std`` of each channel.
    """

    name: str
    size: tuple[int, int] | None
    mean: Sequence[float]
    std: Sequence[float]

    def __call__(self, sizes: Mapping[str, int], rng: np.random.Generator) -> dict[str, np.ndarray]:
        height, width = self.size or (sizes["height"], sizes["width"])
        rows, columns = -(-height // PATCHES), -(-width // PATCHES)
        colours = rng.random((sizes["batch"], 3, PATCHES, PATCHES), dtype=np.float32)
        image = colours.repeat(rows, axis=2).repeat(columns, axis=3)[..., :height, :width]
        image = image + 0.1 * rng.standard_normal(image.shape, dtype=np.float32)
        mean, std = (np.array(values, np.float32).reshape(3, 1, 1) for values in (self.mean, self.std))
        return {self.name: (image.clip(0, 1) - mean) / std}


@dataclass(frozen=True)
class BoundsSampler:
    """Draws every input of ``specs`` within its bounds, each value by itself.

    For example ``TensorSpec("x", "float32", ("batch",), bounds=(-30, 50))`` is drawn uniformly from -30 to 50. Floats
    without bounds are drawn from the standard normal distribution. Raises SignatureError for integers without bounds,
    and for bounds that hold no number of the dtype.
    """

    specs: tuple[TensorSpec, ...]

    def __call__(self, sizes: Mapping[str, int], rng: np.random.Generator) -> dict[str, np.ndarray]:
        return {spec.name: _drawn(spec, sizes, rng) for spec in self.specs}


def _drawn(spec: TensorSpec, sizes: Mapping[str, int], rng: np.random.Generator) -> np.ndarray:
    shape = spec.shape_at(sizes)
    if spec.dtype == "bool":
        return np.asarray(rng.integers(0, 2, shape), bool)
    if spec.dtype.startswith("float"):
        drawn = rng.uniform(*spec.bounds, shape) if spec.bounds else rng.standard_normal(shape)
        return np.asarray(drawn, spec.dtype)
    whole = spec.whole_bounds
    if whole is None:
        raise SignatureError(
            f"input {spec.name} is {spec} and states no bounds",
            remedy="Say which values it takes: TensorSpec(..., bounds=(low, high)), high exclusive.",
        )
    limits = np.iinfo(spec.dtype)
    least, greatest = max(whole[0], int(limits.min)), min(whole[1], int(limits.max))
    if least > greatest:
        raise SignatureError(
            f"input {spec.name} is {spec} with the bounds {spec.bounds}, which hold no such number",
            remedy="Bounds are (low, high), low inclusive and high exclusive, for example (0, 100).",
        )
    return np.asarray(rng.integers(least, greatest + 1, shape), spec.dtype)
