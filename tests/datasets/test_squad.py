"""Questions in SQuAD's JSON, of both versions, and files of predictions."""

import json

import pytest
from datafiles import read
from question_models import squad

from torchlift.datasets import SquadData
from torchlift.datasets.base import read_json
from torchlift.datasets.squad import read_answers, write_answers
from torchlift.errors import DataError

FIRST = [
    ("Ada wrote it. 艾达写的。", [("a", "Who?", ["Ada", "Ada"]), ("b", "谁写了它?", ["艾达"])]),
    ("Alan did.", [("c", "Who did?", ["Alan", "the Alan"])]),
]


@pytest.fixture
def written(tmp_path):
    def write(content):
        file = tmp_path / "dev.json"
        file.write_text(content if isinstance(content, str) else json.dumps(content), "utf-8")
        return file

    return write


def test_questions_are_read_with_their_contexts_and_answers(written):
    data = read(written(squad(FIRST)))
    assert isinstance(data, SquadData)
    assert (data.name, data.kind, data.unanswerable, data.skips.count) == ("dev.json", "questions", False, 0)
    assert [(q.id, q.question, q.answers) for q in data.questions] == [
        ("a", "Who?", ("Ada", "Ada")),
        ("b", "谁写了它?", ("艾达",)),
        ("c", "Who did?", ("Alan", "the Alan")),
    ]
    assert data.questions[0].context is data.questions[1].context == FIRST[0][0]


@pytest.mark.parametrize("version", ["v2.0", "2.0"])
def test_of_the_second_version_a_question_may_have_no_answer(written, version):
    data = read(written(squad([(FIRST[0][0], [("a", "Who?", ["Ada"]), ("d", "When?", [])])], version)))
    assert data.unanswerable
    assert [q.answers for q in data.questions] == [("Ada",), ()]


def test_a_question_that_says_whether_it_is_impossible_makes_it_the_second_version(written):
    content = json.loads(squad([(FIRST[0][0], [("d", "When?", [])])], "v2.0"))
    del content["version"]
    assert read(written(content)).unanswerable


def test_a_limit_counts_questions(written):
    assert [q.id for q in read(written(squad(FIRST)), limit=2).questions] == ["a", "c"]


def test_what_is_no_question_is_skipped_and_named(written):
    content = json.loads(squad(FIRST))
    asked = content["data"][0]["paragraphs"][0]["qas"]
    asked += [
        7,
        {"question": "Who?", "answers": [{"text": "Ada"}]},
        {"id": "e", "question": " ", "answers": [{"text": "Ada"}]},
        {"id": "f", "question": "Who?", "answers": [{"text": 3}]},
        {"id": "g", "question": "Who?", "answers": []},
        {"id": "h", "answers": [{"text": "Ada"}]},
    ]
    content["data"][0]["paragraphs"].append(
        {"context": "", "qas": [{"id": "i", "question": "?", "answers": [{"text": "a"}]}]}
    )
    file = written(content)
    data = read(file)
    assert [q.id for q in data.questions] == ["a", "b", "c"]
    assert data.skips.count == 7
    assert any("question e: its question is empty" in reason for reason in data.skips.named)
    with pytest.raises(DataError, match="question 3"):
        read(file, strict=True)


def test_json_that_is_cut_off_is_named_wherever_it_ends(written):
    whole = squad(FIRST)
    for end in (1, 9, len(whole) // 3, len(whole) // 2, len(whole) - 1):
        with pytest.raises(DataError, match="is cut off after") as caught:
            read(written(whole[:end]))
        assert caught.value.remedy


@pytest.mark.parametrize("content", ["", "{]", "nonsense", "[" * 100_000, '{"data": NaN]'])
def test_what_is_no_json_is_named(written, content):
    with pytest.raises(DataError, match=r"dev\.json"):
        read(written(content))


def test_what_is_no_utf_8_is_named(tmp_path):
    (tmp_path / "dev.json").write_bytes(b'{"data": "\xff"}')
    with pytest.raises(DataError, match="no JSON"):
        read(tmp_path / "dev.json")


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ([], "no list called data"),
        ({"data": {}}, "no list called data"),
        ({"data": []}, "has no questions"),
        ({"data": [3]}, "article without paragraphs"),
        ({"data": [{"paragraphs": [{"context": "a"}]}]}, "paragraph without qas"),
        ({"data": [{"paragraphs": [{"context": "a", "qas": [{}]}]}]}, "has no questions"),
    ],
)
def test_other_json_is_refused(written, content, said):
    with pytest.raises(DataError, match=said) as caught:
        read(written(content))
    assert caught.value.remedy


def test_an_id_that_occurs_twice_is_refused(written):
    with pytest.raises(DataError, match="'a' twice"):
        read(written(squad([*FIRST, ("Ada", [("a", "Who?", ["Ada"])])])))


def test_predictions_are_written_as_they_are_read(tmp_path):
    file = tmp_path / "predictions.json"
    write_answers(file, {"a": "Ada", "b": "艾达", "c": ""})
    assert json.loads(file.read_text("utf-8")) == read_json(file) == {"a": "Ada", "b": "艾达", "c": ""}
    assert read_answers(file, ["b", "z"]) == {"b": "艾达"}


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("[]", "has no predictions"),
        ('{"a": 3}', "'a' is int"),
        ('{"z": "x"}', "none of the 1 questions"),
        ("{", "cut off"),
    ],
)
def test_predictions_that_do_not_fit_are_refused(tmp_path, content, said):
    (tmp_path / "p.json").write_text(content)
    with pytest.raises(DataError, match=said):
        read_answers(tmp_path / "p.json", ["a"])
