"""The ranges that a network was trained to be quantised at, by the PyTorch module that they belong to."""

from __future__ import annotations

import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

SCALES = "scales.json"

Range = tuple[float, float]
"""Lowest and highest value that the quantised type covers; it holds 0."""


@dataclass(frozen=True)
class Scales:
    """What fake quantisation learned about one module; None where it was not quantised.

    ``input`` and ``output`` are ranges of its first input and of its output. ``weight`` float32 [output channels], or
    [] for one scale of the whole tensor, is the magnitude that the integer 127 stands for: weight / 127 is the scale.
    It belongs to the weight as the module holds it, before any batch normalisation is folded into it.
    """

    input: Range | None = None
    output: Range | None = None
    weight: npt.NDArray[np.float32] | None = None

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Scales):
            return NotImplemented
        same = (self.input, self.output) == (other.input, other.output)
        if self.weight is None or other.weight is None:
            return same and self.weight is other.weight
        return same and np.array_equal(self.weight, other.weight)

    __hash__ = None  # type: ignore[assignment]

    def folded(self, factor: npt.NDArray[np.float32]) -> Scales:
        """The scales where every output channel of the weight was multiplied by ``factor`` float32 [channels], as
        folding a batch normalisation does: the same integers stand for the new weights.
        """
        if self.weight is None:
            return self
        return Scales(self.input, self.output, np.abs(factor).astype(np.float32) * self.weight)


def save_scales(folder: Path, scales: Mapping[str, Scales]) -> None:
    """Write the scales by module beside a component's own graph; nothing where there are none."""
    if scales:
        (folder / SCALES).write_text(json.dumps(to_plain(dict(scales))))


def load_scales(folder: Path) -> dict[str, Scales]:
    """The inverse of :func:`save_scales`; empty where a network was trained without fake quantisation."""
    file = folder / SCALES
    return from_plain(json.loads(file.read_text())) if file.is_file() else {}


def to_plain(scales: dict[str, Scales]) -> dict[str, dict[str, Any]]:
    """Plain data for JSON: what :func:`from_plain` reads."""
    return {
        path: {
            "input": known.input,
            "output": known.output,
            "weight": None if known.weight is None else known.weight.tolist(),
        }
        for path, known in scales.items()
    }


def from_plain(data: dict[str, dict[str, Any]]) -> dict[str, Scales]:
    """The inverse of :func:`to_plain`, also after a way through JSON."""
    return {
        path: Scales(
            input=_range(known["input"]),
            output=_range(known["output"]),
            weight=None if known["weight"] is None else np.array(known["weight"], np.float32),
        )
        for path, known in data.items()
    }


def _range(values: Any) -> Range | None:
    return None if values is None else (float(values[0]), float(values[1]))
