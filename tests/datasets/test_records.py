import pickle
from pathlib import Path

import numpy as np
import pytest
from datafiles import contents, database, encoded, read
from hypothesis import given
from hypothesis import strategies as st

from torchlift.datasets.records import unpickled
from torchlift.errors import DataError, UnsafeDataError


class Touching:
    """Unpickled by Python itself, it writes a file."""

    def __init__(self, file):
        self.file = file

    def __reduce__(self):
        return Path.touch, (self.file,)


PLAIN = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False) | st.text() | st.binary(),
    lambda x: st.lists(x) | st.tuples(x, x) | st.dictionaries(st.text(), x),
)


@given(PLAIN, st.integers(0, pickle.HIGHEST_PROTOCOL).filter(lambda p: p > 2))
def test_plain_data_are_read_without_trust(value, protocol):
    assert unpickled(pickle.dumps(value, protocol), "it", trust=False) == value


@given(st.binary(max_size=60))
def test_random_bytes_are_an_error_and_nothing_else(data):
    try:
        unpickled(data, "it", trust=False)
    except (ValueError, UnsafeDataError) as error:
        assert str(error)  # noqa: PT017


@pytest.mark.parametrize("protocol", range(pickle.HIGHEST_PROTOCOL + 1))
def test_a_pickle_that_would_run_code_does_not(tmp_path, protocol):
    file = tmp_path / "ran"
    with pytest.raises(UnsafeDataError, match=r"would call .*it did not run") as caught:
        unpickled(pickle.dumps(Touching(file), protocol), "record 5", trust=False)
    assert caught.value.message.startswith("record 5 is a pickle")
    assert "`trust_pickle=`" in caught.value.remedy
    assert not file.exists()


def test_labelled_records_are_read_in_the_order_of_their_keys(tmp_path):
    records = {f"{i:04}".encode(): pickle.dumps((encoded(i), i % 3)) for i in range(5)}
    database(tmp_path / "val", {**records, b"__len__": b"5", b"num_samples": b"5"})
    data = read(tmp_path / "val")
    assert (data.kind, data.name, data.classes) == ("classification", "val", ())
    assert contents(data.images) == {f"{i:04}": encoded(i) for i in range(5)}
    np.testing.assert_array_equal(data.labels, [0, 1, 2, 0, 1])
    np.testing.assert_array_equal(read(tmp_path / "val", limit=2).labels, [0, 1])


def test_a_record_that_needs_numpy_is_refused_unless_trusted(tmp_path):
    database(tmp_path / "val", {b"0": pickle.dumps((encoded(), np.int64(2)))})
    with pytest.raises(UnsafeDataError, match="record 0 is a pickle that would call numpy"):
        read(tmp_path / "val")
    data = read(tmp_path / "val", trust_pickle=True)
    np.testing.assert_array_equal(data.labels, [2])
    assert contents(data.images) == {"0": encoded()}


@pytest.mark.parametrize("value", [b"\x80broken", *map(pickle.dumps, [(b"x", -1), (b"x", True), (b"x", 2**70), [1]])])
def test_a_broken_record_is_skipped_counted_and_named(tmp_path, value):
    database(tmp_path / "val", {b"0": pickle.dumps((encoded(), 1)), b"1": value})
    data = read(tmp_path / "val")
    assert (len(data.images), data.skips.count) == (1, 1)
    assert data.skips.named[0].startswith("record 1: ")
    with pytest.raises(DataError, match="record 1: "):
        read(tmp_path / "val", strict=True)


def test_a_database_that_is_open_can_be_opened_again(tmp_path):
    database(tmp_path / "val", {b"0": pickle.dumps((encoded(), 1))})
    first, second = read(tmp_path / "val"), read(tmp_path / "val")
    assert contents(first.images) == contents(second.images) == {"0": encoded()}


@pytest.mark.parametrize("items", [{}, {b"0": b"broken"}])
def test_records_none_of_which_is_usable_are_refused(tmp_path, items):
    database(tmp_path / "val", items)
    with pytest.raises(DataError, match=f"no usable record among {len(items)}") as caught:
        read(tmp_path / "val")
    assert "pickle of (bytes of an image file, class number)" in caught.value.remedy


def test_a_record_that_went_away_is_an_error(tmp_path):
    database(tmp_path / "val", {b"0": pickle.dumps((encoded(), 1))})
    data = read(tmp_path / "val")
    data.images._keys = [b"7"]
    with pytest.raises(DataError, match="has no record 7"):
        data.images.read(0)
