import json

import numpy as np
import pytest
from colour_models import COLOURS, TEXTS, Numpy, ask, picture, read, scores, see, sessions, write_muge

from torchlift.datasets import ReadOptions
from torchlift.datasets.results import read_features, read_predictions
from torchlift.errors import DataError
from torchlift.pipelines.pictures import KeptPictures
from torchlift.processing.image import pixels_of
from torchlift.tasks import Metric, metric_of, open_task, samples

BOTH = {"recall@1", "recall@5", "recall@10", "mean_recall"}


def test_a_model_that_knows_colours_finds_all(clip, muge, progress):
    task = open_task(clip, muge, progress=progress)
    assert (task.name, task.primary, task.components) == ("retrieval", "recall@1", ("image", "text"))
    assert (task.data.name, task.data.kind) == ("muge/valid", "retrieval")
    assert (task.data.samples, task.data.unusable) == ({"texts": 8, "images": 16}, 0)
    assert {*task.metrics} == {*BOTH, "i2t_recall@1", "i2t_recall@5"}
    assert scores(task, clip, sessions()) == dict.fromkeys(task.metrics, 100.0)
    assert ("check images", 16) in progress.stages


def test_answers_are_a_row_a_sample_in_the_order_of_the_data(clip, muge):
    task = open_task(clip, muge)
    answers = ask(task, clip, sessions())
    assert {name: rows["answer"].shape for name, rows in answers.items()} == {"image": (16, 3), "text": (8, 3)}
    np.testing.assert_allclose(np.linalg.norm(answers["image"]["answer"], axis=1), 1, rtol=1e-5)
    np.testing.assert_allclose(answers["image"]["answer"][:8], answers["text"]["answer"], atol=0.1)


def test_metrics_are_the_mean_of_outcomes_by_query(clip, muge):
    def half(ids):
        """Blind for the first four colours."""
        features = read(ids)
        return np.where((ids[:, 1] < 9)[:, None], -features, features)

    task = open_task(clip, muge)
    outcomes = task.outcomes(ask(task, clip, sessions(text=half)))
    assert {name: values.shape for name, values in outcomes.items()} == {
        name: (16 if name.startswith("i2t") else 8,) for name in task.metrics
    }
    assert all(values.dtype == np.float64 for values in outcomes.values())
    np.testing.assert_array_equal(outcomes["recall@1"], [0, 0, 0, 0, 1, 1, 1, 1])
    mean = np.mean([outcomes[f"recall@{k}"] for k in (1, 5, 10)], axis=0)
    np.testing.assert_allclose(outcomes["mean_recall"], mean)


@pytest.mark.parametrize("value", [0, 1])
def test_a_model_that_answers_everything_alike_is_not_flattered_by_an_order(clip, muge, value):
    task = open_task(clip, muge)
    found = scores(task, clip, sessions(image=lambda x: np.full((len(x), 3), value)))
    assert {found[name] for name in BOTH} == {0.0}
    assert found["i2t_recall@1"] == (12.5 if value else 0), "one of eight texts is nearest to all images"


def test_answers_that_are_no_numbers_are_misses(clip, muge):
    task = open_task(clip, muge)
    nan = sessions(image=lambda x: np.full((len(x), 3), np.nan))
    assert set(scores(task, clip, nan).values()) == {0.0}


def test_texts_are_prepared_as_the_reference_evaluates(clip, tmp_path):
    images = {i: picture("红", i) for i in range(12)}
    given = sessions()
    task = open_task(clip, write_muge(tmp_path / "m", images, {5: ("“A”", [1]), 6: ('"a"', [2]), 7: ("红", [3])}))
    ask(task, clip, given)
    rows = {tuple(row) for feeds in given["text"].fed for row in feeds["text"].tolist()}
    assert len(rows) == 2, "both quotes and both cases are one text to the model"


# Records that cannot be used ------------------------------------------------------------------------------------------


@pytest.fixture
def damaged(muge, tmp_path):
    """Of the pictures one is broken base64, one no picture and one truncated; and texts that lose theirs."""
    images = {100 + i: picture(colour, i) for i, colour in enumerate([*COLOURS] * 2)}
    images |= {100: "A*A", 108: b"no picture", 101: picture("绿")[:-40]}
    texts = {900 + i: (colour, [100 + i, 108 + i]) for i, colour in enumerate(COLOURS)}
    texts |= {950: ("红", [77, 78]), 951: ("\u200b", [102]), 952: ("红" * 5000, [102])}
    return write_muge(tmp_path / "damaged", images, texts)


