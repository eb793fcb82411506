"""A BERT that answers questions: what it declares, and its answers beside transformers' own."""

import json

import numpy as np
import pytest
import torch
import transformers

from torchlift.declare.answers import Raw, Span
from torchlift.declare.inputs import QuestionInput, TextPart
from torchlift.errors import CheckpointError
from torchlift.processing.questions import QuestionTokenizer
from torchlift.signature import Axis


@pytest.fixture
def stated(write):
    """Writes a folder whose config.json says more."""

    def make(name="folder", **said):
        folder = write(head="QuestionAnswering", name=name)
        file = folder / "config.json"
        file.write_text(json.dumps(json.loads(file.read_text()) | said))
        return folder

    return make


@pytest.mark.parametrize(
    ("kind", "parts"),
    [("bert", ("mask", "types")), ("roberta", ("mask",)), ("distilbert", ("mask",)), ("deberta-v2", ("mask",))],
)
def test_it_takes_questions_with_texts_and_gives_spans(load, write, kind, parts):
    component = load(write(kind, "QuestionAnswering")).component("model")
    ids, *others = component.inputs
    assert component.inputs[ids] == QuestionInput("tokenizer", 40, 13, 16)
    assert [component.inputs[name] for name in others] == [TextPart(ids, part) for part in parts]
    assert component.answers == {"start": Span("end", mask="input_mask"), "end": Raw(mask="input_mask")}


def test_rows_have_384_tokens_where_the_network_takes_more(load, write):
    component = load(write(head="QuestionAnswering", max_position_embeddings=512)).component("model")
    assert component.inputs["input_ids"] == QuestionInput("tokenizer", 384, 128, 64)
    assert component.signature.axis("sequence").max == 512


def test_rows_are_as_long_as_the_axis_that_is_asked_for(load, write):
    folder = write(head="QuestionAnswering", max_position_embeddings=512)
    component = load(folder, axes={"": {"sequence": Axis("sequence", 4, 32, 100)}}).component("model")
    assert component.inputs["input_ids"].length == 100


def test_an_axis_too_short_for_any_text_is_refused(load, write):
    folder = write(head="QuestionAnswering")
    with pytest.raises(CheckpointError) as caught:
        load(folder, axes={"": {"sequence": Axis("sequence", 4, 4, 4)}})
    assert caught.value.remedy


@pytest.mark.parametrize(
    ("name", "said", "expected"),
    [
        ("squad", {}, False),
        ("bert-squad2", {}, True),
        ("bert_squad_v2", {}, True),
        ("mine", {"_name_or_path": "deepset/roberta-base-SQuAD2"}, True),
        ("bert-squad2", {"no_answer": False}, False),
        ("mine", {"no_answer": True}, True),
    ],
)
def test_a_text_may_have_no_answer_where_the_folder_says_so(load, stated, name, said, expected):
    model = load(stated(name, **said))
    assert model.component("model").answers["start"].no_answer is expected
    assert bool(model.notes) is expected


def test_the_threshold_is_that_of_the_folder(load, stated):
    span = load(stated(no_answer=True, no_answer_threshold=-1.5)).component("model").answers["start"]
    assert (span.no_answer, span.threshold) == (True, -1.5)


@pytest.mark.parametrize("said", [{"no_answer": "yes"}, {"no_answer_threshold": "0"}, {"no_answer_threshold": True}])
def test_values_that_say_nothing_are_refused(load, stated, said):
    with pytest.raises(CheckpointError, match=next(iter(said))):
        load(stated(**said))


def test_the_key_tells_models_with_and_without_no_answer_apart(load, stated):
    assert load(stated("a", no_answer=True)).key != load(stated("b", no_answer=False)).key


def test_windows_through_the_network_answer_as_transformers_does(load, write):
    folder = write(head="QuestionAnswering")
    model = load(folder)
    component = model.component("model")
    question, text = "who wrote it ?", "the old book is good and the new book is not very good , a red book " * 3
    tokenizer = QuestionTokenizer(model.assets["tokenizer"][1], component.inputs["input_ids"])
    windows = tokenizer.windows([tokenizer.question(question, "q")], [tokenizer.passage(text, "c")])
    rows, longest = np.arange(windows.rows), int(windows.lengths.max())
    feeds = [torch.from_numpy(part(rows, longest)) for part in (windows.ids, windows.mask, windows.types)]
    coded = transformers.AutoTokenizer.from_pretrained(folder)(
        question,
        text,
        truncation="only_second",
        max_length=40,
        stride=13,
        return_overflowing_tokens=True,
        padding=True,
        return_tensors="pt",
    )
    coded.pop("overflow_to_sample_mapping")
    reference = transformers.AutoModelForQuestionAnswering.from_pretrained(folder).eval()
    with torch.no_grad():
        start, end = component.exported(*feeds)
        expected = reference(**coded)
    for ours, theirs in ((start, expected.start_logits), (end, expected.end_logits)):
        kept = coded["attention_mask"] == 1
        torch.testing.assert_close(ours[kept], theirs[kept], atol=1e-4, rtol=1e-4)
