"""Each metric against a value worked out by hand, and what is no number or does not fit."""

import numpy as np
import pytest

from torchlift.errors import InputError, MetricError
from torchlift.tasks.base import Metric
from torchlift.tasks.metrics import METRICS, known, wer
from torchlift.tasks.own import metrics_of, outcomes_of
from torchlift.tasks.statistics import estimate, paired_drop

LOGITS = np.array([[5, 1, 0], [0, 2, 1], [3, 1, 2], [0, 1, 4]], np.float32)
RIGHT = np.array([0, 1, 2, 2])
"""The third is wrong: it finds 0."""


def value(name, outputs, targets):
    """A metric in its unit, as scores have it."""
    metric = METRICS[name]
    outcomes = outcomes_of(metric, outputs, targets, len(outputs))
    return (metric.whole(outcomes) if metric.whole else outcomes.mean()) * metric.scale


def near(number):
    return pytest.approx(number, abs=1e-6)


def test_top1_and_accuracy_are_shares_of_right_labels():
    assert value("top1", LOGITS, RIGHT) == 75.0
    assert value("accuracy", LOGITS, RIGHT) == 75.0
    assert value("accuracy", np.array([0, 1, 0, 2]), RIGHT) == 75.0, "labels as they are"
    six = np.array([[6, 5, 4, 3, 2, 1], [6, 5, 4, 3, 2, 1]], np.float32)
    assert value("top5", six, np.array([4, 5])) == 50.0
    assert value("top1", LOGITS, RIGHT[:, None]) == 75.0, "a column of labels"


def test_a_tie_is_a_loss_and_so_is_no_number():
    assert value("top1", np.zeros((4, 3), np.float32), RIGHT) == 0.0
    broken = LOGITS.copy()
    broken[0, 2] = np.nan
    assert value("top1", broken, RIGHT) == 50.0
    assert value("accuracy", broken, RIGHT) == 50.0
    assert value("agreement", broken, broken) == 75.0, "nor does it agree with itself"


def test_accuracy_of_a_map_is_the_mean_share_of_each_sample():
    scores = np.zeros((2, 2, 2, 2), np.float32)
    scores[:, 1] = [[[1, 1], [-1, -1]], [[1, 1], [1, 1]]]
    assert value("accuracy", scores, np.array([[[1, 1], [1, 1]], [[1, 1], [1, 0]]])) == near(62.5)


def test_f1_is_the_mean_of_the_classes():
    # class 0: 1 right of found 2, there 1: 2/3; class 1: 1; class 2: 1 of found 1, there 2: 2/3
    assert value("f1", LOGITS, RIGHT) == near(100 * (2 / 3 + 1 + 2 / 3) / 3)


def test_map_is_the_mean_average_precision_of_the_classes_that_occur():
    scores = np.array([[0.9, 0.1, 0.5], [0.8, 0.9, 0.5], [0.7, 0.3, 0.5]], np.float32)
    labels = np.array([[1, 0, 0], [0, 1, 0], [1, 0, 0]])
    # class 0: right at ranks 1 and 3: (1 + 2/3) / 2; class 1: 1; class 2 does not occur
    assert value("map", scores, labels) == near(100 * ((1 + 2 / 3) / 2 + 1) / 2)
    tied = np.full((4, 1), 0.5, np.float32)
    assert value("map", tied, np.array([[1], [0], [0], [0]])) == near(25.0), "not by the luck of an order"


def test_map_is_what_scikit_learn_calls_it():
    sklearn = pytest.importorskip("sklearn.metrics")
    rng = np.random.default_rng(0)
    scores, labels = rng.random((60, 4)).round(1).astype(np.float32), rng.integers(0, 2, (60, 4))
    assert value("map", scores, labels) == near(100 * sklearn.average_precision_score(labels, scores))
    logits, right = rng.random((60, 5)).astype(np.float32), rng.integers(0, 5, 60)
    f1 = sklearn.f1_score(right, logits.argmax(1), average="macro")
    assert value("f1", logits, right) == near(100 * f1)


def test_errors_are_in_the_units_of_the_targets():
    outputs, targets = np.array([[1.0], [2.0], [4.0]], np.float32), np.array([1.0, 3.0, 2.0])
    assert value("mae", outputs, targets) == near(1.0)
    assert value("rmse", outputs, targets) == near(np.sqrt(5 / 3))
    assert {METRICS[name].better for name in ("mae", "rmse")} == {"lower"}


