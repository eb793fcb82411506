import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchlift.errors import DataError
from torchlift.tasks.statistics import estimate, paired_drop

OUTCOMES = st.lists(st.sampled_from([0.0, 1 / 3, 2 / 3, 1.0]), min_size=1, max_size=50).map(np.array)


@given(OUTCOMES)
def test_the_estimate_is_the_mean_in_percent_within_its_bounds(outcomes):
    found = estimate(outcomes)
    assert found.value == pytest.approx(100 * outcomes.mean())
    assert 0 <= found.low <= found.value + 1e-9
    assert found.value - 1e-9 <= found.high <= 100 + 1e-9
    assert estimate(outcomes) == found, "it is seeded"
    other = estimate(outcomes[::-1])
    assert (other.low, other.high) == (found.low, found.high), "the order of queries does not matter"


@pytest.mark.parametrize(("n", "share"), [(400, 0.5), (2000, 0.9), (50_000, 0.7)])
def test_the_interval_is_about_that_of_the_normal_approximation(n, share):
    outcomes = np.zeros(n)
    outcomes[: int(n * share)] = 1
    half = 196 * np.sqrt(share * (1 - share) / n)
    found = estimate(outcomes)
    assert found.high - found.value == pytest.approx(half, rel=0.1)
    assert found.value - found.low == pytest.approx(half, rel=0.1)


def test_the_interval_covers_the_truth_as_often_as_it_says():
    rng = np.random.default_rng(7)
    covered = [
        found.low <= 60 <= found.high for found in (estimate((rng.random(300) < 0.6).astype(float)) for _ in range(300))
    ]
    assert 0.91 <= np.mean(covered) <= 0.98


def test_a_resample_of_values_that_all_differ_is_that_of_a_plain_bootstrap():
    values = np.random.default_rng(0).random(3000)
    found, draws = estimate(values), np.random.default_rng(1)
    plain = [values[draws.integers(0, 3000, 3000)].mean() for _ in range(2000)]
    np.testing.assert_allclose([found.low, found.high], 100 * np.percentile(plain, [2.5, 97.5]), atol=0.1)


def test_a_drop_is_paired_by_query():
    rng = np.random.default_rng(0)
    reference = (rng.random(5000) < 0.5).astype(float)
    candidate = reference.copy()
    candidate[np.flatnonzero(reference)[:10]] = 0
    found = paired_drop(reference, candidate)
    assert found.value == pytest.approx(0.2)
    assert 0 < found.low < 0.2 < found.high < 0.4
    unpaired = estimate(reference)
    assert unpaired.high - unpaired.low > 2.5, "which alone would hide a drop of 0.2"
    gain = paired_drop(candidate, reference)
    assert gain.value == pytest.approx(-0.2)


def test_no_difference_is_no_drop_for_sure():
    outcomes = np.array([0.0, 1.0, 1.0])
    found = paired_drop(outcomes, outcomes)
    assert (found.value, found.low, found.high) == (0, 0, 0)


def test_outcomes_of_other_queries_are_not_paired():
    with pytest.raises(DataError, match="the reference has 3 outcomes, the candidate 2"):
        paired_drop(np.zeros(3), np.zeros(2))


def test_no_outcomes_have_no_mean():
    with pytest.raises(DataError, match="no outcomes"):
        estimate(np.zeros(0))
