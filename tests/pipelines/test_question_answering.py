"""Questions asked of an open bundle: alone and in lists, of short texts and very long ones, and what is refused."""

import tracemalloc
from dataclasses import replace

import numpy as np
import pytest
from colour_models import Remembering, bundle_of
from question_models import LENGTH, SIGNATURE, Reader, question_bundle, reads, words_tokenizer

from torchlift.declare.answers import Raw, Span
from torchlift.declare.inputs import QuestionInput, TextPart
from torchlift.errors import BundleError, InputError
from torchlift.pipelines import of_bundle
from torchlift.pipelines.question_answering import SpanAnswer
from torchlift.signature import Axis

FILLER = "the filler and the filler . " * 8
TEXT = f"{FILLER}Ada lives in London . {FILLER}Alan wrote the filler . {FILLER}"


@pytest.fixture
def asked(tmp_path):
    """Maker of an open pipeline and its session."""

    def make(function=reads, progress=None, **declared):
        session = Reader(function, declared.get("signature", SIGNATURE))
        bundle = question_bundle(tmp_path / "qa", **declared)
        return of_bundle(bundle, {"model": session}, progress=progress or Remembering()), session

    return make


def test_a_question_is_answered_with_its_place_in_the_text(asked):
    qa, _ = asked()
    answer = qa("who wrote ?", TEXT)
    assert isinstance(answer, SpanAnswer)
    assert (answer.text, TEXT[answer.start : answer.end]) == ("Alan", "Alan")
    assert 0.9 < answer.score <= 1
    assert qa("where ?", TEXT).text == "London"


def test_the_words_are_those_of_the_text_as_they_stand_there(asked):
    qa, _ = asked()
    assert qa("WHO", "ÀDA  wrote").text == "ÀDA"


def test_lists_go_pair_by_pair_and_a_single_one_with_each(asked):
    qa, _ = asked()
    other = "Ada wrote in Paris"
    both = [qa("who ?", TEXT), qa("where ?", other)]
    assert qa(["who ?", "where ?"], [TEXT, other]) == both
    assert qa(["who ?", "where ?"], other) == [qa("who ?", other), qa("where ?", other)]
    assert qa("who ?", [TEXT, other]) == [qa("who ?", TEXT), qa("who ?", other)]
    assert qa(("who ?",), (TEXT,)) == [qa("who ?", TEXT)]


@pytest.mark.parametrize("size", [None, 1, 3, 8])
def test_what_is_answered_does_not_depend_on_what_else_is_asked(asked, size):
    qa, session = asked()
    texts = [TEXT, "Ada wrote", FILLER, TEXT[40:], "Alan lives in Paris"]
    questions = ["who ?", "who wrote the filler ?", "where", "where ?", "where lives Alan ?"]
    alone = [qa(question, text) for question, text in zip(questions, texts, strict=True)]
    session.shapes.clear()
    assert qa(questions, texts, size=size) == alone
    assert max(rows for rows, _ in session.shapes) <= (size or 4)


def test_windows_of_like_length_share_a_batch(asked):
    qa, session = asked()
    qa(["who"] * 6, ["Ada wrote ."] * 3 + [TEXT] * 3)
    assert session.shapes[0] == (3, 7) or session.shapes[0][1] < LENGTH
    assert {length for _, length in session.shapes} > {LENGTH}


def test_an_answer_on_a_seam_of_windows_is_found_once(asked):
    qa, _ = asked()
    for count in range(24):
        text = "filler " * count + "Ada wrote " + "filler " * 24
        assert qa("who ?", text).text == "Ada"


