"""The options and commands on what a precision costs: the gate, calibration, score and bisect."""

import json
import shutil
from dataclasses import replace

import gated
import numpy as np
import pytest
from PIL import Image
from shipped import misused, refused, torchlift

from torchlift.bundle import Bundle
from torchlift.evidence import Gate

FP32, INT8, DYNAMIC = (f"model/onnxruntime/{recipe}" for recipe in ("fp32", "int8", "int8-dynamic"))
ORT = ("--backend", "onnxruntime", "--batch", 1)

pytestmark = pytest.mark.usefixtures("unmeasured")


def row_of(text, *words):
    """The only line that starts with these words."""
    (line,) = (line for line in text.splitlines() if line.split()[: len(words)] == [*words])
    return " ".join(line.split())


def build(bundle, *arguments):
    return torchlift("build", bundle, *ORT, *arguments)


# ship and build


def test_ship_prints_what_was_converted_scored_refused_and_chosen(colours):
    out = colours.said.out
    assert "4 of 5 nodes" in row_of(out, "model/int8-u8s8")
    assert "32 samples of" in row_of(out, "model/int8-u8s8")
    assert "conv: it reads the input itself" in row_of(out, "model/int8-u8s8")
    assert row_of(out, "onnxruntime", "fp32").endswith("chosen")
    assert "refused: " in row_of(out, "onnxruntime", "int8")
    assert "top1" in row_of(out, "variant", "precision")
    assert "against PyTorch FP32" in " ".join(out.split())
    chosen = next(line for line in out.splitlines() if line.startswith("chosen: "))
    assert chosen.startswith(f"chosen: {FP32}: top1 ")
    assert chosen.endswith("drop 0.00 [0.00, 0.00]; gate: top1 within 2")


def test_ship_keeps_what_it_found_in_the_bundle(colours):
    manifest = Bundle.open(colours.path).manifest
    assert manifest.gate == Gate({"top1": 2.0})
    assert manifest.scoring.reference == "pytorch"
    assert manifest.scoring.data.samples == {"images": 96, "classes": 8}
    assert manifest.scoring.scores[INT8].drops["top1"].value > 40
    assert manifest.choices["model"].variant == FP32


def test_ship_calibrates_on_the_split_train_beside_the_one_that_is_scored(colours):
    graph = Bundle.open(colours.path).manifest.graph("model", "int8-u8s8")
    calibration = graph.conversion.calibration
    assert (calibration.samples, "train" in calibration.source) == (32, True)


@pytest.mark.parametrize("as_json", [False, True])
def test_a_gate_that_nothing_passes_exits_with_3_after_the_table_and_fp32_serves(colours_copy, coloured, as_json):
    arguments = ("--precision", "int8", "--data", coloured, "--within", "top1=2", "--evaluations", 0)
    said = build(colours_copy, *arguments, *["--json"] * as_json)
    message, remedy = refused(said, code=3, printed=True)
    assert message == "no variant of model that was asked for holds top1 within 2: FP32 serves instead"
    assert "--within" in remedy
    assert "torchlift bisect" in remedy
    choice = Bundle.open(colours_copy).manifest.choices["model"]
    assert (choice.variant, choice.held) == (FP32, False)
    if as_json:
        assert json.loads(said.out)["choices"]["model"]["variant"] == FP32
    else:
        assert "refused: " in row_of(said.out, "onnxruntime", "int8")
        assert "refused: " in row_of(said.out, "onnxruntime", "int8-dynamic")
        assert row_of(said.out, "onnxruntime", "fp32").endswith("chosen")
    picture = coloured / "val" / "colour3" / "0.png"
    answer = torchlift("run", colours_copy, "--input", f"image={picture}", "--json")
    assert json.loads(answer.out)["logits"][0][0][0] == "colour3"


def test_a_gate_that_nothing_passes_exits_with_3_also_with_v(colours_copy, coloured):
    arguments = ("--precision", "int8", "--data", coloured, "--within", "top1=2", "--evaluations", 0)
    refused(build(colours_copy, *arguments, "-v"), code=3, printed=True)


