import numpy as np
import pytest
import tiny
from colour_models import COLOURS, picture, sessions, write_folders, write_muge

from torchlift.datasets import ReadOptions
from torchlift.errors import DataError
from torchlift.tasks.calibration import calibration_samples


def fed(found, component, name):
    """How many rows each batch of an input has."""
    return [len(feeds[name]) for feeds in found.feeds(component)]


def test_retrieval_data_feed_images_and_texts(clip, muge):
    found = calibration_samples(clip, muge)
    assert found.said == "16 images and 8 texts of muge/valid"
    assert (found.count("image"), found.count("text")) == (16, 8)
    assert fed(found, "image", "image") == [4, 4, 4, 4], "the optimum of the batch axis"
    assert sum(fed(found, "text", "text")) == 8


def test_what_is_fed_is_what_a_task_feeds(clip, muge):
    from colour_models import ask

    from torchlift.tasks import open_task

    given = sessions()
    ask(open_task(clip, muge), clip, given)
    found = calibration_samples(clip, muge)
    for theirs, ours in zip(given["image"].fed, found.feeds("image"), strict=True):
        np.testing.assert_array_equal(theirs["image"], ours["image"])


def test_a_limit_and_the_content_change_the_fingerprint(clip, muge, tmp_path):
    given = ((muge, None), (muge, ReadOptions(limit=4)), (tmp_path / "muge", None))
    feeders = [calibration_samples(clip, *each) for each in given]
    assert feeders[1].said == "8 images and 4 texts of muge/valid"
    assert feeders[0].fingerprint == feeders[2].fingerprint != feeders[1].fingerprint


def test_a_split_without_answers_can_calibrate(clip, tmp_path):
    images = {i: picture("红", i) for i in range(6)}
    muge = write_muge(tmp_path / "m", images, {i: ("红", []) for i in range(5)}, "test")
    assert calibration_samples(clip, muge).said == "6 images and 5 texts of m/test"
    assert calibration_samples(clip, muge, ReadOptions(limit=2)).said == "2 images and 2 texts of m/test"


def test_zero_shot_data_feed_images_and_prompts(clip, tmp_path):
    folder = write_folders(tmp_path / "zero", {"0": "红", "1": "绿"})
    (folder / "label_cn.txt").write_text("红\n绿", "utf-8")
    feeder = calibration_samples(clip, folder)
    assert sum(fed(feeder, "image", "image")) == 4
    assert sum(fed(feeder, "text", "text")) == len(feeder.parts["text"].identity) > 2


@pytest.mark.parametrize("labelled", [True, False])
def test_images_feed_any_model_that_takes_images(clip, classifier, tmp_path, labelled):
    folder = tmp_path / "images"
    if labelled:
        write_folders(folder, {"0": "红", "1": "绿", "2": "蓝"})
    else:
        folder.mkdir()
        for i in range(6):
            (folder / f"{i}.png").write_bytes(picture("红", i))
    bundle, _ = classifier(["红", "绿"])
    assert fed(calibration_samples(bundle, folder), "model", "image") == [4, 2]
    assert sum(fed(calibration_samples(clip, folder), "image", "image")) == 6


def test_images_that_cannot_be_decoded_are_skipped_and_noted(classifier, tmp_path, progress):
    folder = write_folders(tmp_path / "images", {"0": "红"}, 3)
    (folder / "0" / "0.png").write_bytes(b"no picture")
    bundle, _ = classifier(["红", "绿"])
    assert calibration_samples(bundle, folder, progress=progress).count("model") == 2
    assert progress.notes[0].startswith("1 records of images are skipped: image 0/0.png is not an image")
    with pytest.raises(DataError, match=r"0/0.png is not an image"):
        calibration_samples(bundle, folder, ReadOptions(strict=True))


