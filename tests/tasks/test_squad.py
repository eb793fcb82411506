"""Exact match and F1 as SQuAD's two scripts compute them, which are written out below."""

import collections
import json
import re
import string

import numpy as np
import pytest
from colour_models import Remembering
from hypothesis import given
from hypothesis import strategies as st
from question_models import Reader, question_bundle, reads, squad

from torchlift.datasets import ReadOptions
from torchlift.declare.answers import Raw, Span
from torchlift.errors import DataError
from torchlift.jobs import JobOptions, score_predictions
from torchlift.jobs.options import DataOptions
from torchlift.pipelines import of_bundle
from torchlift.pipelines.run import Loader
from torchlift.tasks import metric_of, open_task
from torchlift.tasks.calibration import calibration_samples
from torchlift.tasks.squad import exact_match, word_f1
from torchlift.tasks.statistics import estimate

FILLER = "the filler and the filler . " * 8
LONG = f"{FILLER}Ada lives in London . {FILLER}Alan wrote the filler . {FILLER}"
FIRST = [
    (LONG, [("a", "who wrote ?", ["Alan", "the alan!"]), ("b", "where ?", ["in London"])]),
    ("Ada wrote .", [("c", "who ?", ["Alan"])]),
]
SECOND = [
    (LONG, [("a", "who wrote ?", ["Alan"]), ("b", "where ?", ["in London"])]),
    ("Ada wrote .", [("c", "where ?", []), ("d", "who ?", [])]),
]


# The scripts evaluate-v1.1.py and evaluate-v2.0.py of SQuAD


def normalize_answer(s):
    def remove_articles(text):
        return re.sub(r"\b(a|an|the)\b", " ", text, flags=re.UNICODE)

    def white_space_fix(text):
        return " ".join(text.split())

    def remove_punc(text):
        exclude = set(string.punctuation)
        return "".join(ch for ch in text if ch not in exclude)

    return white_space_fix(remove_articles(remove_punc(s.lower())))


def f1_of_first(prediction, ground_truth):
    prediction_tokens = normalize_answer(prediction).split()
    ground_truth_tokens = normalize_answer(ground_truth).split()
    common = collections.Counter(prediction_tokens) & collections.Counter(ground_truth_tokens)
    num_same = sum(common.values())
    if num_same == 0:
        return 0
    precision = 1.0 * num_same / len(prediction_tokens)
    recall = 1.0 * num_same / len(ground_truth_tokens)
    return (2 * precision * recall) / (precision + recall)


def f1_of_second(a_gold, a_pred):
    gold_toks = normalize_answer(a_gold).split() if a_gold else []
    pred_toks = normalize_answer(a_pred).split() if a_pred else []
    common = collections.Counter(gold_toks) & collections.Counter(pred_toks)
    num_same = sum(common.values())
    if len(gold_toks) == 0 or len(pred_toks) == 0:
        return int(gold_toks == pred_toks)
    if num_same == 0:
        return 0
    precision = 1.0 * num_same / len(pred_toks)
    recall = 1.0 * num_same / len(gold_toks)
    return (2 * precision * recall) / (precision + recall)


def by_the_script(data, predictions):
    """Metric -> percent; a question without a prediction counts 0."""
    second = data["version"] == "v2.0"
    exact, f1, has = {}, {}, {}
    for article in data["data"]:
        for paragraph in article["paragraphs"]:
            for qa in paragraph["qas"]:
                golds = [a["text"] for a in qa["answers"]]
                has[qa["id"]] = bool(golds)
                if second:
                    golds = [gold for gold in golds if normalize_answer(gold)] or [""]
                if qa["id"] not in predictions:
                    exact[qa["id"]] = f1[qa["id"]] = 0
                    continue
                found = predictions[qa["id"]]
                exact[qa["id"]] = max(int(normalize_answer(found) == normalize_answer(gold)) for gold in golds)
                score = f1_of_second if second else lambda gold, found: f1_of_first(found, gold)
                f1[qa["id"]] = max(score(gold, found) for gold in golds)

    def mean(scores, keep):
        return 100.0 * sum(scores[k] for k in scores if keep(k)) / max(1, sum(map(keep, scores)))

    found = {"f1": mean(f1, lambda k: True), "em": mean(exact, lambda k: True)}
    if second:
        found |= {"has_ans_f1": mean(f1, has.get), "has_ans_em": mean(exact, has.get)}
        found["no_ans_em"] = mean(exact, lambda k: not has[k])
        assert found["no_ans_em"] == mean(f1, lambda k: not has[k])
    return found


# The tests

ANSWERS = st.lists(
    st.sampled_from(["the", "a", "An", "cat", "Cat.", "cat's", "dog", "-", "!", "猫", "ἀ", "1,000", "\u3000", "\n"]),
    max_size=6,
).map(" ".join)


@given(ANSWERS, ANSWERS)
def test_a_pair_of_answers_scores_as_by_the_scripts(ours, right):
    assert exact_match(ours, right) == float(normalize_answer(ours) == normalize_answer(right))
    assert word_f1(ours, right, both_empty=False) == f1_of_first(ours, right)
    assert word_f1(ours, right, both_empty=True) == f1_of_second(right, ours)


@pytest.fixture
def made(tmp_path):
    """Maker of a bundle, a file of questions, and the task of both."""

    def make(paragraphs=FIRST, version="1.1", span=None, limit=None, progress=None):
        file = tmp_path / "dev.json"
        file.write_text(squad(paragraphs, version), "utf-8")
        bundle = question_bundle(tmp_path / "qa", span)
        task = open_task(bundle, file, ReadOptions(limit=limit), progress or Remembering())
        return bundle, file, task

    return make


