import base64
import json
import pickle
import sys

import pytest
from datafiles import contents, database, encoded, read, retrieval, text
from hypothesis import given
from hypothesis import strategies as st

from torchlift.datasets import ReadOptions, Text, open_data, write_retrieval
from torchlift.errors import DataError, UnsafeDataError

IDS = st.integers(0, 2**63 - 1)


@given(
    images=st.dictionaries(IDS, st.binary(min_size=1, max_size=40), min_size=1, max_size=6),
    texts=st.dictionaries(IDS, st.tuples(st.text(), st.lists(IDS, unique=True, max_size=4)), min_size=1, max_size=6),
)
def test_what_is_written_is_read(tmp_path_factory, images, texts):
    folder = tmp_path_factory.mktemp("muge")
    texts = tuple(Text(number, words, tuple(found)) for number, (words, found) in texts.items())
    write_retrieval(folder, "test", images.items(), texts)
    data = open_data(folder)
    assert (data.name, data.split, data.skips.count) == (f"{folder.name}/test", "test", 0)
    assert contents(data.images) == images
    assert [*data.images.ids] == [*images]
    assert data.texts == texts


def test_written_files_are_as_the_field_writes_them(tmp_path):
    files = write_retrieval(tmp_path, "valid", [(7, b"\xfb\xff")], [Text(3, "红色“猫”", (7, 8))])
    assert [file.name for file in files] == ["valid_imgs.tsv", "valid_texts.jsonl"]
    assert files[0].read_text() == "7\t+/8=\n"
    assert files[1].read_text("utf-8") == '{"text_id": 3, "text": "红色“猫”", "image_ids": [7, 8]}\n'


@pytest.mark.parametrize("written", ["+/8=", "-_8=", "-_8", "+_8="])
def test_base64_of_either_alphabet_is_read(tmp_path, written):
    assert contents(read(retrieval(tmp_path, {1: written}, [text(1, [1])])).images) == {1: b"\xfb\xff"}


@pytest.mark.parametrize("written", ["AAAAA", "A*AA", "é"])
def test_broken_base64_is_an_error_that_names_the_image(tmp_path, written):
    data = read(retrieval(tmp_path, {41: written}, [text(1, [41])]))
    with pytest.raises(DataError, match="image 41 is broken base64") as caught:
        data.images.read(0)
    assert "Encode" in caught.value.remedy


def test_only_a_line_feed_ends_a_line_and_windows_line_ends_are_read(tmp_path):
    retrieval(tmp_path, {1: b"one", 2: b"two"}, [text(1, [1], "a\u2028b\x85c"), text(2, [2])])
    tsv = tmp_path / "valid_imgs.tsv"
    tsv.write_bytes(tsv.read_bytes().replace(b"\n", b"\r\n"))
    data = read(tmp_path)
    assert contents(data.images) == {1: b"one", 2: b"two"}
    assert data.texts[0].text == "a\u2028b\x85c"


BROKEN_TEXTS = {
    '{"text_id": 2, "text": "x", "image_ids"': "Expecting",
    '{"text_id": "2", "text": "x", "image_ids": [1]}': "whole number",
    '{"text_id": 2, "text": "x", "image_ids": [true]}': "whole number",
    '{"text_id": 2, "text": 5, "image_ids": [1]}': "string",
    '{"text_id": 2, "text": "x"}': "image_ids",
    "[]": "text_id",
    "[" * 100_000: "recursion",
}


@pytest.mark.parametrize(("line", "reason"), BROKEN_TEXTS.items())
def test_a_broken_text_is_skipped_counted_and_named(tmp_path, line, reason):
    retrieval(tmp_path, {1: b"one"}, [text(1, [1]), text(3, [1])])
    file = tmp_path / "valid_texts.jsonl"
    first, second = file.read_text().splitlines()
    file.write_text(f"{first}\n\n{line}\n{second}\n")
    data = read(tmp_path)
    assert [t.id for t in data.texts] == [1, 3]
    assert data.skips.count == 1
    assert data.skips.named[0].startswith("valid_texts.jsonl, line 3: ")
    assert reason in data.skips.named[0]
    with pytest.raises(DataError, match="line 3") as caught:
        read(tmp_path, strict=True)
    assert "`strict_data=`" in caught.value.remedy


