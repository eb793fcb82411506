import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchlift.tasks import ranking
from torchlift.tasks.ranking import Relevant, hits, outranked, similarities, top


@st.composite
def searches(draw):
    """Scores with ties and NaN, and the right candidates of each query."""
    queries, candidates = draw(st.integers(1, 6)), draw(st.integers(1, 7))
    number = st.sampled_from([-1.0, 0.0, 0.5, 2.0, np.nan])
    scores = np.array(draw(st.lists(number, min_size=queries * candidates, max_size=queries * candidates)), np.float32)
    right = st.lists(st.integers(0, candidates - 1), min_size=1, unique=True)
    return scores.reshape(queries, candidates), draw(st.lists(right, min_size=queries, max_size=queries))


def by_hand(row, right):
    """How many wrong candidates are at least as high as the best right one."""
    if np.isnan(row[right]).any():
        return len(row) - len(right)
    best = max(row[right])
    return sum(1 for i, score in enumerate(row) if i not in right and not score < best)


@given(searches(), st.sampled_from([1, 9, 1 << 20]))
def test_wrong_candidates_are_counted_as_by_hand_whatever_the_blocks(search, size):
    scores, right = search
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(ranking, "SCORES", size)
        found = outranked(lambda part: scores[part], scores.shape[1], Relevant.of(right))
    np.testing.assert_array_equal(found, [by_hand(row, answers) for row, answers in zip(scores, right, strict=True)])


@given(searches(), st.integers(1, 8))
def test_the_best_are_those_of_a_stable_sort(search, k):
    scores, _ = search
    finite = np.nan_to_num(scores, nan=-np.inf)
    found = [*top(lambda part: scores[part], *scores.shape, k)]
    np.testing.assert_array_equal(found, np.argsort(-finite, axis=1, kind="stable")[:, :k])


def test_without_ties_it_is_the_usual_recall():
    rng = np.random.default_rng(0)
    queries, gallery = (rng.standard_normal((n, 8)).astype(np.float32) for n in (300, 50))
    right = rng.integers(0, 50, 300)
    ranks = outranked(similarities(queries, gallery), 50, Relevant.labels(right))
    order = np.argsort(-queries @ gallery.T, axis=1)
    for k in (1, 5, 10):
        np.testing.assert_array_equal(hits(ranks, k), (order[:, :k] == right[:, None]).any(1))