def test_psnr_is_in_decibels_of_the_range_of_the_targets():
    targets = np.array([[0.0, 1.0], [0.5, 0.5]])
    outputs = np.array([[0.1, 0.9], [0.5, 0.5]], np.float64)
    assert value("psnr", outputs, targets) == near((20 + 100) / 2), "what is the same has 100 dB"
    bytes_ = np.array([[0, 100]], np.uint8)
    assert value("psnr", np.array([[25.5, 125.5]], np.float32), bytes_) == near(20.0)
    assert value("psnr", np.full((2, 2), np.nan, np.float32), targets) == 0.0
    with pytest.raises(MetricError, match="no peak"):
        value("psnr", outputs, np.ones((2, 2)))


def test_correlations_are_of_numbers_and_of_ranks():
    outputs, targets = np.array([1.0, 2.0, 3.0, 10.0], np.float32), np.array([2.0, 1.0, 4.0, 5.0])
    assert value("correlation", outputs, targets) == near(100 * np.corrcoef(outputs, targets)[0, 1])
    assert value("spearman", outputs, targets) == near(80.0)  # 1 - 6 * 2 / (4 * 15)
    tied = np.array([1.0, 1.0, 2.0], np.float32)
    assert value("spearman", tied, np.array([1.0, 2.0, 3.0])) == near(100 * np.sqrt(3) / 2)
    constant, broken = np.ones(4, np.float32), np.array([1, np.nan, 2, 3], np.float32)
    for name in ("correlation", "spearman"):
        assert value(name, constant, targets) == value(name, broken, targets) == 0.0
    both = np.stack([targets, -targets], 1).astype(np.float32)
    assert value("spearman", both, np.stack([targets, targets], 1)) == near(0.0), "the mean of the columns"


def test_agreement_is_with_what_pytorch_finds():
    other = LOGITS.copy()
    other[3] = [9, 0, 0]
    assert value("agreement", other, LOGITS) == 75.0
    assert METRICS["agreement"].against == "reference"


def test_neighbours_are_those_that_are_nearest_by_cosine():
    reference = np.array([[1, 0.2], [1, 0], [0, 1], [0.3, 1]], np.float32)
    moved = np.array([[5, 1], [0.1, 1], [0, 3], [0.3, 1]], np.float32)
    # of 0 it was 1 and is 3; of 1 it was 0 and is 2; of 2 it was 3 and is 1; of 3 it was 2 and is 1
    assert value("neighbours@1", reference * 7, reference) == 100.0
    assert value("neighbours@1", moved, reference) == 0.0
    assert value("neighbours@1", np.full((4, 2), np.nan, np.float32), reference) == 0.0


def test_the_word_error_rate_counts_words_that_are_wrong_missing_or_too_many():
    said = ["the cat sat", "a", "one two three"]
    metric = wer(lambda outputs: [said[i] for i in outputs])
    right = ["the cat sat down", "b", "one three"]  # missing one, wrong one, one too many, of seven words
    outcomes = outcomes_of(metric, np.arange(3), right, 3)
    assert outcomes.tolist() == [[1, 4], [1, 1], [1, 2]]
    assert metric.whole(outcomes) == near(3 / 7)
    assert (metric.name, metric.better) == ("wer", "lower")
    with pytest.raises(MetricError, match="decode gave 2"):
        outcomes_of(wer(lambda outputs: ["a", "b"]), np.arange(3), right, 3)


@pytest.mark.parametrize(
    ("name", "outputs", "targets"),
    [
        ("top1", LOGITS, LOGITS),
        ("top1", LOGITS, np.array([0, 1, 2, 3])),
        ("top1", LOGITS[:, 0], RIGHT),
        ("accuracy", LOGITS[:, 0], RIGHT),
        ("f1", LOGITS, ["a", "b", "c", "d"]),
        ("map", LOGITS, RIGHT),
        ("mae", LOGITS, RIGHT),
        ("spearman", LOGITS, ["a", "b", "c", "d"]),
        ("top1", [*LOGITS], RIGHT),
        ("mae", {"a": LOGITS, "b": LOGITS}, LOGITS),
    ],
)
def test_what_a_metric_cannot_compare_is_an_error_that_names_it(name, outputs, targets):
    with pytest.raises(MetricError) as caught:
        outcomes_of(METRICS[name], outputs, targets, 4)
    assert caught.value.metric == name
    assert name in caught.value.message
    assert caught.value.remedy


def test_a_metric_may_name_the_output_that_it_looks_at():
    assert (known("logits.0.top1").output, known("top1").output) == ("logits.0", "")
    assert known("logits.top1").name == "logits.top1"
    assert known("nothing") is None


