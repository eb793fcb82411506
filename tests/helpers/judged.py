"""The tiny bundle, built and proven; a classifier of colours, exported once, and pictures to score and calibrate on."""

import shutil
from dataclasses import replace

import gated
import pytest
import staged
from colour_models import clip as clip_without_graphs  # noqa: F401
from colour_models import muge  # noqa: F401

from torchlift.bundle import Bundle
from torchlift.convert.calibration import CalibrationOptions
from torchlift.datasets import ReadOptions
from torchlift.jobs import DataOptions, JobOptions
from torchlift.jobs.ship import export
from torchlift.jobs.source import Source
from torchlift.prove.numerics import TOLERANCES
from torchlift.stages import BenchOptions, BuildOptions, ConvertOptions, verify_all
from torchlift.timing.latency import LatencyOptions

QUICK = BenchOptions((1,), latency=LatencyOptions(rounds=2, turn_seconds=0.01, max_runs=3, pause_seconds=0))


@pytest.fixture(scope="session")
def proven_once(built_once, tmp_path_factory):
    """The tiny bundle, verified, with a bf16 variant on any machine: it shares the files of fp32. Not to be changed."""
    bundle = Bundle.open(shutil.copytree(built_once.path, tmp_path_factory.mktemp("proven") / "bundle"))
    verify_all(bundle, bundle.manifest.variants)
    fp32 = bundle.manifest.variant(staged.OV)
    proof = replace(fp32.verification, tolerance=TOLERANCES["bf16"])
    bundle.commit(bundle.manifest.with_variant(replace(fp32, precision="bf16", verification=proof)))
    return bundle


@pytest.fixture
def proven(proven_once, tmp_path):
    """A copy of the proven bundle that a test may change."""
    return Bundle.open(shutil.copytree(proven_once.path, tmp_path / "proven"))


@pytest.fixture
def unmeasured(monkeypatch):
    """Times are made up."""
    monkeypatch.setattr("torchlift.stages.bench.measure_latency", staged.made_up)


@pytest.fixture(scope="session")
def pictures(tmp_path_factory):
    """Class folders ``val`` and ``train``; not to be changed."""
    folder = tmp_path_factory.mktemp("pictures")
    gated.write_pictures(folder / "val", 12, seed=1)
    gated.write_pictures(folder / "train", 4, seed=2)
    return folder


@pytest.fixture(scope="session")
def exported(tmp_path_factory):
    """Maker of bundles without variants, of the networks ``build`` and ``overflowing``; not to be changed."""
    folder = tmp_path_factory.mktemp("colours")
    file = gated.write_net(folder)
    made = {}

    def make(function):
        if function not in made:
            made[function] = export(Source("module", f"{file}:{function}"), folder / function).path
        return made[function]

    return make


@pytest.fixture
def colours(exported, tmp_path):
    """The classifier that INT8 breaks at one node."""
    return Bundle.open(shutil.copytree(exported("build"), tmp_path / "colours"))


@pytest.fixture
def overflowing(exported, tmp_path):
    """The classifier in which numbers beyond FP16 occur."""
    return Bundle.open(shutil.copytree(exported("overflowing"), tmp_path / "overflowing"))


@pytest.fixture
def job(pictures):
    """Maker of options for a job on ``pictures`` with ONNX Runtime."""

    def make(*precisions, gate=None, calibrated=True, backends=("onnxruntime",), evaluations=40, keep=(), data=True):
        samples = CalibrationOptions(source=pictures, read=ReadOptions(split="train")) if calibrated else None
        return JobOptions(
            build=BuildOptions(backends, precisions),
            data=DataOptions(pictures / "val" if data else None),
            convert=ConvertOptions(samples or CalibrationOptions(), keep=keep, evaluations=evaluations),
            gate=gate,
            bench=QUICK,
        )

    return make
