"""The evidence of bundles that version 1 wrote: as fields, and still proven, scored and chosen."""

import dataclasses
import json
import zipfile
from pathlib import Path

import msgspec
import pytest

import torchlift
from torchlift.archive import unpack
from torchlift.backends import backend
from torchlift.bundle import Bundle
from torchlift.errors import BundleError
from torchlift.evidence import (
    Breach,
    Calibration,
    Choice,
    Damage,
    Difference,
    Entrant,
    Failure,
    Gate,
    Interval,
    Latency,
    Measure,
    NotMeasured,
    Rows,
    Tolerance,
    Verdict,
)
from torchlift.machine import this_machine
from torchlift.manifest import MANIFEST, MANIFEST_VERSION, decode_manifest
from torchlift.messages import entrant_text, failure_text, run_text
from torchlift.prove.verify import VerifyOptions, proven_here
from torchlift.stages.choose import choose_all
from torchlift.stages.score import score_here
from torchlift.upgrade import upgraded

VERSION1 = Path(__file__).parent / "data" / "version1"
FP32, INT8 = "model/onnxruntime/fp32", "model/onnxruntime/int8"


def written(name):
    """The manifest of a bundle as the release before wrote it."""
    with zipfile.ZipFile(VERSION1 / f"{name}.zip") as archive:
        return json.loads(archive.read(MANIFEST))


def decoded(data):
    return decode_manifest(json.dumps(data).encode(), Path(MANIFEST))


@pytest.fixture(params=["net", "clip"])
def name(request):
    return request.param


def unpacked(name, folder):
    """The bundle on disk, as it was written; its evidence as if this machine had obtained it."""
    unpack(VERSION1 / f"{name}.zip", folder)
    file = folder / MANIFEST
    here, version = msgspec.to_builtins(this_machine()), backend("onnxruntime").version()

    def moved(data):
        """Every provenance and benchmark of another machine is of this one."""
        if isinstance(data, list):
            return [moved(part) for part in data]
        if not isinstance(data, dict):
            return data
        found = {key: moved(value) for key, value in data.items()}
        return (
            {**found, "machine": here, **({"runtime": version} if "files" in data else {})} if "at" in data else found
        )

    data = json.loads(file.read_text())
    assert data["version"] == 1, "unpacked as it was packed"
    file.write_text(json.dumps(moved(data)))
    return Bundle.open(folder)


def test_a_bundle_of_version_1_opens_with_its_evidence(name, tmp_path):
    old = written(name)
    unpack(VERSION1 / f"{name}.zip", tmp_path / "bundle")
    manifest = Bundle.open(tmp_path / "bundle").manifest
    assert manifest.version == MANIFEST_VERSION
    assert manifest.gate.within == old["gate"]["within"]
    for variant, before in zip(manifest.variants, old["variants"], strict=True):
        proof, was = variant.verification, before["verification"]
        assert (proof.passed, proof.replays) == (True, False)
        assert proof.tolerance == Tolerance(**was["tolerance"])
        for now, then in ((proof.checks, was["checks"]), (proof.invariance, was["invariance"])):
            assert [run_text(check) for check in now] == [check["golden"] for check in then]
            assert [check.difference for check in now] == [Difference(**check["difference"]) for check in then]
        assert [check.company for check in proof.invariance] == ["turned", "fewer"]
        assert {(check.golden, check.rows) for check in proof.invariance} == {("opt", None)}
    for component, before in old["benchmarks"].items():
        benchmark = manifest.benchmarks[component]
        assert [entrant_text(x.contender) for x in benchmark.latencies] == [x["contender"] for x in before["latencies"]]
        assert benchmark.baseline == Entrant("pytorch", "fp32", compiled=False)
        assert {entrant_text(x.contender): x.runtime for x in benchmark.runtimes} == before["runtimes"]
        assert (benchmark.failures, benchmark.scaling.failures) == ((), ())
    scoring, before = manifest.scoring, old["scoring"]
    assert (scoring.reference, scoring.measures.keys()) == ("pytorch", before["metrics"].keys())
    assert set(scoring.measures.values()) == {Measure("points", "higher")}
    assert scoring.metrics == {metric: Interval(**found) for metric, found in before["metrics"].items()}
    for variant, found in before["scores"].items():
        assert scoring.scores[variant].drops == {metric: Interval(**drop) for metric, drop in found["drops"].items()}
    for component, before in old["choices"].items():
        choice = manifest.choices[component]
        assert (choice.variant, choice.held, choice.cuda_graph) == (before["variant"], True, False)
        assert (choice.gate, choice.batch) == (manifest.gate, 1)


