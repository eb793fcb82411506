"""Samples in memory: batches and single samples, inputs by position and by name, what does not fit, what is scored."""

from dataclasses import replace

import numpy as np
import pytest
from colour_models import BATCH as FEW
from colour_models import COLOURS, bundle_of, picture

from torchlift.backends import Session
from torchlift.bundle import Bundle
from torchlift.datasets import ReadOptions, read_items
from torchlift.declare.inputs import ImageInput, TextInput
from torchlift.errors import DataError, MetricError
from torchlift.evidence import Provenance, Score
from torchlift.machine import this_machine
from torchlift.pipelines.run import Loader
from torchlift.signature import Axis, Signature, TensorSpec
from torchlift.stages.score import Scorer
from torchlift.tasks import metric_of, open_task
from torchlift.tasks.calibration import calibration_samples
from torchlift.tasks.own import metrics_of

LENGTH = Axis("length", 1, 3, 9)
ONE = Signature(
    (TensorSpec("x", "float32", ("batch", 2)),), (TensorSpec("y", "float32", ("batch", 2)),), (Axis("batch", 1, 4, 8),)
)
TWO = Signature(
    (TensorSpec("ids", "int64", ("batch", "length"), (0, 10)), TensorSpec("scale", "float32", ("batch",))),
    (TensorSpec("sums", "float32", ("batch",)), TensorSpec("each", "float32", ("batch", "length"))),
    (FEW, LENGTH),
)
X, Y = np.random.default_rng(0).normal(size=(20, 2)).astype(np.float32), np.arange(20) % 2


class Computes(Session):
    """A session that is a function of its feeds, and remembers their shapes."""

    def __init__(self, signature, function):
        super().__init__(signature, "numpy")
        self.function, self.shapes = function, []

    def _run(self, feeds):
        self.shapes.append({name: array.shape for name, array in feeds.items()})
        return self.function(feeds)

    def _prepare(self, feeds):
        raise NotImplementedError


def itself(feeds):
    return {"y": feeds["x"]}


def sums(feeds):
    each = feeds["ids"] * feeds["scale"][:, None]
    return {"sums": each.sum(1).astype(np.float32), "each": each.astype(np.float32)}


@pytest.fixture
def made(tmp_path):
    """Maker of a bundle without a graph, of a signature."""

    def make(signature, inputs=(), assets=None):
        return bundle_of(
            tmp_path / "bundle", "tensors", {}, {"model": signature}, {"model": (dict(inputs), {})}, assets
        )

    return make


def opened(bundle, items, *metrics, limit=None):
    return open_task(bundle, read_items(items), ReadOptions(limit=limit), metrics=metrics_of(metrics or ["agreement"]))


def asked(task, session):
    with Loader() as loader:
        return {"model": task.ask("model", session, loader)}


def in_batches(size):
    return [(X[i : i + size], Y[i : i + size]) for i in range(0, len(X), size)]


@pytest.mark.parametrize(
    "items",
    [
        in_batches(7),
        in_batches(20),
        [*zip(X, Y, strict=True)],
        [((x,), int(y)) for x, y in zip(X, Y, strict=True)],
        [(x.tolist(), [y]) for x, y in zip(X, Y, strict=True)],
        [({"x": x}, y) for x, y in in_batches(6)],
        [{"x": x, "labels": y} for x, y in in_batches(6)],
    ],
    ids=["batches", "more than the range", "samples", "tuples", "numbers", "by name", "one dict"],
)
def test_samples_are_the_same_in_whatever_they_come(made, items):
    task = opened(made(ONE), items, "top1")
    assert (task.name, task.primary, task.data.samples) == ("samples", "top1", {"samples": 20})
    session = Computes(ONE, itself)
    answers = asked(task, session)
    np.testing.assert_array_equal(answers["model"]["y"], X)
    np.testing.assert_array_equal(task.outcomes(answers)["top1"], X.argmax(1) == Y)
    assert {shapes["x"][0] for shapes in session.shapes} == {4}, "batches of the optimum, as the pipeline runs them"


def test_several_inputs_go_by_position_or_by_name_and_may_differ_in_length(made):
    ids = [np.arange(n) for n in (3, 1, 3, 5)]
    by_position = [((row, 2.0), float(2 * row.sum())) for row in ids]
    bundle = made(TWO)
    for items in (by_position, [({"scale": s, "ids": row}, y) for (row, s), y in by_position]):
        task = opened(bundle, items, "sums.mae", "sums.correlation")
        answers = asked(task, Computes(TWO, sums))
        assert task.outcomes(answers)["sums.mae"].tolist() == [0, 0, 0, 0]
        assert answers["model"]["each/shapes"].tolist() == [[3], [1], [3], [5]]
    flat = opened(bundle, [(row, 2.0, 1.0) for row in ids], "sums.mae")
    assert flat.outcomes(asked(flat, Computes(TWO, sums)))["sums.mae"].tolist() == [5, 1, 5, 19]