def test_what_was_broken_is_mended_and_serves(colours_copy, coloured):
    said = build(colours_copy, "--precision", "int8", "--data", coloured, "--within", "top1=2")
    assert said.code == 0, said.err
    assert f"{INT8} is mended by FP32 for fragile (" in said.err
    assert "fragile: moved back: " in " ".join(said.out.split())
    assert "mended after" in " ".join(said.out.split())
    assert Bundle.open(colours_copy).manifest.variant(INT8).verification.passed


def test_keep_leaves_in_fp32_what_is_named(colours_copy, coloured):
    arguments = ("--precision", "int8", "--data", coloured, "--within", "top1=2", "--evaluations", 0)
    said = build(colours_copy, *arguments, "--keep", "model:fragile")
    assert said.code == 0, said.err
    assert "3 of 5 nodes" in row_of(said.out, "model/int8-u8s8")
    assert "fragile: it was asked to stay" in " ".join(said.out.split())
    choice = Bundle.open(colours_copy).manifest.choices["model"]
    assert choice.variant in (INT8, DYNAMIC)
    assert choice.held


def test_the_objective_decides_among_those_that_hold(colours_copy, coloured):
    arguments = ("--precision", "fp32,int8", "--data", coloured, "--within", "top1=100", "--evaluations", 0)
    said = build(colours_copy, *arguments, "--objective", "size")
    assert said.code == 0, said.err
    manifest = Bundle.open(colours_copy).manifest
    assert manifest.gate == Gate({"top1": 100.0}, "size")
    sizes = {v.name: manifest.size(v) for v in manifest.variants if v.verification.passed}
    chosen = manifest.choices["model"]
    assert sizes[chosen.variant] <= 1.02 * min(sizes.values())
    assert chosen.gate.objective == "size"


@pytest.mark.parametrize("calibrator", ["entropy", "percentile"])
def test_the_calibrator_is_said(colours_copy, coloured, calibrator):
    arguments = ("--precision", "int8", "--calibration", coloured / "val", "--evaluations", 0)
    said = build(colours_copy, *arguments, "--calibrator", calibrator, "--calibration-samples", 24)
    assert said.code in (0, 3), said.err
    done = Bundle.open(colours_copy).manifest.graph("model", "int8-u8s8").conversion
    assert (done.calibration.samples, done.calibration.method) == (24, calibrator)


def test_arrays_can_calibrate(colours_copy, tmp_path):
    np.savez(tmp_path / "samples.npz", image=gated.images(2))
    said = build(colours_copy, "--precision", "int8", "--calibration", tmp_path / "samples.npz", "--evaluations", 0)
    assert said.code in (0, 3), said.err
    done = Bundle.open(colours_copy).manifest.graph("model", "int8-u8s8").conversion
    assert (done.calibration.samples, done.calibration.source) == (16, "samples.npz")


# score


def test_score_prints_every_variant_with_its_drop_and_the_gate(colours_copy, coloured):
    said = torchlift("score", colours_copy, "--data", coloured)
    assert said.code == 0, said.err
    assert row_of(said.out, "PyTorch", "FP32").startswith("PyTorch FP32 top1 100.00 [100.00, 100.00]")
    assert row_of(said.out, FP32) == f"{FP32} top1 100.00 [100.00, 100.00] 0.00 [0.00, 0.00] holds"
    assert row_of(said.out, "the", "chosen", "together").endswith("0.00 [0.00, 0.00] holds")
    manifest = Bundle.open(colours_copy).manifest
    for name in manifest.scoring.scores.keys() - {FP32}:
        assert "refused: top1 drops by" in row_of(said.out, name)
    assert "96 images" in said.out
    assert "top5" not in said.out


