"""A classifier of colours, exported once, and pictures to score and to calibrate it on."""

import shutil

import gated
import pytest

from torchlift.bundle import Bundle
from torchlift.datasets import ReadOptions
from torchlift.measure.latency import LatencyOptions
from torchlift.ship import Source, export
from torchlift.stages import BenchOptions, BuildOptions, CalibrationData, ConvertOptions, DataOptions, JobOptions

QUICK = BenchOptions((1,), latency=LatencyOptions(rounds=2, turn_seconds=0.01, max_runs=3, pause_seconds=0))


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

    def make(*precisions, gate=None, calibrated=True, backends=("onnxruntime",), evaluations=40, keep=()):
        samples = CalibrationData(pictures, ReadOptions(split="train")) if calibrated else None
        return JobOptions(
            build=BuildOptions(backends, precisions),
            data=DataOptions(pictures, ReadOptions(split="val"), samples),
            convert=ConvertOptions(keep=keep, evaluations=evaluations),
            gate=gate,
            bench=QUICK,
        )

    return make
