"""Tables of texts with labels, and of queries with documents, by the names of their columns."""

import json

import pytest
from datafiles import read

from torchlift.datasets import PairsData, QueryData, TextClassData, TextData
from torchlift.errors import DataError

ROWS = [("a cat, black", "animal"), ('a "chair"', "thing"), ("猫", "animal")]


def written(folder, name, text):
    (folder / name).write_text(text, "utf-8")
    return folder / name


@pytest.mark.parametrize(
    ("name", "text"),
    [
        ("a.tsv", "Label\tText\n" + "".join(f"{label}\t{text}\n" for text, label in ROWS)),
        ("b.csv", '\ufeffid,sentence,category\n1,"a cat, black",animal\n2,"a ""chair""",thing\n3,猫,animal\n'),
        ("c.jsonl", "".join(json.dumps({"text": t, "labels": label, "id": 3}) + "\n" for t, label in ROWS)),
    ],
)
def test_texts_with_labels_are_read_from_every_form(tmp_path, name, text):
    data = read(written(tmp_path, name, text))
    assert isinstance(data, TextClassData)
    assert [*zip(data.texts, data.labels, strict=True)] == ROWS
    assert (data.name, data.kind, data.skips.count) == (name, "texts with labels", 0)


def test_a_cell_in_quotes_may_have_several_lines(tmp_path):
    data = read(written(tmp_path, "a.csv", 'text,label\n"two\nlines, one text",1\nx,0\n'))
    assert data.texts == ("two\nlines, one text", "x")


def test_pairs_of_texts_with_labels_are_read(tmp_path):
    rows = [{"premise": "a", "hypothesis": "b", "label": 2}, {"premise": "c", "hypothesis": "d", "label": 0}]
    data = read(written(tmp_path, "nli.jsonl", "".join(json.dumps(row) + "\n" for row in rows)))
    assert (data.texts, data.labels) == ((("a", "b"), ("c", "d")), ("2", "0"))


def test_queries_with_documents_are_read(tmp_path):
    text = "query\tdocument\na\tone\nb\ttwo\na\ttwo\nc\tthree\n"
    data = read(written(tmp_path, "q.tsv", text))
    assert isinstance(data, QueryData)
    assert data.queries == {"a": ("one", "two"), "b": ("two",), "c": ("three",)}
    assert data.documents == ("one", "two", "three")
    assert data.texts == ("a", "b", "c", "one", "two", "three")
    fewer = read(tmp_path / "q.tsv", limit=2)
    assert [*fewer.queries] == ["a", "c"]
    assert fewer.documents == data.documents, "it would be easier to find one among fewer"


def test_other_tables_stay_what_they_were(tmp_path):
    assert isinstance(read(written(tmp_path, "a.jsonl", '{"text": "a"}\n')), TextData)
    assert isinstance(read(written(tmp_path, "b.tsv", "a\tb\t1\n")), PairsData)


def test_rows_that_cannot_be_used_are_skipped_and_named_by_their_line(tmp_path):
    text = "text\tlabel\na\t1\nb\n \t1\nc\t \nd\t0\n"
    data = read(written(tmp_path, "a.tsv", text))
    assert (data.texts, data.skips.count) == (("a", "d"), 3)
    assert data.skips.named[0].startswith("a.tsv, line 3: ")
    with pytest.raises(DataError, match="line 3"):
        read(tmp_path / "a.tsv", strict=True)
    same = read(written(tmp_path, "a.csv", text.replace("\t", ",")))
    assert (same.texts, same.skips.count) == (("a", "d"), 3)
    assert same.skips.named[0].startswith("a.csv, line 3: ")


@pytest.mark.parametrize(
    ("name", "text", "said"),
    [
        ("a.jsonl", '{"text": "a", "label": true}\n', "no texts with labels"),
        ("b.csv", "text,label\n", "no texts with labels"),
        ("c.tsv", "query\tdocument\n", "no queries"),
        ("d.jsonl", '{"query": "a", "document": 3}\n', "no queries"),
    ],
)
def test_tables_without_a_row_that_can_be_used_are_refused(tmp_path, name, text, said):
    with pytest.raises(DataError, match=said):
        read(written(tmp_path, name, text))


def test_a_csv_that_is_no_text_is_refused(tmp_path):
    (tmp_path / "a.csv").write_bytes(b"text,label\n\xff\xfe,1\n")
    with pytest.raises(DataError, match=r"a\.csv"):
        read(tmp_path / "a.csv")
