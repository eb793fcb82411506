"""What a question input and a span may declare, and which tensors they fit."""

import pytest
from question_models import SIGNATURE

import torchlift as tl
from torchlift.declare.check import completed_answers, completed_inputs
from torchlift.errors import InputError, SignatureError


def test_an_overlap_is_a_third_of_the_row_where_none_is_stated():
    assert tl.QuestionInput("t.json").overlap == 128
    assert tl.QuestionInput("t.json", 60).overlap == 20
    assert tl.QuestionInput("t.json", 60, 0).overlap == 0


@pytest.mark.parametrize(
    "values",
    [
        {"tokenizer": ""},
        {"length": 7},
        {"length": 1 << 21},
        {"length": 64.0},
        {"overlap": -1},
        {"overlap": True},
        {"question": 0},
    ],
)
def test_a_question_input_checks_its_values(values):
    with pytest.raises(InputError) as caught:
        tl.QuestionInput(**{"tokenizer": "t.json", **values})
    assert caught.value.remedy


@pytest.mark.parametrize(
    "values",
    [{"end": ""}, {"longest": 0}, {"best": 1.5}, {"best": True}, {"threshold": float("nan")}, {"threshold": "0"}],
)
def test_a_span_checks_its_values(values):
    with pytest.raises(InputError) as caught:
        tl.Span(**{"end": "end", **values})
    assert caught.value.remedy


def test_a_question_fits_ids_and_what_follows_from_it_follows():
    found = completed_inputs(
        SIGNATURE, {"input_ids": tl.QuestionInput("t.json", 16), "input_mask": tl.TextPart("input_ids")}
    )
    assert [*found] == ["input_ids", "input_mask", "segment_ids"]
    with pytest.raises(SignatureError, match="up to 17 tokens"):
        completed_inputs(SIGNATURE, {"input_ids": tl.QuestionInput("t.json", 17)})


@pytest.mark.parametrize(
    ("answers", "said"),
    [
        ({"start": tl.Span("finish")}, "no output"),
        ({"start": tl.Span("start")}, "span"),
        ({"start": tl.Span("end", mask="start")}, "masked by 'start'"),
    ],
)
def test_a_span_needs_two_outputs_with_a_score_for_each_token(answers, said):
    assert completed_answers(SIGNATURE, {"start": tl.Span("end", mask="input_mask")})
    with pytest.raises(SignatureError, match=said) as caught:
        completed_answers(SIGNATURE, answers)
    assert caught.value.remedy


def test_a_network_of_ones_own_answers_questions(tmp_path, monkeypatch):
    import torch
    from question_models import ENTRIES, words_tokenizer
    from torch import nn

    class Reads(nn.Module):
        def __init__(self):
            super().__init__()
            torch.manual_seed(0)
            self.words, self.kinds = nn.Embedding(len(ENTRIES), 8), nn.Embedding(2, 8)
            self.mix, self.head = nn.Conv1d(8, 8, 3, padding=1), nn.Linear(8, 2)

        def forward(self, input_ids, input_mask, segment_ids):
            x = (self.words(input_ids) + self.kinds(segment_ids)) * input_mask[..., None]
            start, end = self.head(torch.relu(self.mix(x.transpose(1, 2))).transpose(1, 2)).unbind(-1)
            return start, end

    (tmp_path / "tokenizer.json").write_text(words_tokenizer(), "utf-8")
    monkeypatch.chdir(tmp_path)
    bundle = tl.export(
        Reads(),
        tmp_path / "bundle",
        preprocess={
            "input_ids": tl.QuestionInput("tokenizer.json", 16, 4, 6),
            "input_mask": tl.TextPart("input_ids"),
            "segment_ids": tl.TextPart("input_ids", "types"),
        },
        outputs=["start", "end"],
        postprocess={"start": tl.Span("end", mask="input_mask"), "end": tl.Raw(mask="input_mask")},
    )
    assert bundle.manifest.pipeline == "question-answering"
    (component,) = bundle.manifest.components
    assert component.signature.inputs[0].held_to == (0, len(ENTRIES) - 1)
    assert component.inputs["input_ids"].tokenizer in bundle.manifest.assets
