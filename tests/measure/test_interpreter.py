"""A contender in another Python."""

import os
import sys
from functools import partial

import contenders
import pytest

from torchlift.measure.latency import Contender, Interpreter, LatencyOptions, Workload, measure_latency

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
    there = Contender("there", contenders.environment_name, python=elsewhere)
    here = Contender("here", contenders.environment_name)
    load = Workload({"batch": 2}, {"x": contenders.rows(2)})
    benchmark = measure_latency([here, there], [load], options=QUICK)
    assert benchmark.failures == {}
    assert benchmark.runtimes == {"here": "nothing", "there": "said"}


def test_a_python_that_is_not_there_is_a_contender_that_fails():
    gone = Contender("gone", partial(contenders.Sleeper, 0.001), python=Interpreter("/no/such/python"))
    benchmark = measure_latency([gone], [Workload({"batch": 2}, {"x": contenders.rows(2)})], options=QUICK)
    assert "/no/such/python" not in benchmark.runtimes
    assert "python" in benchmark.failures["gone"]
