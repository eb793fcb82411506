"""Which range of each tensor INT8 shall represent, from what flows through the FP32 graph on real samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from torchlift.convert.ranges import Tap
from torchlift.datasets import ReadOptions
from torchlift.errors import DataError
from torchlift.graph.qdq import Linear, signal_to_noise
from torchlift.graph.quantize import QuantizeReport
from torchlift.graph.units import Unit
from torchlift.machine import HERE, RunOn
from torchlift.progress import SILENT, Progress
from torchlift.signature import BATCH, Signature

Method = Literal["minmax", "percentile", "entropy"]

BINS = 4096
"""Bins of a histogram on each side of zero. Its width grows by doubling, so that at least half of them are in use: the
2048 of the entropy method's source.
"""

LEVELS = 128
"""The magnitudes that int8 has, and that the entropy method quantises to."""

_LEAST_LIMIT = 1e-30
"""So that a value in units of a bin's width is a float32."""


@dataclass(frozen=True)
class CalibrationOptions:
    """How INT8 finds its ranges: by which ``method``, on at most how many ``samples``, and where these come from.

    ``path`` is a data set of any kind that the model takes, and ``read`` says which part of it. Without a path it is
    the split ``train`` of the data to score, where there is one. ``percentile`` is the share of values in percent that
    the method of that name covers, for example 99.99 or 99.999.

    Raises DataError for a method that does not exist and for numbers out of range.
    """

    method: Method = "minmax"
    samples: int = 256
    percentile: float = 99.99
    path: Path | None = field(default=None, repr=False)
    read: ReadOptions = field(default_factory=ReadOptions, repr=False)
    """Keys of graphs are made of the representation. Where samples come from is no part of it: their content is."""

    def __post_init__(self) -> None:
        if self.method not in get_args(Method):
            raise DataError(
                f"there is no calibration method {self.method!r}", remedy=f"Use one of {', '.join(get_args(Method))}."
            )
        if self.samples < 1:
            raise DataError(f"{self.samples} calibration samples give no range", remedy="Use 1 at least.")
        if not 0 < self.percentile <= 100:
            raise DataError(f"{self.percentile:g} is not a percentile", remedy="Use for example 99.99.")