def test_what_was_calibrated_and_chosen_is_told_by_fields(tmp_path):
    manifest = decoded(written("net"))
    graphs = {graph.form: graph.conversion.calibration for graph in manifest.graphs}
    assert graphs == {"int8-u8s8": Calibration(12, "data/train", "minmax"), "int8-dynamic": None}
    assert manifest.choices["model"].others == {
        INT8: Verdict("costlier", 1.69),
        "model/onnxruntime/int8-dynamic": Verdict("costlier", 1.59),
    }
    ours = [x.contender for x in manifest.benchmarks["model"].latencies if x.batch == 1][1:]
    assert ours == [Entrant(v.name, v.precision) for v in manifest.variants]


def test_what_was_proven_on_a_machine_of_this_kind_is_proven_and_scored_still(name, tmp_path):
    bundle = unpacked(name, tmp_path / "bundle")
    for variant in bundle.manifest.variants:
        assert proven_here(bundle, variant, VerifyOptions().tolerance(bundle, variant))
        assert score_here(bundle, variant) == bundle.manifest.scoring.scores[variant.name]


def test_the_same_is_chosen_as_before(name, tmp_path):
    bundle = unpacked(name, tmp_path / "bundle")
    before = bundle.manifest.choices
    choose_all(bundle)
    for component, now in bundle.manifest.choices.items():
        was = before[component]
        assert (now.variant, now.held, now.gate, now.batch) == (was.variant, was.held, was.gate, was.batch)
        assert now.others.keys() == was.others.keys()
        for variant, verdict in now.others.items():
            assert verdict.kind == was.others[variant].kind
            assert verdict.ratio == pytest.approx(was.others[variant].ratio, abs=0.005), "it was kept to two digits"


def test_what_is_written_then_is_the_version_of_today_and_the_same(name, tmp_path):
    bundle = unpacked(name, tmp_path / "bundle")
    before = bundle.manifest
    bundle.commit(dataclasses.replace(before, made_with={}))
    assert json.loads((bundle.path / MANIFEST).read_text())["version"] == MANIFEST_VERSION
    assert Bundle.open(bundle.path).manifest == dataclasses.replace(before, made_with={})


# phrases that these bundles do not have


def with_proof(said, goldens=("min",)):
    """The variant's proof where it failed in these words, with checks at these goldens."""
    data = written("net")
    proof = data["variants"][0]["verification"]
    check = proof["checks"][0]
    proof["checks"] = [{**check, "golden": golden, "output": "y"} for golden in goldens]
    proof["failures"] = [said]
    return decoded(data).variants[0].verification


@pytest.mark.parametrize(
    ("golden", "facts"),
    [
        ("max, 4 of 8 rows", {"golden": "max", "rows": Rows(4, 8)}),
        ("samples, 3 rows repeated to 5", {"golden": "samples", "rows": Rows(5, 3)}),
        ("min, replayed", {"golden": "min", "replayed": True}),
        ("max, 4 of 8 rows, replayed", {"golden": "max", "rows": Rows(4, 8), "replayed": True}),
        ("batch 3, sequence 16, replayed", {"golden": "max", "sizes": {"batch": 3, "sequence": 16}, "replayed": True}),
        ("min in true half precision", {"golden": "min", "true_half": True}),
        ("max, 2 of 8 rows, rows fewer", {"golden": "max", "rows": Rows(2, 8), "company": "fewer"}),
        ("something else", {"golden": "something else"}),
    ],
)
def test_the_name_of_a_golden_is_taken_apart(golden, facts):
    proof = with_proof("no reason", (golden,))
    (check,) = proof.checks
    assert {name: getattr(check, name) for name in facts} == facts
    assert proof.replays is facts.get("replayed", False)
    assert run_text(check) == golden


@pytest.mark.parametrize(
    "said",
    [
        "y at max: off by 1.2e-02 of the scale (at most 1e-04)",
        "y at max, 4 of 8 rows, replayed: cosine 0.88235 (at least 0.99)",
        "y at min in true half precision: 3 NaN, 12 infinite",
        "rows depend on their neighbours: y at opt, rows fewer: off by 1.0e-02 of the scale (at most 1e-04)",
        "no golden is within its optimisation profiles: nothing proves it",
        "onnxruntime failed: KeyError: 'y'",
        "at: an odd error",
    ],
)
def test_a_failure_says_the_same_as_before(said):
    proof = with_proof(said)
    assert not proof.passed
    assert [failure_text(failure) for failure in proof.failures] == [said]


