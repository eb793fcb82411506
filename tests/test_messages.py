"""Evidence in words."""

import pytest

from torchlift.evidence import Breach, Entrant, Failure, Gate, GoldenRun, Interval, Measure, Rows, Verdict
from torchlift.messages import breach_text, entrant_text, failure_text, run_text, verdict_text


@pytest.mark.parametrize(
    ("run", "said"),
    [
        (GoldenRun("opt"), "opt"),
        (GoldenRun("max", rows=Rows(4, 8)), "max, 4 of 8 rows"),
        (GoldenRun("samples", rows=Rows(5, 3), replayed=True), "samples, 3 rows repeated to 5, replayed"),
        (GoldenRun("max", sizes={"batch": 3, "sequence": 16}), "batch 3, sequence 16"),
        (GoldenRun("max", rows=Rows(4, 8), company="fewer"), "max, 4 of 8 rows, rows fewer"),
        (GoldenRun("opt", company="turned"), "opt, rows turned"),
        (GoldenRun("min", true_half=True), "min in true half precision"),
    ],
)
def test_a_run_is_named_by_its_golden_and_what_was_done(run, said):
    assert run_text(run) == said


WHERE = {"golden": "opt", "output": "y"}


@pytest.mark.parametrize(
    ("failure", "said"),
    [
        (Failure(kind="nonfinite", nan=1, inf=2, **WHERE), "y at opt: 1 NaN, 2 infinite"),
        (
            Failure(kind="difference", difference=0.25, limit=0.1, **WHERE),
            "y at opt: off by 2.5e-01 of the scale (at most 1e-01)",
        ),
        (Failure(kind="cosine", difference=0.88235, limit=0.99, **WHERE), "y at opt: cosine 0.88235 (at least 0.99)"),
        (
            Failure(kind="cosine", difference=0.5, limit=0.99, company="fewer", **WHERE),
            "rows depend on their neighbours: y at opt, rows fewer: cosine 0.50000 (at least 0.99)",
        ),
        (Failure(kind="unproven"), "no golden is within its optimisation profiles: nothing proves it"),
        (Failure(kind="error", detail="out of memory"), "out of memory"),
    ],
)
def test_a_failure_is_said_with_its_numbers(failure, said):
    assert failure_text(failure) == said


DROP = Interval(3.25, 2.25, 4.25)
NOISE = Measure("dB", "lower")


@pytest.mark.parametrize(
    ("breach", "said"),
    [
        (Breach("top1", 2.0, DROP, 3.25), "top1 drops by 3.25 [2.25, 4.25], at most 2 may"),
        (Breach("top1", 4.0, DROP, 4.25, 90.0), "top1: drop at 90% at most 4.25 (estimate 3.25), at most 4 may"),
        (Breach("noise", 2.0, DROP, 3.25, None, NOISE), "noise rises by 3.25 [2.25, 4.25] dB, at most 2 dB may"),
        (
            Breach("noise", 4.0, DROP, 4.25, 99.0, NOISE),
            "noise: rise at 99% at most 4.25 dB (estimate 3.25), at most 4 dB may",
        ),
        (Breach("top1", 2.0), "top1 was not scored"),
        (
            Breach("top1", 2.0, DROP, 3.25, components="all"),
            "with the other components' choices, top1 drops by 3.25 [2.25, 4.25], at most 2 may",
        ),
        (
            Breach("top1", 2.0, None, 2.3, components="sum"),
            "with the other components' choices, top1 may drop by 2.30 (the sum), at most 2 may",
        ),
    ],
)
def test_a_breach_is_said_in_the_metric_s_unit_and_direction(breach, said):
    assert breach_text(breach) == said


@pytest.mark.parametrize(
    ("verdict", "objective", "said"),
    [
        (Verdict("costlier", 1.5), "latency", "1.50 times the time"),
        (Verdict("costlier", 2.0), "throughput", "2.00 times the time a sample"),
        (Verdict("costlier", 3.0), "size", "3.00 times the size"),
        (Verdict("as good", 1.01), "latency", "as good within 2%, not more precise"),
        (Verdict("reserve"), "latency", "not asked for: kept for where no other holds the gate"),
        (
            Verdict("breach", breach=Breach("top1", 2.0, DROP, 3.25)),
            "latency",
            "refused: top1 drops by 3.25 [2.25, 4.25], at most 2 may",
        ),
        (Verdict("not scored"), "latency", "refused: not scored here: top1 within 2 is not known to hold"),
        (Verdict("disagrees", failure=Failure(kind="error", detail="no room")), "latency", "refused: no room"),
        (Verdict("not built", detail="no such operator"), "latency", "not built: no such operator"),
        (Verdict("not measured", detail="it died"), "latency", "not measured: it died"),
        (Verdict("not measured"), "latency", "not measured"),
        (Verdict("not verified"), "latency", "not verified on this machine"),
        (Verdict("other", detail="of an earlier release"), "latency", "of an earlier release"),
    ],
)
def test_a_verdict_is_said_by_its_kind(verdict, objective, said):
    assert verdict_text(verdict, Gate({"top1": 2.0}, objective)) == said


@pytest.mark.parametrize(
    ("entrant", "said"),
    [
        (Entrant("text/tensorrt/fp16", "fp16"), "text/tensorrt/fp16"),
        (Entrant("text/tensorrt/fp16", "fp16", cuda_graph=True), "text/tensorrt/fp16 + CUDA graph"),
        (Entrant("pytorch", compiled=False), "pytorch eager"),
        (Entrant("pytorch", "fp16", compiled=True, cuda_graph=True), "pytorch compile fp16 + CUDA graph"),
    ],
)
def test_a_contender_is_named_by_what_it_is(entrant, said):
    assert entrant_text(entrant) == said
