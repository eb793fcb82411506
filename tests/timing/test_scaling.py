"""What several devices achieve together; those here are processes that sleep, which none of them can do faster."""

import contextlib
import os
from itertools import pairwise
from pathlib import Path

import contenders
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from torchlift.evidence import Conditions, Entrant
from torchlift.progress import Progress
from torchlift.timing import scaling
from torchlift.timing.latency import Contender, Workload
from torchlift.timing.scaling import counts, measure_scaling

ROWS = [Workload({"batch": rows}, {"x": tiny.sample(rows)}) for rows in (1, 4)]


def scaled(*openers, workloads=ROWS[:1], devices=(0, 1), **options):
    named = [Contender(Entrant(opener.__name__), contenders.quick, opener) for opener in openers]
    return measure_scaling(named, workloads, devices, seconds=0.2, **options).throughputs


@pytest.mark.parametrize(
    ("devices", "found"), [(1, [1]), (2, [1, 2]), (3, [1, 2, 3]), (4, [1, 2, 4]), (6, [1, 2, 4, 6]), (8, [1, 2, 4, 8])]
)
def test_the_numbers_of_devices_are_doubled_up_to_all(devices, found):
    assert counts(devices) == found


@given(st.integers(1, 10_000))
def test_any_number_of_devices_begins_with_one_and_ends_with_all(devices):
    found = counts(devices)
    assert (found[0], found[-1]) == (1, devices)
    assert all(a < b <= 2 * a for a, b in pairwise(found))


def test_the_throughput_is_of_all_devices_together():
    one, two = scaled(contenders.on)
    assert [(x.contender.name, x.devices, x.sizes) for x in (one, two)] == [
        ("on", 1, {"batch": 1}),
        ("on", 2, {"batch": 1}),
    ]
    assert 0 < one.samples <= 1 / 0.05
    assert 1 / 0.05 < two.samples <= 1 / 0.05 + 1 / 0.005


def test_it_counts_samples_and_not_calls():
    (one,) = scaled(contenders.on, workloads=ROWS[1:], devices=(0,))
    assert one.sizes == {"batch": 4}
    assert 4 / 0.25 < one.samples <= 4 / 0.05


def test_sizes_that_are_not_covered_are_left_out():
    found = scaled(contenders.narrow_on, workloads=ROWS)
    assert {(x.devices, x.sizes["batch"]) for x in found} == {(1, 1), (2, 1)}


def test_what_runs_on_no_device_or_fails_on_one_is_left_out_and_the_others_are_not():
    titles, notes = [], []

    class Recorder(Progress):
        def stage(self, title, total=None):
            titles.append((title, total))
            return super().stage(title, total)

        def note(self, text):
            notes.append(text)

    named = [
        Contender(Entrant("on a processor"), contenders.quick),
        Contender(Entrant("fails"), contenders.quick, contenders.only_on_others),
        Contender(Entrant("runs"), contenders.quick, contenders.narrow_on),
    ]
    found = measure_scaling(named, ROWS[:1], (1, 0, 2), Recorder(), seconds=0.01)
    assert [x.contender.name for x in found.failures] == ["fails"]
    assert [(x.contender.name, x.devices) for x in found.throughputs] == [("runs", 1), ("runs", 2), ("runs", 3)]
    assert titles == [("measure on several GPUs", 2)]
    assert len(notes) == 1
    assert notes[0].startswith("fails is not measured on several GPUs: ")


def test_all_devices_are_watched_while_what_counts_runs(monkeypatch):
    seen = Conditions("NVIDIA H200", (1500, 1900, 1980), (35, 60))
    happened = []

    class Watch:
        def __init__(self, *devices):
            happened.append(devices)

        @contextlib.contextmanager
        def looking(self):
            happened.append("looks")
            yield
            happened.append("looks away")

        def conditions(self):
            return (seen,)

    def ask(self, question, *arguments, _ask=scaling.Process.ask):
        happened.append(question)
        return _ask(self, question, *arguments)

    monkeypatch.setattr(scaling, "Watch", Watch)
    monkeypatch.setattr(scaling.Process, "ask", ask)
    named = [Contender(Entrant("runs"), contenders.quick, contenders.on)]
    assert measure_scaling(named, ROWS[:1], (0,), seconds=0.01).conditions == (seen,)
    assert happened == [(0,), "open", "load", "keep_running", "looks", "keep_running", "looks away"]


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="the system does not list a process's children")
@pytest.mark.parametrize("opener", [contenders.on, contenders.only_on_others])
def test_no_process_is_left_also_where_one_of_them_fails(opener):
    def children():
        return {*Path(f"/proc/{os.getpid()}/task/{os.getpid()}/children").read_text().split()}

    before = children()
    scaled(opener, devices=(1, 0, 2))
    assert children() <= before