def test_score_with_v_shows_every_metric(colours_copy, coloured):
    said = torchlift("score", colours_copy, "--data", coloured, "-v")
    assert said.code == 0, said.err
    assert row_of(said.out, "variant") == "variant metric score drop gate"
    assert len([line for line in said.out.splitlines() if line.split()[:1] == ["top5"]]) == 4, "of each variant"


def test_score_prints_json(colours_copy, coloured):
    said = torchlift("score", colours_copy, "--data", coloured, "--limit", 16, "--json")
    assert said.code == 0, said.err
    scoring = json.loads(said.out)
    assert (scoring["task"], scoring["primary"]) == ("classification", "top1")
    assert scoring["data"]["samples"]["images"] == 16
    assert scoring["reference"] == "source", "PyTorch answered to other pictures"
    assert scoring["scores"][FP32]["drops"]["top1"]["value"] == 0


def test_score_asks_pytorch_where_it_is_told_where_that_is(colours_copy, colours, coloured):
    arguments = ("--data", coloured, "--limit", 16, "--module", colours.source, "--json")
    said = torchlift("score", colours_copy, *arguments)
    assert said.code == 0, said.err
    assert json.loads(said.out)["reference"] == "pytorch"


def test_score_chooses_again_by_another_gate(colours_copy, coloured):
    assert torchlift("score", colours_copy, "--data", coloured, "--within", "top1=100").code == 0
    manifest = Bundle.open(colours_copy).manifest
    assert manifest.gate == Gate({"top1": 100.0})
    assert not any(verdict.breach for verdict in manifest.choices["model"].others.values())


def test_another_objective_leaves_the_limits_as_they_were(colours_copy, coloured):
    assert torchlift("score", colours_copy, "--data", coloured, "--objective", "size").code == 0
    assert Bundle.open(colours_copy).manifest.gate == Gate({"top1": 2.0}, "size")
    assert torchlift("score", colours_copy, "--data", coloured, "--within", "top1=3").code == 0
    assert Bundle.open(colours_copy).manifest.gate == Gate({"top1": 3.0}, "size")


def test_a_confidence_stays_with_the_gate_until_another_is_asked_for_and_all_is_scored_at_it(colours_copy, coloured):
    def gate(*asked):
        said = torchlift("score", colours_copy, "--data", coloured, *asked)
        manifest = Bundle.open(colours_copy).manifest
        intervals = [*manifest.scoring.metrics.values()]
        for score in (*manifest.scoring.scores.values(), manifest.scoring.together):
            intervals += [*score.metrics.values(), *score.drops.values()]
        return manifest.gate, {interval.confidence for interval in intervals}, " ".join(said.out.split())

    found, confidences, said = gate("--confidence", 90)
    assert (found, confidences) == (Gate({"top1": 2.0}, confidence=90.0), {90.0})
    assert "with 90% intervals" in said
    assert "refused: top1: drop at 90% at most" in said
    assert "The gate goes by what a drop is at 90% at most." in said
    found, confidences, _ = gate("--within", "top1=3")
    assert (found, confidences) == (Gate({"top1": 3.0}, confidence=90.0), {90.0})
    found, confidences, said = gate("--confidence", "none")
    assert (found, confidences) == (Gate({"top1": 3.0}), {95.0})
    assert "The gate goes by the estimate of a drop." in said


def test_a_limit_beyond_all_points_is_refused(colours_copy, coloured):
    message, remedy = refused(torchlift("score", colours_copy, "--data", coloured, "--within", "top1=101"))
    assert message == "top1 within 101 allows everything: it is a share, of 100 points in all"
    assert "--within" in remedy


@pytest.mark.parametrize("asked", [("--confidence", 90), ("--within", "top1=2", "--confidence", 90)])
def test_a_confidence_without_data_is_refused(colours_copy, asked):
    message, remedy = refused(build(colours_copy, *asked))
    assert "90%" in message
    assert "--data" in remedy


