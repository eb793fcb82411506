"""Tables of conversions, scores and searches, at the widths of terminals."""

from dataclasses import replace

import pytest
from rich.console import Console

from torchlift.bundle import Bundle
from torchlift.cli.accuracy import conversions_table, findings_tables, scores_table, together_line
from torchlift.cli.tables import manifest_tables
from torchlift.convert.calibration import UnitNoise
from torchlift.convert.search import Finding, Search
from torchlift.evidence import Damage, Gate, Interval, KeptNode, Measure, Repair
from torchlift.graph.units import Unit
from torchlift.jobs import BisectReport

WIDTHS = [80, 100, 120, 132, 160]
LAYER = "encoder.layers.{}.attention.output.dense"
REASON = "alone it costs 12.5: a reason that is as long as reasons are"


def shown(width, *renderables):
    """The lines that a console of ``width`` columns prints."""
    console = Console(width=width, markup=False, emoji=False, highlight=False)
    with console.capture() as capture:
        for renderable in renderables:
            console.print(renderable)
    lines = capture.get().splitlines()
    assert max(map(len, lines)) <= width
    assert not any("…" in line for line in lines), "nothing is cut off"
    return lines


def words(lines):
    return " ".join(" ".join(lines).split())


def letters(lines):
    """What is printed without white space: long names may be broken anywhere."""
    return "".join("".join(lines).split())


def assert_whole(width, *renderables):
    """That a narrow table shows every letter of the widest, wherever its lines are broken."""
    assert sorted(letters(shown(width, *renderables))) == sorted(letters(shown(400, *renderables)))


@pytest.fixture(scope="module")
def manifest(colours):
    """The shipped classifier, with a graph that was mended, one that failed, and a score of the choice."""
    manifest = Bundle.open(colours.path).manifest
    graph = manifest.graph("model", "int8-u8s8")
    kept = (
        KeptNode("node_Conv_0", "Conv", "conv", "it reads the input itself"),
        *(KeptNode(f"node_MatMul_{i}", "MatMul", LAYER.format(i), REASON) for i in range(5)),
        KeptNode("node_MatMul_9", "MatMul", "", "it was asked to stay"),
    )
    repair = Repair(
        ("node_MatMul_1",), Damage("top1", "points", "onnxruntime", true_half=False), 87.53, 0.251, 0.8, 17, held=True
    )
    mended = replace(graph, conversion=replace(graph.conversion, kept=kept, repair=repair))
    failed = replace(
        graph, form="fp16", failure="nothing of it is within the range of [half]", files=(), conversion=None
    )
    return manifest.with_graph(mended).with_graph(failed)


@pytest.fixture(scope="module")
def report():
    units = [Unit(f"node_MatMul_{i}", "MatMul", LAYER.format(i)) for i in range(12)]
    findings = (
        Finding((units[3],), 20.0),
        Finding((units[5], units[6]), 4.0),
        Finding(tuple(units[7:]), 1.0),
        Finding((Unit("node_Gemm_99", "Gemm", ""),), 0.0),
    )
    keep = (f"image:{LAYER.format(3)}", f"image:{LAYER.format(5)}")
    noise = tuple(UnitNoise(unit, 30.0 + i, None if i % 2 else 20.0 + i) for i, unit in enumerate(units))
    return BisectReport(
        "image/onnxruntime/int8",
        Damage("recall@1", "points", "onnxruntime", true_half=False),
        Search(25.0, findings, 33),
        seconds=7.4,
        keep=keep,
        noise=noise,
    )


@pytest.mark.parametrize("width", WIDTHS)
@pytest.mark.parametrize("verbose", [False, True])
def test_every_width_shows_what_was_converted(manifest, width, verbose):
    assert_whole(width, conversions_table(manifest, verbose=verbose))


@pytest.mark.parametrize("verbose", [False, True])
def test_what_was_converted_is_told_by_reason(manifest, verbose):
    text = words(shown(400, conversions_table(manifest, verbose=verbose)))
    assert "4 of 5 nodes" in text
    assert "conv: it reads the input itself" in text
    assert "not converted: nothing of it is within the range of [half]" in text
    assert "mended after 17 trials: points of top1 lost + 1 - cosine to the reference, in onnxruntime went" in text
    assert "went from 87.5 to 0.251" in text
    assert "node_MatMul_9: it was asked to stay" in text, "a node that is of no module is told by its own name"
    assert (LAYER.format(4) in text) == verbose
    assert ("and 2 more" in text) != verbose


