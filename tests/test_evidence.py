from dataclasses import replace

import pytest

from torchlift.errors import InputError
from torchlift.evidence import (
    Benchmark,
    Conditions,
    Difference,
    Entrant,
    Failure,
    Gate,
    GoldenCheck,
    Latency,
    Provenance,
    Tolerance,
    Verification,
)
from torchlift.machine import Machine

MACHINE = Machine("EPYC", ("avx2", "avx512f"), 8, 2**34, "Linux x86_64")
FILES = {"model/model.onnx": "abc"}
PROVENANCE = Provenance(MACHINE, "onnxruntime 1.31.1", FILES, "2026-01-01T00:00:00+00:00")
SAME = Difference(0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 2.0)


def test_a_result_holds_where_it_was_obtained():
    assert PROVENANCE.holds(MACHINE, "onnxruntime 1.31.1", dict(FILES))


@pytest.mark.parametrize("changed", [{"cores": 2}, {"memory": 2**30}])
def test_a_result_holds_with_fewer_cores_and_less_memory(changed):
    assert PROVENANCE.holds(replace(MACHINE, **changed), "onnxruntime 1.31.1", FILES)


@pytest.mark.parametrize("changed", [{"processor": "Xeon"}, {"instructions": ("avx2",)}, {"system": "Windows x86_64"}])
def test_a_result_does_not_hold_on_another_processor_or_system(changed):
    assert not PROVENANCE.holds(replace(MACHINE, **changed), "onnxruntime 1.31.1", FILES)


def test_a_result_does_not_hold_for_another_runtime():
    assert not PROVENANCE.holds(MACHINE, "onnxruntime 1.31.2", FILES)


@pytest.mark.parametrize("files", [{}, {"model/model.onnx": "abd"}, {**FILES, "model/model.onnx.data": "e"}])
def test_a_result_does_not_hold_for_other_files(files):
    assert not PROVENANCE.holds(MACHINE, "onnxruntime 1.31.1", files)


def test_a_difference_as_a_share_of_the_scale():
    assert replace(SAME, max_abs=0.5).max_scaled == 0.25
    assert replace(SAME, max_abs=0.5, scale=0.0).max_scaled == 0.5


def test_a_verification_passed_where_nothing_failed_and_knows_its_worst_check():
    checks = tuple(GoldenCheck("min", name, replace(SAME, max_abs=d)) for name, d in (("a", 0.1), ("b", 0.3), ("c", 0)))
    proof = Verification(PROVENANCE, Tolerance(1e-4, 0.99), checks, ())
    assert proof.passed
    assert proof.worst is checks[1]
    assert not replace(proof, failures=(Failure(kind="unproven"),)).passed


def test_latencies_of_a_contender():
    def latency(name, sizes):
        return Latency(Entrant(name), sizes, 1, *[1.0] * 8)

    found = (
        latency("a", {"batch": 1}),
        latency("b", {"batch": 1}),
        latency("a", {"batch": 8}),
        latency("c", {"length": 3}),
    )
    benchmark = Benchmark(MACHINE, "", 1, 1, None, found)
    assert benchmark.of(Entrant("a")) == (found[0], found[2])
    assert benchmark.at_batch(Entrant("a"), 8) is found[2]
    assert benchmark.at_batch(Entrant("b"), 8) is None
    assert benchmark.at_batch(Entrant("c"), 1) is found[3]


@pytest.mark.parametrize(("replayed", "replays"), [((), False), ((False, False), False), ((False, True), True)])
def test_a_proof_says_whether_graphs_were_replayed(replayed, replays):
    checks = tuple(GoldenCheck("min", "y", SAME, replayed=each) for each in replayed)
    assert Verification(PROVENANCE, Tolerance(1e-4, 0.99999), checks, ()).replays is replays


@pytest.mark.parametrize(("low", "moved"), [(1980, False), (1890, False), (1875, True)])
def test_a_clock_has_moved_where_it_did_so_by_more_than_five_percent(low, moved):
    assert Conditions("H200", (low, 1980, 1980), (34, 41)).clock_moved is moved


@pytest.mark.parametrize("confidence", [0, 49.9, 100, 200, float("nan")])
def test_a_gate_has_a_confidence_that_can_be_had(confidence):
    with pytest.raises(InputError, match=f"{confidence:g}%"):
        Gate({"top1": 1.0}, confidence=confidence)
