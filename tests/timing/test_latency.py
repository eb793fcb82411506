import contextlib
import os
import re
import signal
import subprocess
import sys
import time
from functools import partial
from itertools import pairwise
from pathlib import Path

import contenders
import numpy as np
import pytest
import tiny
from hypothesis import given
from hypothesis import strategies as st

from torchlift.backends import SessionOptions
from torchlift.backends.opening import open_file
from torchlift.errors import BackendError, InputError
from torchlift.evidence import Entrant, Interval, is_noise
from torchlift.machine import RunOn, this_machine, usable_cores
from torchlift.progress import Progress
from torchlift.timing.latency import Contender, LatencyOptions, Turn, Workload, _summaries, measure_latency, speedup

QUICK = LatencyOptions(rounds=4, turn_seconds=0.01, max_runs=5, pause_seconds=0.0)
ROWS = [Workload({"batch": rows}, {"x": tiny.sample(rows)}) for rows in (1, 4)]


def measure(*openers, workloads=ROWS[:1], **options):
    named = [Contender(Entrant(opener.__name__), opener) for opener in openers]
    return measure_latency(named, workloads, options=QUICK, **options)


def test_contenders_are_ordered_by_their_times():
    found = measure(contenders.quick, contenders.slow, workloads=ROWS, baseline=Entrant("slow"), files={"a": "hash"})
    assert [(x.contender.name, x.sizes) for x in found.latencies] == [
        ("quick", {"batch": 1}),
        ("slow", {"batch": 1}),
        ("quick", {"batch": 4}),
        ("slow", {"batch": 4}),
    ]
    for batch in (1, 4):
        quick, slow = found.at_batch(Entrant("quick"), batch), found.at_batch(Entrant("slow"), batch)
        assert quick.median < slow.median
        assert quick.speedup.low <= quick.speedup.value <= quick.speedup.high
        assert quick.speedup.value > 1
        assert slow.speedup is None
        assert quick.throughput == pytest.approx(1e3 * batch / quick.median)
    assert (found.baseline, found.rounds, found.threads) == (Entrant("slow"), 4, usable_cores())
    assert found.machine == this_machine()
    assert [(x.contender.name, x.runtime) for x in found.runtimes] == [
        ("quick", "sleeper 0.001"),
        ("slow", "sleeper 0.005"),
    ]
    assert found.files == {"a": "hash"}
    assert found.failures == ()


def test_statistics_are_of_the_times():
    (found,) = measure(contenders.slow).latencies
    assert 5 <= found.min <= found.median <= found.p95 <= found.p99 <= found.max
    assert found.min <= found.mean <= found.max
    assert 0 <= found.sd <= found.max - found.min
    assert QUICK.rounds * QUICK.min_runs <= found.runs <= QUICK.rounds * QUICK.max_runs


@pytest.mark.parametrize(("options", "runs"), [({"turn_seconds": 1e-9, "min_runs": 2}, 6), ({"turn_seconds": 9}, 15)])
def test_a_turn_has_at_least_and_at_most_so_many_runs(options, runs):
    limits = LatencyOptions(**{"rounds": 3, "max_runs": 5, "pause_seconds": 0.0, **options})
    (found,) = measure_latency([Contender(Entrant("quick"), contenders.quick)], ROWS[:1], options=limits).latencies
    assert found.runs == runs


def test_contenders_take_turns_and_none_is_always_the_first(tmp_path):
    log = tmp_path / "log"
    named = [Contender(Entrant(name), partial(contenders.Logger, name, log)) for name in "abc"]
    options = LatencyOptions(rounds=4, warmups=1, min_runs=2, max_runs=2, pause_seconds=0.0)
    measure_latency(named, ROWS[:1], options=options)
    opening, *turns = ("aabbcc", *("".join(3 * n for n in order) for order in ("abc", "bca", "cab", "abc")))
    assert log.read_text() == opening + "".join(turns)


def test_threads_are_recorded_as_they_were_asked_for():
    options = LatencyOptions(rounds=2, max_runs=1)
    quick = [Contender(Entrant("quick"), contenders.quick)]
    assert measure_latency(quick, ROWS[:1], options=options, on=RunOn(3)).threads == 3