def test_a_failure_has_the_exact_numbers_of_its_check():
    proof = with_proof("y at min: off by 6.6e-08 of the scale (at most 1e-04)")
    (failure,) = proof.failures
    assert (failure.kind, failure.golden, failure.limit) == ("difference", "min", 0.0001)
    assert failure.difference == proof.checks[0].difference.max_scaled


def test_of_a_runtime_s_error_the_words_stay():
    assert with_proof("out of memory; Use less.").failures == (
        Failure(kind="error", detail="out of memory; Use less."),
    )


DROP = Interval(3.25, 2.25, 4.25)


@pytest.mark.parametrize(
    ("said", "verdict"),
    [
        ("1.50 times the time a sample", Verdict("costlier", 1.5)),
        ("as good within 2%, not more precise", Verdict("as good")),
        ("not asked for: kept for where no other holds the gate", Verdict("reserve")),
        ("not built: no such operator", Verdict("not built", detail="no such operator")),
        ("not measured: the process died", Verdict("not measured", detail="the process died")),
        ("not measured", Verdict("not measured")),
        ("not verified on this machine", Verdict("not verified")),
        ("refused: not scored here: top1 within 2 is not known to hold", Verdict("not scored")),
        (
            "refused: top1 drops by 3.25 [2.25, 4.25], at most 2 may",
            Verdict("breach", breach=Breach("top1", 2.0, DROP, 3.25)),
        ),
        (
            "refused: i2t_recall@1 drops by -0.50 [-1.00, 0.00], at most 0.2 may",
            Verdict("breach", breach=Breach("i2t_recall@1", 0.2, Interval(-0.5, -1.0, 0.0), -0.5)),
        ),
        (
            "refused: with the other components' choices, top1 drops by 3.25 [2.25, 4.25], at most 2 may",
            Verdict("breach", breach=Breach("top1", 2.0, DROP, 3.25, components="all")),
        ),
        (
            "refused: with the other components' choices, top1 may drop by 2.30 (the sum), at most 2 may",
            Verdict("breach", breach=Breach("top1", 2.0, None, 2.3, components="sum")),
        ),
        (
            "refused: y at min: cosine 0.88235 (at least 0.99)",
            Verdict(
                "disagrees",
                failure=Failure(kind="cosine", golden="min", output="y", difference=0.88235, limit=0.99),
            ),
        ),
        ("by the flight of birds", Verdict("other", detail="by the flight of birds")),
    ],
)
def test_a_verdict_has_a_kind_and_its_numbers(said, verdict):
    data = written("net")
    data["choices"]["model"]["others"] = {INT8: said}
    assert decoded(data).choices["model"].others == {INT8: verdict}


@pytest.mark.parametrize(
    ("reason", "choice"),
    [
        ("the fastest at batch 8 of those that agree with PyTorch", Choice(FP32, Gate({"top1": 100.0}), 8)),
        (
            "the highest throughput of those that agree with PyTorch and hold top1 within 2, top5 within 0.5",
            Choice(FP32, Gate({"top1": 2.0, "top5": 0.5}, "throughput")),
        ),
        (
            "the smallest of those that agree with PyTorch and hold top1 within 2",
            Choice(FP32, Gate({"top1": 2.0}, "size")),
        ),
        ("none of what was asked for holds top1 within 2: FP32 serves", Choice(FP32, Gate({"top1": 2.0}))),
    ],
)
def test_a_reason_is_the_gate_of_the_choice(reason, choice):
    data = written("net")
    data["choices"]["model"] |= {"reason": reason, "others": {}}
    assert decoded(data).choices["model"] == choice