def test_a_report_changes_nothing(colours_copy, coloured):
    before = Bundle.open(colours_copy).manifest
    said = torchlift("score", colours_copy, "--data", coloured, "--split", "train", "--report", "--json")
    assert said.code == 0, said.err
    scoring = json.loads(said.out)
    assert scoring["data"]["samples"]["images"] == 32
    assert scoring["scores"].keys() == before.scoring.scores.keys()
    assert Bundle.open(colours_copy).manifest == before


def test_a_classifier_has_no_files_to_write(colours_copy, coloured, tmp_path):
    said = torchlift("score", colours_copy, "--data", coloured, "--write", tmp_path / "files")
    message, remedy = refused(said)
    assert message == "classification has no files of its own"
    assert remedy == "Leave --write out."
    assert not (tmp_path / "files").exists()


def test_score_needs_data(colours_copy):
    message, remedy = refused(torchlift("score", colours_copy))
    assert "no data to score on" in message
    assert "--data" in remedy


# bisect


def test_bisect_names_the_module_and_prints_what_to_paste(colours_copy, coloured):
    before = Bundle.open(colours_copy).manifest
    said = torchlift("bisect", colours_copy, "--variant", INT8, "--data", coloured)
    assert said.code == 0, said.err
    lines = said.out.splitlines()
    first = next(i for i, line in enumerate(lines) if "cost alone" in line) + 1
    assert lines[first].split()[-1] == "fragile", "the worst comes first"
    assert "To keep the worst in FP32: --keep model:fragile" in lines
    assert "points of top1 lost" in " ".join(said.out.split())
    assert "signal-to-noise in dB" in said.out
    assert {*["widen", "louden", "fragile", "head"]} <= {*said.out.split()}
    assert Bundle.open(colours_copy).manifest == before


def test_bisect_prints_json_within_the_evaluations_given(colours_copy, coloured):
    arguments = ("--variant", INT8, "--data", coloured, "--evaluations", 3)
    said = torchlift("bisect", colours_copy, *arguments, "--json")
    assert said.code == 0, said.err
    report = json.loads(said.out)
    assert report["variant"] == INT8
    assert report["search"]["evaluations"] <= 3
    assert {unit["module"] for finding in report["search"]["findings"] for unit in finding["items"]} == {
        "widen",
        "louden",
        "fragile",
        "head",
    }
    assert report["search"]["findings"][0]["items"][0]["module"] == "fragile"


def test_bisect_prints_no_more_than_asked(colours_copy):
    said = torchlift("bisect", colours_copy, "--variant", INT8, "--top", 1)
    assert said.code == 0, said.err
    table = said.out.partition("cost: ")[0]
    assert len([line for line in table.splitlines() if "node_" in line]) == 1


def test_bisect_looks_into_the_runtime_of_what_was_not_converted(colours_copy):
    shown = torchlift("bisect", colours_copy, "--variant", FP32)
    assert (shown.code, f"{FP32} answers as PyTorch does" in shown.out) == (0, True)
    found = json.loads(torchlift("bisect", colours_copy, "--variant", FP32, "--json").out)
    assert (found["variant"], found["answers"], found["partings"]) == (FP32, [], [])


def test_bisect_refuses_a_variant_that_is_not_there(colours_copy):
    message, remedy = refused(torchlift("bisect", colours_copy, "--variant", "model/onnxruntime/fp61"))
    assert "no variant 'model/onnxruntime/fp61'" in message
    assert INT8 in remedy


def test_inspect_shows_what_was_converted_and_scored(colours):
    out = torchlift("inspect", colours.path).out
    assert "refused: " in row_of(out, "onnxruntime", "int8")


