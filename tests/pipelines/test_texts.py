"""Which texts share a batch: sessions that do not run, of the axes and the profiles that they are given."""

import functools
from types import SimpleNamespace

import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from torchlift.errors import InputError
from torchlift.pipelines import texts
from torchlift.pipelines.texts import RUN_COST, TextBatches, recorded_lengths
from torchlift.signature import Axis, Signature, TensorSpec

OPT, MAX, USUAL, LONGEST = 8, 52, 8, 52
BUDGET = MAX * USUAL
ANY = "batch=1:8:52"
OF_EACH_LENGTH = [*(f"batch={MAX},sequence={length}" for length in recorded_lengths(LONGEST, 7)), "batch=1,sequence=52"]
KINDS = pytest.mark.parametrize("records", [False, True])
AS_THEY_ARE = settings(suppress_health_check=[HealthCheck.function_scoped_fixture], deadline=None)
LENGTHS = st.lists(st.integers(4, LONGEST), min_size=1, max_size=150).map(sorted)


@pytest.fixture
def session(profiled):
    """Maker of a session of ids [batch, sequence] that covers what profiles hold."""

    def make(*profiles, records=False, on_device=True, batch=(1, OPT, MAX)):
        signature = Signature(
            (TensorSpec("text", "int64", ("batch", "sequence")),),
            (TensorSpec("features", "float32", ("batch", 32)),),
            (Axis("batch", *batch), Axis("sequence", 4, USUAL, LONGEST)),
        )
        made = profiled(SimpleNamespace(signature=signature, runtime="none"), *profiles)
        made.records, made.on_device = 8 * records, on_device
        return made

    return make


def shapes_of(session, lengths, size=None):
    return [(batch.size, length) for batch, length in TextBatches(session, session.signature, size).of(lengths)]


def test_lengths_that_are_recorded_end_at_the_longest():
    assert recorded_lengths(52, 7) == (8, 12, 16, 20, 28, 40, 52)
    assert recorded_lengths(2, 7) == (2,)
    assert recorded_lengths(8, 7) == (8,)
    assert recorded_lengths(9, 7) == (8, 9)
    assert recorded_lengths(52, 1) == (52,)
    assert recorded_lengths(512, 7) == (8, 16, 32, 64, 128, 256, 512)


@pytest.mark.parametrize(
    ("lengths", "shapes"),
    [
        ([12] * 40, [(34, 12), (6, 12)]),
        ([4] * 70, [(52, 4), (18, 4)]),
        ([52] * 20, [(8, 52), (8, 52), (4, 52)]),
        ([4] * 6 + [12] * 30, [(34, 12), (2, 12)]),
        ([13] * 35, [(32, 13), (3, 13)]),
        ([12] * 30 + [52], [(30, 12), (1, 52)]),
    ],
)
def test_a_batch_has_by_default_as_many_tokens_as_the_most_texts_of_the_usual_length(session, lengths, shapes):
    assert shapes_of(session(ANY), lengths) == shapes


@pytest.mark.parametrize(
    ("lengths", "shapes"),
    [
        ([12] * 40, [(34, 12), (14, 28)]),
        ([12] * 27, [(34, 12)]),
        ([12] * 35, [(34, 12), (1, 52)]),
        ([5], [(1, 52)]),
        ([5] * 2, [(14, 28)]),
        ([17] * 18, [(20, 20)]),
        ([52] * 20, [(8, 52)] * 3),
        ([12] * 10 + [52], [(14, 28), (1, 52)]),
        ([12] * 2 + [52] * 4, [(8, 52)]),
        ([12] * 34 + [40] * 10, [(34, 12), (10, 40)]),
    ],
)
def test_a_session_that_records_gets_as_many_tokens_in_few_shapes(session, lengths, shapes):
    assert sorted(shapes_of(session(ANY, records=True), lengths)) == sorted(shapes)


def test_batches_on_a_processor_have_the_optimum_of_rows(session):
    assert shapes_of(session(ANY, on_device=False), [4] * 20) == [(8, 4), (8, 4), (4, 4)]


@KINDS
def test_a_size_that_is_asked_for_bounds_the_rows_whatever_their_length(session, records):
    made = session(ANY, records=records)
    assert shapes_of(made, [16] * 32 + [52] * 32, size=16) == [(16, 16)] * 2 + [(16, 52)] * 2
    with pytest.raises(InputError, match=r"batch size 53 is outside 1\.\.52"):
        TextBatches(made, made.signature, 53)


def test_padding_to_a_longer_length_that_is_covered_counts(session):
    assert shapes_of(session("sequence=52"), [12] * 20) == [(8, 52), (8, 52), (4, 52)]
    assert shapes_of(session("sequence=26", "sequence=52"), [12] * 20) == [(16, 26), (4, 26)]


@KINDS
def test_no_batch_is_larger_than_what_profiles_hold(session, records):
    assert shapes_of(session("batch=1:4:16", records=records), [16] * 32) == [(16, 16)] * 2
    assert shapes_of(session("batch=4:4:4", records=records), [16] * 2) == [(4, 16)]