def test_what_cannot_be_used_is_skipped_counted_named_and_costs_no_alignment(clip, damaged, progress):
    task = open_task(clip, damaged, progress=progress)
    assert task.data.samples == {"texts": 7, "images": 13}
    assert task.data.unusable == 7
    assert len(task.data.skipped) == 5
    everything = " ".join(task.data.skipped)
    for reason in ("image 100 is broken base64", "image 108 is not an image", "image 101 cannot be decoded"):
        assert reason in everything
    assert "text 951 is empty" in everything
    assert "text 952 has 5,000 characters" in everything
    assert progress.notes[0].startswith("7 records of damaged/valid are skipped: image 100")
    assert scores(task, clip, sessions()) == dict.fromkeys(task.metrics, 100.0)


def test_a_text_that_lost_all_its_images_is_skipped_and_named(clip, tmp_path):
    images = {i: picture("红", i) for i in range(12)} | {50: b"no picture"}
    task = open_task(clip, write_muge(tmp_path / "m", images, {5: ("红", [50, 99]), 6: ("红", [50, 3])}))
    assert task.ids["text"] == [6]
    assert "text 5: none of its 2 images is there" in task.data.skipped


def test_strict_refuses_the_first_record_that_cannot_be_used(clip, damaged):
    with pytest.raises(DataError, match="image 100 is broken base64"):
        open_task(clip, damaged, ReadOptions(strict=True))


def test_data_without_any_usable_image_or_answer_are_refused(clip, tmp_path):
    with pytest.raises(DataError, match="none of 2 images can be used: image 1 is not an image"):
        open_task(clip, write_muge(tmp_path / "a", {1: b"x", 2: b"y"}, {5: ("红", [1])}))
    with pytest.raises(DataError, match="no text of b/test has an image to find") as caught:
        open_task(clip, write_muge(tmp_path / "b", {1: picture("红")}, {5: ("红", [])}, "test"))
    assert "test splits of contests" in caught.value.remedy


# Metrics --------------------------------------------------------------------------------------------------------------


@pytest.fixture
def seven(tmp_path):
    images = {i: picture(colour, i) for i, colour in enumerate([*COLOURS][:7])}
    return write_muge(tmp_path / "seven", images, {i: (colour, [i]) for i, colour in enumerate([*COLOURS][:7])})


def test_a_metric_that_the_data_are_too_few_for_is_left_out_and_noted(clip, seven, progress):
    task = open_task(clip, seven, progress=progress)
    assert {*task.metrics} == {"recall@1", "recall@5", "i2t_recall@1", "i2t_recall@5"}
    assert {*task.outcomes(ask(task, clip, sessions()))} == {*task.metrics}
    assert "left out: recall@10 needs more than 10 images, seven/valid has 7" in progress.notes
    with pytest.raises(DataError, match="recall@10 needs more than 10 images, seven/valid has 7") as caught:
        metric_of(task, "recall@10")
    assert "larger data set" in caught.value.remedy


def test_data_too_few_for_the_primary_metric_are_refused(clip, tmp_path):
    one = write_muge(tmp_path / "one", {1: picture("红")}, {5: ("红", [1])})
    with pytest.raises(DataError, match="recall@1 needs more than 1 images, one/valid has 1"):
        open_task(clip, one)


def test_a_metric_is_found_by_its_name(clip, muge):
    assert metric_of(open_task(clip, muge), "recall@5") == Metric("recall@5", 5, "points", "higher")


@pytest.mark.parametrize(
    ("asked", "meant"),
    [
        ("R@1", "recall@1"),
        ("r@10", "recall@10"),
        ("recall@2", "recall@1"),
        ("Recall@5", "recall@5"),
        ("i2t_r@1", "i2t_recall@1"),
        ("meanrecall", "mean_recall"),
    ],
)
def test_an_unknown_metric_is_refused_with_the_nearest(clip, muge, asked, meant):
    with pytest.raises(DataError, match="retrieval has no metric") as caught:
        metric_of(open_task(clip, muge), asked)
    assert caught.value.remedy.startswith(f"Did you mean {meant}? The metrics are recall@1, recall@5")


