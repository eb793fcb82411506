import contextlib

import numpy as np
import onnx_ir as ir
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays

from torchlift.backends import backend
from torchlift.convert.calibration import (
    BINS,
    LEVELS,
    CalibrationOptions,
    Histogram,
    _divergences,
    calibrate,
    collect,
    entropy,
    minmax,
    noise_by_unit,
    percentile,
    ranges_by,
)
from torchlift.errors import DataError
from torchlift.graph.files import save_model
from torchlift.graph.qdq import for_activation, signal_to_noise
from torchlift.graph.quantize import Quantize
from torchlift.graph.schemes import SCHEMES, observed
from torchlift.progress import Progress


def histogram(*parts):
    made = Histogram()
    for part in parts:
        made.add(np.asarray(part, np.float32))
    return made


def normal(count=200_000, seed=0):
    return np.random.default_rng(seed).standard_normal(count).astype(np.float32)


@given(st.lists(arrays(np.float32, st.integers(0, 30), elements=st.floats(-1e6, 1e6, width=32)), max_size=6))
def test_nothing_is_lost_when_the_range_grows(parts):
    made, values = histogram(*parts), np.concatenate([*parts, np.zeros(0, np.float32)])
    assert made.counts.min() >= 0
    assert made.counts.sum() == np.count_nonzero(values)
    assert made.zeros == values.size - np.count_nonzero(values)
    if values.size:
        assert (made.low, made.high) == (values.min(), values.max())
        assert made.limit >= np.abs(values).max() * (1 - 1e-6)


def test_counts_are_those_of_numpy_however_the_values_arrive():
    values = normal()
    grown = histogram(values[:10] / 50, values[10:1000], values[1000:])
    edges = (np.arange(2 * BINS + 1) - BINS) * (grown.limit / BINS)
    expected, _ = np.histogram(values, edges)
    assert np.abs(np.cumsum(grown.counts) - np.cumsum(expected)).max() <= 2e-4 * values.size
    assert np.abs(values).max() <= grown.limit <= 2 * np.abs(values).max()


def test_a_tensor_that_is_always_zero():
    made = histogram(np.zeros(5), np.zeros(3))
    assert (made.limit, made.zeros, made.counts.sum()) == (0, 8, 0)
    for method in ("minmax", "percentile", "entropy"):
        assert ranges_by({"x": made}, CalibrationOptions(method)) == {"x": (0, 0)}
    assert made.noise(for_activation(0, 0, "uint8")) == np.inf


def test_a_tensor_that_never_changes():
    made = histogram(np.full(7, 2.5), np.full(7, 2.5))
    for method in ("minmax", "percentile", "entropy"):
        ((low, high),) = ranges_by({"x": made}, CalibrationOptions(method)).values()
        assert low == 2.5 or method == "percentile"
        assert high == 2.5


def test_numbers_too_small_for_a_scale_are_counted():
    made = histogram(np.array([1e-40, -1e-38]))
    assert made.counts.sum() == 2
    assert made.low < 0 < made.high


def test_minmax():
    assert minmax(histogram([1, 2], [-3, 0.5])) == (-3, 2)


@pytest.mark.parametrize(("percent", "z"), [(99.0, 2.5758), (99.9, 3.2905), (99.99, 3.8906)])
def test_percentiles_of_the_normal_distribution(percent, z):
    low, high = percentile(histogram(normal(1_000_000)), percent)
    assert (low, high) == (pytest.approx(-z, rel=0.03), pytest.approx(z, rel=0.03))


def test_percentiles_count_zeros_and_clip_each_end_by_itself():
    ramp = np.arange(1, 1001) / 1000
    assert percentile(histogram(ramp), 98)[0] == pytest.approx(0.01, abs=1e-3)
    assert percentile(histogram(ramp), 98)[1] == pytest.approx(0.99, abs=1e-3)
    low, high = percentile(histogram(ramp, np.zeros(1000)), 98)
    assert low == 0
    assert high == pytest.approx(0.98, abs=1e-3)


def test_all_of_the_values_are_the_hundredth_percentile():
    values = normal(1000)
    assert percentile(histogram(values), 100) == (values.min(), values.max())


def test_entropy_clips_an_outlier_and_keeps_a_distribution_without():
    values = normal()
    low, high = entropy(histogram(values, [30]))
    assert -4.5 < low < -2.5
    assert 2.5 < high < 4.5
    uniform = np.random.default_rng(0).uniform(-1, 1, 200_000)
    low, high = entropy(histogram(uniform))
    assert low == pytest.approx(-1, abs=0.01)
    assert high == pytest.approx(1, abs=0.01)


def test_entropy_is_not_misled_by_the_zeros_of_a_relu():
    values = np.maximum(normal(), 0)
    assert entropy(histogram(values, np.zeros(10**6))) == entropy(histogram(values))
    assert entropy(histogram(values))[1] > 2.5