def test_a_function_gets_every_output_by_name_and_lists_where_samples_differ(made):
    seen = {}

    def mine(outputs, targets):
        seen.update(outputs=outputs, targets=targets)
        return [len(row) for row in outputs["each"]]

    task = opened(made(TWO), [((np.arange(n), 1.0), f"text {n}") for n in (2, 4)], mine)
    assert task.outcomes(asked(task, Computes(TWO, sums)))["mine"].tolist() == [2, 4]
    assert seen["targets"] == ["text 2", "text 4"]
    assert [row.tolist() for row in seen["outputs"]["each"]] == [[0, 1], [0, 1, 2, 3]]
    assert seen["outputs"]["sums"].tolist() == [1, 6]


def test_targets_by_output_are_taken_by_name(made):
    items = [((np.array([1, 2]), 1.0), {"sums": 3.0, "each": np.array([1.0, 0.0])})]
    task = opened(made(TWO), items * 3, "sums.mae", "each.mae")
    outcomes = task.outcomes(asked(task, Computes(TWO, sums)))
    assert (outcomes["sums.mae"].tolist(), outcomes["each.mae"].tolist()) == ([0] * 3, [1] * 3)


def test_a_model_without_a_batch_axis_is_asked_item_by_item(made):
    signature = Signature((TensorSpec("x", "float32", (2,)),), (TensorSpec("y", "float32", (2,)),))
    task = opened(made(signature), [*zip(X, X, strict=True)], "mae")
    session = Computes(signature, itself)
    answers = asked(task, session)
    assert len(session.shapes) == 20
    assert task.outcomes(answers)["mae"].tolist() == [0.0] * 20


def test_an_input_without_a_batch_axis_is_the_same_for_all(made):
    inputs = (*ONE.inputs, TensorSpec("table", "float32", (3,)))
    signature = Signature(inputs, ONE.outputs, ONE.axes)
    bundle, table = made(signature), np.ones(3, np.float32)
    task = opened(bundle, [((x, table), y) for x, y in in_batches(5)], "top1")
    assert asked(task, Computes(signature, itself))["model"]["y"].shape == (20, 2)
    with pytest.raises(DataError, match=r"item 1.*table"):
        opened(bundle, [((x, table * len(x)), y) for x, y in in_batches(11)], "top1")


def test_agreement_needs_no_target_and_compares_with_the_reference(made):
    bundle = made(ONE)
    task = opened(bundle, [x for x, _ in in_batches(5)])
    scorer = Scorer(bundle, task, lambda component: Computes(ONE, itself))
    assert scorer.scoring().metrics["agreement"].value == 100.0
    turned = X.copy()
    turned[:5] = turned[:5, ::-1]
    drop = scorer.drop("model", {"y": turned}, "agreement")
    assert drop.value == 25.0
    with pytest.raises(DataError, match="no targets"):
        opened(bundle, [x for x, _ in in_batches(5)], "top1")


def test_a_variant_whose_metric_is_no_number_holds_no_gate(made):
    bundle = made(ONE)
    task = opened(bundle, [(x, x) for x, _ in in_batches(5)], "mae")
    scorer = Scorer(bundle, task, lambda component: Computes(ONE, itself))
    broken = {"model": {"y": np.full_like(X, np.nan)}}
    assert scorer._drops(scorer._outcomes(broken)) == {}
    assert scorer.drop("model", broken["model"], "mae").low > 1


@pytest.mark.parametrize(
    ("name", "function", "kept"),
    [
        ("mine", lambda outputs, targets: outputs[:, 0] * 1.0, True),
        ("mine", lambda outputs, targets: outputs[:, 1], False),
        ("other", lambda outputs, targets: outputs[:, 0], False),
    ],
    ids=["the same", "another function", "another name"],
)
def test_scores_go_on_only_where_the_metrics_are_the_same(made, name, function, kept):
    bundle = made(ONE)

    def scorer(metrics):
        task = open_task(bundle, read_items(in_batches(5)), metrics=metrics_of(metrics))
        return Scorer(bundle, task, lambda component: Computes(ONE, itself))

    begun = scorer({"mine": lambda outputs, targets: outputs[:, 0]}).begin()
    score = Score(Provenance(this_machine(), "numpy", {}, ""), begun.metrics, begun.metrics)
    bundle.commit(replace(bundle.manifest, scoring=replace(begun, scores={"model/numpy/fp32": score})))
    again = scorer({name: function}).begin()
    assert again.metrics[name].value == pytest.approx(function(X, Y).mean())
    assert [*again.scores] == ["model/numpy/fp32"] * kept
    assert Bundle.open(bundle.path).manifest.scoring == again


def test_pictures_and_texts_are_prepared_as_the_model_declares(made):
    image = TensorSpec("image", "float32", ("batch", 3, 8, 8))
    signature = Signature((image,), (TensorSpec("y", "float32", ("batch", 3)),), (FEW,))
    bundle = made(signature, {"image": ImageInput((8, 8))})
    session = Computes(signature, lambda feeds: {"y": feeds["image"].mean((2, 3))})
    files = [picture(colour) for colour in COLOURS]
    task = opened(bundle, [(files[:4], [0] * 4), (files[4:], [1] * 4)], "top1")
    means = asked(task, session)["model"]["y"]
    assert task.data.samples == {"samples": 8}
    np.testing.assert_allclose(means[0], np.array(COLOURS["红"]) / 255, atol=0.05)
    tensors = opened(bundle, [(np.ones((2, 3, 8, 8), np.float32), [0, 1])], "top1")
    assert asked(tensors, session)["model"]["y"].tolist() == [[1, 1, 1]] * 2


