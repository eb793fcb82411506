"""Pairs of texts scored by a model that embeds texts: by hand, and what does not fit."""

import numpy as np
import pytest
from colour_models import BATCH, TEXTS, VOCABULARY, Numpy, ask, bundle_of, read

from torchlift.declare.answers import Embedding, Labels
from torchlift.declare.inputs import ImageInput, TextInput
from torchlift.errors import DataError, MetricError
from torchlift.signature import Signature, TensorSpec
from torchlift.tasks import metric_of, open_task
from torchlift.tasks.calibration import calibration_samples
from torchlift.tasks.statistics import estimate, paired_drop

TEXT = {"text": TextInput("vocabulary", 12)}
PAIRS = [("红色", "红", 5.0), ("红", "黄", 3.0), ("红", "绿", 2.0), ("红", "青", 0.0), ("蓝", "黑", 1.0)]


@pytest.fixture
def made(tmp_path):
    """Maker of a bundle without a graph, of what it declares of a model of texts."""

    def make(inputs=TEXT, answers=None, signature=TEXTS):
        declared = {"model": (dict(inputs), {"features": Embedding()} if answers is None else answers)}
        vocabulary = {"vocabulary": "\n".join(VOCABULARY).encode()}
        return bundle_of(tmp_path / "bundle", "tensors", {}, {"model": signature}, declared, vocabulary)

    return make


@pytest.fixture
def pairs(tmp_path):
    file = tmp_path / "pairs.tsv"
    file.write_text("".join(f"{a}\t{b}\t{score}\n" for a, b, score in PAIRS), "utf-8")
    return file


def answered(task, bundle, function=read):
    return ask(task, bundle, {"model": Numpy(bundle.manifest.components[0].signature, function)})


def value(task, answers, name):
    return estimate(metric_of(task, name), task.outcomes(answers)[name]).value


def test_a_model_that_knows_colours_orders_pairs_as_people_do(made, pairs):
    bundle = made()
    task = open_task(bundle, pairs)
    assert (task.name, task.primary) == ("similarity", "spearman")
    assert task.data.samples == {"pairs": 5, "texts": 7}
    assert task.metrics == ("spearman", "correlation", "neighbours@1")
    answers = answered(task, bundle)
    features = answers["model"]["answer"]
    np.testing.assert_allclose(np.linalg.norm(features, axis=1), 1, rtol=1e-5)
    texts = ["红色", "红", "黄", "绿", "青", "蓝", "黑"]
    cosines = [features[texts.index(a)] @ features[texts.index(b)] for a, b, _ in PAIRS]
    scores = [score for *_, score in PAIRS]
    expected = np.corrcoef(np.argsort(np.argsort(cosines)), np.argsort(np.argsort(scores)))[0, 1]
    assert len({*np.round(cosines, 5)}) == 5, "no ties, so that ranks are those of argsort"
    assert value(task, answers, "spearman") == pytest.approx(100 * expected)
    assert value(task, answers, "correlation") == pytest.approx(100 * np.corrcoef(cosines, scores)[0, 1])


def test_neighbours_are_compared_with_the_reference(made, pairs):
    bundle = made()
    task = open_task(bundle, pairs)
    reference = answered(task, bundle)
    metric = metric_of(task, "neighbours@1")
    same = task.likeness(reference, reference)[metric.name]
    assert same.tolist() == [1.0] * 7
    blind = answered(task, bundle, lambda ids: np.eye(3, dtype=np.float32)[ids.sum(1) % 3])
    other = task.likeness(blind, reference)[metric.name]
    assert 0 < paired_drop(metric, same, other).value <= 100


def test_a_model_that_is_blind_or_broken_achieves_nothing(made, pairs):
    bundle = made()
    task = open_task(bundle, pairs)
    for number in (1.0, np.nan):
        answers = answered(task, bundle, lambda ids, number=number: np.full((len(ids), 3), number))
        assert value(task, answers, "spearman") == 0.0
    assert task.likeness(answers, answered(task, bundle))["neighbours@1"].sum() == 0


def test_the_only_output_of_the_shape_is_the_embedding_though_it_is_not_declared(made, pairs):
    outputs = (
        TensorSpec("states", "float32", ("batch", "sequence", 3)),
        TensorSpec("features", "float32", ("batch", 3)),
    )
    bundle = made(answers={}, signature=Signature(TEXTS.inputs, outputs, TEXTS.axes))
    assert open_task(bundle, pairs).primary == "spearman"


def test_texts_that_cannot_be_used_cost_their_pairs(made, pairs):
    pairs.write_text(pairs.read_text("utf-8") + "\u200b \t红\t1\n", "utf-8")
    task = open_task(made(), pairs)
    assert (task.data.samples["pairs"], task.data.unusable) == (5, 1)


@pytest.mark.parametrize(
    ("declared", "said"),
    [
        ({"answers": {"features": Labels(("a", "b", "c"))}}, "embedding"),
        ({"inputs": {}}, "does not take one text"),
        (
            {
                "inputs": {"image": ImageInput((8, 8))},
                "signature": Signature((TensorSpec("image", "float32", ("batch", 3, 8, 8)),), TEXTS.outputs, (BATCH,)),
            },
            "does not take one text",
        ),
    ],
    ids=["labels", "ids alone", "pictures"],
)
def test_other_models_are_refused(made, pairs, declared, said):
    with pytest.raises(DataError, match=said) as caught:
        open_task(made(**declared), pairs)
    assert caught.value.remedy


def test_pairs_that_tell_nothing_are_refused(made, tmp_path):
    same, few = tmp_path / "same.tsv", tmp_path / "few.tsv"
    same.write_text("红\t绿\t1\n红\t蓝\t1\n红\t黄\t1\n", "utf-8")
    few.write_text("红\t绿\t1\n红\t蓝\t2\n", "utf-8")
    bundle = made()
    with pytest.raises(DataError, match="score 1"):
        open_task(bundle, same)
    with pytest.raises(MetricError, match="more than 2 pairs"):
        open_task(bundle, few)


def test_the_data_are_told_apart_by_texts_and_scores(made, pairs):
    bundle = made()
    first = open_task(bundle, pairs).data.fingerprint
    pairs.write_text(pairs.read_text("utf-8").replace("5.0", "4.0"), "utf-8")
    assert open_task(bundle, pairs).data.fingerprint != first


def test_int8_is_calibrated_on_every_text_once(made, pairs):
    pairs.write_text(pairs.read_text("utf-8") + "ABC\t红\t1\n", "utf-8")
    found = calibration_samples(made(), pairs)
    assert (found.count("model"), found.name) == (8, "pairs.tsv")
    assert found.parts["model"].identity[-1] == "ABC", "texts are as they are in the file"