# bad input


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (("--within", "top1"), "--within top1: write METRIC=DROP"),
        (("--within", "top1="), "--within top1=: write METRIC=DROP"),
        (("--within", "=1"), "--within =1: write METRIC=DROP"),
        (("--within", "top1=-1"), "--within top1=-1: write METRIC=DROP"),
        (("--within", "top1=inf"), "--within top1=inf: write METRIC=DROP"),
        (("--confidence", "much"), "--confidence much: write a percentage from 50"),
        (("--confidence", "100"), "--confidence 100: write a percentage from 50"),
        (("--confidence", "nan"), "--confidence nan: write a percentage from 50"),
        (("--within", "top1=nan"), "--within top1=nan: write METRIC=DROP"),
        (("--within", "top1=little"), "--within top1=little: write METRIC=DROP"),
        (("--within", "top1=1", "--within", "top5"), "--within top5: write METRIC=DROP"),
        (("--objective", "beauty"), "'--objective'"),
        (("--keep", "fragile"), "--keep fragile: write COMPONENT:NAME"),
        (("--keep", "model:"), "--keep model:: write COMPONENT:NAME"),
        (("--keep", ":fragile"), "--keep :fragile: write COMPONENT:NAME"),
        (("--calibrator", "magic"), "'magic' is not one of 'minmax', 'entropy', 'percentile'"),
        (("--calibration-samples", "0"), "'--calibration-samples'"),
        (("--limit", "0"), "'--limit'"),
        (("--evaluations", "-1"), "'--evaluations'"),
        (("--precision", "int4"), "--precision int4: choose from fp32"),
    ],
)
def test_options_that_cannot_be_read_are_wrong_usage(colours_copy, coloured, arguments, fragment):
    before = Bundle.open(colours_copy).manifest
    assert fragment in misused(build(colours_copy, "--data", coloured, *arguments))
    assert Bundle.open(colours_copy).manifest == before


@pytest.mark.parametrize(
    ("arguments", "fragment"),
    [
        (("score", "x", "--checkpoint", "a.pt", "--module", "b.py:c"), "--checkpoint or --module, not both"),
        (("score", "x", "--within", "recall@1"), "--within recall@1: write METRIC=DROP"),
        (("bisect", "x"), "Missing option '--variant'"),
        (("bisect", "x", "--variant", "y", "--top", "0"), "'--top'"),
        (("bisect", "x", "--variant", "y", "--within", "top1=1"), "No such option"),
    ],
)
def test_wrong_usage_of_score_and_bisect(arguments, fragment):
    assert fragment in misused(torchlift(*arguments))


@pytest.fixture
def bare(colours_copy):
    """The classifier as `torchlift export` leaves it, but for the gate."""
    bundle = Bundle.open(colours_copy)
    bundle.commit(replace(bundle.manifest, graphs=(), variants=(), scoring=None, choices={}, benchmarks={}))
    return colours_copy


@pytest.mark.parametrize(
    ("metric", "remedy"),
    [
        ("tpo1", "Did you mean top1?"),
        ("acc@5", "Did you mean top5?"),
        ("loss", "The metrics are top1, top5."),
    ],
)
def test_a_metric_that_the_task_lacks_is_refused_with_the_nearest(colours_copy, coloured, metric, remedy):
    before = Bundle.open(colours_copy).manifest
    said = build(colours_copy, "--precision", "fp32", "--data", coloured, "--within", f"{metric}=1")
    message, advice = refused(said)
    assert message == f"classification has no metric {metric!r}"
    assert remedy in advice
    assert Bundle.open(colours_copy).manifest == before


def test_a_gate_without_data_is_refused(colours_copy):
    message, remedy = refused(build(colours_copy, "--within", "top1=1"))
    assert message == "top1 within 1 cannot be held without data"
    assert "--data" in remedy


def test_int8_without_samples_is_refused(bare, coloured):
    message, remedy = refused(build(bare, "--precision", "int8", "--data", coloured / "val"))
    assert message == "int8 needs samples to calibrate on, and none are given"
    assert "--calibration" in remedy
    assert Bundle.open(bare).manifest.variants == ()