def test_a_repair_in_vain_is_told_as_that(manifest):
    graph = manifest.graph("model", "int8-u8s8")
    vain = replace(graph.conversion, repair=replace(graph.conversion.repair, held=False))
    text = letters(shown(160, conversions_table(manifest.with_graph(replace(graph, conversion=vain)))))
    assert "mendedinvainafter17trials" in text


@pytest.mark.parametrize("width", WIDTHS)
def test_every_width_shows_every_score(manifest, width):
    assert_whole(width, scores_table(manifest))


@pytest.mark.parametrize("width", [80, 120, 160])
def test_every_width_shows_every_metric(manifest, width):
    """Retrieval has eight metrics."""
    scoring = manifest.scoring
    names = [f"{way}recall@{k}" for way in ("", "i2t_") for k in (1, 5, 10)]

    def widened(metrics):
        return {**metrics, **dict.fromkeys(names, metrics["top1"])}

    scores = {
        name: replace(score, metrics=widened(score.metrics), drops=widened(score.drops))
        for name, score in scoring.scores.items()
    }
    many = replace(scoring, metrics=widened(scoring.metrics), scores=scores, together=None)
    lines = shown(width, scores_table(replace(manifest, scoring=many), verbose=True))
    assert sum("model/onnxruntime/int8-dynamic" in line for line in lines) == 1 or width < 160
    assert all(any(name in line.split() for line in lines) for name in names)
    assert len(lines) < 80


@pytest.mark.parametrize("verbose", [False, True])
def test_scores_are_told_with_drops_intervals_and_verdicts(manifest, verbose):
    text = words(shown(400, scores_table(manifest, verbose=verbose)))
    for name, score in manifest.scoring.scores.items():
        drop = score.drops["top1"]
        assert name in text
        assert f"{drop.value:.2f} [{drop.low:.2f}, {drop.high:.2f}]" in text
    for said in ("PyTorch FP32", "the chosen together", "refused: top1 drops by", "96 images"):
        assert said in text
    assert ("top5" in text) == verbose


def test_a_metric_is_told_in_its_unit_and_direction(manifest):
    noise = replace(manifest.scoring, measures={"top1": Measure("dB", "lower"), "top5": Measure()})
    other = replace(manifest, scoring=noise)
    assert "In dB, rise in dB on" in words(shown(160, scores_table(other)))
    assert "top1 rises by" in words(shown(160, scores_table(other)))
    both = words(shown(160, scores_table(other, verbose=True)))
    assert "top1 in dB, rise in dB; top5 in percent, drop in points on" in both
    assert "top1 in dB on" in words(shown(160, *manifest_tables(other, 160)))
    assert "Percent, drop in points on" in words(shown(160, scores_table(manifest)))


def test_a_gate_with_a_confidence_says_so_in_every_table(manifest):
    surely = replace(manifest, gate=Gate({"top1": 2.0}, confidence=95.0))
    said = "The gate goes by what a drop is at 95% at most."
    assert said in words(shown(160, scores_table(surely)))
    assert said in words(shown(160, *manifest_tables(surely, 160)))
    assert "refused: top1: drop at 95% at most" in words(shown(160, scores_table(surely)))
    assert together_line(surely).endswith("gate: top1 within 2 at 95% confidence")
    assert said not in words(shown(160, scores_table(manifest)))


def test_the_metric_of_the_gate_is_the_one_that_is_shown(manifest):
    by_top5 = replace(manifest, gate=Gate({"top5": 1.0}))
    assert "top5" in words(shown(160, scores_table(by_top5)))
    assert "top1" not in words(shown(160, scores_table(by_top5)))
    assert together_line(by_top5).endswith("gate: top5 within 1")


def test_without_a_gate_there_is_no_verdict(manifest):
    text = words(shown(160, scores_table(replace(manifest, gate=Gate()))))
    assert "refused" not in text
    assert "holds" not in text
    assert "gate:" not in together_line(replace(manifest, gate=Gate()))


