"""Which variant serves, by made-up times and scores: the best by the objective of those that hold the gate."""

from dataclasses import replace

import numpy as np
import pytest
from staged import BF16, ORT, OV, benchmark, component_of, graphed, interval, latency, put_scores, score, top1

from torchlift.bundle import Bundle
from torchlift.errors import BackendUnavailableError
from torchlift.evidence import Breach, Entrant, Gate, Interval, Measure, Tolerance, Verdict
from torchlift.machine import this_machine
from torchlift.prove.verify import VerifyOptions
from torchlift.stages import choose, verify_all
from torchlift.tasks import Metric
from torchlift.tasks.statistics import paired_drop

IMPOSSIBLE = Tolerance(scaled=-1.0, cosine=0.9)
TOP1 = Metric("top1", 1)
TOGETHER = Breach("top1", 2.0, bound=2.5, components="sum")


def choice(bundle, *latencies, excluded=None, reserve=(), **options):
    variants = tuple(replace(v, reserve=v.name in reserve) for v in bundle.manifest.variants)
    bundle.commit(replace(bundle.manifest, variants=variants))
    found = choose(bundle, component_of(bundle), benchmark(*latencies, **options), excluded)
    assert Bundle.open(bundle.path).manifest.choices == {"model": found}
    return found


BF16_IS_FASTEST = (latency(ORT, 4.0), latency(OV, 2.0), latency(BF16, 1.0))
"""By a factor of two over OpenVINO in FP32, and of four over ONNX Runtime."""


def test_the_fastest_is_chosen_and_the_others_are_told_how_much_slower(proven):
    found = choice(proven, latency(ORT, 4.0), latency(OV, 2.0), latency(BF16, 3.0))
    assert found.variant == OV
    assert (found.gate, found.batch) == (Gate(), 1)
    assert found.others == {ORT: Verdict("costlier", 2.0), BF16: Verdict("costlier", 1.5)}


def test_the_first_batch_decides(proven):
    times = [latency(ORT, 1.0, 4), latency(OV, 2.0, 4), latency(ORT, 9.0), latency(OV, 2.0)]
    found = choice(proven, *times)
    assert (found.variant, found.batch) == (ORT, 4)
    assert choice(proven, *reversed(times)).variant == OV


def test_a_tie_goes_to_the_more_precise(proven):
    found = choice(proven, latency(ORT, 3.0), latency(OV, 1.019), latency(BF16, 1.0))
    assert found.variant == OV
    assert found.others[BF16] == Verdict("as good", pytest.approx(1 / 1.019))


def test_beyond_two_percent_there_is_no_tie(proven):
    found = choice(proven, latency(OV, 1.021), latency(BF16, 1.0))
    assert found.variant == BF16
    assert found.others[OV] == Verdict("costlier", pytest.approx(1.021))


def test_among_equally_precise_ones_a_tie_goes_to_the_faster(proven):
    assert choice(proven, latency(ORT, 1.01), latency(OV, 1.0)).variant == OV
    assert choice(proven, latency(ORT, 1.0), latency(OV, 1.01)).variant == ORT


def test_a_contender_that_failed_is_not_chosen(proven):
    found = choice(
        proven,
        latency(ORT, 5.0),
        latency(OV, 1.0),
        latency(BF16, 9.0),
        failures={OV: "the process died (exit status 9)"},
    )
    assert found.variant == ORT
    assert found.others[OV] == Verdict("not measured", detail="the process died (exit status 9)")


def test_a_variant_that_was_refused_is_not_chosen_and_says_why(proven):
    verify_all(proven, [proven.manifest.variant(OV)], VerifyOptions({"fp32": IMPOSSIBLE}))
    found = choice(proven, latency(ORT, 5.0), latency(OV, 1.0))
    assert found.variant == ORT
    verdict = found.others[OV]
    assert (verdict.kind, verdict.failure) == ("disagrees", proven.manifest.variant(OV).verification.failures[0])


def test_a_variant_that_was_not_built_is_not_chosen_and_says_why(proven):
    failed = replace(proven.manifest.variant(OV), failure="no such operator")
    proven.commit(proven.manifest.with_variant(failed))
    found = choice(proven, latency(ORT, 5.0), latency(OV, 1.0))
    assert found.variant == ORT
    assert found.others[OV] == Verdict("not built", detail="no such operator")


