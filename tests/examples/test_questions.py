"""The example of questions: what it writes; and a smaller network that it trains, shipped under a gate and asked."""

from __future__ import annotations

import importlib.util
import json
import random
import sys
from pathlib import Path

import pytest
import staged
import torch
from shipped import MEASURE

import torchlift as tl
from torchlift.datasets import SquadData, open_data

FOLDER = Path(__file__).parents[2] / "examples" / "questions"
STEPS = 240


@pytest.fixture(scope="module")
def train():
    """The example's training as a module."""
    sys.path.insert(0, str(FOLDER))
    spec = importlib.util.spec_from_file_location("train_questions", FOLDER / "train.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules["train_questions"] = module
    spec.loader.exec_module(module)
    yield module
    sys.path.remove(str(FOLDER))
    for name in ("train_questions", "facts"):
        del sys.modules[name]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


def paragraphs(train, count, unanswerable=False):
    return train.paragraphs_of(random.Random(0), count, unanswerable)


def test_answers_stand_where_they_are_said_to(train):
    found = paragraphs(train, 40)
    assert {"。" in paragraph.context for paragraph in found} == {True, False}
    for paragraph in found:
        assert 4 <= len(paragraph.asked) <= 9
        assert len({asked.question for asked in paragraph.asked}) == len(paragraph.asked)
        for asked in paragraph.asked:
            assert asked.answer
            assert paragraph.context[asked.start :].startswith(asked.answer)


def test_the_vocabulary_writes_every_paragraph_and_is_always_the_same(train):
    tokenizer, again = train.make_tokenizer(), train.make_tokenizer()
    assert tokenizer.backend_tokenizer.to_str() == again.backend_tokenizer.to_str()
    for paragraph in paragraphs(train, 40, unanswerable=True):
        for text in (paragraph.context, *(asked.question for asked in paragraph.asked)):
            assert tokenizer.unk_token_id not in tokenizer(text)["input_ids"]
    assert tokenizer.unk_token_id not in tokenizer("Nora saw a comet in 1759")["input_ids"]


def test_rows_point_at_the_tokens_of_the_answer(train):
    tokenizer, found = train.make_tokenizer(), paragraphs(train, 20, unanswerable=True)
    rows = train.rows_of(tokenizer, found)
    asked = [asked for paragraph in found for asked in paragraph.asked]
    for row, question in enumerate(asked):
        said = tokenizer.decode(rows.ids[row, rows.start[row] : rows.end[row] + 1]).replace(" ", "").replace("##", "")
        assert said == (question.answer.lower().replace(" ", "") if question.start >= 0 else "[CLS]")


@pytest.mark.parametrize("unanswerable", [False, True])
def test_questions_are_written_as_squad_writes_them(train, tmp_path, unanswerable):
    found = paragraphs(train, 6, unanswerable)
    train.write_squad(tmp_path / "dev.json", found)
    data = open_data(tmp_path / "dev.json")
    assert isinstance(data, SquadData)
    assert data.unanswerable is unanswerable
    assert [question.question for question in data.questions] == [a.question for p in found for a in p.asked]
    assert all(bool(question.answers) for question in data.questions) is not unanswerable


@pytest.fixture(scope="module")
def written(train, tmp_path_factory):
    """The command with few steps: its folder."""
    folder = tmp_path_factory.mktemp("questions")
    train.main([str(folder), "--steps", str(STEPS)])
    return folder


def test_a_small_bert_learns_to_answer_and_ships_under_a_gate(written, tmp_path, monkeypatch):
    monkeypatch.setattr(MEASURE, staged.in_this_process)
    bundle = tl.ship(
        "bert",
        str(written / "model"),
        tmp_path / "qa",
        backends=["onnxruntime"],
        precisions=["fp32"],
        data=written / "dev.json",
        limit=100,
        within={"f1": 1.0},
    )
    scoring = bundle.manifest.scoring
    assert scoring.task == "squad"
    assert scoring.metrics["em"].value > 50
    assert scoring.scores["model/onnxruntime/fp32"].drops["f1"].value == pytest.approx(0, abs=0.5)
    content = json.loads((written / "dev.json").read_text("utf-8"))
    paragraph = content["data"][0]["paragraphs"][0]
    contexts = [p["context"] for p in content["data"][0]["paragraphs"][:3]]
    with tl.open(tmp_path / "qa") as qa:
        asked = [record["question"] for record in paragraph["qas"]]
        answers = qa(asked, paragraph["context"])
        assert [answer.text for answer in answers] == [qa(question, paragraph["context"]).text for question in asked]
        long = qa(asked[0], "\n".join(contexts * 40))
        assert long.text
        assert "\n".join(contexts * 40)[long.start : long.end] == long.text
