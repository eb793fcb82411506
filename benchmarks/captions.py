"""How long captions are: what the benchmarks of texts have in common. It needs neither torch nor a runtime."""

from __future__ import annotations

import numpy as np

CONTEXT = 52
"""Tokens that Chinese-CLIP reads of a text."""


def caption_lengths(count: int, rng: np.random.Generator) -> np.ndarray:
    """Characters of ``count`` captions, int [count]: log-normal with a mean of 12, from 2 to 50."""
    return np.clip(rng.lognormal(np.log(11), 0.45, count).round(), 2, 50).astype(int)
