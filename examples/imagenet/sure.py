"""Scores a bundle of MobileNetV2 where PyTorch is sure, and chooses again: data in memory, and a metric of one's own.

python examples/imagenet/sure.py BUNDLE PICTURES_FOLDER
"""

from __future__ import annotations

import sys
from pathlib import Path

import numpy as np

import torchlift as tl

CERTAIN = 0.5
"""The least probability of the best class with which PyTorch is sure."""


def same_where_sure(logits: np.ndarray, reference: np.ndarray) -> np.ndarray:
    """1 where the label is PyTorch's, or PyTorch is not sure; else 0. Both are float32 [samples, classes]."""
    shares = np.exp(reference - reference.max(1, keepdims=True))
    certain = shares.max(1) / shares.sum(1) >= CERTAIN
    return np.where(certain, logits.argmax(1) == reference.argmax(1), 1)


def main(bundle: str, folder: str) -> None:
    """Print what each variant loses, in points of all pictures, and which serves then."""
    pictures = [{"pixels": [str(file)]} for file in sorted(Path(folder).iterdir())]
    metric = tl.Metric("sure", function=same_where_sure, against="reference")
    scored = tl.score(bundle, data=pictures, metrics={"sure": metric}, within={"sure": 0})
    assert scored.scoring is not None
    for name, score in scored.scoring.scores.items():
        print(f"{name:34}{score.drops['sure'].value:6.2f}")
    print(f"chosen: {scored.choices['model'].variant}")


if __name__ == "__main__":
    main(*sys.argv[1:])
