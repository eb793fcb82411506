"""Metrics of data in memory, by name: each makes outcomes of outputs and targets, arrays with a row a sample.

For example ``METRICS["top1"].function(logits, labels)``, float32 [samples, classes] and int64 [samples], is 1 where the
right class is the highest, else 0: float64 [samples].
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from torchlift.errors import MetricError
from torchlift.processing.answers import l2_normalize
from torchlift.tasks.base import Metric
from torchlift.tasks.ranking import Relevant, blocks, hits, outranked

UNITS = "units"
"""The unit of a metric that has no unit known here: numbers as they are."""

_LEAST_ERROR = 1e-10
"""Of the square of the peak: a smaller error counts as this one, which is 100 dB."""


def array_of(outputs: Any, what: str) -> np.ndarray:
    """The only output, with rows of one shape. Raises MetricError where there are several, or shapes differ."""
    if isinstance(outputs, dict):
        named = ", ".join(f"{name}.{what}" for name in outputs)
        raise MetricError(f"{what} looks at one output, of {len(outputs)}", remedy=f"Name it: {named}.", metric=what)
    if not isinstance(outputs, np.ndarray):
        raise MetricError(
            f"{what} takes outputs of one shape, and theirs differ from sample to sample",
            remedy="Give a function of your own, which gets a list with the array of each sample: metrics=.",
            metric=what,
        )
    return outputs


def labels_of(outputs: Any, what: str) -> np.ndarray:
    """The label that is highest along dimension 1: int64 [samples, ...], -1 where scores are not numbers. Whole numbers
    are labels as they are.
    """
    scores = array_of(outputs, what)
    if scores.dtype.kind in "iub":
        return scores.astype(np.int64)
    if scores.ndim < 2 or scores.shape[1] < 2:
        raise MetricError(
            f"{what} takes a score for each class, [samples, classes], and the output is {_said(scores)}",
            remedy="Give a function of your own: metrics={'mine': lambda outputs, targets: (outputs > 0) == targets}.",
            metric=what,
        )
    return np.where(np.isnan(scores).any(axis=1), -1, scores.argmax(axis=1)).astype(np.int64)


def right_labels(targets: Any, shape: tuple[int, ...], what: str) -> np.ndarray:
    """Targets as labels of that shape, int64. Raises MetricError for others."""
    found = targets if isinstance(targets, np.ndarray) else np.empty(0)
    if found.dtype.kind not in "iub" or found.size != np.prod(shape):
        raise MetricError(
            f"{what} compares with labels, whole numbers {list(shape)}, and the targets are {_said(targets)}",
            remedy="Give the number of the right class with each sample.",
            metric=what,
        )
    return found.reshape(shape).astype(np.int64)


def top(k: int) -> Callable[[Any, Any], np.ndarray]:
    """Whether the right class is among the ``k`` highest of [samples, classes]; a tie is a loss."""

    def found(outputs: Any, targets: Any) -> np.ndarray:
        what = f"top{k}"
        scores = array_of(outputs, what)
        right = right_labels(targets, labels_of(scores, what).shape, what)
        if scores.ndim != 2 or right.min() < 0 or right.max() >= scores.shape[1]:
            raise MetricError(
                f"{what} takes scores [samples, classes] and classes from 0; the output is {_said(scores)}, the labels "
                f"are {right.min()}..{right.max()}",
                remedy="Give the data that the model was trained for; for a map of classes ask for accuracy.",
                metric=what,
            )
        return hits(outranked(lambda part: scores[part], scores.shape[1], Relevant.labels(right)), k)

    return found


def accuracy(outputs: Any, targets: Any) -> np.ndarray:
    """The share of right labels of each sample: of one label, or of all in a map of them."""
    found = labels_of(outputs, "accuracy")
    return _share(found == right_labels(targets, found.shape, "accuracy"))


def agreement(outputs: Any, reference: Any) -> np.ndarray:
    """The share of labels of each sample that are those of the reference."""
    found, known = labels_of(outputs, "agreement"), labels_of(reference, "agreement")
    return _share((found == known) & (known >= 0))


def label_pairs(outputs: Any, targets: Any) -> np.ndarray:
    """The label that was found and the right one: float64 [samples, 2]."""
    found = labels_of(outputs, "f1").reshape(-1)
    return np.stack([found, right_labels(targets, found.shape, "f1")], 1).astype(np.float64)


def macro_f1(pairs: np.ndarray) -> float:
    """The mean F1 of the classes that occur, found or right."""
    found, right = pairs.T.astype(np.int64)
    classes = np.unique(pairs[pairs >= 0]).astype(np.int64)
    both = np.array([np.count_nonzero((found == c) & (right == c)) for c in classes])
    counts = np.array([np.count_nonzero(found == c) + np.count_nonzero(right == c) for c in classes])
    return float(np.mean(2 * both / counts))


def scores_and_labels(outputs: Any, targets: Any) -> np.ndarray:
    """Scores and right labels, 0 or 1, of each class: float64 [samples, 2, classes]."""
    scores = array_of(outputs, "map")
    return np.stack([scores, right_labels(targets, scores.shape, "map") > 0], 1).astype(np.float64)


def mean_average_precision(pairs: np.ndarray) -> float:
    """The mean over the classes that have a right sample of their average precision; a number without one is NaN."""
    found = [_average_precision(*pairs[:, :, c].T) for c in range(pairs.shape[2]) if pairs[:, 1, c].any()]
    return float(np.mean(found)) if found else float("nan")


def _average_precision(scores: np.ndarray, right: np.ndarray) -> float:
    """The sum of the precision at each score that is reached, times the recall that it adds."""
    scores = np.where(np.isnan(scores), -np.inf, scores)
    order = np.argsort(-scores, kind="stable")
    last = np.flatnonzero(np.append(scores[order][1:] != scores[order][:-1], True))  # of each group of equal scores
    hit = np.cumsum(right[order])[last]
    return float(np.sum(np.diff(hit, prepend=0) / hit[-1] * hit / (last + 1)))


def squared_errors(outputs: Any, targets: Any) -> np.ndarray:
    """The mean square of the differences of each sample: float64 [samples]."""
    return np.array([np.mean(d**2) for d in _differences(outputs, targets, "rmse")])


def absolute_errors(outputs: Any, targets: Any) -> np.ndarray:
    """The mean size of the differences of each sample: float64 [samples]."""
    return np.array([np.mean(np.abs(d)) for d in _differences(outputs, targets, "mae")])


def psnr(outputs: Any, targets: Any) -> np.ndarray:
    """Of each sample in dB, at most 100. The peak is 255 where targets are uint8, else what lies between the least and
    the greatest value of all targets. What is not a number has 0 dB.
    """
    errors = np.array([np.mean(d**2) for d in _differences(outputs, targets, "psnr")])
    rows = [np.asarray(row) for row in targets]
    whole = rows[0].dtype == np.uint8
    peak = 255.0 if whole else max(float(r.max()) for r in rows) - min(float(r.min()) for r in rows)
    if not peak > 0:
        raise MetricError("psnr has no peak: all targets are one value", remedy="Give pictures.", metric="psnr")
    found = -10 * np.log10(np.maximum(errors / peak**2, _LEAST_ERROR))
    return np.where(np.isfinite(found), np.maximum(found, 0), 0)


def columns(what: str) -> Callable[[Any, Any], np.ndarray]:
    """Outputs and targets side by side: float64 [samples, 2, columns]."""

    def found(outputs: Any, targets: Any) -> np.ndarray:
        differences = _differences(outputs, targets, what)
        rows = np.array([np.ravel(row) for row in array_of(outputs, what)], np.float64)
        return np.stack([rows, rows - np.array(differences)], 1)

    return found


def correlation(pairs: np.ndarray) -> float:
    """Pearson's, of [samples, 2, columns] the mean over the columns. Of a constant, and of what is not a number, it
    is 0.
    """
    a, b = (side - side.mean(axis=0) for side in (pairs[:, 0], pairs[:, 1]))
    with np.errstate(all="ignore"):
        found = (a * b).sum(axis=0) / np.sqrt((a**2).sum(axis=0) * (b**2).sum(axis=0))
    return float(np.mean(np.where(np.isfinite(found), found, 0.0)))


def spearman(pairs: np.ndarray) -> float:
    """The correlation of ranks, in which equal values share the mean of theirs."""
    return correlation(np.apply_along_axis(_ranks, 0, pairs))


def _ranks(values: np.ndarray) -> np.ndarray:
    if np.isnan(values).any():
        return values
    _, inverse, counts = np.unique(values, return_inverse=True, return_counts=True)
    return (np.cumsum(counts) - (counts - 1) / 2)[inverse]


def same_neighbours(features: Any, reference: Any) -> np.ndarray:
    """Whether the sample that is nearest by the reference, by cosine, is nearest by these features [samples, E]."""
    ours, theirs = (
        l2_normalize(array_of(x, "neighbours@1").reshape(len(x), -1).astype(np.float32)) for x in (features, reference)
    )
    found = []
    for part in blocks(len(ours), len(ours)):
        rows = np.arange(part.start, part.stop)
        near, known = (x[part] @ x.T for x in (ours, theirs))
        for scores in (near, known):
            scores[rows - part.start, rows] = -np.inf
        nearest = np.nan_to_num(known, nan=-np.inf).argmax(axis=1)
        found.append(near[rows - part.start, nearest] >= near.max(axis=1))
    return np.concatenate(found).astype(np.float64)


def wer(decode: Callable[[Any], Iterable[str]], name: str = "wer") -> Metric:
    """The word error rate: words that are wrong, missing or too many, as a share of the words of the targets.

    For example ``metrics=[tl.wer(decode)]``, where ``decode`` makes a text of each sample's outputs, and the targets
    are texts. Words are parted by white space.
    """

    def errors(outputs: Any, targets: Any) -> np.ndarray:
        said = list(decode(outputs))
        if not all(isinstance(text, str) for text in (*said, *targets)) or len(said) != len(targets):
            raise MetricError(
                f"{name} compares a text for each of {len(targets):,} targets, and decode gave {len(said):,}",
                remedy="Give targets that are texts, and decode as many.",
                metric=name,
            )
        return np.array([(_edits(a.split(), b.split()), len(b.split())) for a, b in zip(said, targets, strict=True)])

    return Metric(name, better="lower", whole=_ratio, function=errors)


def _ratio(counts: np.ndarray) -> float:
    errors, words = counts.sum(axis=0)
    return float(errors / words) if words else float("nan")


def _edits(found: Sequence[str], right: Sequence[str]) -> int:
    """The least number of words to change, to insert or to remove."""
    row = [*range(len(right) + 1)]
    for i, word in enumerate(found, 1):
        before, row = row, [i]
        for j, other in enumerate(right, 1):
            row.append(min(before[j] + 1, row[j - 1] + 1, before[j - 1] + (word != other)))
    return row[-1]


def _differences(outputs: Any, targets: Any, what: str) -> list[np.ndarray]:
    """Outputs - targets of each sample, float64, flat. Raises MetricError where their shapes differ."""
    if isinstance(outputs, dict):
        array_of(outputs, what)
    found = []
    for row, (output, target) in enumerate(zip(outputs, targets, strict=True)):
        target = np.asarray(target)
        if _sizes(output) != _sizes(target) or target.dtype.kind not in "biuf":
            raise MetricError(
                f"{what} compares with targets like the output, {_said(output)}, and that of sample {row} is "
                f"{_said(target)}",
                remedy="Give a number for each that the model gives, or a function of your own.",
                metric=what,
            )
        found.append(output.astype(np.float64).ravel() - target.astype(np.float64).ravel())
    return found


def _sizes(array: np.ndarray) -> list[int]:
    return [size for size in array.shape if size != 1]


def _share(same: np.ndarray) -> np.ndarray:
    return same.reshape(len(same), -1).mean(axis=1)


def _said(value: Any) -> str:
    return f"{value.dtype}{list(value.shape)}" if isinstance(value, np.ndarray) else f"a {type(value).__name__}"


def _root(errors: np.ndarray) -> float:
    return float(np.sqrt(np.mean(errors)))


METRICS: dict[str, Metric] = {
    metric.name: metric
    for metric in (
        Metric("top1", 1, function=top(1)),
        Metric("top5", 5, function=top(5)),
        Metric("accuracy", function=accuracy),
        Metric("f1", whole=macro_f1, function=label_pairs),
        Metric("map", whole=mean_average_precision, function=scores_and_labels),
        Metric("psnr", unit="dB", function=psnr),
        Metric("mae", unit=UNITS, better="lower", function=absolute_errors),
        Metric("rmse", unit=UNITS, better="lower", whole=_root, function=squared_errors),
        Metric("correlation", whole=correlation, function=columns("correlation")),
        Metric("spearman", whole=spearman, function=columns("spearman")),
        Metric("agreement", function=agreement, against="reference"),
        Metric("neighbours@1", 2, function=same_neighbours, against="reference"),
    )
}
"""Name -> metric. What is ``against`` the reference needs no target."""


def known(name: str) -> Metric | None:
    """The metric called ``top1``, or ``logits.top1`` for that of the output logits; None where there is none."""
    output, _, last = name.rpartition(".")
    found = METRICS.get(name if not output else last)
    return replace(found, name=name, output=output) if found else None
