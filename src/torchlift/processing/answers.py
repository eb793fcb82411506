"""Outputs to the answers that a component declares, and the few formulas that this needs."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NoReturn

import numpy as np
import numpy.typing as npt

from torchlift.declare.answers import Answer, Boxes, Embedding, Labels, Picture, Raw, Span, TokenLabels
from torchlift.errors import InputError

Floats = npt.NDArray[np.floating[Any]]


def finished(answer: Answer, values: Any) -> Any:
    """What the output of a component says, as it declares it. ``values`` has a row a sample: an array, or a list with
    an array each where they differ in length.

    An embedding is float32 [N, E], with rows of length 1 where it says so; labels are a list of (name, score) a row,
    the best first; labels of tokens a list of (name, score) a row, one a token; pictures are a list of uint8 [H, W, 3];
    a raw array, the scores of a span and the candidates of boxes stay as they are. Raises InputError for values that do
    not fit.
    """
    match answer:
        case Embedding(normalize=normalize):
            return np.asarray(l2_normalize(values) if normalize else values, np.float32)
        case Labels():
            return named(answer, values)
        case TokenLabels(names=names):
            return [_named_tokens(names, row) for row in values]
        case Picture():
            return [pixels(answer, row) for row in values]
        case Raw() | Span() | Boxes():  # spans and boxes need more than their array: see spans.py and boxes.py here
            return values
        case _:
            forgotten: NoReturn = answer  # a type error where a kind has no case above
            raise TypeError(f"{type(forgotten).__name__} is no kind of answer")


def pixels(picture: Picture, values: np.ndarray) -> npt.NDArray[np.uint8]:
    """A picture, float [3, H, W], as uint8 [H, W, 3] in R, G, B: rounded and clipped. What is not a number is black."""
    values = np.nan_to_num(_floats(values), nan=0.0)
    if picture.scale == "unit":
        values = values * 255
    ordered = values[::-1] if picture.channels == "bgr" else values
    return np.ascontiguousarray(np.rint(ordered.clip(0, 255)).astype(np.uint8).transpose(1, 2, 0))


def named(labels: Labels, logits: npt.ArrayLike) -> list[list[tuple[str, float]]]:
    """For logits float [N, C], N rows of (name, score), the best first; equal scores keep the order of the names.

    Raises InputError where the shape is not [N, number of names].
    """
    logits = _floats(logits)
    if logits.ndim != 2 or logits.shape[1] != len(labels.names):
        raise InputError(
            f"the logits have shape {list(logits.shape)} for {len(labels.names):,} label names",
            remedy=f"They must be [N, {len(labels.names)}]: give the labels that this model was trained with.",
        )
    scores = _ACTIVATIONS[labels.activation](logits)
    best = np.argsort(-logits, axis=-1, kind="stable")[:, : labels.top]
    return [[(labels.names[i], float(row[i])) for i in order] for row, order in zip(scores, best, strict=True)]


def _named_tokens(names: Sequence[str], logits: np.ndarray) -> list[tuple[str, float]]:
    """For logits float [tokens, C] the best name of each token, and its probability."""
    best = logits.argmax(axis=-1)
    scores = np.take_along_axis(softmax(logits), best[:, None], axis=-1)[:, 0]
    return [(names[label], float(score)) for label, score in zip(best, scores, strict=True)]


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