def ask(task, function=reads):
    with Loader() as loader:
        return {"model": task.ask("model", Reader(function), loader)}


def values(task, answers):
    found = task.outcomes(answers)
    return {name: estimate(metric_of(task, name), outcomes).value for name, outcomes in found.items()}


def test_a_model_is_scored_as_by_the_script_of_v1(made, tmp_path):
    _, file, task = made()
    assert (task.name, task.primary, task.metrics) == ("squad", "f1", ("f1", "em"))
    assert task.data.samples == {"questions": 3, "windows": task._windows.rows}
    answers = ask(task)
    assert task.texts(answers["model"]) == ["Alan", "London", "Ada"]
    (written,) = task.save(tmp_path / "out", answers)
    predictions = json.loads(written.read_text("utf-8"))
    assert predictions == {"a": "Alan", "b": "London", "c": "Ada"}
    expected = by_the_script(json.loads(file.read_text("utf-8")), predictions)
    assert values(task, answers) == pytest.approx(expected)
    assert expected["em"] == pytest.approx(100 / 3)
    assert expected["f1"] == pytest.approx(100 * (1 + 2 / 3) / 3)


def test_of_v2_questions_with_and_without_an_answer_are_told_apart(made, tmp_path):
    _, file, task = made(SECOND, "v2.0", Span("end", no_answer=True))
    assert task.metrics == ("f1", "em", "has_ans_f1", "has_ans_em", "no_ans_em")
    answers = ask(task)
    assert task.texts(answers["model"]) == ["Alan", "London", "", "Ada"]
    predictions, odds = (json.loads(f.read_text("utf-8")) for f in task.save(tmp_path / "out", answers))
    expected = by_the_script(json.loads(file.read_text("utf-8")), predictions)
    assert values(task, answers) == pytest.approx(expected)
    assert (expected["no_ans_em"], expected["has_ans_em"]) == (50, 50)
    assert odds["c"] > 0 > odds["a"]


def test_where_the_model_always_answers_questions_without_an_answer_are_missed(made):
    *_, task = made(SECOND, "v2.0")
    assert values(task, ask(task))["no_ans_em"] == 0


def test_a_file_of_v2_in_which_every_question_has_an_answer_leaves_the_others_out(made):
    *_, task = made(FIRST, "v2.0")
    assert "no_ans_em" in task.left_out
    assert "has_ans_em" in task.metrics


def test_numbers_that_are_none_are_missed_even_where_there_is_no_answer(made):
    *_, task = made(SECOND, "v2.0", Span("end", no_answer=True))
    answers = ask(task, lambda ids, mask, types: (np.full(ids.shape, np.nan),) * 2)
    assert set(values(task, answers).values()) == {0}


def test_the_task_and_the_pipeline_answer_alike(made):
    bundle, _, task = made()
    qa = of_bundle(bundle, {"model": Reader()})
    texts = [qa(question, context).text for context, asked in FIRST for _, question, _ in asked]
    assert task.texts(ask(task)["model"]) == texts


def test_predictions_are_scored_and_missing_ids_count_0_and_are_named(made, tmp_path):
    bundle, file, _ = made()
    predictions = {"a": "an Alan.", "c": "Alan Turing", "of another": "x"}
    (tmp_path / "p.json").write_text(json.dumps(predictions))
    progress = Remembering()
    options = JobOptions(data=DataOptions(source=file))
    found = score_predictions(bundle.path, tmp_path / "p.json", options, progress)
    expected = by_the_script(json.loads(file.read_text("utf-8")), predictions)
    assert {name: interval.value for name, interval in found.items()} == pytest.approx(expected)
    assert [note for note in progress.notes if "p.json" in note] == ["p.json lacks 1 questions, which count 0: b"]


def test_questions_that_cannot_be_asked_are_skipped(made):
    paragraphs = [*FIRST, ("Ada wrote .", [("d", "who " * 60, ["Ada"])]), ("\u200b", [("e", "who ?", ["Ada"])])]
    *_, task = made(paragraphs)
    assert (task.data.samples["questions"], task.data.unusable) == (3, 2)
    with pytest.raises(DataError, match=r"no question of dev\.json can be asked"):
        made([("Ada wrote .", [("d", "who " * 60, ["Ada"])])])


def test_a_limit_takes_fewer_questions(made):
    *_, task = made(limit=2)
    assert task.data.samples["questions"] == 2


def test_other_models_are_refused(tmp_path):
    (tmp_path / "dev.json").write_text(squad(FIRST), "utf-8")
    with pytest.raises(DataError, match="span"):
        open_task(question_bundle(tmp_path / "qa", Raw()), tmp_path / "dev.json")


def test_other_answers_are_farther(made):
    *_, task = made()
    reference = ask(task)["model"]
    assert task.distance(reference, reference) == 0

    def off(by):
        return ask(
            task, lambda *feeds: tuple(x + by * np.cos(np.arange(x.size)).reshape(x.shape) for x in reads(*feeds))
        )

    near, far = (task.distance(off(by)["model"], reference) for by in (0.01, 9.0))
    assert 0 < near < 0.1 < far


def test_questions_calibrate_with_every_window(made):
    bundle, file, task = made()
    samples = calibration_samples(bundle, file)
    feeds = [*samples.feeds("model")]
    assert samples.count("model") == task._windows.rows == sum(len(f["input_ids"]) for f in feeds)
    assert {*feeds[0]} == {"input_ids", "input_mask", "segment_ids"}