@dataclass
class Histogram:
    """How often which values occur, in one pass over the data.

    ``counts`` int64 [2 * BINS] covers -limit..limit in equal bins; ``limit`` is 0 before the first value other than
    zero, then it doubles whenever a larger one comes, and bins are merged in pairs. Zeros are counted apart: all forms
    of INT8 hold them exactly, and the many that a ReLU leaves would hide the rest.
    """

    low: float = np.inf
    high: float = -np.inf
    limit: float = 0.0
    zeros: int = 0
    counts: np.ndarray = field(default_factory=lambda: np.zeros(2 * BINS, np.int64), repr=False)

    def add(self, values: np.ndarray) -> None:
        """Count an array of any shape. Raises ValueError for values that are not finite."""
        if not values.size:
            return
        low, high = float(values.min()), float(values.max())
        if not np.isfinite([low, high]).all():
            raise ValueError(f"values {low}..{high}")
        self.low, self.high = min(self.low, low), max(self.high, high)
        zeros = values.size - int(np.count_nonzero(values))
        self.zeros += zeros
        self._widen(max(-low, high))
        if self.limit:
            bins = (values.reshape(-1) * np.float32(BINS / self.limit) + np.float32(BINS)).astype(np.int32)
            self.counts += np.bincount(np.minimum(bins, 2 * BINS - 1), minlength=2 * BINS)
            self.counts[BINS] -= zeros

    def _widen(self, size: float) -> None:
        if not self.limit and size:
            self.limit = max(float(np.float32(size)), _LEAST_LIMIT)
        while self.limit < size:
            merged = self.counts.reshape(-1, 2).sum(1)
            self.counts = np.pad(merged, BINS // 2)
            self.limit *= 2

    @property
    def centers(self) -> np.ndarray:
        """The value in the middle of each bin, float64 [2 * BINS]."""
        return (np.arange(2 * BINS) + 0.5 - BINS) * (self.limit / BINS)

    def noise(self, linear: Linear) -> float:
        """The signal-to-noise of quantising these values, in dB, with each at the middle of its bin."""
        return signal_to_noise(self.centers, linear, self.counts)


def minmax(histogram: Histogram) -> tuple[float, float]:
    """All values."""
    return histogram.low, histogram.high


def percentile(histogram: Histogram, percent: float) -> tuple[float, float]:
    """The central ``percent`` of the values: as many lie beyond one end as beyond the other, to the width of a bin."""
    counts = histogram.counts.copy()
    counts[BINS] += histogram.zeros
    beyond = (1 - percent / 100) / 2 * counts.sum()
    below, above = np.cumsum(counts), np.cumsum(counts[::-1])
    first = int(np.searchsorted(below, beyond, side="right"))
    last = 2 * BINS - int(np.searchsorted(above, beyond, side="right"))
    edges = (np.array([first, last]) - BINS) * (histogram.limit / BINS)
    return max(histogram.low, float(edges[0])), min(histogram.high, float(edges[1]))


def entropy(histogram: Histogram) -> tuple[float, float]:
    """What lies within the threshold of |x| at which 128 levels lose least of the values' distribution.

    That is the threshold of the smallest Kullback-Leibler divergence between the distribution clipped there (what is
    beyond counts as the last bin) and the same without what is beyond, merged to 128 levels, of which each is spread
    evenly over its bins that are not empty. Source: Szymon Migacz, 8-bit Inference with TensorRT, GTC 2017. All
    thresholds are tried at once: a level's sums are differences of running sums. Zeros do not count.
    """
    sizes = histogram.counts[BINS:] + histogram.counts[:BINS][::-1]
    used = int(np.flatnonzero(sizes)[-1]) + 1 if sizes.any() else 0
    if used <= LEVELS:
        return minmax(histogram)
    divergences = _divergences(sizes[:used].astype(np.float64))
    threshold = (LEVELS + int(np.argmin(divergences))) * (histogram.limit / BINS)
    return max(histogram.low, -threshold), min(histogram.high, threshold)


def _divergences(sizes: np.ndarray) -> np.ndarray:
    """For each number of bins from 128 to all of ``sizes``: the divergence where the rest is clipped, in nats."""
    ends = np.arange(LEVELS, len(sizes) + 1)
    total = sizes.sum()
    mass, filled, logs = (_running(v) for v in (sizes, sizes > 0, _xlogx(sizes)))
    beyond, last = total - mass[ends], sizes[ends - 1]
    reference = logs[ends] - _xlogx(last) + _xlogx(last + beyond)
    edges = ends[:, None] * np.arange(LEVELS + 1) // LEVELS
    merged, bins = np.diff(mass[edges], axis=1), np.diff(filled[edges], axis=1)
    with np.errstate(divide="ignore", invalid="ignore"):
        levels = np.where(merged > 0, np.log(merged / bins), 0)
        merged[:, -1] += beyond
        told = (merged * levels).sum(1) - total * np.log(mass[ends])
        divergences = (reference - total * np.log(total) - told) / total
    divergences[(last == 0) & (beyond > 0)] = np.inf
    return divergences


def _running(values: np.ndarray) -> np.ndarray:
    return np.concatenate([[0.0], np.cumsum(values, dtype=np.float64)])


def _xlogx(values: np.ndarray) -> np.ndarray:
    return values * np.log(np.where(values > 0, values, 1))


_METHODS: dict[Method, Callable[[Histogram, CalibrationOptions], tuple[float, float]]] = {
    "minmax": lambda histogram, _: minmax(histogram),
    "percentile": lambda histogram, options: percentile(histogram, options.percentile),
    "entropy": lambda histogram, _: entropy(histogram),
}


def ranges_by(histograms: Mapping[str, Histogram], options: CalibrationOptions) -> dict[str, tuple[float, float]]:
    """The range of each tensor by the method of ``options``; one collection serves all methods."""
    return {name: _METHODS[options.method](histogram, options) for name, histogram in histograms.items()}


def collect(
    file: Path,
    names: Sequence[str],
    feeds: Iterable[Mapping[str, np.ndarray]],
    samples: int,
    *,
    progress: Progress = SILENT,
    on: RunOn = HERE,
) -> dict[str, Histogram]:
    """The histograms of tensors of the FP32 graph ``file`` over ``feeds``, until ``samples`` samples were run.

    Feeds have the samples along the first dimension and fit the signature; the caller checks that. Raises DataError
    without feeds, and where a tensor is not finite; and what :class:`torchlift.convert.ranges.Tap` raises.
    """
    histograms = {name: Histogram() for name in names}
    done = 0
    with Tap(file, names, on) as tap, progress.stage("calibrate", samples) as stage:
        for feed in feeds:
            for name, values in tap.run(feed).items():
                _count(histograms[name], name, values)
            rows = max(len(array) if array.ndim else 1 for array in feed.values())
            done += rows
            stage.advance(rows)
            if done >= samples:
                break
    if not done:
        raise DataError("there are no calibration samples", remedy="Give data that the model will see: --calibration.")
    return histograms


def count_rows(signature: Signature, feed: Mapping[str, np.ndarray]) -> int:
    """How many samples a feed has: the size of the batch axis, 1 without one."""
    return signature.check(feed).get(BATCH, 1)


def _count(histogram: Histogram, name: str, values: np.ndarray) -> None:
    try:
        histogram.add(values)
    except ValueError as error:
        raise DataError(
            f"the FP32 model has {error} in {name} on the calibration data",
            remedy="Find the sample that does this; a model must be finite in FP32 before it can be quantised.",
        ) from error


def calibrate(
    file: Path,
    names: Sequence[str],
    feeds: Iterable[Mapping[str, np.ndarray]],
    options: CalibrationOptions | None = None,
    progress: Progress = SILENT,
    *,
    on: RunOn = HERE,
) -> dict[str, tuple[float, float]]:
    """The range of each of ``names``: :func:`collect`, then :func:`ranges_by`."""
    options = options or CalibrationOptions()
    histograms = collect(file, names, feeds, options.samples, progress=progress, on=on)
    return ranges_by(histograms, options)


@dataclass(frozen=True)
class UnitNoise:
    """Signal-to-noise of quantising a node's weight and what it reads, in dB; None where that is not quantised or was
    not observed. INT8 that fits its data gives about 40; every bit lost costs 6.
    """

    unit: Unit
    weight: float
    activation: float | None


def noise_by_unit(report: QuantizeReport, histograms: Mapping[str, Histogram]) -> list[UnitNoise]:
    """The noise of every quantised node, in the order of the graph."""
    noises: dict[str, float] = {}
    for done in report.quantized:
        if done.input is not None and done.activation in histograms and done.activation not in noises:
            noises[done.activation] = histograms[done.activation].noise(done.input)
    return [UnitNoise(done.unit, done.weight_noise, noises.get(done.activation)) for done in report.quantized]
