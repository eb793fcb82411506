"""Data without labels: a model is compared with PyTorch's answers alone."""

import numpy as np
import pytest
from colour_models import COLOURS, TEXTS, VOCABULARY, Numpy, ask, bundle_of, picture

from torchlift.declare.answers import Embedding
from torchlift.declare.inputs import TextInput
from torchlift.errors import DataError, MetricError
from torchlift.tasks import metric_of, open_task
from torchlift.tasks.statistics import paired_drop

SIX = [*COLOURS][:6]


@pytest.fixture
def pictures(tmp_path):
    """A folder with a picture of each of six colours."""
    folder = tmp_path / "pictures"
    folder.mkdir()
    for number, colour in enumerate(SIX):
        (folder / f"{number}.png").write_bytes(picture(colour, number))
    return folder


@pytest.fixture
def embedder(tmp_path):
    """A model of texts that gives an embedding, without a graph."""
    declared = {"model": ({"text": TextInput("vocabulary", 12)}, {"features": Embedding()})}
    vocabulary = {"vocabulary": "\n".join(VOCABULARY).encode()}
    return bundle_of(tmp_path / "bundle", "tensors", {}, {"model": TEXTS}, declared, vocabulary)


def test_labels_are_compared_with_those_of_the_reference(classifier, pictures):
    bundle, session = classifier(SIX, labels=SIX)
    task = open_task(bundle, pictures)
    assert (task.name, task.primary, task.metrics) == ("agreement", "agreement", ("agreement",))
    assert task.data.samples == {"images": 6}
    reference = ask(task, bundle, {"model": session})
    assert task.outcomes(reference) == {}
    other = {"model": {"answer": reference["model"]["answer"].copy()}}
    other["model"]["answer"][2] = np.eye(6)[5]
    other["model"]["answer"][3] = np.nan
    same, found = (task.likeness(answers, reference)["agreement"] for answers in (reference, other))
    assert same.tolist() == [1, 1, 1, 1, 1, 1]
    assert found.tolist() == [1, 1, 0, 0, 1, 1]
    assert paired_drop(metric_of(task, "agreement"), same, found).value == pytest.approx(100 / 3)


def test_nearest_neighbours_of_texts_are_compared_with_those_of_the_reference(embedder, tmp_path):
    (tmp_path / "texts.txt").write_text("红色\n红\n蓝色\n蓝\n", "utf-8")
    task = open_task(embedder, tmp_path / "texts.txt")
    assert (task.primary, task.data.samples) == ("neighbours@1", {"texts": 4})
    reference = {"model": {"answer": np.array([[1, 0], [1, 0.1], [0, 1], [0.1, 1]], np.float32)}}
    swapped = {"model": {"answer": np.array([[1, 0], [0, 1.0], [0.1, 1], [1, 0.1]], np.float32)}}
    assert task.likeness(reference, reference)["neighbours@1"].tolist() == [1, 1, 1, 1]
    assert task.likeness(swapped, reference)["neighbours@1"].sum() == 0


def test_arrays_are_data_without_labels(classifier, tmp_path):
    bundle, session = classifier(SIX, labels=SIX)
    pixels = np.random.default_rng(0).standard_normal((3, 3, 8, 8)).astype(np.float32)
    np.savez(tmp_path / "arrays.npz", image=pixels)
    task = open_task(bundle, tmp_path / "arrays.npz")
    np.testing.assert_array_equal(ask(task, bundle, {"model": session})["model"]["answer"], session.function(pixels))


def test_the_data_are_told_apart_by_what_is_in_them(classifier, pictures):
    bundle, _ = classifier(SIX, labels=SIX)
    first = open_task(bundle, pictures).data.fingerprint
    (pictures / "0.png").write_bytes(picture(SIX[0], 9))
    assert open_task(bundle, pictures).data.fingerprint != first


def test_a_picture_that_cannot_be_read_is_skipped(classifier, pictures):
    (pictures / "0.png").write_bytes(b"no picture")
    data = open_task(classifier(SIX, labels=SIX)[0], pictures).data
    assert (data.unusable, data.samples["images"]) == (1, 5)


def test_what_cannot_be_compared_is_refused(classifier, clip, embedder, pictures, tmp_path):
    with pytest.raises(DataError, match="no output is declared") as caught:
        open_task(classifier(SIX)[0], pictures)
    assert "Labels" in caught.value.remedy
    with pytest.raises(DataError, match="several components") as caught:
        open_task(clip, pictures)
    assert "calibrate" in caught.value.remedy
    with pytest.raises(DataError, match="pictures has images"):
        open_task(embedder, pictures)
    (tmp_path / "two.txt").write_text("红\n蓝\n", "utf-8")
    with pytest.raises(MetricError, match="more than 2 texts"):
        open_task(embedder, tmp_path / "two.txt")


def test_the_session_is_asked_about_every_sample(embedder, tmp_path):
    (tmp_path / "texts.txt").write_text("红\n红色\n蓝\n", "utf-8")
    task = open_task(embedder, tmp_path / "texts.txt")
    session = Numpy(TEXTS, lambda ids: ids[:, :3].astype(np.float32))
    answer = ask(task, embedder, {"model": session})["model"]["answer"]
    assert answer[:, 1].tolist() == [VOCABULARY.index("红"), VOCABULARY.index("红"), VOCABULARY.index("蓝")]
