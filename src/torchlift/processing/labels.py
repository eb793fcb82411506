"""Logits to named scores, and the few formulas on scores and embeddings that need no framework."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import numpy.typing as npt

from torchlift.errors import InputError

Activation = Literal["softmax", "sigmoid", "none"]
Floats = npt.NDArray[np.floating[Any]]


@dataclass(frozen=True)
class Labels:
    """Names the classes of a classifier and returns the ``top`` best, scored by ``activation`` of the logits.

    Raises InputError where a name is missing, ``top`` is below 1 or the activation is unknown.
    """

    names: tuple[str, ...]
    top: int = 5
    activation: Activation = "softmax"

    def __post_init__(self) -> None:
        object.__setattr__(self, "names", tuple(self.names))
        if not self.names:
            raise InputError("there are no label names", remedy="Give a name for each class of the model.")
        if self.top < 1:
            raise InputError(f"top is {self.top}", remedy="Ask for 1 label or more.")
        if self.activation not in _ACTIVATIONS:
            raise InputError(
                f"activation {self.activation!r} is unknown", remedy=f"Use one of {', '.join(_ACTIVATIONS)}."
            )

    def __call__(self, logits: npt.ArrayLike) -> list[list[tuple[str, float]]]:
        """For logits float [N, C], N rows of (name, score), the best first; equal scores keep the order of the names.

        Raises InputError where the shape is not [N, number of names].
        """
        logits = _floats(logits)
        if logits.ndim != 2 or logits.shape[1] != len(self.names):
            raise InputError(
                f"the logits have shape {list(logits.shape)} for {len(self.names):,} label names",
                remedy=f"They must be [N, {len(self.names)}]: give the labels that this model was trained with.",
            )
        scores = _ACTIVATIONS[self.activation](logits)
        best = np.argsort(-logits, axis=-1, kind="stable")[:, : self.top]
        return [[(self.names[i], float(row[i])) for i in order] for row, order in zip(scores, best, strict=True)]


def softmax(x: npt.ArrayLike, axis: int = -1) -> Floats:
    """exp(x) / sum(exp(x)) along ``axis``, shifted by the maximum so that it cannot overflow; at least float32."""
    x = _floats(x)
    exponentials = np.exp(x - x.max(axis=axis, keepdims=True, initial=-np.inf))
    return exponentials / exponentials.sum(axis=axis, keepdims=True)


def sigmoid(x: npt.ArrayLike) -> Floats:
    """1 / (1 + exp(-x)) without overflow; at least float32."""
    x = _floats(x)
    small = np.exp(-np.abs(x))
    return np.where(x >= 0, 1, small) / (1 + small)


def l2_normalize(x: npt.ArrayLike) -> Floats:
    """Scale the rows of [..., E] to length 1, at least float32; zero rows stay zero.

    Lengths are computed in float64: no float32 row is too long or too short.
    """
    x = _floats(x)
    lengths = np.sqrt(np.einsum("...i,...i->...", x, x, dtype=np.float64))[..., None]
    return np.divide(x, np.where(lengths == 0, 1, lengths), out=np.empty_like(x), casting="same_kind")


def _floats(x: npt.ArrayLike) -> Floats:
    x = np.asarray(x)
    return x.astype(np.result_type(x, np.float32), copy=False)


_ACTIVATIONS: dict[str, Callable[[Floats], Floats]] = {"softmax": softmax, "sigmoid": sigmoid, "none": lambda x: x}