def test_a_variant_that_is_not_verified_here_is_not_chosen(proven):
    proven.commit(proven.manifest.with_variant(replace(proven.manifest.variant(OV), verification=None)))
    found = choice(proven, latency(ORT, 5.0), latency(OV, 1.0))
    assert (found.variant, found.others[OV]) == (ORT, Verdict("not verified"))


@pytest.mark.parametrize("times", [[], ["model/another/fp32"]])
def test_where_nothing_can_serve_there_is_no_choice(proven, times):
    with pytest.raises(BackendUnavailableError, match="no variant of model can serve") as caught:
        choose(proven, component_of(proven), benchmark(*(latency(name, 1.0) for name in times)))
    assert "torchlift inspect" in caught.value.remedy
    assert proven.manifest.choices == {}


# the gate


def test_what_holds_the_gate_is_chosen_and_the_choice_has_the_gate(proven):
    put_scores(proven, top1(2), {BF16: score(proven, BF16, top1=1.5)})
    found = choice(proven, *BF16_IS_FASTEST)
    assert (found.variant, found.held) == (BF16, True)
    assert (found.gate, found.batch) == (Gate({"top1": 2.0}), 1)


def test_what_loses_more_is_refused_with_the_drop_its_interval_and_the_limit(proven):
    put_scores(proven, top1(2), {BF16: score(proven, BF16, top1=3.25)})
    found = choice(proven, *BF16_IS_FASTEST)
    assert (found.variant, found.held) == (OV, True)
    assert found.others[BF16] == Verdict("breach", breach=Breach("top1", 2.0, interval(3.25), 3.25))


def test_every_metric_of_the_gate_must_hold(proven):
    gate = Gate({"top1": 2.0, "top5": 0.5})
    put_scores(proven, gate, {BF16: score(proven, BF16, top1=0.0, top5=1.0)})
    assert choice(proven, *BF16_IS_FASTEST).others[BF16].breach == Breach("top5", 0.5, interval(1.0), 1.0)
    put_scores(proven, gate, {BF16: score(proven, BF16, top1=2.0, top5=0.5)})
    found = choice(proven, *BF16_IS_FASTEST)
    assert found.variant == BF16
    assert found.gate == gate


def test_without_a_gate_a_score_refuses_nothing(proven):
    put_scores(proven, Gate(), {BF16: score(proven, BF16, top1=60.0)})
    assert choice(proven, *BF16_IS_FASTEST).variant == BF16


def test_a_lossy_variant_that_was_not_scored_is_refused_and_fp32_is_not(proven):
    put_scores(proven, top1(2), {})
    found = choice(proven, *BF16_IS_FASTEST)
    assert (found.variant, found.held) == (OV, True)
    assert found.others == {
        BF16: Verdict("not scored"),
        ORT: Verdict("costlier", 2.0),
    }


def test_fp32_that_scored_too_low_is_refused_too(proven):
    scores = {OV: score(proven, OV, top1=3.0), BF16: score(proven, BF16, top1=1.0)}
    put_scores(proven, top1(2), scores)
    found = choice(proven, latency(ORT, 4.0), latency(OV, 1.0), latency(BF16, 2.0))
    assert found.variant == BF16
    assert found.others[OV].breach == Breach("top1", 2.0, interval(3.0), 3.0)


@pytest.mark.parametrize(
    "changed",
    [
        {"files": {"model/openvino-fp32/model.xml": "of another build"}},
        {"runtime": "openvino 1999.1"},
        {"machine": replace(this_machine(), processor="another")},
        {"machine": replace(this_machine(), instructions=("another",))},
    ],
    ids=["files", "runtime", "processor", "instructions"],
)
def test_a_score_of_something_else_does_not_count(proven, changed):
    good = score(proven, BF16, top1=0.0)
    put_scores(proven, top1(2), {BF16: good})
    assert choice(proven, *BF16_IS_FASTEST).variant == BF16
    put_scores(proven, top1(2), {BF16: replace(good, provenance=replace(good.provenance, **changed))})
    found = choice(proven, *BF16_IS_FASTEST)
    assert found.variant == OV
    assert found.others[BF16] == Verdict("not scored")


def test_a_bad_score_of_something_else_does_not_count_against_fp32(proven):
    bad = score(proven, OV, top1=50.0)
    elsewhere = replace(bad, provenance=replace(bad.provenance, runtime="openvino 1999.1"))
    put_scores(proven, top1(2), {OV: elsewhere})
    assert choice(proven, *BF16_IS_FASTEST).variant == OV


