import pickle

import numpy as np
import pytest
from colour_models import COLOURS, ask, picture, scores, sessions, write_folders, write_muge
from datafiles import database

from torchlift.errors import DataError
from torchlift.tasks import metric_of, open_task

SIX = {f"{i}": colour for i, colour in enumerate([*COLOURS][:6])}


def test_a_model_that_knows_colours_is_right(classifier, tmp_path, progress):
    bundle, session = classifier(list(SIX.values()))
    task = open_task(bundle, write_folders(tmp_path / "val", SIX), progress=progress)
    assert (task.name, task.primary, task.components) == ("classification", "top1", ("model",))
    assert task.data.samples == {"images": 12, "classes": 6}
    assert task.metrics == ("top1", "top5")
    assert scores(task, bundle, {"model": session}) == {"top1": 100.0, "top5": 100.0}
    assert progress.notes == []


def test_answers_are_logits_though_labels_are_declared(classifier, tmp_path):
    bundle, session = classifier(list(SIX.values()), labels=SIX)
    task = open_task(bundle, write_folders(tmp_path / "val", SIX))
    assert ask(task, bundle, {"model": session})["model"]["answer"].shape == (12, 6)


def test_a_session_that_runs_some_batches_alone_is_scored_by_those(classifier, tmp_path):
    bundle, session = classifier(list(SIX.values()))
    task = open_task(bundle, write_folders(tmp_path / "val", SIX))
    session.covers = lambda sizes: sizes["batch"] in (1, 3)
    assert scores(task, bundle, {"model": session})["top1"] == 100.0
    assert {len(array) for feeds in session.fed for array in feeds.values()} == {3}


def test_folders_are_matched_to_declared_labels_by_name(classifier, tmp_path):
    order = ["b", "c", "a"]
    bundle, session = classifier(["红", "绿", "蓝"], labels=order)
    folder = write_folders(tmp_path / "val", {"a": "蓝", "b": "红", "c": "绿"})
    assert scores(open_task(bundle, folder), bundle, {"model": session}) == {"top1": 100.0}
    some = write_folders(tmp_path / "some", {"a": "蓝", "c": "绿"})
    assert scores(open_task(bundle, some), bundle, {"model": session}) == {"top1": 100.0}


def test_folders_of_other_names_than_the_labels_are_matched_by_order_and_that_is_noted(classifier, tmp_path, progress):
    bundle, session = classifier(["红", "绿"], labels=["red", "green"])
    task = open_task(bundle, write_folders(tmp_path / "val", {"0": "红", "1": "绿"}), progress=progress)
    assert scores(task, bundle, {"model": session}) == {"top1": 100.0}
    assert any("matched by order" in note for note in progress.notes)


def test_another_number_of_classes_than_the_models_is_refused(classifier, tmp_path):
    bundle, _ = classifier(["红", "绿", "蓝"])
    with pytest.raises(DataError, match="val has 2 class folders, the model has 3 classes") as caught:
        open_task(bundle, write_folders(tmp_path / "val", {"0": "红", "1": "绿"}))
    assert "Labels" in caught.value.remedy


def test_top5_of_five_classes_says_nothing(classifier, tmp_path, progress):
    five = dict([*SIX.items()][:5])
    bundle, _ = classifier(list(five.values()))
    task = open_task(bundle, write_folders(tmp_path / "val", five), progress=progress)
    assert task.metrics == ("top1",)
    assert progress.notes == ["left out: top5 needs more than 5 classes, val has 5"]
    with pytest.raises(DataError, match="top5 needs more than 5 classes"):
        metric_of(task, "top5")


@pytest.mark.parametrize(
    ("asked", "meant"), [("top-1", "top1"), ("acc@5", "top5"), ("accuracy", "top1"), ("Top5", "top5")]
)
def test_an_unknown_metric_is_refused_with_the_nearest(classifier, tmp_path, asked, meant):
    bundle, _ = classifier(list(SIX.values()))
    with pytest.raises(DataError, match="classification has no metric") as caught:
        metric_of(open_task(bundle, write_folders(tmp_path / "val", SIX)), asked)
    assert caught.value.remedy.startswith(f"Did you mean {meant}?")


def test_an_image_that_cannot_be_decoded_is_skipped_with_its_label(classifier, tmp_path):
    bundle, session = classifier(["红", "绿"])
    folder = write_folders(tmp_path / "val", {"0": "红", "1": "绿"})
    (folder / "0" / "0.png").write_bytes(b"no picture")
    task = open_task(bundle, folder)
    assert (task.data.unusable, task.data.samples["images"]) == (1, 3)
    assert task.data.skipped[0].startswith("image 0/0.png is not an image")
    np.testing.assert_array_equal(task.outcomes(ask(task, bundle, {"model": session}))["top1"], [1, 1, 1])


