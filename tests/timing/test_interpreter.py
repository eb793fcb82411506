"""The Pythons in which contenders run: another than this one, and none that imports from the current folder."""

import os
import sys
from functools import partial

import contenders
import pytest
import traps

from torchlift.evidence import Entrant
from torchlift.interpreter import Interpreter
from torchlift.timing.latency import Contender, LatencyOptions, Workload, measure_latency

QUICK = LatencyOptions(rounds=2, turn_seconds=0.001, pause_seconds=0.0)


@pytest.fixture
def elsewhere(tmp_path):
    """This Python by another name, which finds the helpers by its environment alone."""
    executable = tmp_path / "other-python"
    executable.write_text(f'#!/bin/sh\nexec {sys.executable} "$@"\n')
    executable.chmod(0o755)
    path = os.pathsep.join(p for p in sys.path if p)
    return Interpreter(str(executable), {"PYTHONPATH": path, "TORCHLIFT_TEST": "said"})


def test_a_contender_runs_in_the_python_that_it_names(elsewhere):
    there = Contender(Entrant("there"), contenders.environment_name, python=elsewhere)
    here = Contender(Entrant("here"), contenders.environment_name)
    load = Workload({"batch": 2}, {"x": contenders.rows(2)})
    benchmark = measure_latency([here, there], [load], options=QUICK)
    assert benchmark.failures == ()
    assert [(x.contender.name, x.runtime) for x in benchmark.runtimes] == [("here", "nothing"), ("there", "said")]


def test_a_python_that_is_not_there_is_a_contender_that_fails():
    gone = Contender(Entrant("gone"), partial(contenders.Sleeper, 0.001), python=Interpreter("/no/such/python"))
    benchmark = measure_latency([gone], [Workload({"batch": 2}, {"x": contenders.rows(2)})], options=QUICK)
    assert benchmark.runtimes == ()
    (failure,) = benchmark.failures
    assert failure.contender == Entrant("gone")
    assert "/no/such/python" not in failure.detail
    assert "python" in failure.detail


@pytest.mark.parametrize("variable", [None, f"{os.pathsep}/nowhere"])
def test_nothing_of_the_current_folder_is_imported_where_times_are_measured(elsewhere, tmp_path, monkeypatch, variable):
    trapped = tmp_path / "trapped"
    trapped.mkdir()
    mark = traps.lay(trapped)
    monkeypatch.chdir(trapped)
    monkeypatch.setattr(sys, "path", ["", *sys.path])
    if variable is not None:
        monkeypatch.setenv("PYTHONPATH", variable)
    python = Interpreter(elsewhere.executable, {"PYTHONPATH": f"{elsewhere.environment['PYTHONPATH']}{os.pathsep}"})
    named = [Contender(Entrant("here"), contenders.quick), Contender(Entrant("there"), contenders.quick, python=python)]
    benchmark = measure_latency(named, [Workload({"batch": 2}, {"x": contenders.rows(2)})], options=QUICK)
    assert not mark.exists(), mark.read_text()
    assert benchmark.failures == ()
    assert [x.contender.name for x in benchmark.latencies] == ["here", "there"]


def test_a_contender_may_name_files_from_the_current_folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "said.txt").write_text("found")
    named = [Contender(Entrant("reads"), partial(contenders.reads, "said.txt"))]
    benchmark = measure_latency(named, [Workload({"batch": 2}, {"x": contenders.rows(2)})], options=QUICK)
    assert benchmark.failures == ()
    assert [(x.contender.name, x.runtime) for x in benchmark.runtimes] == [("reads", "found")]
