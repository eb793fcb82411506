"""The whole way on a model that lossy precisions break: converted, scored, mended or refused, and chosen."""

import pytest

from torchlift.bundle import Bundle
from torchlift.errors import DataError, InputError
from torchlift.evidence import Gate
from torchlift.progress import Progress
from torchlift.stages import JobOptions, bench_bundle, bisect_bundle, build_bundle, score_bundle

INT8, FP16, FP32 = (f"model/onnxruntime/{p}" for p in ("int8", "fp16", "fp32"))
TIGHT = Gate({"top1": 2.0})


class Notes(Progress):
    def __init__(self):
        self.said = []

    def note(self, text):
        self.said.append(text)


def kept_of(manifest, form):
    return {node.module: node.reason for node in manifest.graph("model", form).conversion.kept}


@pytest.fixture
def broken(colours, job):
    """Built without repair: INT8 is scored, and refused."""
    return build_bundle(colours.path, job("fp32", "int8", gate=TIGHT, evaluations=0)), colours.path


def test_int8_that_breaks_the_task_is_refused_with_the_reason(broken):
    manifest, _ = broken
    scores = manifest.scoring.scores
    assert scores[INT8].metrics["top1"].value < 50
    assert scores[INT8].drops["top1"].low > 40
    assert manifest.choices["model"].variant == FP32
    assert manifest.choices["model"].held
    reason = manifest.choices["model"].others[INT8]
    assert reason.startswith("refused: ")
    assert "at most 2 may" in reason or "cosine" in reason or "scale" in reason


def test_the_node_that_does_it_is_found_and_moved_back(colours, job):
    notes = Notes()
    manifest = build_bundle(colours.path, job("fp32", "int8", gate=TIGHT), notes)
    assert kept_of(manifest, "int8-u8s8")["fragile"].startswith("moved back: ")
    assert "widen" not in kept_of(manifest, "int8-u8s8")
    assert manifest.scoring.scores[INT8].drops["top1"].value <= 2
    repair = manifest.graph("model", "int8-u8s8").conversion.repair
    assert (repair.held, repair.before > 40, repair.after < 1) == (True, True, True)
    assert repair.evaluations <= 40
    assert INT8 not in [n for n, why in manifest.choices["model"].others.items() if "refused" in why]
    assert any(f"{INT8} is mended: 1 nodes stay FP32" in said for said in notes.said)
    Bundle.open(colours.path)


def test_a_mended_graph_is_not_searched_again(colours, job):
    build_bundle(colours.path, job("int8", gate=TIGHT))
    notes = Notes()
    before = Bundle.open(colours.path).manifest
    again = build_bundle(colours.path, job("int8", gate=TIGHT), notes)
    assert again.graphs == before.graphs
    assert not any("mended" in said for said in notes.said)


def test_bisect_names_the_module_and_the_options_that_keep_it(broken, job):
    _, path = broken
    before = Bundle.open(path).manifest
    report = bisect_bundle(path, INT8, job())
    worst = report.search.findings[0]
    assert [unit.module for unit in worst.items] == ["fragile"]
    assert worst.damage > 40
    assert report.fix == "--keep model:fragile"
    assert report.search.evaluations <= 40
    noises = {noise.unit.module: min(noise.weight, noise.activation) for noise in report.noise}
    assert noises.keys() == {"widen", "louden", "fragile", "head"}
    assert [*noises.values()] == sorted(noises.values())
    assert all(20 < decibels < 70 for decibels in noises.values())
    assert Bundle.open(path).manifest == before


def test_what_bisect_prints_mends_the_model(colours, job):
    manifest = build_bundle(colours.path, job("int8", gate=TIGHT, keep=("model:fragile",), evaluations=0))
    assert kept_of(manifest, "int8-u8s8")["fragile"] == "it was asked to stay"
    assert manifest.scoring.scores[INT8].drops["top1"].value <= 2


def test_a_name_to_keep_that_is_not_there_is_an_error(colours, job):
    with pytest.raises(InputError, match="no node and no module is called 'fragil'") as error:
        build_bundle(colours.path, job("int8", keep=("model:fragil",)))
    assert error.value.remedy == "Did you mean fragile?"
    with pytest.raises(InputError, match="--keep image:fragile names no component"):
        build_bundle(colours.path, job("int8", keep=("image:fragile",)))


def test_where_nothing_that_was_asked_for_holds_fp32_serves_and_it_is_said(colours, job):
    manifest = build_bundle(colours.path, job("int8", gate=TIGHT, evaluations=0))
    choice = manifest.choices["model"]
    assert (choice.variant, choice.held) == (FP32, False)
    assert "none of what was asked for holds top1 within 2" in choice.reason
    assert manifest.scoring.together.drops["top1"].value == 0


def test_the_gate_stays_with_the_bundle(broken, job):
    manifest, path = broken
    assert bench_bundle(path, job().bench).choices["model"].variant == FP32
    assert manifest.gate == TIGHT
    loose = score_bundle(path, job(gate=Gate({"top1": 100.0}, "size")))
    assert loose.gate.objective == "size"
    refused = loose.choices["model"].others.get(INT8, "")
    assert "drops" not in refused


def test_int8_is_not_made_without_samples_to_calibrate_on(colours, job):
    with pytest.raises(InputError, match="int8 needs samples to calibrate on") as error:
        build_bundle(colours.path, job("int8", calibrated=False))
    assert "--calibration" in error.value.remedy


def test_a_gate_needs_data():
    with pytest.raises(InputError, match="top1 within 2 cannot be held without data"):
        JobOptions(gate=TIGHT)


def test_an_unknown_metric_is_an_error_that_leaves_the_gate_as_it_was(colours, job):
    with pytest.raises(DataError, match="no metric 'recall@1'"):
        build_bundle(colours.path, job("fp32", gate=Gate({"recall@1": 1.0})))
    assert Bundle.open(colours.path).manifest.gate == Gate()


def test_numbers_beyond_fp16_stay_fp32_and_the_rest_comes_out_right(overflowing, job):
    manifest = build_bundle(overflowing.path, job("fp16", gate=TIGHT, calibrated=False))
    graph = manifest.graph("model", "fp16")
    large = [node for node in graph.conversion.kept if "FP16 holds 65504" in node.reason]
    assert {node.operator for node in large} == {"Mul"}
    assert graph.conversion.share > 0.5
    assert manifest.choices["model"].variant == FP16
    assert manifest.scoring.scores[FP16].drops["top1"].value == 0
    half = [c for c in manifest.variant(FP16).verification.checks if c.golden == "min in true half precision"]
    assert [c.difference.nan + c.difference.inf for c in half] == [0]


def test_later_machines_use_the_graphs_that_are_there(colours, job):
    made = build_bundle(colours.path, job("int8", gate=TIGHT)).graphs
    later = build_bundle(colours.path, job("int8", calibrated=False))
    assert later.graphs == made
    assert not later.variant(INT8).failure