def test_a_drop_of_exactly_the_limit_holds(proven):
    right = np.ones(1000)
    for lost in (1, 3, 7, 29, 57, 58):
        wrong = np.where(np.arange(1000) < lost, 0.0, 1.0)
        drop = replace(score(proven, BF16, top1=0.0), drops={"top1": paired_drop(TOP1, right, wrong)})
        put_scores(proven, top1(lost / 10), {BF16: drop})
        assert choice(proven, *BF16_IS_FASTEST).variant == BF16, lost
        put_scores(proven, top1((lost - 0.1) / 10), {BF16: drop})
        assert choice(proven, *BF16_IS_FASTEST).variant == OV, lost


def test_a_drop_that_only_rounding_lifts_over_the_limit_holds(proven):
    drop = 0.1 + 0.2
    assert drop > 0.3, "in binary"
    scored = replace(score(proven, BF16, top1=0.0), drops={"top1": Interval(drop, 0.0, 0.5)})
    put_scores(proven, top1(0.3), {BF16: scored})
    assert choice(proven, *BF16_IS_FASTEST).variant == BF16


def test_what_gains_holds_a_gate_that_allows_nothing(proven):
    put_scores(proven, top1(0), {BF16: score(proven, BF16, top1=-1.0)})
    assert choice(proven, *BF16_IS_FASTEST).variant == BF16


@pytest.fixture
def between(proven):
    """A bundle in which bf16 loses 1.5 points, and at 90% confidence at most 2.5."""
    found = score(proven, BF16, top1=1.5)
    drop = Interval(1.5, 0.5, 2.5, 90.0)
    metrics = {"top1": Interval(88.5, 87.5, 89.5, 90.0)}
    return {BF16: replace(found, metrics=metrics, drops={"top1": drop})}


def test_what_holds_by_the_estimate_may_be_refused_at_a_confidence(proven, between):
    put_scores(proven, top1(2), {BF16: score(proven, BF16, top1=1.5)})
    assert choice(proven, *BF16_IS_FASTEST).variant == BF16
    put_scores(proven, Gate({"top1": 2.0}, confidence=90.0), between)
    found = choice(proven, *BF16_IS_FASTEST)
    assert (found.variant, found.held) == (OV, True)
    breach = found.others[BF16].breach
    assert (breach.drop, breach.bound, breach.confidence) == (between[BF16].drops["top1"], 2.5, 90.0)
    put_scores(proven, Gate({"top1": 2.5}, confidence=90.0), between)
    assert choice(proven, *BF16_IS_FASTEST).variant == BF16


@pytest.mark.parametrize("confidence", [None, 95.0, 99.0])
def test_a_score_at_another_confidence_than_the_gate_s_is_not_believed(proven, between, confidence):
    put_scores(proven, Gate({"top1": 100.0}, confidence=confidence), between)
    found = choice(proven, *BF16_IS_FASTEST)
    assert (found.variant, found.others[BF16]) == (OV, Verdict("not scored"))


def test_a_limit_is_in_the_metric_s_unit_and_a_breach_says_which(proven):
    put_scores(proven, Gate({"psnr": 0.3}), {BF16: score(proven, BF16, psnr=0.4)})
    noise = Measure("dB", "higher")
    proven.commit(replace(proven.manifest, scoring=replace(proven.manifest.scoring, measures={"psnr": noise})))
    found = choice(proven, *BF16_IS_FASTEST)
    assert found.others[BF16].breach == Breach("psnr", 0.3, interval(0.4), 0.4, None, noise)


# where nothing holds


def test_what_was_not_asked_for_serves_only_where_nothing_else_holds(proven):
    put_scores(proven, top1(2), {BF16: score(proven, BF16, top1=1.0)})
    found = choice(proven, latency(OV, 1.0), latency(ORT, 2.0), latency(BF16, 9.0), reserve={OV, ORT})
    assert (found.variant, found.held) == (BF16, True), "however fast FP32 is"
    assert found.others == dict.fromkeys((OV, ORT), Verdict("reserve"))


def test_where_nothing_holds_the_reserve_serves_and_that_is_said(proven):
    put_scores(proven, top1(2), {BF16: score(proven, BF16, top1=30.0)})
    found = choice(proven, *BF16_IS_FASTEST, reserve={ORT, OV})
    assert (found.variant, found.held) == (OV, False)
    assert found.others[BF16].breach.bound == 30.0


