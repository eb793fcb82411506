"""Bundles of tiny networks answer texts, each for itself, as transformers does."""

import json

import berts
import numpy as np
import pytest
import torch
from shipped import misused, torchlift

import torchlift as tl
from torchlift.errors import InputError
from torchlift.pipelines.tensors import LabelledToken

TEXTS = ["Who wrote the book?", "a", "the very old book is not bad, and it is not good"]
LABELS = {0: "O", 1: "B-X", 2: "I-X"}


def answer(model, *texts):
    """What transformers' network says of one text or pair."""
    fed = berts.tokenizer()(*texts, return_tensors="pt")
    if not getattr(model.config, "type_vocab_size", 0):
        fed.pop("token_type_ids")
    with torch.inference_mode():
        return model(**fed)[0][0]


def test_tokens_are_labelled_with_their_places(write, opened):
    model = berts.network("bert", "TokenClassification", id2label=LABELS)
    net = opened(write(model=model))
    found = net({"input_ids": TEXTS})["logits"]
    for text, labelled in zip(TEXTS, found, strict=True):
        scores = answer(model, text)[1:-1].softmax(-1)
        assert len(labelled) == len(scores)
        for token, row in zip(labelled, scores, strict=True):
            assert isinstance(token, LabelledToken)
            assert token.text == text[token.start : token.end]
            assert token.label == LABELS[int(row.argmax())]
            assert token.score == pytest.approx(float(row.max()), abs=1e-5)
    assert [token.text for token in found[0]][:2] == ["Who", "wrote"]
    for bad in ([""], [("a", "pair", "of three")], [3]):
        with pytest.raises(InputError):
            net({"input_ids": bad})


def test_rows_of_ids_and_pairs_are_labelled_without_places(write, opened):
    net = opened(write("bert", "TokenClassification", id2label=LABELS))
    ids = np.array([[2, 6, 3, 0], [2, 6, 7, 3]], np.int64)
    found = net({"input_ids": ids, "attention_mask": (ids > 0).astype(np.int64), "token_type_ids": 0 * ids})
    assert [len(row) for row in found["logits"]] == [4, 4]
    assert {name for row in found["logits"] for name, _ in row} <= {*LABELS.values()}
    (pair,) = net({"input_ids": [("the book", "a book")]})["logits"]
    assert len(pair) == 7


@pytest.mark.parametrize("kind", ["roberta", "deberta-v2"])
@pytest.mark.parametrize("head", ["MaskedLM", ""])
def test_an_answer_for_each_token_is_an_array_a_text_without_padding(write, opened, kind, head):
    model = berts.network(kind, head)
    net = opened(write(kind, model=model))
    (found,) = net({"input_ids": TEXTS}).values()
    for text, rows in zip(TEXTS, found, strict=True):
        expected = answer(model, text).numpy()
        assert rows.shape == expected.shape
        np.testing.assert_allclose(rows, expected, atol=1e-5 * np.abs(expected).max())


def test_classes_of_texts_and_of_pairs_are_those_of_transformers(write, opened):
    names = {0: "no", 1: "yes", 2: "perhaps"}
    model = berts.network("bert", "SequenceClassification", id2label=names)
    given = [("the old book", "is it good?"), *TEXTS]
    found = opened(write(model=model))({"input_ids": given})["logits"]
    for text, row in zip(given, found, strict=True):
        expected = answer(model, *(text if isinstance(text, tuple) else (text,))).softmax(-1).tolist()
        assert dict(row) == pytest.approx(dict(zip(names.values(), expected, strict=True)), abs=1e-5)


def test_several_labels_each_have_a_probability_of_their_own(write, opened):
    model = berts.network("distilbert", "SequenceClassification", problem_type="multi_label_classification")
    (row,) = opened(write("distilbert", model=model))({"input_ids": TEXTS[:1]})["logits"]
    expected = answer(model, TEXTS[0]).sigmoid().tolist()
    assert dict(row) == pytest.approx({"LABEL_0": expected[0], "LABEL_1": expected[1]}, abs=1e-5)


def test_a_network_ships_and_the_command_line_shows_its_tokens(write, tmp_path):
    model = berts.network("bert", "TokenClassification", id2label=LABELS)
    out, file = str(tmp_path / "out"), tmp_path / "logits.npy"
    tl.ship("bert", str(write(model=model)), out, backends=["onnxruntime"], precisions=["fp32"], rounds=2)
    (row,) = json.loads(torchlift("run", out, "--text", "the old book", "--json").out)["logits"]
    expected = [LABELS[int(label)] for label in answer(model, "the old book")[1:-1].argmax(-1)]
    assert [(token["text"], token["start"], token["end"]) for token in row] == [
        ("the", 0, 3),
        ("old", 4, 7),
        ("book", 8, 12),
    ]
    assert [token["label"] for token in row] == expected
    assert "8..12" in torchlift("run", out, "--text", "the old book").out
    torchlift("run", out, "--text", "the old book", "-o", str(file))
    np.testing.assert_allclose(np.load(file)[0], answer(model, "the old book").numpy(), atol=1e-4)
    said = misused(torchlift("run", out, "--text", "the", "--text", "the old", "-o", str(file)))
    assert "one --text" in said
