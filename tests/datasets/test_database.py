"""An LMDB's file is read as its library wrote it, and a damaged one is an error."""

import random
import struct

import lmdb
import pytest
from datafiles import database

from torchlift.datasets.database import DATABASE, Database
from torchlift.errors import DataError

SIZES = (0, 3, 50, 1000, 3000, 5000, 40000)
"""Of values, in bytes: a page has 4,096."""


def records(draw, count):
    return {draw.randbytes(draw.randint(1, 60)): draw.randbytes(draw.choice(SIZES)) for _ in range(count)}


@pytest.mark.parametrize("count", [0, 1, 5, 200, 1500])
def test_what_the_library_wrote_is_read(tmp_path, count):
    draw = random.Random(count)
    items = records(draw, count)
    with lmdb.open(str(tmp_path), map_size=1 << 28) as environment:
        for part in (items, records(draw, count)):
            with environment.begin(write=True) as transaction:
                for key, value in part.items():
                    transaction.put(key, value)
        items |= part
        with environment.begin(write=True) as transaction:
            for key in [key for key in items if draw.random() < 0.4]:
                transaction.delete(key)
                del items[key]
    read = Database(tmp_path)
    assert dict(read.items()) == items
    assert read.samples() == sorted(items)
    for key, value in items.items():
        assert read.get(key) == value
    for key in (b"", b"\xff" * 61, b"no such key"):
        with pytest.raises(DataError, match="has no record"):
            read.get(key)


@pytest.fixture
def written(tmp_path):
    """An LMDB with branches and large values, and the file of it."""
    folder = tmp_path / "written"
    database(folder, records(random.Random(1), 300))
    return folder, folder / DATABASE


def everything(folder):
    read = Database(folder)
    for key in read.samples():
        read.get(key)
    return [*read.items()]


@pytest.mark.parametrize("kept", [0, 15, 100, 4096, 8192, 8200, 50_000])
def test_a_file_that_is_cut_off_is_an_error(written, kept):
    folder, file = written
    file.write_bytes(file.read_bytes()[:kept])
    with pytest.raises(DataError, match="cannot be read as an LMDB"):
        everything(folder)


def pages(data, kind):
    """The numbers of all pages of a kind but the two first; what is in the pages of large values is not told apart."""
    numbers = range(2, len(data) // 4096)
    return [n for n in numbers if struct.unpack_from("<QHH", data, 4096 * n)[::2] == (n, kind)]


@pytest.mark.parametrize("target", ["its own page", "page 0", "beyond the file", "a leaf's page of large values"])
def test_a_page_that_points_to_what_is_no_page_of_the_tree_is_an_error(written, target):
    folder, file = written
    data = bytearray(file.read_bytes())
    branch = pages(data, 1)[-1]
    below = {"its own page": branch, "page 0": 0, "beyond the file": 10**6}.get(target, pages(data, 4)[0])
    for place in struct.unpack_from("<3H", data, 4096 * branch + 16):
        struct.pack_into("<HH", data, 4096 * branch + place, below & 0xFFFF, below >> 16)
    file.write_bytes(data)
    with pytest.raises(DataError, match="cannot be read as an LMDB"):
        everything(folder)


def test_a_large_value_that_lies_beyond_the_file_is_an_error(written):
    folder, file = written
    data = bytearray(file.read_bytes())
    changed = 0
    for leaf in pages(data, 2):
        lower = struct.unpack_from("<H", data, 4096 * leaf + 12)[0]
        for place in struct.unpack_from(f"<{(lower - 16) // 2}H", data, 4096 * leaf + 16):
            start = 4096 * leaf + place
            _, _, flags, key = struct.unpack_from("<4H", data, start)
            if flags & 1:
                struct.pack_into("<Q", data, start + 8 + key, 2**40)
                changed += 1
    file.write_bytes(data)
    assert changed
    with pytest.raises(DataError, match="it ends before byte"):
        everything(folder)


def test_any_bytes_may_be_changed(written):
    """What is read then is an answer or an error, within a time that the size of the file bounds."""
    folder, file = written
    whole = file.read_bytes()
    errors = 0
    for seed in range(200):
        draw, data = random.Random(seed), bytearray(whole)
        for _ in range(draw.choice([1, 3, 30])):
            place = draw.choice([draw.randrange(160), 4096 + draw.randrange(160), draw.randrange(len(data))])
            data[place] = draw.choice([0, 1, 0xFF, draw.randrange(256)])
        file.write_bytes(data)
        try:
            everything(folder)
        except DataError:
            errors += 1
    assert errors > 20


def test_a_database_within_is_no_record(tmp_path):
    with lmdb.open(str(tmp_path), map_size=1 << 20, max_dbs=1) as environment:
        inner = environment.open_db(b"named")
        with environment.begin(write=True, db=inner) as transaction:
            transaction.put(b"1", b"a")
    read = Database(tmp_path)
    assert read.samples() == [b"named"]
    with pytest.raises(DataError, match="a database of its own"):
        read.get(b"named")
