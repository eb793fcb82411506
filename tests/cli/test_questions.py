"""Questions on the command line, of a bundle that answers them, with a session in the place of a runtime."""

import json

import pytest
from question_models import Reader, question_bundle
from shipped import torchlift

from torchlift.pipelines.base import Pipeline

TEXT = "Ada lives in London .\n" + "the filler and the filler . " * 20 + "Alan wrote the filler ."


@pytest.fixture
def qa(tmp_path, monkeypatch):
    """The path of a bundle, and of a text."""
    bundle = question_bundle(tmp_path / "qa")
    reader = Reader()
    monkeypatch.setattr(Pipeline, "session", lambda self, component: reader)
    (tmp_path / "chapter.txt").write_text(TEXT, "utf-8")
    return bundle.path, tmp_path / "chapter.txt"


def answers(said):
    assert said.code == 0, said.err
    return json.loads(said.out)


def test_a_file_is_asked_and_the_answer_shown_in_its_place(qa):
    bundle, file = qa
    said = torchlift("run", bundle, "--question", "who wrote ?", "--context", file)
    assert said.code == 0, said.err
    start = TEXT.index("Alan")
    assert f"characters {start} to {start + 4}" in said.out
    assert "... " in said.out
    assert "the filler . Alan wrote the filler ." in said.out
    assert "%" in said.out


def test_several_questions_are_answered_as_json(qa):
    bundle, file = qa
    found = answers(
        torchlift("run", bundle, "--question", "who ?", "--question", "where ?", "--context", file, "--json")
    )
    assert [(a["question"], a["text"]) for a in found] == [("who ?", "Alan"), ("where ?", "London")]
    assert all(TEXT[a["start"] : a["end"]] == a["text"] and 0 < a["score"] <= 1 for a in found)


def test_a_text_may_be_given_itself(qa):
    found = answers(torchlift("run", qa[0], "--question", "谁写了?", "--context-text", "Ada wrote", "--json"))
    assert found[0]["question"] == "谁写了?"
    assert found[0]["text"] in ("Ada", "wrote", "Ada wrote")


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        ((), "--question"),
        (("--question", "who ?"), "--context"),
        (("--context", "{file}"), "--question"),
        (("--question", "who ?", "--context", "{file}", "--context-text", "Ada"), "either --context"),
        (("--question", "who ?", "--context", "{file}", "-o", "a.npy"), "--json"),
        (("--text", "who ?"), "--question, --context and --context-text"),
    ],
)
def test_what_a_bundle_takes_is_said(qa, arguments, fragment):
    bundle, file = qa
    said = torchlift("run", bundle, *(a.format(file=file) for a in arguments))
    assert said.code == 2
    assert fragment in said.err


@pytest.mark.parametrize(
    ("content", "question", "fragment"),
    [
        (None, "who ?", "cannot be read"),
        (b"", "who ?", "is empty"),
        (b"Ada \xff wrote", "who ?", "no text in UTF-8"),
        (b"Ada wrote", " ", "question 0 is empty"),
        (b"Ada wrote", "who " * 50, "50 tokens"),
    ],
)
def test_bad_texts_and_questions_are_errors_with_a_remedy(qa, tmp_path, content, question, fragment):
    file = tmp_path / "other.txt"
    if content is not None:
        file.write_bytes(content)
    said = torchlift("run", qa[0], "--question", question, "--context", file)
    assert said.code == 1
    assert fragment in said.err.replace("\n", " ")
    assert "Traceback" not in said.err