def test_where_nothing_holds_the_most_precise_serves_even_if_it_was_refused(proven):
    put_scores(proven, top1(2), {name: score(proven, name, top1=30.0) for name in (ORT, OV, BF16)})
    found = choice(proven, *BF16_IS_FASTEST)
    assert (found.variant, found.held) == (OV, False)
    assert found.others[ORT].breach.bound == 30.0


def test_what_is_excluded_is_refused_for_the_reason_given(proven):
    put_scores(proven, top1(2), {BF16: score(proven, BF16, top1=0.0)})
    found = choice(proven, *BF16_IS_FASTEST, excluded={BF16: TOGETHER})
    assert found.variant == OV
    assert found.others[BF16] == Verdict("breach", breach=TOGETHER)
    found = choice(proven, *BF16_IS_FASTEST, excluded=dict.fromkeys((BF16, OV), TOGETHER))
    assert (found.variant, found.held) == (ORT, True)


# objectives


def test_by_throughput_the_best_batch_of_each_counts(proven):
    put_scores(proven, top1(2, "throughput"), {BF16: score(proven, BF16, top1=9.0)})
    times = [latency(ORT, 1.0), latency(OV, 2.0), latency(BF16, 0.1), latency(ORT, 8.0, 8), latency(OV, 4.0, 8)]
    found = choice(proven, *times)
    assert (found.variant, found.held) == (OV, True)
    assert (found.gate.objective, found.batch) == ("throughput", None)
    assert found.others[ORT] == Verdict("costlier", pytest.approx(2.0))
    assert found.others[BF16].breach.bound == 9.0


def sized(bundle, sizes):
    """A bundle whose variants need so many bytes, as its manifest says."""
    files = dict(bundle.manifest.files)
    for name, size in sizes.items():
        first, *rest = bundle.manifest.variant(name).files
        files[first] = replace(files[first], size=size - sum(files[path].size for path in rest))
    return Bundle(bundle.path, replace(bundle.manifest, files=files))


def by_size(bundle, *latencies):
    return choose(bundle, component_of(bundle), benchmark(*latencies))


def test_by_size_the_smallest_is_chosen(proven):
    put_scores(proven, top1(100, "size"), {BF16: score(proven, BF16, top1=0.0)})
    small = sized(proven, {ORT: 1_000_000, OV: 3_000_000})
    found = by_size(small, latency(ORT, 9.0), latency(OV, 1.0), latency(BF16, 1.0))
    assert found.variant == ORT
    assert (found.gate.objective, found.batch) == ("size", None)
    assert found.others == {OV: Verdict("costlier", 3.0), BF16: Verdict("costlier", 3.0)}


def test_by_size_a_tie_goes_to_the_more_precise_and_then_to_the_faster(proven):
    put_scores(proven, top1(100, "size"), {BF16: score(proven, BF16, top1=0.0)})
    alike = sized(proven, {ORT: 1_010_000, OV: 1_000_000})
    assert by_size(alike, latency(ORT, 2.0), latency(OV, 3.0), latency(BF16, 1.0)).variant == ORT
    found = by_size(alike, latency(ORT, 4.0), latency(OV, 3.0), latency(BF16, 1.0))
    assert found.variant == OV
    assert found.others[BF16].kind == "as good"


def test_by_size_what_was_not_measured_is_not_chosen(proven):
    put_scores(proven, top1(2, "size"), {})
    found = by_size(sized(proven, {ORT: 10_000, OV: 1_000_000}), latency(OV, 1.0))
    assert (found.variant, {*found.others}) == (OV, {ORT, BF16})


def test_what_is_refused_never_serves_not_even_alone(proven):
    put_scores(proven, top1(2), {BF16: score(proven, BF16, top1=30.0)})
    with pytest.raises(
        BackendUnavailableError, match="no variant may serve, and FP32 was not made or measured"
    ) as error:
        choose(proven, component_of(proven), benchmark(latency(BF16, 1.0)))
    assert f"{BF16}: top1 drops by 30.00" in error.value.message


def test_where_nothing_was_measured_each_contender_says_why(proven):
    log = "Exception from a.cpp:1:\nException from b.cpp:2:\nindex 58 is beyond the table\n"
    failed = {ORT: "no memory", OV: log, Entrant("pytorch", compiled=False): "index out of range"}
    with pytest.raises(BackendUnavailableError) as caught:
        choose(proven, component_of(proven), benchmark(failures=failed))
    for said in (f"{ORT}: not measured: no memory", f"{OV}: not measured: index 58 is beyond the table"):
        assert said in caught.value.message
    assert "pytorch eager: not measured: index out of range" in caught.value.message