def test_a_function_that_gives_a_number_of_all_samples_is_resampled_with_their_targets():
    (metric,) = metrics_of({"mine": lambda outputs, targets: float(np.mean(outputs.argmax(1) == targets))})
    outcomes = outcomes_of(metric, LOGITS, RIGHT, 4)
    found = estimate(metric, outcomes)
    assert found.value == 0.75
    assert found.low < 0.75 < found.high
    worse = outcomes_of(metric, LOGITS[:, ::-1], RIGHT, 4)
    assert paired_drop(metric, outcomes, worse).value == pytest.approx(0.25)


def test_a_function_that_gives_a_number_for_each_sample_is_their_mean():
    calls = []

    def mine(outputs, targets):
        calls.append(len(outputs))
        return (outputs.argmax(1) == targets) * 2.0

    (metric,) = metrics_of([mine])
    found = estimate(metric, outcomes_of(metric, LOGITS, RIGHT, 4))
    assert (metric.name, metric.unit, metric.better, found.value) == ("mine", "units", "higher", 1.5)
    assert calls == [4], "the bootstrap draws from what it gave"


def test_outputs_and_targets_of_a_function_come_back_as_they_were():
    seen = []

    def mine(outputs, targets):
        seen.append((outputs, targets))
        return 1.0

    (metric,) = metrics_of([mine])
    outputs = {"a": np.arange(6.0).reshape(3, 2), "b": [np.arange(n) for n in (1, 2, 3)]}
    targets = {"text": ["x", "y", "z"], "box": np.ones((3, 4))}
    whole = metric.whole(outcomes_of(metric, outputs, targets, 3)[[2, 0]])
    assert whole == 1.0
    resampled, right = seen[-1]
    np.testing.assert_array_equal(resampled["a"], outputs["a"][[2, 0]])
    assert [row.tolist() for row in resampled["b"]] == [[0, 1, 2], [0]]
    assert right["text"] == ["z", "x"]
    assert right["box"].shape == (2, 4)


class Counter:
    """As a metric of torchmetrics: it gathers what it is given until it is asked."""

    higher_is_better = False

    def __init__(self):
        self.reset()

    def reset(self):
        self.wrong = self.all = 0

    def update(self, preds, target):
        assert {type(preds).__module__, type(target).__module__} == {"torch"}
        self.wrong += int((preds.argmax(1) != target).sum())
        self.all += len(target)

    def compute(self):
        import torch

        return torch.tensor(self.wrong / self.all)


def test_an_object_of_torchmetrics_is_a_metric_of_the_whole():
    pytest.importorskip("torch")
    (metric,) = metrics_of([Counter()])
    assert (metric.name, metric.better) == ("counter", "lower")
    outcomes = outcomes_of(metric, LOGITS, RIGHT, 4)
    assert estimate(metric, outcomes).value == 0.25
    assert metric.whole(outcomes[[2, 2]]) == 1.0, "it begins anew for each resample"


def test_what_the_gate_names_comes_first_and_what_is_given_keeps_its_name():
    found = metrics_of({"mine": max, "best": "top1"}, within=["best", "mae"])
    assert [metric.name for metric in found] == ["best", "mae", "mine"]
    assert found[0].function is METRICS["top1"].function
    own = Metric("off", unit="m", better="lower", function=lambda outputs, targets: 1.0)
    (found,) = metrics_of([own])
    assert (found.unit, found.better) == ("m", "lower")
    assert found.whole is not None


@pytest.mark.parametrize(
    ("asked", "error"),
    [
        (["topp1"], MetricError),
        (["wer"], MetricError),
        ("top1", InputError),
        ({"mine": 3}, InputError),
        ([lambda outputs, targets: 0], InputError),
        ([Metric("bare")], InputError),
    ],
    ids=["unknown", "wer without texts", "a string", "a number", "without a name", "without a function"],
)
def test_what_is_no_metric_is_refused(asked, error):
    with pytest.raises(error) as caught:
        metrics_of(asked)
    assert caught.value.remedy


@pytest.mark.parametrize(
    "function", [lambda o, t: o[:, :2], lambda o, t: "good", lambda o, t: o["none"]], ids=["rows", "text", "fails"]
)
def test_a_function_that_fails_or_gives_no_numbers_is_told_with_its_name(function):
    (metric,) = metrics_of({"mine": function})
    with pytest.raises(MetricError, match="mine") as caught:
        outcomes_of(metric, LOGITS[:3], RIGHT[:3], 4)
    assert caught.value.metric == "mine"