def test_a_metric_that_is_like_none_is_refused_with_all(clip, muge):
    with pytest.raises(DataError, match="no metric 'zzz'") as caught:
        metric_of(open_task(clip, muge), "zzz")
    assert caught.value.remedy.startswith("The metrics are ")


# Identity and files ---------------------------------------------------------------------------------------------------


def test_the_fingerprint_changes_with_what_was_read_and_with_nothing_else(clip, muge, tmp_path):
    images = {100 + i: picture(colour, i) for i, colour in enumerate([*COLOURS] * 2)}
    texts = {900 + i: (f"{colour}色", [100 + i, 108 + i]) for i, colour in enumerate(COLOURS)}
    prints = [open_task(clip, muge).data.fingerprint]
    assert open_task(clip, write_muge(tmp_path / "same", images, texts)).data.fingerprint == prints[0]
    for name, other_images, other_texts in (
        ("picture", images | {100: picture("红", 99)}, texts),
        ("text", images, texts | {900: ("红", [100, 108])}),
        ("relevance", images, texts | {900: ("红色", [100])}),
        ("broken", images | {100: b"x"}, texts),
    ):
        prints.append(open_task(clip, write_muge(tmp_path / name, other_images, other_texts)).data.fingerprint)
    prints.append(open_task(clip, muge, ReadOptions(limit=4)).data.fingerprint)
    assert len({*prints}) == len(prints)


def test_files_of_results_are_read_back_and_give_the_same_outcomes(clip, muge, tmp_path):
    task = open_task(clip, muge)
    noise = np.random.default_rng(0)
    answers = ask(task, clip, sessions(image=lambda x: see(x) + noise.normal(0, 1.5, (len(x), 3))))
    files = task.save(tmp_path / "out", answers)
    assert [file.name for file in files] == [
        "valid_texts.txt_feat.jsonl",
        "valid_predictions.jsonl",
        "valid_result.json",
        "valid_imgs.img_feat.jsonl",
        "valid_tr_predictions.jsonl",
    ]
    outcomes = task.outcomes(answers)
    for side, file in (("text", files[0]), ("image", files[3])):
        ids, features = read_features(file, side)
        assert ids == task.ids[side]
        np.testing.assert_array_equal(features, answers[side]["answer"])
    found = read_predictions(files[1], "text", task.ids["text"], task.ids["image"])
    again = task.outcomes_of("text", found)
    assert {*again} == BOTH
    assert 0 < again["recall@1"].mean() < 1
    for name, values in again.items():
        np.testing.assert_array_equal(values, outcomes[name])
    tr = read_predictions(files[4], "image", task.ids["image"], task.ids["text"], k=8)
    np.testing.assert_array_equal(task.outcomes_of("image", tr)["i2t_recall@5"], outcomes["i2t_recall@5"])
    result = json.loads(files[2].read_text())
    assert result["scoreJson"]["r5"] == pytest.approx(100 * outcomes["recall@5"].mean())
    assert result["score"] == pytest.approx(100 * outcomes["mean_recall"].mean())


def test_each_picture_is_decoded_once_however_many_sessions_answer(clip, muge, monkeypatch):
    decoded = []
    monkeypatch.setattr(samples, "pixels_of", lambda *a, **k: decoded.append(k.get("name")) or pixels_of(*a, **k))
    with KeptPictures() as pictures:
        task = open_task(clip, muge, pictures=pictures)
        first, again = (ask(task, clip, sessions()) for _ in range(2))
        fewer = open_task(clip, muge, ReadOptions(limit=4), pictures=pictures)
        ask(fewer, clip, sessions())
    assert sorted(decoded) == sorted(f"image {number}" for number in range(100, 116))
    np.testing.assert_array_equal(first["image"]["answer"], again["image"]["answer"])


def test_a_session_serves_whatever_it_is(clip, muge):
    task = open_task(clip, muge)
    given = sessions()
    given["text"] = Numpy(TEXTS, lambda ids: -read(ids))
    assert scores(task, clip, given)["recall@1"] == 0