def test_times_of_another_machine_or_of_other_files_decide_nothing(proven):
    times = benchmark(latency(ORT, 4.0), latency(OV, 2.0))
    elsewhere = replace(times, machine=replace(this_machine(), processor="another"))
    with pytest.raises(BackendUnavailableError, match="none was both verified and measured"):
        choose(proven, component_of(proven), elsewhere)
    path = proven.manifest.variant(OV).files[0]
    found = choose(proven, component_of(proven), replace(times, files={path: "0" * 64}))
    assert found.variant == ORT
    assert found.others[OV] == Verdict("not measured")


# CUDA graphs


def test_a_variant_serves_as_it_was_fastest(proven):
    found = choice(proven, latency(ORT, 2.0), latency(OV, 3.0), latency(graphed(OV), 1.0))
    assert (found.variant, found.cuda_graph) == (OV, True)
    assert found.others[ORT] == Verdict("costlier", 2.0)
    assert {*found.others} == {ORT, BF16}, "a mode is no variant"


def test_a_variant_that_graphs_make_slower_serves_without(proven):
    found = choice(proven, latency(ORT, 2.0), latency(OV, 1.0), latency(graphed(OV), 1.5))
    assert (found.variant, found.cuda_graph) == (OV, False)


def test_a_tie_of_both_modes_is_served_without(proven):
    assert not choice(proven, latency(OV, 1.0), latency(graphed(OV), 1.0)).cuda_graph


def test_what_others_cost_is_by_their_best_mode(proven):
    times = [latency(ORT, 8.0), latency(graphed(ORT), 3.0), latency(OV, 5.0), latency(graphed(OV), 2.0)]
    found = choice(proven, *times)
    assert (found.variant, found.others[ORT], found.cuda_graph) == (OV, Verdict("costlier", 1.5), True)


def test_graphs_of_another_variant_decide_nothing_for_the_chosen(proven):
    found = choice(proven, latency(ORT, 1.0), latency(OV, 5.0), latency(graphed(OV), 2.0))
    assert (found.variant, found.cuda_graph) == (ORT, False)


def test_a_variant_whose_graphs_failed_serves_without(proven):
    failures = {graphed(OV): "the capture was refused"}
    found = choice(proven, latency(ORT, 2.0), latency(OV, 1.0), failures=failures)
    assert (found.variant, found.cuda_graph) == (OV, False)
    found = choice(proven, latency(ORT, 1.0), latency(OV, 2.0), failures=failures)
    assert found.others[OV] == Verdict("costlier", 2.0)


def test_graphs_that_failed_after_they_were_timed_once_do_not_serve(proven):
    times = [latency(ORT, 3.0), latency(OV, 2.0), latency(graphed(OV), 1.0)]
    found = choice(proven, *times, failures={graphed(OV): "an illegal memory access at batch 64"})
    assert (found.variant, found.cuda_graph, found.others[ORT]) == (OV, False, Verdict("costlier", 1.5))


def test_times_on_another_gpu_decide_nothing(proven):
    found = benchmark(latency(ORT, 2.0), latency(OV, 1.0))
    elsewhere = replace(found, machine=replace(found.machine, gpus=("Tesla T4",)))
    with pytest.raises(BackendUnavailableError, match="none was both verified and measured"):
        choose(proven, component_of(proven), elsewhere)


def test_a_mode_counts_at_the_batch_that_decides(proven):
    times = [latency(OV, 1.0), latency(graphed(OV), 2.0), latency(OV, 8.0, 8), latency(graphed(OV), 4.0, 8)]
    assert not choice(proven, *times).cuda_graph
    assert choice(proven, *times[2:], *times[:2]).cuda_graph


def test_by_throughput_the_mode_with_the_highest_serves(proven):
    put_scores(proven, top1(100, "throughput"), {BF16: score(proven, BF16, top1=0.0)})
    times = [latency(ORT, 1.0), latency(OV, 2.0), latency(graphed(OV), 3.0), latency(ORT, 8.0, 8)]
    found = choice(proven, *times, latency(OV, 8.0, 8), latency(graphed(OV), 4.0, 8))
    assert (found.variant, found.cuda_graph) == (OV, True)
    assert found.others[ORT].ratio == pytest.approx(2.0)
