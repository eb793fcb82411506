"""Ranges that a network learnt for its quantisation, by PyTorch module, and their file."""

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
"""The lowest and the highest value that the integers cover. 0 lies between them."""


@dataclass(frozen=True)
class Scales:
    """What fake quantisation learnt about one module. A part that was not quantised is None.

    ``input`` and ``output`` are the ranges of its first input and of its output. ``weight`` is the magnitude that the
    integer 127 stands for, so weight / 127 is the scale: float32 [output channels], or [] for the whole tensor. It
    belongs to the weight as the module holds it, before a batch normalisation is folded into it.
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
        """The scales after each output channel of the weight was multiplied by ``factor`` float32 [channels].

        Folding a batch normalisation does that. The integers of the weight stay the same.
        """
        if self.weight is None:
            return self
        return Scales(self.input, self.output, np.abs(factor).astype(np.float32) * self.weight)


def save_scales(folder: Path, scales: Mapping[str, Scales]) -> None:
    """Write the scales by module to ``folder``, which has the component's source graph. Without scales, no file."""
    if scales:
        (folder / SCALES).write_text(json.dumps(to_plain(dict(scales))))


def load_scales(folder: Path) -> dict[str, Scales]:
    """Read what :func:`save_scales` wrote. Empty for a network that was trained without fake quantisation."""
    file = folder / SCALES
    return from_plain(json.loads(file.read_text())) if file.is_file() else {}


def to_plain(scales: dict[str, Scales]) -> dict[str, dict[str, Any]]:
    """The scales as plain data for JSON."""
    return {
        path: {
            "input": known.input,
            "output": known.output,
            "weight": None if known.weight is None else known.weight.tolist(),
        }
        for path, known in scales.items()
    }


def from_plain(data: dict[str, dict[str, Any]]) -> dict[str, Scales]:
    """The scales from plain data, which may have been JSON in between."""
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