def test_what_was_not_scored_together_has_no_line(manifest):
    assert together_line(manifest).startswith("model/onnxruntime/fp32: top1 ")
    assert together_line(replace(manifest, scoring=replace(manifest.scoring, together=None))) == ""
    assert together_line(replace(manifest, scoring=None)) == ""


def test_a_metric_that_is_no_number_for_a_variant_is_refused_and_shown_as_a_dash(manifest):
    scoring = manifest.scoring
    name = next(iter(scoring.scores))
    empty = replace(scoring.scores[name], metrics={}, drops={})
    other = replace(manifest, scoring=replace(scoring, scores={name: empty}, together=empty), gate=Gate({"top1": 1.0}))
    text = words(shown(160, scores_table(other)))
    assert "top1 - - refused" in text
    assert "top1 -, drop -" in together_line(other)
    for table in manifest_tables(other, 160):
        shown(160, table)


def test_records_that_were_skipped_are_told(manifest):
    assert "skipped" not in words(shown(160, scores_table(manifest)))
    data = replace(manifest.scoring.data, unusable=2, skipped=("a.png: it has no end", "b.png: it is no picture"))
    text = words(shown(160, scores_table(replace(manifest, scoring=replace(manifest.scoring, data=data)))))
    assert "2 records were skipped: a.png: it has no end; b.png: it is no picture." in text


@pytest.mark.parametrize("width", [100, 120, 132, 160])
def test_the_main_table_shows_scores_at_every_width(manifest, width):
    lines = shown(width, *manifest_tables(manifest, width))
    score = manifest.scoring.scores["model/onnxruntime/int8"]
    (row,) = (line.split() for line in lines if line.split()[1:2] == ["int8"])
    assert row[0].startswith("onnx")
    assert f"{score.metrics['top1'].value:.2f}" in row
    assert f"{score.drops['top1'].value:.2f}" in row
    assert "drop in points against PyTorch FP32" in words(lines)


def test_the_main_table_says_where_the_task_was_not_scored(manifest):
    lines = shown(160, *manifest_tables(replace(manifest, scoring=None, gate=Gate()), 160))
    assert "The task was not scored." in words(lines)
    assert "drop" not in words(lines).split()


@pytest.mark.parametrize("width", WIDTHS)
def test_every_width_shows_what_costs_the_accuracy(report, width):
    assert_whole(width, *findings_tables(report, 10, verbose=True))


def test_what_costs_the_accuracy_is_told_by_node_and_module_with_the_fix(report):
    text = words(shown(400, *findings_tables(report, 10)))
    for finding in report.search.findings:
        assert finding.items[0].node in text
        assert finding.items[-1].module in text
    assert "(a function)" in text, "a node that is of no module"
    for said in (
        " ".join(f"--keep {name}" for name in report.keep),
        "80%",
        "33 evaluations",
        "points of recall@1 lost",
    ):
        assert said in text


def test_only_the_worst_are_shown_unless_asked(report):
    top = letters(shown(160, *findings_tables(report, 1)))
    assert "node_MatMul_3" in top
    assert "node_Gemm_99" not in top
    assert len([line for line in shown(160, *findings_tables(report, 1)) if "41.0" in line]) == 0
    assert len([line for line in shown(160, *findings_tables(report, 1, verbose=True)) if "41.0" in line]) == 1


def test_a_graph_that_loses_nothing_has_nothing_to_fix(report):
    clean = replace(report, search=Search(0.0, (Finding(report.search.findings[0].items, 0.0),), 1), keep=(), noise=())
    text = words(shown(160, *findings_tables(clean, 10)))
    assert "To keep" not in text
    assert "signal-to-noise" not in text
    assert "%" not in text


@pytest.mark.parametrize("value", [Interval(100.0, 100.0, 100.0), Interval(-0.004, -1.0, 1.0)])
def test_intervals_stay_in_one_piece(manifest, value):
    name, score = next(iter(manifest.scoring.scores.items()))
    changed = replace(manifest.scoring, scores={name: replace(score, drops={**score.drops, "top1": value})})
    text = f"{value.value:.2f} [{value.low:.2f}, {value.high:.2f}]"
    assert any(text in line for line in shown(80, scores_table(replace(manifest, scoring=changed))))
