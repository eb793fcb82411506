"""Confidence intervals of metrics and of their drops, by the bootstrap over samples."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np

from torchlift.errors import DataError, MetricError
from torchlift.evidence import CONFIDENCE, Interval
from torchlift.tasks.base import Metric

RESAMPLES = 4000
"""Of a mean, which is quick to take."""

RESAMPLES_WHOLE = 1000
"""Of a figure of the whole data set, which may take long to compute."""

LEAST_RESAMPLES = 200
"""Of a figure that a function of a caller's makes of outputs and targets. Of many samples there are no more."""

_PUT_TOGETHER = 2_000_000
"""Samples of such a figure that are put together in all its resamples: 1,000 of 2,000 samples."""

SEED = 0

_DRAWN = 1 << 20
"""Numbers drawn at once."""

_LEAST_DEFINED = 0.9
"""The share of resamples in which a figure must be a number, so that their spread says something."""


def estimate(metric: Metric, outcomes: np.ndarray, confidence: float = CONFIDENCE) -> Interval:
    """A metric of outcomes [samples, ...] in its unit, with its interval at ``confidence`` percent.

    Where all outcomes are equal, so are those of every resample: the interval is then a point. Raises DataError without
    outcomes, and where the metric is not a number.
    """
    if metric.whole is None:
        return _of_mean(outcomes * metric.scale, metric.name, confidence)
    whole = metric.whole
    return _of_whole(lambda rows: whole(outcomes[rows]) * metric.scale, outcomes, metric.name, confidence)


def paired_drop(
    metric: Metric, reference: np.ndarray, candidate: np.ndarray, confidence: float = CONFIDENCE
) -> Interval:
    """How much worse the candidate is than the reference on the same samples, in the metric's unit; negative where it
    is better. So of a metric of which lower values are better, it is by how much the metric rises.

    Both are resampled by the same samples, so that what both find hard does not widen the interval. Raises DataError
    where the numbers of samples differ, and as :func:`estimate` does.
    """
    if reference.shape != candidate.shape:
        raise DataError(
            f"the reference has {len(reference):,} outcomes, the candidate {len(candidate):,}",
            remedy="Score both on the same data.",
        )
    worse = metric.scale if metric.better == "higher" else -metric.scale
    if metric.whole is None:
        return _of_mean((reference - candidate) * worse, metric.name, confidence)
    whole = metric.whole
    return _of_whole(
        lambda rows: (whole(reference[rows]) - whole(candidate[rows])) * worse, candidate, metric.name, confidence
    )


def _of_mean(values: np.ndarray, name: str, confidence: float) -> Interval:
    """The percentile bootstrap of the mean (Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13).

    A resample of n values matters only by how often each distinct value is in it, which is multinomial: a few numbers
    for each resample in place of n.
    """
    _require_outcomes(len(values))
    if not np.isfinite(values).all():
        raise MetricError(
            f"{name} is not a number for {np.count_nonzero(~np.isfinite(values)):,} of {len(values):,} samples",
            remedy="Look at what the model answers there, or ask for another metric.",
            metric=name,
        )
    distinct, counts = np.unique(values, return_counts=True)
    rng, n, share = np.random.default_rng(SEED), len(values), counts / len(values)
    at_once = max(1, _DRAWN // len(distinct))
    means = [
        rng.multinomial(n, share, min(at_once, RESAMPLES - start)) @ distinct / n
        for start in range(0, RESAMPLES, at_once)
    ]
    return _interval(float(np.mean(values)), np.concatenate(means), confidence)


def _of_whole(figure: Callable[[np.ndarray], float], outcomes: np.ndarray, name: str, confidence: float) -> Interval:
    """The same of a ``figure`` of some rows of the data set, int64 [samples], which may repeat."""
    samples = len(outcomes)
    _require_outcomes(samples)
    resamples = RESAMPLES_WHOLE
    if outcomes.dtype == object:
        resamples = min(resamples, max(LEAST_RESAMPLES, _PUT_TOGETHER // samples))
    rng = np.random.default_rng(SEED)
    value = float(figure(np.arange(samples)))
    drawn = np.array([float(figure(rng.integers(0, samples, samples))) for _ in range(resamples)])
    defined = drawn[np.isfinite(drawn)]
    if not np.isfinite(value) or len(defined) < _LEAST_DEFINED * resamples:
        raise MetricError(
            f"{name} is not a number on {samples:,} samples, or on too many of their resamples",
            remedy="Score on a larger data set, or ask for another metric.",
            metric=name,
        )
    return _interval(value, defined, confidence)


def _require_outcomes(count: int) -> None:
    if not count:
        raise DataError("there are no outcomes", remedy="Score at least one query.")


def _interval(value: float, drawn: np.ndarray, confidence: float) -> Interval:
    beyond = (100 - confidence) / 2
    low, high = np.percentile(drawn, [beyond, 100 - beyond])
    return Interval(value, float(low), float(high), confidence)