@pytest.mark.parametrize(
    ("line", "reason"),
    [("no tab", "no tab"), ("x\tAAAA", "'x' is not a whole number"), (f"{2**63}\tAAAA", "not a whole number below")],
)
def test_a_broken_image_line_is_skipped_counted_and_named(tmp_path, line, reason):
    retrieval(tmp_path, {1: b"one", 2: b"two"}, [text(1, [1])])
    file = tmp_path / "valid_imgs.tsv"
    file.write_text(f"{line}\n{file.read_text()}")
    data = read(tmp_path)
    assert contents(data.images) == {1: b"one", 2: b"two"}
    assert data.skips.named[0].startswith("valid_imgs.tsv, line 1: ")
    assert reason in data.skips.named[0]


def test_a_few_are_named_and_all_are_counted(tmp_path):
    retrieval(tmp_path, {1: b"one"}, [text(1, [1])])
    with (tmp_path / "valid_texts.jsonl").open("a") as stream:
        stream.write("broken\n" * 12)
    skips = read(tmp_path).skips
    assert (skips.count, len(skips.named)) == (12, 5)
    assert str(skips).endswith("; and 7 more")


@pytest.mark.parametrize(
    ("images", "texts", "message"),
    [
        ("1\tAAAA\n2\tAAAA\n1\tAAAA\n", None, "image id 1 twice"),
        (None, [text(5, [1]), text(5, [2])], "text id 5 twice"),
    ],
)
def test_duplicate_ids_are_refused(tmp_path, images, texts, message):
    retrieval(tmp_path, {1: b"one"}, texts or [text(5, [1])])
    if images:
        (tmp_path / "valid_imgs.tsv").write_text(images)
    with pytest.raises(DataError, match=message) as caught:
        read(tmp_path)
    assert "id of its own" in caught.value.remedy


def test_the_split_is_the_one_asked_for_or_else_the_valid_one(tmp_path):
    for split in ("train", "valid", "test"):
        retrieval(tmp_path, {1: split.encode()}, [text(1, [1])], split)
    assert read(tmp_path).split == "valid"
    assert contents(read(tmp_path, split="train").images) == {1: b"train"}
    with pytest.raises(DataError, match="no split 'dev'") as caught:
        read(tmp_path, split="dev")
    assert "test, train, valid" in caught.value.remedy


def test_among_unusual_splits_one_must_be_asked_for(tmp_path):
    for split in ("a", "b"):
        retrieval(tmp_path, {1: b"x"}, [text(1, [1])], split)
    with pytest.raises(DataError, match="has the splits a, b") as caught:
        read(tmp_path)
    assert "`split=`" in caught.value.remedy


@pytest.mark.parametrize(("gone", "lacks"), [("valid_imgs.tsv", "no images"), ("valid_texts.jsonl", "no texts")])
def test_a_split_without_one_half_says_what_is_expected(tmp_path, gone, lacks):
    retrieval(tmp_path, {1: b"x"}, [text(1, [1])])
    (tmp_path / gone).unlink()
    with pytest.raises(DataError, match=lacks) as caught:
        read(tmp_path)
    assert gone in caught.value.remedy


@pytest.mark.parametrize(("images", "texts"), [({}, [text(1, [1])]), ({1: b"x"}, [])])
def test_an_empty_half_is_refused(tmp_path, images, texts):
    with pytest.raises(DataError, match=f"{len(texts)} texts and {len(images)} images"):
        read(retrieval(tmp_path, images, texts))


