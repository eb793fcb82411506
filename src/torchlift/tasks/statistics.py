"""Confidence intervals of metrics and of their drops, by the bootstrap over queries."""

from __future__ import annotations

import numpy as np

from torchlift.errors import DataError
from torchlift.evidence import Interval

RESAMPLES = 4000
SEED = 0
BOUNDS = (2.5, 97.5)
"""Percentiles: a 95% interval."""

_DRAWN = 1 << 20
"""Numbers drawn at once."""


def estimate(outcomes: np.ndarray) -> Interval:
    """The mean of outcomes float [queries] in 0..1, in percent, with its interval.

    Where all outcomes are equal, so are those of every resample: the interval is then a point.
    """
    return _bootstrap(outcomes)


def paired_drop(reference: np.ndarray, candidate: np.ndarray) -> Interval:
    """How many points the candidate loses against the reference, on the same queries; negative where it gains.

    The differences are resampled query by query, so that what both find hard does not widen the interval. Raises
    DataError where the numbers of queries differ.
    """
    if reference.shape != candidate.shape:
        raise DataError(
            f"the reference has {reference.size:,} outcomes, the candidate {candidate.size:,}",
            remedy="Score both on the same data.",
        )
    return _bootstrap(reference - candidate)


def _bootstrap(values: np.ndarray) -> Interval:
    """The percentile bootstrap of the mean (Efron and Tibshirani, An Introduction to the Bootstrap, chapter 13), x100.

    A resample of n values matters only by how often each distinct value is in it, which is multinomial: a few numbers
    for each resample in place of n.
    """
    if not len(values):
        raise DataError("there are no outcomes", remedy="Score at least one query.")
    distinct, counts = np.unique(values, return_counts=True)
    rng, n, share = np.random.default_rng(SEED), len(values), counts / len(values)
    at_once = max(1, _DRAWN // len(distinct))
    means = [
        rng.multinomial(n, share, min(at_once, RESAMPLES - start)) @ distinct / n
        for start in range(0, RESAMPLES, at_once)
    ]
    low, high = np.percentile(np.concatenate(means), BOUNDS)
    return Interval(*(float(100 * x) for x in (np.mean(values), low, high)))