@pytest.mark.parametrize(
    ("opener", "words"),
    [
        (contenders.refuses, r"refuses: the engine is of another GPU"),
        (contenders.ends, r"ends: SystemExit: 0"),
        (contenders.says_and_exits, r"the process of says_and_exits died \(exit status 7\): out of patience"),
        (contenders.killed, r"the process of killed died \(exit status -9\): it said nothing; .*out of memory"),
        (contenders.killed_later, r"the process of killed_later died \(exit status -9\)"),
        (contenders.breaks_later, r"breaks_later: sleeper [\d.]+ cannot run this: the device is gone"),
    ],
)
def test_a_contender_that_fails_is_reported_and_the_others_are_measured(opener, words):
    found = measure(contenders.slow, opener, contenders.quick, baseline=Entrant("slow"))
    (failure,) = found.failures
    assert failure.contender == Entrant(opener.__name__)
    assert re.match(words, failure.detail)
    assert [x.contender.name for x in found.latencies] == ["slow", "quick"]
    assert found.at_batch(Entrant("quick"), 1).runs >= QUICK.rounds
    assert found.at_batch(Entrant("quick"), 1).speedup.value > 1


@pytest.mark.parametrize("opener", [contenders.refuses, contenders.killed_later])
def test_without_its_baseline_nothing_is_faster(opener):
    found = measure(opener, contenders.quick, baseline=Entrant(opener.__name__))
    assert found.baseline is None
    assert [x.contender.name for x in found.failures] == [opener.__name__]
    assert [(x.contender.name, x.speedup) for x in found.latencies] == [("quick", None)]


def test_nothing_is_measured_where_all_fail():
    found = measure(contenders.refuses, contenders.killed)
    assert found.latencies == ()
    assert [x.contender.name for x in found.failures] == ["refuses", "killed"]


class Notes(Progress):
    """Remembers the notes."""

    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


def test_sizes_that_no_contender_runs_cost_none_of_them_the_others():
    notes = Notes()
    found = measure(contenders.fussy, contenders.as_fussy, workloads=ROWS, baseline=Entrant("fussy"), progress=notes)
    assert [(x.contender.name, x.batch) for x in found.latencies] == [("fussy", 4), ("as_fussy", 4)]
    assert (found.failures, found.baseline) == ((), Entrant("fussy"))
    (note,) = notes.notes
    assert "batch 1" in note
    assert "no batch of 1" in note


def test_a_baseline_that_alone_does_not_run_costs_only_itself():
    found = measure(contenders.never, contenders.quick, workloads=ROWS, baseline=Entrant("never"))
    assert [(x.contender.name, x.batch, x.speedup) for x in found.latencies] == [("quick", 1, None), ("quick", 4, None)]
    assert [x.contender.name for x in found.failures] == ["never"]


def test_where_nothing_runs_at_any_size_each_contender_says_why():
    found = measure(contenders.never, contenders.never, workloads=ROWS)
    assert found.latencies == ()
    assert {x.detail.rpartition(": ")[2] for x in found.failures} == {"no batch of 4"}


def test_an_unknown_baseline_is_refused_with_the_known_ones():
    with pytest.raises(BackendError, match="the baseline 'fast' is none of the contenders") as caught:
        measure(contenders.quick, contenders.slow, baseline=Entrant("fast"))
    assert caught.value.remedy == "Choose one of quick, slow."


def test_a_real_session_is_measured_in_its_own_process(built):
    variant = built.manifest.variant("model/onnxruntime/fp32")
    opener = partial(
        open_file, "onnxruntime", built.file(variant.model), tiny.SIGNATURE, "fp32", SessionOptions(RunOn(1))
    )
    found = measure_latency([Contender(Entrant(variant.name), opener)], ROWS, options=QUICK)
    assert found.failures == ()
    assert [x.batch for x in found.latencies] == [1, 4]
    assert found.runtime_of(Entrant(variant.name)).endswith("CPUExecutionProvider")


times = st.floats(1e-6, 10)
rounds = st.lists(st.lists(times, min_size=1, max_size=4), min_size=2, max_size=5)


@given(rounds, st.floats(0.1, 10))
def test_a_constant_ratio_is_the_speedup_without_doubt(baseline, ratio):
    found = speedup(baseline, [[t / ratio for t in turn] for turn in baseline])
    assert [found.value, found.low, found.high] == pytest.approx([ratio] * 3)


@given(rounds)
def test_an_interval_holds_its_value(baseline):
    contender = [[*turn[::-1], 1.0] for turn in baseline]
    found = speedup(baseline, contender)
    each = [np.median(b) / np.median(c) for b, c in zip(baseline, contender, strict=True)]
    assert found.value == pytest.approx(np.prod(each) ** (1 / len(each)))
    bounds = [found.low, found.value, found.high]
    assert all(a <= b * (1 + 1e-9) for a, b in pairwise(bounds))


def test_the_interval_of_two_rounds_is_student_s():
    found = speedup([[1.0], [4.0]], [[1.0], [1.0]])
    half = 12.706 * np.log(4) / 2
    assert [found.value, found.low, found.high] == pytest.approx([2, 2 * np.exp(-half), 2 * np.exp(half)])


