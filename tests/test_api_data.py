"""Data in memory through the Python functions: one network taken under a gate of its own metrics."""

from itertools import islice

import numpy as np
import pytest
from colour_models import BATCH as AXIS
from colour_models import bundle_of

import torchlift as tl
from torchlift.datasets import SampleData
from torchlift.errors import DataError, InputError, MetricError
from torchlift.evidence import Gate
from torchlift.jobs import JobOptions
from torchlift.jobs.keywords import job_fields
from torchlift.jobs.scoring import open_scorer
from torchlift.timing.latency import LatencyOptions

torch = pytest.importorskip("torch")

NET = """
import torch
from torch import nn

from torchlift import Axis, TensorSpec, module


@module(
    inputs=[TensorSpec("x", "float32", ("batch", 8))], outputs=["logits"], axes=[Axis("batch", 1, 8, 32)],
)
def build():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(8, 16), nn.ReLU(), nn.Linear(16, 3))
"""


def samples():
    """What the network answers, with every fourth label moved on."""
    rng = np.random.default_rng(0)
    x = rng.normal(size=(60, 8)).astype(np.float32)
    namespace = {}
    exec(compile(NET, "net", "exec"), namespace)
    declared = namespace["build"]
    with torch.no_grad():
        right = declared()(torch.from_numpy(x)).argmax(1)
    right[::4] = (right[::4] + 1) % 3
    return torch.utils.data.TensorDataset(torch.from_numpy(x), right)


def share(outputs, targets):
    return float((outputs.argmax(1) == targets).mean())


def bias(outputs, targets):
    return outputs[:, 0] * 10.0


@pytest.fixture(scope="module")
def loader():
    return torch.utils.data.DataLoader(samples(), batch_size=16)


@pytest.fixture
def quick(monkeypatch):
    turns = LatencyOptions(rounds=2, turn_seconds=0.01, max_runs=3, pause_seconds=0)
    monkeypatch.setattr("torchlift.jobs.keywords.LatencyOptions", lambda **_: turns)


def test_any_network_is_shipped_under_a_gate_of_its_own_metrics(loader, tmp_path, quick):
    (tmp_path / "net.py").write_text(NET)
    read = []
    bundle = tl.ship(
        "module",
        f"{tmp_path}/net.py:build",
        tmp_path / "net",
        data=(read.append(1) or item for item in loader),
        within={"top1": 2.0, "share": 0.02},
        metrics={"share": share, "agreement": "agreement"},
        backends=["onnxruntime"],
    )
    assert len(read) == len(loader), "a generator is read once"
    scoring = bundle.manifest.scoring
    assert (scoring.task, scoring.primary, scoring.reference) == ("samples", "top1", "pytorch")
    assert (scoring.data.name, scoring.data.samples) == ("data in memory", {"samples": 60})
    assert {name: found.value for name, found in scoring.metrics.items()} == {
        "top1": 75.0,
        "share": 0.75,
        "agreement": 100.0,
    }
    assert scoring.measures["share"].unit == "units"
    assert scoring.metrics["share"].low < 0.75 < scoring.metrics["share"].high
    int8 = next(graph for graph in bundle.manifest.graphs if graph.form == "int8-u8s8")
    assert (int8.conversion.calibration.source, int8.conversion.calibration.samples) == ("data in memory", 60)
    assert {variant.recipe for variant in bundle.manifest.variants} >= {"fp32", "int8", "int8-dynamic"}
    assert {*scoring.scores} >= {"model/onnxruntime/fp32", "model/onnxruntime/int8"}
    assert bundle.manifest.choices["model"].gate.within == {"top1": 2.0, "share": 0.02}

    before = scoring.scores["model/onnxruntime/int8"].drops["top1"]
    scored = tl.score(tmp_path / "net", data=loader, metrics={"share": share})
    assert scored.scoring.reference == "pytorch", "its answers are kept with the data's hash"
    assert {*scored.scoring.metrics} == {"top1", "share"}, "the gate stays with the bundle"
    assert scored.scoring.scores["model/onnxruntime/int8"].drops["top1"] == before

    other = tl.score(tmp_path / "net", data=loader, within={"bias": 1e6}, metrics=[bias])
    assert other.scoring.data == scored.scoring.data
    assert {*other.scoring.metrics} == {"bias"}, "scores of other metrics are not mixed in"
    assert all({*score.drops} == {"bias"} for score in other.scoring.scores.values())

    fewer = tl.score(tmp_path / "net", data=islice(loader, 2), metrics=["top1"], within={"top1": 50}, report=True)
    assert (fewer.scoring.data.samples, fewer.scoring.reference) == ({"samples": 32}, "source")


def test_a_metric_whose_unit_is_not_known_has_no_usual_limit(tmp_path):
    signature = tl.Signature(
        (tl.TensorSpec("x", "float32", ("batch", 2)),), (tl.TensorSpec("y", "float32", ("batch", 2)),), (AXIS,)
    )
    bundle = bundle_of(tmp_path / "bundle", "tensors", {}, {"model": signature}, {"model": ({}, {})})
    items = [(np.zeros((2, 2), np.float32), np.zeros((2, 2)))]
    with pytest.raises(InputError, match="mae has no usual limit"):
        open_scorer(bundle, JobOptions(**job_fields({"data": items, "metrics": ["mae"]})), None, tl.Progress())


def test_without_calibration_the_data_in_memory_calibrate_at_most_as_many_as_asked():
    items = [(np.zeros((4, 2), np.float32), np.zeros(4, np.int64))]
    options = JobOptions(**job_fields({"data": items, "metrics": ["top1"], "calibration_samples": 3}))
    assert isinstance(options.calibration().source, SampleData)
    assert options.calibration().read.limit == 3
    own = JobOptions(**job_fields({"data": items, "metrics": ["top1"], "calibration": [items[0][0]]}))
    assert own.calibration().source.items[0].shape == (4, 2)
    assert JobOptions(**job_fields({})).calibration().source is None


def test_the_metrics_of_the_gate_need_not_be_named_again():
    given = {"data": [(1, 1)]}
    names = [[m.name for m in job_fields(given | more, gate)["data"].metrics] for more, gate in (
        ({"within": {"mae": 1}}, None),
        ({"within": {"mae": 1}, "metrics": ["top1"]}, Gate({"f1": 1})),
        ({"metrics": ["top1"]}, Gate({"f1": 1})),
    )]  # fmt: skip
    assert names == [["mae"], ["mae", "top1"], ["f1", "top1"]]


@pytest.mark.parametrize(
    ("given", "error", "said"),
    [
        ({"metrics": ["top1"]}, InputError, "metrics= is for data in memory"),
        ({"metrics": ["top1"], "data": "muge/"}, InputError, "muge is a path"),
        ({"data": [(1, 1)], "split": "test", "metrics": ["top1"]}, InputError, "`split=`"),
        ({"data": [(1, 1)], "within": {"tpo1": 1}}, MetricError, "'tpo1'"),
        ({"data": 3}, DataError, "int"),
        ({"calibration": 3.5}, DataError, "`calibration=` is a float"),
    ],
)
def test_what_does_not_go_together_is_refused(given, error, said):
    with pytest.raises(error, match=said) as caught:
        job_fields(given)
    assert caught.value.remedy