def test_a_limit_takes_texts_evenly_and_the_images_that_they_name(tmp_path):
    images = {i: str(i).encode() for i in range(30)}
    data = read(retrieval(tmp_path, images, [text(i, [i, i + 10]) for i in range(20)]), limit=3)
    assert [t.id for t in data.texts] == [0, 10, 19]
    assert contents(data.images) == {i: images[i] for i in (0, 10, 19, 20, 29)}


def test_a_limit_below_one_is_refused():
    with pytest.raises(DataError, match="limit is 0"):
        ReadOptions(limit=0)


@pytest.fixture
def lmdb_form(tmp_path):
    """The LMDB form of two images and two texts, as the reference's script makes it."""
    images = {12: encoded(1), 5: encoded(2)}
    pairs = [(12, 900, "猫"), (5, 900, "猫"), (5, 901, "狗")]
    database(
        tmp_path / "lmdb" / "valid" / "imgs",
        {
            **{str(number).encode(): base64.urlsafe_b64encode(data) for number, data in images.items()},
            b"num_images": b"2",
        },
    )
    database(
        tmp_path / "lmdb" / "valid" / "pairs",
        {**{str(i).encode(): pickle.dumps(pair) for i, pair in enumerate(pairs)}, b"num_samples": b"3"},
    )
    return tmp_path, images


def test_pickles_of_the_lmdb_form_are_refused_unless_trusted(lmdb_form):
    folder, _ = lmdb_form
    with pytest.raises(UnsafeDataError, match="holds pickles, which may run code; none was read") as caught:
        read(folder)
    assert "`trust_pickle=`" in caught.value.remedy
    assert "valid_texts.jsonl" in caught.value.remedy


def test_the_lmdb_form_is_read_where_it_is_trusted(lmdb_form):
    folder, images = lmdb_form
    data = read(folder, trust_pickle=True)
    assert contents(data.images) == images
    assert data.texts == (Text(900, "猫", (12, 5)), Text(901, "狗", (5,)))
    assert data.skips.count == 0


def test_the_jsonl_beside_an_lmdb_is_read_in_place_of_pickles(lmdb_form):
    folder, images = lmdb_form
    (folder / "valid_texts.jsonl").write_text(json.dumps(text(1, [5])) + "\n")
    data = read(folder)
    assert contents(data.images) == images
    assert data.texts == (Text(1, "猫", (5,)),)


def test_broken_pairs_and_keys_are_skipped(lmdb_form):
    folder, _ = lmdb_form
    lmdb = pytest.importorskip("lmdb")
    for name, key, value in (("pairs", b"3", b"\x80broken"), ("pairs", b"4", pickle.dumps([1])), ("imgs", b"x", b"y")):
        with lmdb.open(str(folder / "lmdb" / "valid" / name)) as environment, environment.begin(write=True) as writing:
            writing.put(key, value)
    data = read(folder, trust_pickle=True)
    assert (len(data.texts), len(data.images), data.skips.count) == (2, 2, 3)
    assert "pairs, key b'3': the pickle is broken" in data.skips.named[0]
    assert "it is not (image id, text id, text)" in data.skips.named[1]
    assert "'x' is not a whole number" in data.skips.named[2]


def test_an_lmdb_is_read_where_the_library_is_not_installed(lmdb_form, monkeypatch):
    folder, images = lmdb_form
    monkeypatch.setitem(sys.modules, "lmdb", None)
    assert contents(read(folder, trust_pickle=True).images) == images


def test_a_damaged_lmdb_is_refused(tmp_path):
    folder = tmp_path / "lmdb" / "valid" / "imgs"
    folder.mkdir(parents=True)
    (folder / "data.mdb").write_bytes(b"nothing of the kind" * 1000)
    (tmp_path / "valid_texts.jsonl").write_text(json.dumps(text(1, [5])) + "\n")
    with pytest.raises(DataError, match="cannot be read as an LMDB"):
        read(tmp_path)
