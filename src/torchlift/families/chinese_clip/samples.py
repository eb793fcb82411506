"""Random texts with the structure of real ones, for goldens and timing."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass

import numpy as np

from torchlift.families.chinese_clip.vocabulary import Vocabulary


@dataclass(frozen=True)
class TextSampler:
    """Draws ``text``, int64 [batch, sequence]: [CLS], random tokens, [SEP], then zeros.

    The first row has full length.
    """

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