def test_labelled_records_of_an_lmdb_are_scored(classifier, tmp_path):
    bundle, session = classifier(["红", "绿"])
    database(tmp_path / "val", {b"%d" % i: pickle.dumps((picture("红绿"[i % 2], i), i % 2)) for i in range(6)})
    task = open_task(bundle, tmp_path / "val")
    assert task.data.samples["images"] == 6
    assert scores(task, bundle, {"model": session}) == {"top1": 100.0}


def test_a_class_number_that_the_model_lacks_is_refused(classifier, tmp_path):
    bundle, _ = classifier(["红", "绿"])
    database(tmp_path / "val", {b"0": pickle.dumps((picture("红"), 2))})
    with pytest.raises(DataError, match="has the class number 2, the model has 2 classes"):
        open_task(bundle, tmp_path / "val")


def test_a_model_without_declared_images_cannot_classify_them(classifier, tmp_path):
    bundle, _ = classifier(["红", "绿"], preprocess=False)
    with pytest.raises(DataError, match=r"takes image float32\[batch, 3, 8, 8\], and no one input") as caught:
        open_task(bundle, write_folders(tmp_path / "val", {"0": "红", "1": "绿"}))
    assert "preprocessing" in caught.value.remedy


# Data that are for another model --------------------------------------------------------------------------------------


def test_retrieval_data_are_not_for_a_classifier(classifier, tmp_path):
    bundle, _ = classifier(["红", "绿"])
    with pytest.raises(DataError, match="it is retrieval data, and the model does not encode"):
        open_task(bundle, write_muge(tmp_path / "m", {1: picture("红")}, {5: ("红", [1])}))


def test_class_folders_without_labels_are_not_for_clip(clip, tmp_path):
    with pytest.raises(DataError, match=r"class folders without label_cn.txt") as caught:
        open_task(clip, write_folders(tmp_path / "val", {"0": "红", "1": "绿"}))
    assert "one a line" in caught.value.remedy


# Zero-shot ------------------------------------------------------------------------------------------------------------


@pytest.fixture
def labelled(tmp_path):
    folder = write_folders(tmp_path / "zero", SIX, 3)
    (folder / "label_cn.txt").write_text("\n".join(SIX.values()), "utf-8")
    return folder


def test_zero_shot_classes_are_the_mean_of_their_prompts(clip, labelled):
    task = open_task(clip, labelled)
    assert (task.name, task.primary, task.components) == ("zero-shot", "top1", ("image", "text"))
    answers = ask(task, clip, sessions())
    assert answers["image"]["answer"].shape == (18, 3)
    assert answers["text"]["answer"].shape[0] % 6 == 0
    assert scores(task, clip, sessions()) == {"top1": 100.0, "top5": 100.0}


def test_each_prompt_counts_alike(clip, labelled):
    task = open_task(clip, labelled)
    answers = ask(task, clip, sessions())
    prompts = len(answers["text"]["answer"]) // 6
    wrong = answers["text"]["answer"].reshape(6, prompts, 3).copy()
    wrong[:, 0] *= -0.5 * prompts
    assert task.outcomes({**answers, "text": {"answer": wrong.reshape(-1, 3)}})["top1"].mean() == 1
    wrong[:, 0] *= 4
    assert task.outcomes({**answers, "text": {"answer": wrong.reshape(-1, 3)}})["top1"].mean() < 1


def test_prompts_that_the_model_cannot_read_are_refused(clip, labelled):
    (labelled / "label_cn.txt").write_text("\n".join(["红", "绿", "蓝" * 5000, *"黄紫青"]), "utf-8")
    with pytest.raises(DataError, match=r"the prompts of zero cannot be used: text .* characters"):
        open_task(clip, labelled)


def test_labels_that_are_the_same_are_noted(clip, labelled, progress):
    (labelled / "label_cn.txt").write_text("\n".join("红红蓝黄紫青"), "utf-8")
    task = open_task(clip, labelled, progress=progress)
    assert progress.notes == ["labels that name several classes, whose images cannot be told apart: 红"]
    assert task.outcomes(ask(task, clip, sessions()))["top1"][:3].sum() == 0, "a tie is a loss"


def test_zero_shot_data_score_a_classifier_too(classifier, labelled):
    bundle, session = classifier(list(SIX.values()))
    task = open_task(bundle, labelled)
    assert (task.name, task.data.kind) == ("classification", "classification")
    assert scores(task, bundle, {"model": session})["top1"] == 100