def test_texts_feed_a_text_tower_and_nothing_else(clip, classifier, tmp_path):
    file = tmp_path / "texts.txt"
    file.write_text("\n".join(COLOURS), "utf-8")
    feeder = calibration_samples(clip, file, ReadOptions(limit=5))
    assert sum(fed(feeder, "text", "text")) == 5
    with pytest.raises(DataError, match=r"5 texts of texts.txt: nothing there for the component image") as caught:
        fed(feeder, "image", "image")
    assert "float32[batch, 3, 8, 8]" in caught.value.message
    assert ".npz" in caught.value.remedy
    bundle, _ = classifier(["红", "绿"])
    with pytest.raises(DataError, match=r"texts of texts.txt: nothing there for the component model"):
        fed(calibration_samples(bundle, file), "model", "image")


def test_texts_none_of_which_can_be_used_are_refused(clip, tmp_path):
    (tmp_path / "texts.txt").write_text("\u200b\n", "utf-8")
    with pytest.raises(DataError, match=r"no text of texts.txt can be used: text '\\u200b' is empty"):
        calibration_samples(clip, tmp_path / "texts.txt")


# Arrays ---------------------------------------------------------------------------------------------------------------


@pytest.fixture
def saved(tmp_path):
    def save(**arrays):
        np.savez(tmp_path / "calibration.npz", **arrays)
        return tmp_path / "calibration.npz"

    return save


@pytest.mark.parametrize(("limit", "batches"), [(None, [4, 4, 2]), (3, [3])])
def test_arrays_feed_the_component_whose_inputs_they_are(bundle, saved, limit, batches):
    x = tiny.sample(10)
    feeder = calibration_samples(bundle, saved(x=x, unused=x), ReadOptions(limit=limit))
    feeds = [*feeder.feeds("model")]
    assert [len(batch["x"]) for batch in feeds] == batches
    assert feeder.count("model") == sum(batches)
    expected = x if limit is None else x[[0, 4, 9]]
    np.testing.assert_array_equal(np.concatenate([batch["x"] for batch in feeds]), expected)
    assert feeder.said == "the arrays x, unused of calibration.npz"


def test_the_fingerprint_of_arrays_is_that_of_their_values(bundle, saved):
    prints = [calibration_samples(bundle, saved(x=tiny.sample(4, seed))).fingerprint for seed in (1, 1, 2)]
    assert prints[0] == prints[1] != prints[2]


@pytest.mark.parametrize(
    ("array", "message"),
    [
        (np.zeros((4, 31), np.float32), r"x is float32\[4, 31\]"),
        (np.zeros((4, 32)), r"x is float64\[4, 32\]"),
        (np.zeros(32, np.float32), r"x is float32\[32\]"),
        (np.zeros((0, 32), np.float32), "the inputs have 0 rows"),
    ],
)
def test_arrays_of_another_shape_or_dtype_are_refused_before_anything_runs(bundle, saved, array, message):
    with pytest.raises(DataError, match=rf"calibration.npz: .*{message}") as caught:
        calibration_samples(bundle, saved(x=array))
    assert caught.value.remedy


def test_arrays_without_an_input_of_the_component_are_refused(bundle, saved):
    with pytest.raises(DataError, match=r"array y of calibration.npz: nothing there for the comp") as caught:
        fed(calibration_samples(bundle, saved(y=tiny.sample(4))), "model", "x")
    assert "which takes x float32[batch, 32]" in caught.value.message


def test_images_do_not_feed_a_model_that_takes_arrays(bundle, tmp_path):
    folder = write_folders(tmp_path / "images", {"0": "红"}, 3)
    with pytest.raises(DataError, match=r"nothing there for the component model, which takes x float32\[batch, 32\]"):
        fed(calibration_samples(bundle, folder), "model", "x")


def test_retrieval_data_feed_the_images_of_a_classifier(classifier, tmp_path):
    bundle, _ = classifier(["红", "绿"])
    muge = write_muge(tmp_path / "m", {1: picture("红"), 2: picture("绿")}, {5: ("红", [1])})
    assert calibration_samples(bundle, muge).count("model") == 2
