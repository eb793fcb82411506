"""The defaults of options are those of the dataclasses that they fill."""

import pytest
from shipped import torchlift

from torchlift.cli import common
from torchlift.convert.calibration import CalibrationOptions
from torchlift.jobs import JobOptions
from torchlift.stages import ConvertOptions
from torchlift.timing.latency import LatencyOptions


@pytest.fixture
def told(monkeypatch, built_once):
    """What ``build`` is told; nothing is done."""
    found = []
    monkeypatch.setattr("torchlift.jobs.build_bundle", lambda path, options, progress: found.append(options))
    monkeypatch.setattr("torchlift.cli.display.print_manifest", lambda *_: None)
    monkeypatch.setattr(common, "require_gate", lambda manifest: None)
    return found


def test_a_command_without_options_is_told_what_python_is(told, bundle):
    said = torchlift("build", bundle.path)
    assert said.code == 0, said.err
    assert told == [JobOptions()]


def test_options_replace_the_defaults(told, bundle, tmp_path):
    given = ("--calibration", tmp_path, "--calibrator", "entropy", "--calibration-samples", 7, "--evaluations", 3)
    said = torchlift("build", bundle.path, *given, "--rounds", 4, "--threads", 1, "--trust-pickle", "--limit", 9)
    assert said.code == 0, said.err
    (options,) = told
    calibration = options.convert.calibration
    assert (calibration.method, calibration.samples, calibration.source) == ("entropy", 7, tmp_path)
    assert (calibration.read.trust_pickle, calibration.read.limit) == (True, None)
    assert (options.data.read.trust_pickle, options.data.read.limit) == (True, 9)
    assert (options.convert.evaluations, options.bench.latency.rounds, options.on.threads) == (3, 4, 1)


def test_help_shows_them():
    out = " ".join(torchlift("build", "--help").out.split())
    for default in (
        CalibrationOptions.method,
        CalibrationOptions.samples,
        ConvertOptions.evaluations,
        LatencyOptions.rounds,
    ):
        assert f"[default: {default}" in out
