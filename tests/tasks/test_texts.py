"""Classification and retrieval of texts: by hand, and what does not fit."""

import numpy as np
import pytest
from colour_models import BATCH, TEXTS, VOCABULARY, Numpy, ask, bundle_of, read

from torchlift.declare.answers import Embedding, Labels
from torchlift.declare.inputs import TextInput
from torchlift.errors import DataError, MetricError
from torchlift.signature import Signature, TensorSpec
from torchlift.tasks import metric_of, open_task
from torchlift.tasks.calibration import calibration_samples
from torchlift.tasks.statistics import estimate

TEXT = {"text": TextInput("vocabulary", 12)}
NAMES = ("red", "green", "blue")
RIGHT = [("红", "red"), ("红色", "red"), ("绿", "green"), ("蓝", "blue"), ("蓝色", "red")]


@pytest.fixture
def made(tmp_path):
    """Maker of a bundle without a graph, of what it declares of a model of texts with three numbers a text."""

    def make(answer, inputs=TEXT, signature=TEXTS):
        declared = {"model": (dict(inputs), {"features": answer} if answer else {})}
        vocabulary = {"vocabulary": "\n".join(VOCABULARY).encode()}
        return bundle_of(tmp_path / "bundle", "tensors", {}, {"model": signature}, declared, vocabulary)

    return make


@pytest.fixture
def table(tmp_path):
    """Write a table with two columns."""

    def write(rows, *names):
        file = tmp_path / "data.tsv"
        file.write_text("".join("\t".join(map(str, row)) + "\n" for row in (names, *rows)), "utf-8")
        return file

    return write


def answered(task, bundle, function=read):
    return ask(task, bundle, {"model": Numpy(bundle.manifest.components[0].signature, function)})


def value(task, answers, name):
    return estimate(metric_of(task, name), task.outcomes(answers)[name]).value


def test_accuracy_and_macro_f1_of_a_model_that_names_colours(made, table):
    bundle = made(Labels(NAMES))
    task = open_task(bundle, table(RIGHT, "text", "label"))
    assert (task.name, task.primary, task.metrics) == ("text-classification", "accuracy", ("accuracy", "f1"))
    assert task.data.samples == {"texts": 5, "classes": 3}
    answers = answered(task, bundle)
    assert value(task, answers, "accuracy") == pytest.approx(80)  # 蓝色 is blue, and labelled red
    of_red, of_green, of_blue = 2 * 2 / 5, 1.0, 2 * 1 / 3
    assert value(task, answers, "f1") == pytest.approx(100 * np.mean([of_red, of_green, of_blue]))


def test_labels_may_be_numbers_or_written_otherwise(made, table):
    bundle = made(Labels(NAMES))
    expected = value(task := open_task(bundle, table(RIGHT, "text", "label")), answered(task, bundle), "accuracy")
    for other in (NAMES.index, str.upper):
        task = open_task(bundle, table([(text, other(label)) for text, label in RIGHT], "text", "label"))
        assert value(task, answered(task, bundle), "accuracy") == expected


@pytest.mark.parametrize("label", ["purple", "3", "-1"])
def test_labels_outside_the_classes_are_refused_by_name(made, table, label):
    with pytest.raises(DataError, match=f"'{label}'") as caught:
        open_task(
            made(Labels(NAMES)), table([("红", "0" if label != "purple" else "red"), ("绿", label)], "text", "label")
        )
    assert "red" in caught.value.remedy


def test_a_model_that_is_broken_is_right_on_nothing(made, table):
    bundle = made(Labels(NAMES))
    task = open_task(bundle, table(RIGHT, "text", "label"))
    answers = answered(task, bundle, lambda ids: np.full((len(ids), 3), np.nan, np.float32))
    assert value(task, answers, "accuracy") == 0
    assert value(task, answers, "f1") == 0


def test_texts_that_cannot_be_used_are_left_out(made, table):
    task = open_task(made(Labels(NAMES)), table([*RIGHT, ("\u200b", "red")], "text", "label"))
    assert (task.data.samples["texts"], task.data.unusable) == (5, 1)


def test_texts_with_labels_are_for_models_that_give_labels(made, table):
    file = table(RIGHT, "text", "label")
    assert open_task(made(Embedding()), file).name == "agreement"
    signature = Signature((TensorSpec("x", "float32", ("batch", 3)),), TEXTS.outputs, (BATCH,))
    with pytest.raises(DataError):
        open_task(made(Labels(NAMES), {}, signature), file)


def test_int8_is_calibrated_on_texts_with_labels_as_they_are(made, table):
    found = calibration_samples(made(Labels(NAMES)), table([*RIGHT, ("ABC", "red")], "text", "label"))
    assert found.count("model") == 6
    assert found.parts["model"].identity[-1] == "ABC"


def test_recall_of_a_model_that_embeds_colours(made, table):
    rows = [("红", "红色"), ("绿", "蓝色"), ("蓝", "蓝色"), ("黄", "黄色"), ("黄", "绿色"), ("青", "青色")]
    bundle = made(Embedding())
    task = open_task(bundle, table(rows, "query", "document"))
    assert (task.name, task.primary, task.metrics) == ("text-retrieval", "recall@1", ("recall@1",))
    assert task.data.samples == {"queries": 5, "documents": 5}
    assert "recall@5" in task.left_out, "of 5 documents all are among the first 5"
    answers = answered(task, bundle)
    assert value(task, answers, "recall@1") == pytest.approx(80)  # the document of green is blue
    broken = answered(task, bundle, lambda ids: np.full((len(ids), 3), np.nan, np.float32))
    assert value(task, broken, "recall@1") == 0


def test_queries_are_for_models_that_embed(made, table):
    file = table([("红", "红色"), ("绿", "绿色")], "query", "document")
    with pytest.raises(DataError, match="does not embed"):
        open_task(made(Labels(NAMES)), file)
    one = table([("红", "红色")], "query", "document")
    with pytest.raises(MetricError):
        open_task(made(Embedding()), one)