def test_texts_are_tokenised_and_padded_by_length(made, clip):
    (text,) = [c for c in clip.manifest.components if c.name == "text"]
    vocabulary = clip.read(clip.manifest.assets["vocabulary"])
    bundle = made(text.signature, {"text": TextInput("vocabulary", 12)}, {"vocabulary": vocabulary})
    session = Computes(text.signature, lambda feeds: {"features": np.tile(feeds["text"].sum(1)[:, None], 3) * 1.0})
    task = opened(bundle, [(["红色", "绿"], [0, 1]), ("蓝色的图片", 2)], "top1")
    assert asked(task, session)["model"]["features"].shape == (3, 3)
    assert [shapes["text"] for shapes in session.shapes] == [(3, 7)]
    ids = opened(bundle, [(np.array([[2, 5, 3]]), [0])], "top1")
    assert ids.data.samples == {"samples": 1}


@pytest.mark.parametrize(
    ("item", "said"),
    [
        ((X[:3].astype(np.float64), Y[:3]), "float64"),
        ((X[:3, :1], Y[:3]), r"float32\[4, 1\]"),
        ((np.zeros((1, 3, 2), np.float32), 0), r"float32\[1, 3, 2\]"),
        ((X[:3], Y[:2]), "batch of 3"),
        ((X[:3], 5), "batch of 3"),
        (({"z": X[:3]}, Y[:3]), "missing x; unknown z"),
        ((("a",), 0), "input x"),
        ((X[:2], (np.arange(2), np.arange(2))), "one for each sample, or parts of all"),
    ],
    ids=["dtype", "size", "rank", "fewer targets", "one target", "names", "text", "ambiguous"],
)
def test_an_item_that_does_not_fit_is_named(made, item, said):
    with pytest.raises(DataError, match=said) as caught:
        opened(made(ONE), [(X[:3], Y[:3]), item], "top1")
    assert "item 1" in caught.value.message
    assert caught.value.remedy


def test_inputs_that_disagree_are_refused(made):
    bundle = made(TWO)
    for inputs, said in [
        ((np.zeros((2, 3), np.int64), np.ones(3, np.float32)), "different numbers of samples"),
        ((np.full((2, 3), 10), np.ones(2, np.float32)), "holds 10"),
        ((np.zeros((2, 10), np.int64), np.ones(2, np.float32)), "length 10 is outside 1..9"),
        (np.zeros((2, 3), np.int64), "takes 2"),
    ]:
        with pytest.raises(DataError, match=said):
            opened(bundle, [(inputs, np.zeros(2))], "sums.mae")


def test_without_a_metric_or_with_one_of_another_output_it_is_refused(made):
    bundle = made(TWO)
    items = [((np.arange(3), 1.0), 3.0)]
    with pytest.raises(MetricError, match="no metric"):
        open_task(bundle, read_items(items))
    with pytest.raises(MetricError, match="'other'"):
        opened(bundle, items, "other.mae")
    task = opened(bundle, items, "mae")
    with pytest.raises(MetricError, match="one output, of 2") as caught:
        task.outcomes(asked(task, Computes(TWO, sums)))
    assert "sums.mae" in caught.value.remedy


def test_a_metric_that_says_nothing_of_so_few_classes_is_left_out(made):
    task = opened(made(ONE), in_batches(5), "top1", "top5")
    assert task.metrics == ("top1",)
    with pytest.raises(MetricError, match="classes"):
        metric_of(task, "top5")


def test_models_with_several_components_are_refused(clip):
    with pytest.raises(DataError, match="several components"):
        opened(clip, in_batches(5))
    with pytest.raises(DataError, match="component"):
        calibration_samples(clip, read_items(in_batches(5)))


def test_a_limit_takes_samples_evenly_and_the_hash_tells_data_apart(made):
    bundle = made(ONE)
    task = opened(bundle, in_batches(7), "top1", limit=5)
    np.testing.assert_array_equal(asked(task, Computes(ONE, itself))["model"]["y"], X[[0, 5, 10, 14, 19]])
    prints = [
        opened(bundle, items, "top1").data.fingerprint
        for items in (in_batches(7), in_batches(5), [(x, 1 - y) for x, y in in_batches(7)], [(-X, Y)])
    ]
    assert prints[0] == prints[1]
    assert len({*prints}) == 3


def test_calibration_takes_the_same_samples(made):
    found = calibration_samples(made(ONE), read_items(in_batches(7)), ReadOptions(limit=6))
    assert (found.count("model"), found.name) == (6, "data in memory")
    batches = [feeds["x"] for feeds in found.feeds("model")]
    assert [len(batch) for batch in batches] == [4, 2]
    np.testing.assert_array_equal(np.concatenate(batches), X[[0, 4, 8, 11, 15, 19]])
