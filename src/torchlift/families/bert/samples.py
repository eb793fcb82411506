"""Random texts with the structure of real ones, for goldens and timing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np


@dataclass(frozen=True)
class TokenSampler:
    """Draws ids, mask and, where there is a third name, types, int64 [batch, sequence].

    A row has a first token, random ones and a last one, then padding; the first row has full length. With ``pairs``
    types tell two parts of a row apart, where they are drawn. ``marks`` are the ids of the first and the last token.
    """

    names: tuple[str, ...]
    vocabulary: int
    special: tuple[int, ...]
    marks: tuple[int, int]
    pad: int

    def __call__(self, sizes: Mapping[str, int], rng: np.random.Generator) -> dict[str, np.ndarray]:
        batch, sequence = sizes["batch"], sizes["sequence"]
        ordinary = np.setdiff1d(np.arange(self.vocabulary), self.special)
        lengths = rng.integers(min(3, sequence), sequence + 1, batch)
        lengths[0] = sequence
        places = np.arange(sequence)[None, :]
        kept = places < lengths[:, None]
        ids = rng.choice(ordinary if len(ordinary) else np.arange(self.vocabulary), (batch, sequence))
        ids[:, 0] = self.marks[0]
        ids[np.arange(batch), lengths - 1] = self.marks[1]
        types = kept & (places >= (lengths * rng.uniform(0.1, 0.9, batch))[:, None])
        drawn = (np.where(kept, ids, self.pad), kept, types)
        return {name: array.astype(np.int64) for name, array in zip(self.names, drawn, strict=False)}
