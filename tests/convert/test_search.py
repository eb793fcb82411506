import math

import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchlift.convert.search import bisect


def additive(costs):
    """Damage that adds up, and the calls that were made of it."""
    calls = []

    def damage(items):
        calls.append(tuple(items))
        return sum(costs.get(i, 0.0) for i in items)

    return damage, calls


@given(st.sets(st.integers(0, 72), min_size=1, max_size=3))
def test_it_finds_each_of_a_few_culprits_among_many(culprits):
    damage, calls = additive({i: 1.0 + i / 100 for i in culprits})
    found = bisect(range(73), damage, 40)
    worst = [f.items for f in found.findings[: len(culprits)]]
    assert sorted(worst) == sorted((i,) for i in culprits)
    assert found.evaluations == len(calls) <= 40


@given(st.integers(1, 80), st.integers(1, 50))
def test_the_findings_cover_every_item_once_whatever_the_budget(count, budget):
    damage, calls = additive({i: (i * 37) % 11 for i in range(count)})
    found = bisect(range(count), damage, budget)
    assert sorted(i for f in found.findings for i in f.items) == list(range(count))
    assert len(calls) == found.evaluations <= max(budget, 1)


def test_one_culprit_costs_two_evaluations_a_halving():
    damage, _ = additive({100: 1.0})
    found = bisect(range(128), damage, 100)
    assert found.findings[0].items == (100,)
    assert found.evaluations == 1 + 2 * math.log2(128)


def test_sets_that_do_next_to_nothing_stay_whole():
    damage, _ = additive({0: 1.0, 5: 0.001})
    found = bisect(range(8), damage, 100)
    assert (4, 5, 6, 7) in [f.items for f in found.findings]


def test_a_known_total_saves_an_evaluation():
    damage, calls = additive({3: 2.0})
    found = bisect(range(4), damage, 100, total=2.0)
    assert found.total == pytest.approx(2.0)
    assert tuple(range(4)) not in calls


def test_nothing_to_search():
    damage, calls = additive({})
    assert bisect([], damage).findings == ()
    assert not calls
