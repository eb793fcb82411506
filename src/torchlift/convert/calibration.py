"""Calibration for INT8: finds the range of each tensor from its values in the FP32 graph on real samples."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal, get_args

import numpy as np

from torchlift.datasets import ReadOptions, SampleData
from torchlift.errors import DataError
from torchlift.graph.qdq import Linear, signal_to_noise
from torchlift.graph.quantize import QuantizeReport
from torchlift.graph.units import Unit
from torchlift.machine import HERE, RunOn
from torchlift.progress import SILENT, Progress
from torchlift.prove.tap import Tap
from torchlift.signature import BATCH, Signature

Method = Literal["minmax", "percentile", "entropy"]

BINS = 4096
"""Bins of a histogram on each side of zero. A histogram widens by doubling, so at least half of the bins are in use.
That is the 2048 of the paper on the entropy method.
"""

LEVELS = 128
"""The number of magnitudes of int8, to which the entropy method quantises."""

_LEAST_LIMIT = 1e-30
"""The smallest limit of a histogram. With it, a value divided by the width of a bin fits into float32."""


@dataclass(frozen=True)
class CalibrationOptions:
    """How INT8 finds its ranges.

    - ``source``, ``read``: the data set that samples come from, of any kind that the model takes, and which part of it.
      Without one it is the split ``train`` of the data to score, where there is one, or the data in memory.

    ``samples`` is the most samples that are run. ``percentile`` is for the method of that name: the share of values
    that its range covers, in percent, for example 99.99. Raises DataError for an unknown method and for numbers out of
    range.
    """

    method: Method = "minmax"
    samples: int = 256
    percentile: float = 99.99
    source: Path | SampleData | None = field(default=None, repr=False)
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
    """Counts how often values occur, in one pass over the data.

    ``counts`` int64 [2 * BINS] covers -limit..limit in equal bins. ``limit`` is 0 until a value other than zero comes.
    Whenever a larger value comes, the limit doubles, and bins are merged in pairs.

    Zeros are counted apart. All schemes of INT8 hold zero exactly, and the many zeros behind a ReLU would hide the
    other values.
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
        """The signal-to-noise of quantising these values, in dB. Each value counts as the middle of its bin."""
        return signal_to_noise(self.centers, linear, self.counts)


def minmax(histogram: Histogram) -> tuple[float, float]:
    """The range of all values."""
    return histogram.low, histogram.high


def percentile(histogram: Histogram, percent: float) -> tuple[float, float]:
    """The range of the central ``percent`` of the values. As many lie below it as above, to the width of a bin."""
    counts = histogram.counts.copy()
    counts[BINS] += histogram.zeros
    beyond = (1 - percent / 100) / 2 * counts.sum()
    below, above = np.cumsum(counts), np.cumsum(counts[::-1])
    first = int(np.searchsorted(below, beyond, side="right"))
    last = 2 * BINS - int(np.searchsorted(above, beyond, side="right"))
    edges = (np.array([first, last]) - BINS) * (histogram.limit / BINS)
    return max(histogram.low, float(edges[0])), min(histogram.high, float(edges[1]))


def entropy(histogram: Histogram) -> tuple[float, float]:
    """The range -t..t whose 128 levels change the distribution of the magnitudes |x| least.

    For each threshold t two distributions are compared. The first is clipped at t: values beyond count in the last bin.
    The second has no values beyond t. Its bins are merged to 128 levels, and each level is spread evenly over those of
    its bins that are not empty. The t with the smallest Kullback-Leibler divergence is chosen (Szymon Migacz, 8-bit
    Inference with TensorRT, GTC 2017). Zeros do not count.

    All thresholds are computed at once, since the sum of a level is a difference of two running sums.
    """
    sizes = histogram.counts[BINS:] + histogram.counts[:BINS][::-1]
    used = int(np.flatnonzero(sizes)[-1]) + 1 if sizes.any() else 0
    if used <= LEVELS:
        return minmax(histogram)
    divergences = _divergences(sizes[:used].astype(np.float64))
    threshold = (LEVELS + int(np.argmin(divergences))) * (histogram.limit / BINS)
    return max(histogram.low, -threshold), min(histogram.high, threshold)


def _divergences(sizes: np.ndarray) -> np.ndarray:
    """The divergence, in nats, for each threshold: 128 bins, 129 bins, ... and all bins of ``sizes``."""
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
    """The range of each tensor by the method of ``options``. The same histograms serve all methods."""
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
    """Run ``feeds`` through the FP32 graph ``file``, up to ``samples`` samples; returns a histogram for each name.

    A feed must fit the signature, and have its samples along the first dimension; the caller checks that. Raises
    DataError without feeds and where a tensor is not finite, else as :class:`torchlift.prove.tap.Tap`.
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
        raise DataError("there are no calibration samples", remedy="Give `calibration=` data that the model will see.")
    return histograms


def count_rows(signature: Signature, feed: Mapping[str, np.ndarray]) -> int:
    """The number of samples in a feed: the size of the batch axis, or 1 where there is none."""
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
    """The range of each of ``names``, by :func:`collect` and :func:`ranges_by`."""
    options = options or CalibrationOptions()
    histograms = collect(file, names, feeds, options.samples, progress=progress, on=on)
    return ranges_by(histograms, options)


@dataclass(frozen=True)
class UnitNoise:
    """The signal-to-noise of quantising a node's weight and the tensor that it reads, in dB.

    ``activation`` is None where that tensor is not quantised or was not observed. INT8 with a good range gives about 40
    dB; each bit less costs 6 dB.
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
