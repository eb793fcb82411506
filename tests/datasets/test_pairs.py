"""Pairs of texts from tables and lines of JSON."""

import json

import pytest
from datafiles import read

from torchlift.datasets import PairsData, TextData
from torchlift.errors import DataError

PAIRS = [("a cat", "a kitten", 4.5), ("a cat, black", 'a "dog"', 1.0), ("猫", "狗", 2.0)]


def written(folder, name, text):
    (folder / name).write_text(text, "utf-8")
    return folder / name


def shown(data):
    assert isinstance(data, PairsData)
    return [*zip(data.left, data.right, data.scores.tolist(), strict=True)]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("pairs.tsv", "".join(f"{a}\t{b}\t{score}\n" for a, b, score in PAIRS)),
        ("headed.tsv", "score\tgenre\tsentence1\tsentence2\n" + "".join(f"{s}\tx\t{a}\t{b}\n" for a, b, s in PAIRS)),
        ("pairs.csv", 'a cat,a kitten,4.5\r\n"a cat, black","a ""dog""",1\r\n猫,狗,2\r\n'),
        ("headed.csv", '\ufeffsentence1,sentence2,Score\na cat,a kitten,4.5\n"a cat, black","a ""dog""",1\n猫,狗,2\n'),
        ("pairs.jsonl", "".join(json.dumps({"sentence1": a, "sentence2": b, "score": s}) + "\n" for a, b, s in PAIRS)),
    ],
)
def test_pairs_are_read_from_every_form(tmp_path, name, text):
    data = read(written(tmp_path, name, text))
    assert shown(data) == PAIRS
    assert (data.name, data.kind, data.skips.count) == (name, "pairs", 0)
    assert data.texts == ("a cat", "a kitten", "a cat, black", 'a "dog"', "猫", "狗")


def test_lines_of_texts_stay_texts(tmp_path):
    assert isinstance(read(written(tmp_path, "texts.jsonl", '{"text": "a"}\n')), TextData)


def test_what_is_no_pair_is_skipped_and_named_by_its_line(tmp_path):
    lines = "a\tb\t1\na\tb\nc\td\tgood\n\ne\tf\tnan\ng\th\t2\n"
    data = read(written(tmp_path, "pairs.tsv", lines))
    assert shown(data) == [("a", "b", 1.0), ("g", "h", 2.0)]
    assert data.skips.count == 3
    assert data.skips.named[0].startswith("pairs.tsv, line 2: ")
    assert "'good'" in data.skips.named[1] or "good" in data.skips.named[1]
    with pytest.raises(DataError, match="line 2"):
        read(tmp_path / "pairs.tsv", strict=True)


def test_a_limit_is_evenly_spaced(tmp_path):
    file = written(tmp_path, "pairs.tsv", "".join(f"a\tb\t{i}\n" for i in range(9)))
    assert [score for *_, score in shown(read(file, limit=3))] == [0, 4, 8]


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("empty.tsv", ""),
        ("texts.csv", "one,two\n"),
        ("numbers.jsonl", '{"sentence1": 1, "sentence2": "b", "score": 1}\n'),
        ("truth.jsonl", '{"sentence1": "a", "sentence2": "b", "score": true}\n'),
    ],
)
def test_a_file_without_a_pair_is_refused(tmp_path, name, text):
    with pytest.raises(DataError, match="no pairs") as caught:
        read(written(tmp_path, name, text))
    assert "sentence1" in caught.value.remedy