@pytest.mark.parametrize(
    ("bounds", "noisy"),
    [((1.0, 10.0), False), ((0.9, 10.0), True), ((0.0, 5e14), True), ((0.0, np.inf), True), ((np.nan, np.nan), True)],
)
def test_a_speed_up_is_noise_where_its_bounds_are_more_than_ten_times_apart(bounds, noisy):
    assert is_noise(Interval(3.0, *bounds)) == noisy


def test_what_is_measured_is_marked_where_it_is_noise():
    turns = {Entrant("a"): [Turn([1.0], []), Turn([4.0], [])], Entrant("b"): [Turn([1.0], []), Turn([1.0], [])]}
    _, noisy = _summaries(turns, ROWS[0], Entrant("a"))
    assert (noisy.contender.name, noisy.noisy) == ("b", True)
    steady = {**turns, Entrant("a"): [Turn([2.0], []), Turn([2.0], [])]}
    assert [x.noisy for x in _summaries(steady, ROWS[0], Entrant("a"))] == [False, False]


def test_one_round_gives_no_interval():
    with pytest.raises(InputError, match="1 rounds give no interval") as caught:
        LatencyOptions(rounds=1)
    assert "at least 2" in caught.value.remedy


def test_the_interval_covers_the_known_ratio_of_noisy_times():
    rng = np.random.default_rng(0)
    covered = 0
    for _ in range(40):
        drift = rng.uniform(1, 3, (10, 1))
        baseline = 3.0 * drift * rng.lognormal(0, 0.05, (10, 20))
        contender = 2.0 * drift * rng.lognormal(0, 0.05, (10, 20))
        found = speedup(baseline, contender)
        assert found.value == pytest.approx(1.5, rel=0.05)
        assert found.high / found.low < 1.08
        covered += found.low <= 1.5 <= found.high
    assert covered >= 36


MEASURE_WITHOUT_END = """
import sys
sys.path.insert(0, sys.argv[1])
import contenders
from tiny import sample
from torchlift.timing.latency import *

class Announce(Progress):
    def stage(self, title, total=None):
        print(title, flush=True)
        return super().stage(title, total)

measure_latency(
    [Contender(Entrant(str(n)), contenders.quick) for n in range(2)],
    [Workload({"batch": 1}, {"x": sample(1)})],
    options=LatencyOptions(rounds=10**6),
    progress=Announce(),
)
"""


def children(pid):
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def until(condition, seconds=20):
    deadline = time.monotonic() + seconds
    while not condition() and time.monotonic() < deadline:
        time.sleep(0.02)
    return condition()


@pytest.mark.skipif(not Path("/proc/self/task").is_dir(), reason="the system does not list a process's children")
def test_no_process_outlives_the_one_that_measures():
    command = [sys.executable, "-c", MEASURE_WITHOUT_END, str(Path(contenders.__file__).parent)]
    with subprocess.Popen(command, stdout=subprocess.PIPE, text=True) as parent:
        assert [parent.stdout.readline() for _ in range(2)] == ["open in a process each\n", "measure side by side\n"]
        workers = children(parent.pid)
        assert len(workers) == 2
        time.sleep(0.2)
        parent.send_signal(signal.SIGKILL)

    def alive(pid):
        stat = Path(f"/proc/{pid}/stat")
        return stat.exists() and stat.read_text().rpartition(")")[2].split()[0] != "Z"

    assert until(lambda: not any(map(alive, workers))), f"still there: {workers}"


class Impatient(Progress):
    """Ctrl-C as soon as the first contender is open."""

    @contextlib.contextmanager
    def stage(self, title, total=None):
        yield self

    def advance(self, steps=1):
        raise KeyboardInterrupt


def test_ctrl_c_does_not_wait_for_contenders_that_open(tmp_path, monkeypatch):
    monkeypatch.setattr("torchlift.timing.latency.usable_cores", lambda: 8)
    slow = partial(contenders.opens_late, tmp_path / "begun", tmp_path / "opened")
    named = [
        Contender(Entrant("quick"), partial(contenders.after, tmp_path / "begun")),
        Contender(Entrant("slow"), slow),
    ]
    with pytest.raises(KeyboardInterrupt):
        measure_latency(named, ROWS[:1], options=QUICK, progress=Impatient())
    assert (tmp_path / "begun").exists()
    time.sleep(0.1)
    assert not (tmp_path / "opened").exists(), "its process was ended, and not waited for"


def test_the_processes_end_with_the_measurement():
    if not Path("/proc/self/task").is_dir():
        pytest.skip("the system does not list a process's children")
    before = children(os.getpid())
    measure(contenders.quick, contenders.killed_later)
    assert children(os.getpid()) == before