@pytest.mark.parametrize(
    ("shape", "dtype", "words"),
    [
        ((4, 3, 16), np.float32, "samples.npz: image is float32[4, 3, 16]"),
        ((4, 3, 8, 8), np.float32, "samples.npz: "),
        ((4, 3, 16, 16), np.float64, "float64"),
        ((0, 3, 16, 16), np.float32, "0 rows"),
    ],
)
def test_samples_of_the_wrong_shape_are_refused(bare, tmp_path, shape, dtype, words):
    np.savez(tmp_path / "samples.npz", image=np.zeros(shape, dtype))
    message, remedy = refused(build(bare, "--precision", "int8", "--calibration", tmp_path / "samples.npz"))
    assert words in message
    assert remedy
    assert Bundle.open(bare).manifest.variants == ()


def test_samples_of_something_else_make_no_graph_and_the_reason_is_told(bare, tmp_path):
    np.savez(tmp_path / "samples.npz", picture=np.zeros((4, 3, 16, 16), np.float32))
    said = build(bare, "--precision", "int8", "--calibration", tmp_path / "samples.npz", "--evaluations", 0)
    assert said.code in (1, 3)
    assert "nothing there for the component model" in " ".join((said.out + said.err).split())


@pytest.mark.parametrize("option", ["--data", "--calibration"])
def test_data_that_are_missing_or_empty_are_refused(bare, coloured, tmp_path, option):
    (tmp_path / "empty").mkdir()
    (tmp_path / "bare" / "val" / "cat").mkdir(parents=True)
    (tmp_path / "notes.pdf").write_text("no data")
    other = ("--calibration", coloured / "train") if option == "--data" else ("--data", coloured / "val")
    for name, words in {
        "missing": f"{tmp_path / 'missing'} does not exist",
        "empty": str(tmp_path / "empty"),
        "bare": "cat",
        "notes.pdf": "is no data set that is known",
    }.items():
        said = build(bare, "--precision", "fp32,int8", option, tmp_path / name, *other)
        message, _ = refused(said)
        assert words in message, (name, message)


def test_a_record_that_cannot_be_read_is_skipped_and_named_or_an_error_if_asked(colours_copy, coloured, tmp_path):
    data = shutil.copytree(coloured / "val", tmp_path / "val")
    (data / "colour2" / "3.png").write_bytes(b"\x89PNG and nothing more")
    said = torchlift("score", colours_copy, "--data", data)
    assert said.code == 0, said.err
    assert "1 records of val are skipped: " in said.err
    assert "colour2/3.png" in said.err
    assert "1 records were skipped" in said.out
    message, remedy = refused(torchlift("score", colours_copy, "--data", data, "--strict-data"))
    assert "colour2/3.png" in message
    assert "--strict" in remedy


def test_pictures_without_classes_calibrate_and_score_by_agreement(colours_copy, tmp_path):
    (tmp_path / "pictures").mkdir()
    for seed in range(4):
        pixels = np.random.default_rng(seed).integers(0, 256, (20, 24, 3), np.uint8)
        Image.fromarray(pixels).save(tmp_path / "pictures" / f"{seed}.png")
    scored = torchlift("score", colours_copy, "--data", tmp_path / "pictures", "--within", "agreement=1", "--json")
    assert scored.code == 0, scored.err
    scoring = Bundle.open(colours_copy).manifest.scoring
    assert (scoring.task, scoring.data.samples) == ("agreement", {"images": 4})
    assert scoring.scores["model/onnxruntime/fp32"].drops["agreement"].value == 0
    said = build(colours_copy, "--precision", "int8", "--calibration", tmp_path / "pictures", "--evaluations", 0)
    assert said.code in (0, 3), said.err
    graph = Bundle.open(colours_copy).manifest.graph("model", "int8-u8s8")
    assert (graph.conversion.calibration.samples, graph.conversion.calibration.source) == (4, "pictures")


def test_a_split_that_is_not_there_is_refused_with_those_that_are(colours_copy, coloured):
    message, remedy = refused(torchlift("score", colours_copy, "--data", coloured, "--split", "vall"))
    assert "'vall'" in message
    assert "train, val" in remedy