def test_entropy_of_few_values_is_their_range():
    assert entropy(histogram([1e-3, -0.5], [1])) == (-0.5, 1)


def naive(sizes, used):
    """The talk's pseudo-code, a candidate at a time."""
    clipped = sizes[:used].copy()
    clipped[-1] += sizes[used:].sum()
    spread = np.zeros(used)
    for level in range(LEVELS):
        bins = np.arange(level * used // LEVELS, (level + 1) * used // LEVELS)
        filled = bins[sizes[bins] > 0]
        spread[filled] = sizes[bins].sum() / max(1, len(filled))
    p, q = clipped / clipped.sum(), spread / spread.sum()
    return np.inf if (q[p > 0] == 0).any() else float((p[p > 0] * np.log(p[p > 0] / q[p > 0])).sum())


@given(st.integers(0, 2**32 - 1), st.integers(LEVELS, 300), st.floats(0.1, 1))
def test_all_thresholds_at_once_are_what_they_are_one_by_one(seed, bins, density):
    draw = np.random.default_rng(seed)
    sizes = draw.integers(0, 1000, bins) * (draw.random(bins) < density)
    sizes[[0, -1]] = 5
    fast = _divergences(sizes.astype(np.float64))
    assert len(fast) == bins - LEVELS + 1
    for used in {LEVELS, (LEVELS + bins) // 2, bins}:
        assert fast[used - LEVELS] == pytest.approx(naive(sizes.astype(np.float64), used), abs=1e-9)


def test_the_noise_of_a_histogram_is_nearly_that_of_its_values():
    values = normal()
    for linear in (for_activation(-4, 4, "int8"), for_activation(-2, 3, "uint8")):
        assert histogram(values).noise(linear) == pytest.approx(signal_to_noise(values, linear), abs=0.3)


class Told(Progress):
    def __init__(self):
        self.stages, self.steps = [], []

    @contextlib.contextmanager
    def stage(self, title, total=None):
        self.stages.append((title, total))
        yield self

    def advance(self, steps=1):
        self.steps.append(steps)


def feeds(*rows):
    for seed, count in enumerate(rows):
        yield {"x": tiny.sample(count, seed)}


def test_ranges_come_from_all_samples(source):
    told = Told()
    found = calibrate(source, ["x", "product"], feeds(3, 4, 2), CalibrationOptions(samples=50), told)
    everything = np.concatenate([f["x"] for f in feeds(3, 4, 2)])
    assert found["x"] == (everything.min(), everything.max())
    product = everything @ tiny.weights()[0]
    assert found["product"] == (pytest.approx(product.min(), rel=1e-4), pytest.approx(product.max(), rel=1e-4))
    assert told.stages == [("calibrate", 50)]
    assert told.steps == [3, 4, 2]


def test_no_more_samples_than_asked_for_are_run(source):
    told, given_ = Told(), feeds(3, 4, 2, 5)
    collect(source, ["x"], given_, 6, progress=told)
    assert told.steps == [3, 4]
    assert len(list(given_)) == 2


@pytest.mark.parametrize("method", ["minmax", "percentile", "entropy"])
def test_from_samples_to_integers(source, tmp_path, method):
    scheme = SCHEMES["int8-u8s8"]
    model = ir.load(source)
    names = observed(model, scheme)
    histograms = collect(source, names, feeds(*[8] * 8), 64)
    report = Quantize(scheme, ranges_by(histograms, CalibrationOptions(method)))(model).report
    save_model(model, tmp_path / "model.onnx")
    x = tiny.sample(8, 3)
    with backend("onnxruntime").open(tmp_path / "model.onnx", tiny.SIGNATURE) as session:
        found = session.run({"x": x})["y"]
    assert np.abs(found - tiny.answer(x)).max() < 0.03 * np.abs(tiny.answer(x)).max()
    (noise,) = noise_by_unit(report, histograms)
    assert noise.unit.node == "product"
    assert 35 < noise.weight < 50
    assert (28 if method == "entropy" else 35) < noise.activation < 50
    assert noise_by_unit(report, {})[0].activation is None


def test_a_value_that_is_not_finite_is_named(source):
    bad = tiny.sample(2)
    bad[1, 3] = np.inf
    with pytest.raises(DataError, match=r"the FP32 model has values .*inf in x on the calibration data") as error:
        collect(source, ["x"], [{"x": bad}], 8)
    assert "sample" in error.value.remedy


def test_without_samples(source):
    with pytest.raises(DataError, match="no calibration samples") as error:
        calibrate(source, ["x"], [])
    assert "`calibration=`" in error.value.remedy


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"method": "average"}, "no calibration method 'average'"),
        ({"samples": 0}, "0 calibration samples"),
        ({"percentile": 101}, "101 is not a percentile"),
        ({"percentile": 0}, "0 is not a percentile"),
    ],
)
def test_options_that_make_no_sense(options, message):
    with pytest.raises(DataError, match=message) as error:
        CalibrationOptions(**options)
    assert "Use" in error.value.remedy
