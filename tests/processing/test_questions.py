"""Questions and texts as windows of token ids: equal to what transformers makes of the same pair."""

import functools
import json

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from question_models import TRAINED, trained

from torchlift.declare.inputs import QuestionInput
from torchlift.errors import InputError
from torchlift.processing.questions import QuestionTokenizer

WORDS = st.sampled_from(
    [
        "the",
        "river",
        "Ada",
        "wrote",
        "書",
        "谁写了它",
        "ﬁ",
        "é",
        "e\u0301",
        "  ",
        "\n",
        "\t",
        "?!",
        "1815",
        "😀",
        "x" * 9,
        "ä-ö",
    ]
)
TEXTS = st.lists(WORDS | st.text(max_size=6), min_size=1, max_size=40).map(" ".join)
ASKED = st.lists(WORDS | st.text(max_size=2), min_size=1, max_size=3).map(" ".join)


def trimmed(text, place):
    """A place without white space at its ends, which the library leaves out of the first window alone; None where
    nothing is left, as of a token that is a byte of white space.
    """
    found = text[slice(*place)]
    if not found.strip():
        return None
    start = place[0] + len(found) - len(found.lstrip())
    return start, max(start, place[1] - len(found) + len(found.rstrip()))


@functools.cache
def made(kind, **declared):
    return QuestionTokenizer(trained(kind).encode(), QuestionInput("tokenizer.json", **declared))


@functools.cache
def transformers(kind):
    import tokenizers
    from transformers import PreTrainedTokenizerFast

    return PreTrainedTokenizerFast(tokenizer_object=tokenizers.Tokenizer.from_str(trained(kind)), pad_token="[PAD]")


@pytest.mark.parametrize("kind", TRAINED)
@settings(max_examples=60, deadline=None)
@given(st.data())
def test_windows_are_those_that_transformers_makes(kind, data):
    question, text = data.draw(ASKED), data.draw(TEXTS)
    length, overlap = data.draw(st.integers(24, 48)), data.draw(st.integers(0, 10))
    ours = made(kind, length=length, overlap=overlap, question=8)
    try:
        text.encode(), question.encode()
        ids, cut = ours.question(question, "q")
        passage = ours.passage(text, "c")
    except (InputError, UnicodeEncodeError):
        return
    if cut or len(ids) + ours.layout.tokens + overlap >= length:
        return
    windows = ours.windows([(ids, cut)], [passage])
    expected = transformers(kind)(
        question,
        text,
        truncation="only_second",
        max_length=length,
        stride=overlap,
        return_overflowing_tokens=True,
        return_offsets_mapping=True,
        return_token_type_ids=True,
        padding=True,
    )
    rows, longest = np.arange(windows.rows), int(windows.lengths.max())
    assert windows.ids(rows, longest).tolist() == expected["input_ids"]
    assert windows.mask(rows, longest).tolist() == expected["attention_mask"]
    # a template that numbers both texts 0, as XLM-R's, is forgotten by the library in all windows but the first
    typed = slice(1) if kind == "unigram" else slice(None)
    assert windows.types(rows, longest).tolist()[typed] == expected["token_type_ids"][typed]
    for row, first in zip(rows, windows.first(rows), strict=True):
        shown = slice(windows.start[row], windows.stop[row])
        places = expected["offset_mapping"][row][first : first + shown.stop - shown.start]
        ours_at = zip(passage.starts[shown].tolist(), passage.ends[shown].tolist(), strict=True)
        assert [trimmed(text, place) for place in ours_at] == [trimmed(text, place) for place in places]


def test_a_long_question_is_cut_and_one_longer_than_a_window_refused():
    tokenizer = made("wordpiece", length=32, overlap=4, question=8)
    ids, cut = tokenizer.question("the river " * 6, "question 3")
    assert (len(ids), cut) == (8, True)
    assert tokenizer.question("the river", "question 3")[1] is False
    with pytest.raises(InputError, match=r"question 3 has 60 tokens.* 28") as caught:
        tokenizer.question("the river " * 30, "question 3")
    assert caught.value.remedy


@pytest.mark.parametrize("text", ["", "  \n\t"])
def test_what_has_no_token_is_refused(text):
    tokenizer = made("wordpiece", length=32, overlap=4, question=8)
    with pytest.raises(InputError, match="question 0 is empty"):
        tokenizer.question(text, "question 0")
    with pytest.raises(InputError, match="the context is empty"):
        tokenizer.passage(text, "the context")


@pytest.mark.parametrize("text", [None, 3, b"bytes", "\ud800"])
def test_what_is_no_text_is_refused(text):
    with pytest.raises(InputError, match="question 0"):
        made("wordpiece", length=32, overlap=4, question=8).question(text, "question 0")


def test_an_overlap_that_leaves_no_step_is_halved():
    tokenizer = made("wordpiece", length=16, overlap=14, question=4)
    windows = tokenizer.windows([tokenizer.question("Ada", "q")], [tokenizer.passage("the river " * 20, "c")])
    room = 16 - tokenizer.layout.tokens - 1
    assert windows.rows == 1 + -(-(40 - room) // (room - room // 2))
    assert int(windows.stop[-1]) == 40


def test_neighbours_share_the_overlap_and_cover_the_text():
    tokenizer = made("wordpiece", length=24, overlap=7, question=8)
    windows = tokenizer.windows([tokenizer.question("Ada wrote", "q")], [tokenizer.passage("the river " * 50, "c")])
    assert (windows.stop[:-1] - windows.start[1:]).tolist() == [7] * (windows.rows - 1)
    assert (int(windows.start[0]), int(windows.stop[-1])) == (0, 100)
    assert windows.lengths[:-1].tolist() == [24] * (windows.rows - 1)


def test_a_length_without_room_for_text_is_refused():
    with pytest.raises(InputError, match="leaves no room"):
        made("wordpiece", length=11, overlap=0, question=8)


@pytest.mark.parametrize("content", [b"", b"{}", b"\xff", json.dumps({"model": 3}).encode()])
def test_a_damaged_tokenizer_is_refused(content):
    with pytest.raises(InputError, match=r"tokenizer\.json"):
        QuestionTokenizer(content, QuestionInput("tokenizer.json"))