def test_a_text_of_100_000_words_takes_little_memory(asked):
    axes = (Axis("batch", 1, 32, 64), Axis("sequence", 4, 128, 256))
    signature = replace(SIGNATURE, axes=axes)
    qa, session = asked(asked=QuestionInput("tokenizer.json", 256, 80, 6), signature=signature)
    text = "filler and " * 50_000 + "Alan wrote ."
    qa("who ?", text[-200:])
    session.shapes.clear()
    tracemalloc.start()
    answer = qa("who ?", text)
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert (answer.text, answer.start) == ("Alan", 11 * 50_000)
    rows = sum(rows for rows, _ in session.shapes)
    assert rows == 1 + -(-(100_003 - 251) // 171)
    assert max(rows for rows, _ in session.shapes) <= 32
    assert peak < 64 << 20


def test_no_answer_where_the_model_was_trained_for_it(asked):
    qa, _ = asked(span=Span("end", no_answer=True))
    none = qa("where ?", "Ada wrote .")
    assert (none.text, none.start, none.end) == ("", 0, 0)
    assert none.score > 0.9
    assert qa("who ?", "Ada wrote .").text == "Ada"
    assert qa("where ?", TEXT).text == "London"


def test_without_it_some_span_is_answered(asked):
    qa, _ = asked()
    answer = qa("where ?", "Ada wrote .")
    assert answer.text
    assert answer.score < 0.5


def test_scores_that_are_no_numbers_give_no_answer(asked):
    qa, _ = asked(lambda ids, mask, types: (np.full(ids.shape, np.nan),) * 2)
    answer = qa("who ?", TEXT)
    assert (answer.text, answer.score) == ("", 0.0)


def test_a_question_that_is_cut_is_noted(asked):
    progress = Remembering()
    qa, _ = asked(progress=progress)
    assert qa(["who ?", "who " + "and " * 8], "Ada wrote .")[1].text == "Ada"
    assert progress.notes == ["1 of 2 questions were cut to 6 tokens, the first is question 1"]


@pytest.mark.parametrize(
    ("question", "context", "said"),
    [
        ("", TEXT, "question 0 is empty"),
        (" \n", TEXT, "question 0 is empty"),
        ("who ?", "", "the context of question 0 is empty"),
        ("who ?", "\t ", "the context of question 0 is empty"),
        ("who " * 40, TEXT, "question 0 has 40 tokens"),
        (["who", ""], TEXT, "question 1 is empty"),
        (["who", "where"], [TEXT, ""], "the context of question 1 is empty"),
        (["who", "where"], [TEXT], "2 questions and 1 contexts"),
        ([], TEXT, "no questions"),
        ("who", [], "no contexts"),
        ("who", None, "list of contexts"),
        (3, TEXT, "list of questions"),
        ([3], TEXT, "question 0 is int"),
        (["who"], [b"Ada"], "the context of question 0 is bytes"),
        ("who \ud800", TEXT, "lone surrogate"),
    ],
)
def test_bad_questions_and_texts_are_refused(asked, question, context, said):
    qa, session = asked()
    with pytest.raises(InputError, match=said) as caught:
        qa(question, context)
    assert caught.value.remedy
    assert session.shapes == []


def test_a_closed_pipeline_answers_no_more(asked):
    qa, _ = asked()
    qa.close()
    with pytest.raises(BundleError, match="closed"):
        qa("who ?", TEXT)


def test_a_bundle_that_declares_no_span_is_refused(tmp_path):
    bundle = question_bundle(tmp_path / "qa", span=Raw())
    with pytest.raises(BundleError, match="span"):
        of_bundle(bundle, {"model": Reader()})


@pytest.mark.parametrize("content", ["{}", "", "[PAD]\n[UNK]"])
def test_a_damaged_tokenizer_is_named(tmp_path, content):
    bundle = question_bundle(tmp_path / "qa", tokenizer=content or " ")
    with pytest.raises(BundleError, match=r"tokenizer\.json"):
        of_bundle(bundle, {"model": Reader()})


def test_a_network_without_types_takes_questions(tmp_path):
    signature = replace(SIGNATURE, inputs=SIGNATURE.inputs[:2])
    inputs = {"input_ids": QuestionInput("tokenizer.json", 16, 4, 6), "input_mask": TextPart("input_ids")}
    declared = {"model": (inputs, {"start": Span("end")})}
    assets = {"tokenizer.json": words_tokenizer().encode()}
    bundle = bundle_of(tmp_path / "qa", "question-answering", {}, {"model": signature}, declared, assets)

    def untyped(ids, mask):
        return reads(ids, mask, np.cumsum(np.roll(ids == 3, 1, axis=1), axis=1).clip(0, 1))

    assert of_bundle(bundle, {"model": Reader(untyped, signature)})("who", "Ada wrote .").text == "Ada"
