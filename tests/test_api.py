"""The Python functions: plain keywords that become what the jobs are told."""

from dataclasses import fields
from pathlib import Path

import numpy as np
import pytest
from shipped import net  # noqa: F401

import torchlift as tl
from torchlift.errors import InputError, SignatureError
from torchlift.evidence import Gate
from torchlift.jobs import JobOptions
from torchlift.jobs.keywords import JobKeywords, axes_of, job_fields
from torchlift.signature import Axis
from torchlift.timing.latency import LatencyOptions

QUICK_TURNS = LatencyOptions(rounds=2, turn_seconds=0.01, max_runs=3, pause_seconds=0)


@pytest.fixture
def quick(monkeypatch):
    """Measure no longer than a test must."""
    monkeypatch.setattr("torchlift.jobs.keywords.LatencyOptions", lambda **_: QUICK_TURNS)


def test_every_keyword_reaches_an_option():
    given = {
        "backends": ["openvino"],
        "precisions": ["int8"],
        "data": "muge/",
        "metrics": [],
        "split": "test",
        "limit": 7,
        "prompts": "prompts.txt",
        "strict_data": True,
        "trust_pickle": True,
        "calibration": "train/",
        "calibrator": "entropy",
        "calibration_samples": 9,
        "keep": ["image:head"],
        "evaluations": 3,
        "within": {"recall@1": 0.2},
        "confidence": 90,
        "objective": "size",
        "tolerances": {"bf16": (0.02, 0.99)},
        "batches": [2],
        "sizes": {"sequence": 5},
        "rounds": 3,
        "cuda_graph": True,
        "more_devices": [1],
        "profiles": ["batch=1:2:4"],
        "workspace": 1 << 20,
        "plugins": ["a.so"],
        "version_compatible": True,
        "hardware_compatible": True,
        "stripped": True,
        "threads": 2,
        "device": 1,
    }
    assert {*given} >= {*JobKeywords.__annotations__}
    found, plain = JobOptions(**job_fields(given)), JobOptions(**job_fields({}))
    same = [f.name for f in fields(JobOptions) if getattr(found, f.name) == getattr(plain, f.name)]
    assert (same, plain) == ([], JobOptions())
    assert (found.data.source, found.data.read.split, found.data.read.limit) == (Path("muge"), "test", 7)
    calibration = found.convert.calibration
    assert (calibration.source, calibration.method, calibration.samples) == (Path("train"), "entropy", 9)
    assert (found.data.read.strict, calibration.read.strict, calibration.read.split) == (True, True, "")
    assert (found.gate.within, found.gate.objective, found.gate.confidence) == ({"recall@1": 0.2}, "size", 90)
    assert found.verify.tolerances["bf16"].cosine == 0.99
    assert found.compile.profiles[0].ranges == {"batch": (1, 2, 4)}
    assert (found.on.threads, found.on.device, found.bench.latency.rounds) == (2, 1, 3)


def test_a_keyword_that_there_is_not_is_named_with_the_nearest(tmp_path):
    with pytest.raises(TypeError, match=r"ship\(\) got an unexpected keyword argument 'dat'; did you mean data"):
        tl.ship("module", "net.py:build", tmp_path / "net", dat="x")
    with pytest.raises(TypeError, match="bench"):
        tl.bench(tmp_path, data="x")


@pytest.mark.parametrize(
    ("keywords", "message"),
    [
        ({"backends": "openvino"}, "backends is the string 'openvino'"),
        ({"within": {"recall@1": -1}}, "within recall@1 is -1"),
        ({"within": {"recall@1": "0.2"}}, "within recall@1 is '0.2'"),
        ({"tolerances": {"fp8": 0.1}}, "no precision 'fp8'"),
        ({"tolerances": {"bf16": 3.0}}, "tolerance of bf16 is 3.0"),
        ({"batches": [1.5]}, "batches holds 1.5"),
        ({"batches": [0]}, "batches holds 0"),
        ({"threads": -1}, "threads is -1"),
        ({"rounds": 1}, "1 rounds"),
    ],
)
def test_values_that_cannot_be_are_named(keywords, message):
    with pytest.raises(InputError, match=message):
        job_fields(keywords)


@pytest.mark.parametrize(
    ("keywords", "confidence"),
    [({"objective": "size"}, 80.0), ({"confidence": None}, None), ({"confidence": 90.0}, 90.0)],
)
def test_a_confidence_stays_as_the_bundle_has_it_unless_one_or_none_is_given(keywords, confidence):
    assert job_fields(keywords, Gate({"top1": 1.0}, confidence=80.0))["gate"].confidence == confidence


def test_axes_are_ranges_in_any_form():
    given = {"batch": (1, 2, 3), "text.sequence": "4..8..16", "image.batch": Axis("batch", 1, 1, 1)}
    assert axes_of(given) == {
        "": {"batch": Axis("batch", 1, 2, 3)},
        "text": {"sequence": Axis("sequence", 4, 8, 16)},
        "image": {"batch": Axis("batch", 1, 1, 1)},
    }
    with pytest.raises(SignatureError, match="batch"):
        axes_of({"batch": (3, 2, 1)})


def test_a_network_is_shipped_built_scored_and_opened(net, tmp_path, quick):  # noqa: F811
    said = []

    class Told(tl.Progress):
        def note(self, text):
            said.append(text)

    bundle = tl.ship(
        "module", net.source, tmp_path / "net", backends=["onnxruntime"], axes={"batch": (1, 2, 3)}, progress=Told()
    )
    assert [v.name for v in bundle.manifest.variants] == ["model/onnxruntime/fp32"]
    assert bundle.manifest.component("model").signature.batch == Axis("batch", 1, 2, 3)
    manifest = tl.build(tmp_path / "net", backends=["onnxruntime"], precisions=["int8-dynamic"])
    assert "model/onnxruntime/int8-dynamic" in {v.name for v in manifest.variants}
    assert all(v.verification.passed for v in tl.verify(tmp_path / "net", threads=1).variants)
    assert tl.bench(tmp_path / "net", batches=[1]).benchmarks["model"].latencies
    with tl.open(tmp_path / "net", threads=1, variants={"model": "onnxruntime/fp32"}) as opened:
        assert opened.options.on.threads == 1
        answers = opened({"image": [np.zeros((30, 30, 3), np.uint8)]})
    assert len(answers["logits"][0]) == 2


def test_torch_is_measured_only_where_the_source_is_given(tmp_path):
    with pytest.raises(InputError, match="no source is given"):
        tl.bench(tmp_path, compiled=True)
