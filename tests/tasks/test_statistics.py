import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchlift.errors import DataError
from torchlift.tasks import Metric
from torchlift.tasks.statistics import estimate, paired_drop

SHARE = Metric("share", 0)
OUTCOMES = st.lists(st.sampled_from([0.0, 1 / 3, 2 / 3, 1.0]), min_size=1, max_size=50).map(np.array)


@given(OUTCOMES)
def test_the_estimate_is_the_mean_in_percent_within_its_bounds(outcomes):
    found = estimate(SHARE, outcomes)
    assert found.value == pytest.approx(100 * outcomes.mean())
    assert 0 <= found.low <= found.value + 1e-9
    assert found.value - 1e-9 <= found.high <= 100 + 1e-9
    assert estimate(SHARE, outcomes) == found, "it is seeded"
    other = estimate(SHARE, outcomes[::-1])
    assert (other.low, other.high) == (found.low, found.high), "the order of queries does not matter"


@pytest.mark.parametrize(("n", "share"), [(400, 0.5), (2000, 0.9), (50_000, 0.7)])
def test_the_interval_is_about_that_of_the_normal_approximation(n, share):
    outcomes = np.zeros(n)
    outcomes[: int(n * share)] = 1
    half = 196 * np.sqrt(share * (1 - share) / n)
    found = estimate(SHARE, outcomes)
    assert found.high - found.value == pytest.approx(half, rel=0.1)
    assert found.value - found.low == pytest.approx(half, rel=0.1)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(7)
    covered = [
        found.low <= 60 <= found.high
        for found in (estimate(SHARE, (rng.random(300) < 0.6).astype(float)) for _ in range(300))
    ]
    assert 0.91 <= np.mean(covered) <= 0.98


def test_a_resample_of_values_that_all_differ_is_that_of_a_plain_bootstrap():
    values = np.random.default_rng(0).random(3000)
    found, draws = estimate(SHARE, values), np.random.default_rng(1)
    plain = [values[draws.integers(0, 3000, 3000)].mean() for _ in range(2000)]
    np.testing.assert_allclose([found.low, found.high], 100 * np.percentile(plain, [2.5, 97.5]), atol=0.1)


def test_a_drop_is_paired_by_query():
    rng = np.random.default_rng(0)
    reference = (rng.random(5000) < 0.5).astype(float)
    candidate = reference.copy()
    candidate[np.flatnonzero(reference)[:10]] = 0
    found = paired_drop(SHARE, reference, candidate)
    assert found.value == pytest.approx(0.2)
    assert 0 < found.low < 0.2 < found.high < 0.4
    unpaired = estimate(SHARE, reference)
    assert unpaired.high - unpaired.low > 2.5, "which alone would hide a drop of 0.2"
    gain = paired_drop(SHARE, candidate, reference)
    assert gain.value == pytest.approx(-0.2)


def test_no_difference_is_no_drop_for_sure():
    outcomes = np.array([0.0, 1.0, 1.0])
    found = paired_drop(SHARE, outcomes, outcomes)
    assert (found.value, found.low, found.high) == (0, 0, 0)


def test_outcomes_of_other_queries_are_not_paired():
    with pytest.raises(DataError, match="the reference has 3 outcomes, the candidate 2"):
        paired_drop(SHARE, np.zeros(3), np.zeros(2))


def test_no_outcomes_have_no_mean():
    with pytest.raises(DataError, match="no outcomes"):
        estimate(SHARE, np.zeros(0))


# metrics of other kinds

DEPTH = Metric("depth_error", unit="dB", better="lower")


def test_a_metric_in_a_unit_of_its_own_is_not_scaled():
    found = estimate(DEPTH, np.array([1.0, 2.0, 3.0]))
    assert found.value == 2.0
    assert 1.0 <= found.low < 2.0 < found.high <= 3.0


def test_where_lower_is_better_a_drop_is_a_rise():
    reference, worse = np.array([1.0, 2.0, 3.0, 4.0]), np.array([1.5, 2.5, 3.5, 4.5])
    found = paired_drop(DEPTH, reference, worse)
    assert (found.value, found.low, found.high) == (0.5, 0.5, 0.5)
    assert paired_drop(DEPTH, worse, reference).value == -0.5


def f1(outcomes):
    """Outcomes [samples, 2]: what was predicted and what is right, 0 or 1."""
    predicted, right = outcomes.T
    return 2 * (predicted * right).sum() / (predicted.sum() + right.sum())


F1 = Metric("f1", whole=f1)


def predictions(samples, wrong, seed=0):
    """Rare positives, of which some are missed."""
    rng = np.random.default_rng(seed)
    right = (rng.random(samples) < 0.2).astype(float)
    predicted = np.where(rng.random(samples) < wrong, 1 - right, right)
    return np.stack([predicted, right], axis=1)


def test_a_figure_of_the_whole_data_set_is_no_mean_and_has_its_own_bootstrap():
    outcomes = predictions(800, 0.1)
    found = estimate(F1, outcomes)
    assert found.value == pytest.approx(100 * f1(outcomes))
    assert abs(found.value - 100 * (outcomes[:, 0] == outcomes[:, 1]).mean()) > 5, "accuracy is another number"
    draws = np.random.default_rng(1)
    plain = [100 * f1(outcomes[draws.integers(0, 800, 800)]) for _ in range(1000)]
    np.testing.assert_allclose([found.low, found.high], np.percentile(plain, [2.5, 97.5]), atol=1.0)
    assert estimate(F1, outcomes) == found, "it is seeded"


def test_the_drop_of_a_figure_of_the_whole_data_set_is_paired():
    reference = predictions(800, 0.1)
    candidate = reference.copy()
    hits = np.flatnonzero(reference.all(axis=1))[:4]
    candidate[hits, 0] = 0
    found = paired_drop(F1, reference, candidate)
    assert found.value == pytest.approx(100 * (f1(reference) - f1(candidate)))
    assert 0 <= found.low < found.value < found.high
    alone = estimate(F1, reference)
    assert found.high - found.low < (alone.high - alone.low) / 2


def test_a_figure_that_is_not_a_number_is_an_error():
    with pytest.raises(DataError, match="f1 is not a number on 4 samples"), np.errstate(invalid="ignore"):
        estimate(F1, np.zeros((4, 2)))


@pytest.mark.parametrize("metric", [SHARE, F1])
def test_a_higher_confidence_is_a_wider_interval_that_says_so(metric):
    outcomes = predictions(500, 0.2) if metric is F1 else predictions(500, 0.2)[:, 0]
    narrow, usual, wide = (estimate(metric, outcomes, c) for c in (80, 95, 99))
    assert (narrow.confidence, usual.confidence, wide.confidence) == (80, 95, 99)
    assert wide.low < usual.low < narrow.low < narrow.high < usual.high < wide.high
    assert estimate(metric, outcomes) == usual


def test_an_interval_at_eighty_percent_covers_the_truth_in_about_eighty_percent():
    rng = np.random.default_rng(3)
    covered = [
        found.low <= 60 <= found.high
        for found in (estimate(SHARE, (rng.random(300) < 0.6).astype(float), 80) for _ in range(300))
    ]
    assert 0.74 <= np.mean(covered) <= 0.86
