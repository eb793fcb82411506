"""The sizes that a network is traced at."""

import itertools

from hypothesis import given
from hypothesis import strategies as st

from torchlift.families.sizes import distinct_sizes
from torchlift.signature import Axis

BATCH = Axis("batch", 1, 4, 8)
LENGTH = Axis("length", 2, 4, 6)

ranges = st.lists(st.integers(1, 12), min_size=3, max_size=3).map(sorted)


@given(
    st.lists(ranges, min_size=1, max_size=3),
)
def test_distinct_sizes_are_in_range_and_distinct_where_the_ranges_allow(sizes):
    axes = [Axis(name, *s) for name, s in zip("abc", sizes, strict=False)]
    chosen = distinct_sizes(axes)
    assert list(chosen) == [a.name for a in axes]
    assert all(a.min <= chosen[a.name] <= a.max for a in axes)
    admitted = [{*range(a.min, a.max + 1)} - {1} for a in axes]
    if any(len({*combination}) == len(axes) for combination in itertools.product(*admitted)):
        assert len({*chosen.values()}) == len(axes)
        assert 1 not in chosen.values()


def test_distinct_sizes_stay_at_the_optimum_where_they_can():
    assert distinct_sizes([BATCH, Axis("length", 4, 16, 52)]) == {"batch": 4, "length": 16}
    assert distinct_sizes([BATCH, LENGTH]) == {"batch": 4, "length": 5}


def test_distinct_sizes_of_many_large_axes_are_found_at_once():
    axes = [Axis(f"a{i}", 1, 10_000_000, 1_000_000_000) for i in range(30)]
    assert [*distinct_sizes(axes).values()] == [10_000_000 + i for i in range(30)]


def test_an_axis_moves_to_make_room_for_others():
    axes = [Axis("a", 2, 3, 4), Axis("b", 2, 3, 3), Axis("c", 3, 3, 3)]
    assert distinct_sizes(axes) == {"a": 4, "b": 2, "c": 3}


def test_a_fixed_axis_keeps_its_size_from_the_others():
    assert distinct_sizes([BATCH, Axis("length", 4, 4, 4)]) == {"batch": 5, "length": 4}


def test_an_optimum_of_one_is_not_traced():
    assert distinct_sizes([Axis("batch", 1, 1, 8)]) == {"batch": 2}
    assert distinct_sizes([Axis("batch", 1, 1, 1)]) == {"batch": 1}