@KINDS
@pytest.mark.parametrize("profiles", [["batch=32"], ["batch=1", "batch=32"], ["batch=1", "batch=32,sequence=52"]])
def test_an_engine_for_more_of_the_longest_texts_than_are_usual_gets_as_many(session, records, profiles):
    made = session(*profiles, records=records)
    assert shapes_of(made, [52] * 30) == [(32, 52)]


def test_what_a_session_that_records_covers_is_asked_once(session, monkeypatch):
    made = session("batch=1", records=True)
    batches, asked = TextBatches(made, made.signature), []
    monkeypatch.setattr(made, "covers", asked.append)
    assert [(batch.size, length) for batch, length in batches.of([12, 52])] == [(1, 12), (1, 52)]
    assert asked == []


def test_an_engine_with_a_profile_for_each_length_gets_those(session):
    made = session(*OF_EACH_LENGTH, records=True)
    assert shapes_of(made, [10] * 52 + [30] * 52 + [50], MAX) == [(52, 12), (52, 40), (1, 52)]
    assert shapes_of(made, [10] * 3, MAX) == [(52, 12)]


@pytest.mark.parametrize(
    ("profiles", "lengths", "shapes", "recorded"),
    [
        (["sequence=14", "sequence=44"], [10] * 4 + [36] * 8, [(12, 44)], [(16, 44)]),
        (["sequence=14", "sequence=44"], [10] * 16 + [36], [(16, 14), (1, 44)], [(16, 14), (1, 44)]),
        (["batch=8,sequence=16", "batch=1,sequence=52"], [14] * 8 + [50], [(8, 16), (1, 52)], [(8, 16), (1, 52)]),
        (["batch=1", "batch=16,sequence=52"], [12] * 16, [(16, 52)], [(16, 52)]),
        (["batch=1", "batch=16,sequence=52"], [12] * 2, [(1, 12)] * 2, [(16, 52)]),
        (["sequence=4:8:14"], [4, 13], [(2, 13)], [(2, 13)]),
    ],
)
def test_profiles_of_other_shapes_than_are_recorded_are_served(session, profiles, lengths, shapes, recorded):
    size = 16
    assert shapes_of(session(*profiles), lengths, size) == shapes
    assert shapes_of(session(*profiles, records=True), lengths, size) == recorded


@KINDS
def test_what_no_session_covers_comes_as_it_would_otherwise(session, records):
    assert shapes_of(session("sequence=4:8:16", records=records), [52] * 12) == [(8, 52), (4, 52)]
    assert shapes_of(session(ANY, records=records), [10, 60]) == [(1, 10), (1, 60)]


@KINDS
@pytest.mark.parametrize(
    "profiles",
    [
        [ANY],
        ["batch=1:4:16"],
        ["batch=1", "batch=8"],
        ["batch=3:4:5"],
        ["batch=1", "batch=8,sequence=52"],
        OF_EACH_LENGTH,
    ],
)
@given(lengths=LENGTHS, size=st.none() | st.integers(8, MAX))
@AS_THEY_ARE
def test_every_text_is_in_one_batch_and_none_is_cut(session, records, profiles, lengths, size):
    made = session(*profiles, records=records)
    if profiles == OF_EACH_LENGTH:
        size = MAX
    batches = [*TextBatches(made, made.signature, size).of(lengths)]
    assert [i for batch, _ in batches for i in range(len(lengths))[batch.rows]] == [*range(len(lengths))]
    for batch, length in batches:
        inside = lengths[batch.rows]
        assert 0 < len(inside) <= batch.size <= (size or MAX)
        assert inside[-1] <= length <= LONGEST
        assert size or batch.size * length <= BUDGET
        assert made.covers({"batch": batch.size, "sequence": length})


@given(st.lists(LENGTHS, min_size=1, max_size=8), st.none() | st.integers(1, MAX))
@AS_THEY_ARE
def test_a_session_that_records_gets_no_more_shapes_than_it_keeps(session, calls, size):
    made = session(ANY, records=True)
    shapes = {shape for lengths in calls for shape in shapes_of(made, lengths, size)}
    assert len(shapes) <= 8
    assert {length for _, length in shapes} <= {*recorded_lengths(LONGEST, 7)}


@pytest.mark.parametrize("cost", [0, 15, 40, RUN_COST])
@given(lengths=st.lists(st.integers(4, LONGEST), min_size=1, max_size=9).map(sorted))
@AS_THEY_ARE
def test_batches_of_recorded_shapes_cost_least(session, monkeypatch, cost, lengths):
    monkeypatch.setattr(texts, "RUN_COST", cost)
    menu = [*((min(4, 2 * LONGEST // n), n) for n in recorded_lengths(LONGEST, 7)), (1, LONGEST)]

    @functools.cache
    def least(start):
        """The cost of all texts from ``start`` on, of every way to part them."""
        if start == len(lengths):
            return 0
        return min(
            cost + rows * n + least(stop)
            for stop in range(start + 1, len(lengths) + 1)
            for rows, n in menu
            if rows >= stop - start and n >= lengths[stop - 1]
        )

    found = shapes_of(session("batch=1:2:4", records=True, batch=(1, 2, 4)), lengths)
    assert sum(cost + rows * n for rows, n in found) == least(0)