@pytest.mark.parametrize(
    ("name", "entrant"),
    [
        ("pytorch eager", Entrant("pytorch", "fp32", compiled=False)),
        ("pytorch compile fp16 + CUDA graph", Entrant("pytorch", "fp16", compiled=True, cuda_graph=True)),
        (f"{INT8} + CUDA graph", Entrant(INT8, "int8", cuda_graph=True)),
        ("onnxruntime cuda fp16, plain", Entrant("onnxruntime cuda fp16, plain", "fp32")),
    ],
)
def test_a_contender_is_taken_apart(name, entrant):
    data = written("net")
    benchmark = data["benchmarks"]["model"]
    benchmark["latencies"][0]["contender"] = name
    benchmark |= {"failures": {name: "it died"}, "runtimes": {}, "baseline": None}
    benchmark["scaling"] = {
        "throughputs": [{"contender": name, "devices": 1, "sizes": {"batch": 1}, "samples": 2.0}],
        "failures": {name: "the GPU is lost"},
        "conditions": [
            {"gpu": "H200", "clock": [1, 2, 3], "temperature": [4, 5], "throttled": ["temperature (hardware)"]}
        ],
    }
    found = decoded(data).benchmarks["model"]
    assert isinstance(found.latencies[0], Latency)
    assert (found.latencies[0].contender, found.baseline) == (entrant, None)
    assert found.failures == (NotMeasured(entrant, "it died"),)
    assert found.scaling.failures == (NotMeasured(entrant, "the GPU is lost"),)
    assert found.scaling.throughputs[0].contender == entrant
    assert found.scaling.conditions[0].throttled == ("hardware temperature",)


@pytest.mark.parametrize(
    ("said", "damage"),
    [
        (
            "points of top1 lost + 1 - cosine to the reference, in onnxruntime",
            Damage("top1", "points", "onnxruntime", true_half=False),
        ),
        ("1 - cosine to the reference, in true half precision", Damage("", "points", "", true_half=True)),
    ],
)
def test_what_a_repair_went_by_is_told_by_fields(said, damage):
    data = written("net")
    data["graphs"][0]["conversion"]["repair"] = {
        "nodes": ["node"],
        "measure": said,
        "before": 2.0,
        "after": 1.0,
        "share": 0.5,
        "evaluations": 3,
        "held": True,
    }
    assert decoded(data).graphs[0].conversion.repair.damage == damage


@pytest.mark.parametrize(
    ("said", "calibration"),
    [
        ("256 samples of the goldens, extremes", Calibration(256, None, "extremes")),
        ("8 samples of noise, and more, NNCF", Calibration(8, "noise, and more", "nncf")),
        ("8 samples of noise, percentile", Calibration(8, "noise", "percentile", 99.99)),
        ("", None),
    ],
)
def test_what_ranges_come_from_is_told_by_fields(said, calibration):
    data = written("net")
    data["graphs"][0]["conversion"]["calibration"] = said
    assert decoded(data).graphs[0].conversion.calibration == calibration


def test_the_fp32_graph_as_the_reference_stays_that():
    data = written("net")
    data["scoring"]["reference"] = "the FP32 graph in ONNX Runtime"
    assert decoded(data).scoring.reference == "source"


def test_what_is_upgraded_stays_as_it_was():
    data = written("net")
    before = json.dumps(data)
    assert upgraded(data)["version"] == MANIFEST_VERSION
    assert json.dumps(data) == before


DAMAGE = [
    lambda data: data.update(variants=7),
    lambda data: data.update(variants=[7]),
    lambda data: data["variants"][0].update(verification="fine"),
    lambda data: data["variants"][0]["verification"].pop("checks"),
    lambda data: data["variants"][0]["verification"]["checks"][0].update(golden=3),
    lambda data: data["variants"][0]["verification"].update(failures=[None]),
    lambda data: data["graphs"][0]["conversion"].update(calibration=12),
    lambda data: data["graphs"][0]["conversion"].update(repair={}),
    lambda data: data["benchmarks"]["model"].update(latencies={}),
    lambda data: data["benchmarks"]["model"].update(latencies=[{"contender": []}]),
    lambda data: data["benchmarks"]["model"].update(runtimes=[1]),
    lambda data: data["benchmarks"].update(model=None),
    lambda data: data["scoring"].update(reference=None),
    lambda data: data["scoring"].update(metrics=[]),
    lambda data: data["choices"]["model"].update(reason=1),
    lambda data: data["choices"]["model"].update(others=["no"]),
    lambda data: data["choices"]["model"].update(others={INT8: {}}),
    lambda data: data.update(gate=[["top1"]]),
]


@pytest.mark.parametrize("number", range(len(DAMAGE)))
def test_a_damaged_manifest_of_version_1_is_refused_as_that(number):
    data = written("net")
    DAMAGE[number](data)
    with pytest.raises(BundleError, match="is damaged"):
        decoded(data)


def test_an_archive_of_version_1_is_packed_again(tmp_path):
    unpack(VERSION1 / "net.zip", tmp_path / "net")
    torchlift.pack(tmp_path / "net", tmp_path / "again.zip")
    unpack(tmp_path / "again.zip", tmp_path / "again")
    assert Bundle.open(tmp_path / "again").manifest == Bundle.open(tmp_path / "net").manifest
