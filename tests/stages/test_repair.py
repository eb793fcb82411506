"""What fails its check is searched for the nodes that do it, and mended: within bounds, or left with the reason."""

import shutil
from dataclasses import replace

import gated
import numpy as np
import pytest
from staged import Recorder, component_of

from torchlift.bundle import Bundle
from torchlift.datasets import ReadOptions
from torchlift.errors import InputError
from torchlift.evidence import Damage, Failure, Gate
from torchlift.jobs import bisect_bundle, build_bundle
from torchlift.prove.verify import VerifyOptions
from torchlift.stages import build_variant, convert_component, verify_all
from torchlift.stages.repair import Trial, Workbench, find_culprits, repair
from torchlift.stages.samples import Samples
from torchlift.stages.score import Scorer, score_component
from torchlift.tasks import open_task

FP32, FP16, INT8 = (f"model/onnxruntime/{p}" for p in ("fp32", "fp16", "int8"))
TIGHT = Gate({"top1": 2.0})

pytestmark = pytest.mark.usefixtures("unmeasured")


def made(bundle, form, recipe, feeds):
    """A variant on ONNX Runtime whose ranges are of ``feeds``, verified."""
    component = component_of(bundle)
    convert_component(bundle, component, [form], Samples("what was given", "a", lambda _: feeds, given=True))
    build_variant(bundle, component, "onnxruntime", recipe)
    verify_all(bundle, bundle.manifest.variants)
    return bundle.manifest.variant(f"model/onnxruntime/{recipe}")


def mend(bundle, variant, scorer=None, evaluations=40):
    """The notes of a repair."""
    recorder = Recorder()
    repair(bundle, variant, scorer, lambda: scorer, VerifyOptions(), evaluations, recorder)
    assert Bundle.open(bundle.path).manifest == bundle.manifest
    return recorder.notes


def reasons(bundle, form):
    """Module (or operator, where it has none) -> why a node stays FP32."""
    conversion = bundle.manifest.graph("model", form).conversion
    return {node.module or node.operator: node.reason for node in conversion.kept}


@pytest.fixture(scope="module")
def broken_once(exported, pictures, tmp_path_factory):
    """The classifier in INT8, scored and held to a gate that it does not hold; not to be changed."""
    bundle = Bundle.open(shutil.copytree(exported("build"), tmp_path_factory.mktemp("broken") / "bundle"))
    made(bundle, "int8-u8s8", "int8", [{"image": gated.images(2)}])
    scorer_of(bundle, pictures)
    return bundle


def scorer_of(bundle, pictures):
    bundle.commit(replace(bundle.manifest, gate=TIGHT))
    scorer = Scorer(bundle, open_task(bundle, pictures, ReadOptions(split="val")))
    score_component(scorer, component_of(bundle))
    return scorer


@pytest.fixture
def broken(broken_once, tmp_path):
    return Bundle.open(shutil.copytree(broken_once.path, tmp_path / "broken"))


@pytest.fixture
def trials(monkeypatch):
    """The sets of modules that were tried, in order."""
    seen, trial = [], Workbench.trial

    def counted(self, converted):
        seen.append([unit.module for unit in converted])
        return trial(self, converted)

    monkeypatch.setattr(Workbench, "trial", counted)
    return seen


# FP16 that the processor only emulates


@pytest.fixture
def hidden(overflowing):
    """FP16 made for samples in which nothing is large, and ONNX Runtime computes it in FP32 in between."""
    silence = [{"image": np.zeros((4, 3, gated.SIDE, gated.SIDE), np.float32)}]
    return overflowing, made(overflowing, "fp16", "fp16", silence)


def test_an_overflow_that_the_runtime_hides_is_found_in_true_half_precision(hidden):
    bundle, variant = hidden
    (kept,) = bundle.manifest.graph("model", "fp16").conversion.kept
    assert kept.reason.endswith("8.389e+06, beyond 65504"), "the factor itself: the samples showed nothing"
    checks = variant.verification.checks
    (half,) = (c for c in checks if c.true_half)
    assert (half.golden, half.difference.nonfinite_mismatch > 0) == ("min", True)
    assert all(c.difference.nonfinite_mismatch == 0 for c in checks if not c.true_half), "ONNX Runtime hides it"
    assert not variant.verification.passed
    assert any(failure.true_half for failure in variant.verification.failures)


def test_an_overflow_that_the_runtime_hides_is_mended(hidden):
    bundle, variant = hidden
    notes = mend(bundle, variant)
    assert bundle.manifest.variant(FP16).verification.passed
    done = bundle.manifest.graph("model", "fp16").conversion
    assert [node.operator for node in done.kept] == ["Mul", "Mul"], "what writes it, and what reads it"
    assert sum(node.reason.startswith("moved back: ") for node in done.kept) == 1
    assert done.repair.held
    assert done.repair.damage.true_half
    assert done.repair.after < 1e-3 < done.repair.before
    assert done.share >= 0.5
    assert len(notes) == 1
    assert notes[0].startswith(f"{FP16} is mended by FP32 for node_mul")
    assert "true half precision" in notes[0]


# bounds


@pytest.mark.parametrize(("evaluations", "mended"), [(2, False), (5, True), (9, True)])
def test_no_more_graphs_are_tried_than_allowed(broken, pictures, trials, evaluations, mended):
    scorer = scorer_of(broken, pictures)
    mend(broken, broken.manifest.variant(INT8), scorer, evaluations)
    assert 1 <= len(trials) <= evaluations
    repaired = broken.manifest.graph("model", "int8-u8s8").conversion.repair
    assert (repaired is not None) == mended
    assert [found.evaluations for found in (repaired,) if found] == [len(trials)] * mended


@pytest.mark.parametrize("evaluations", [0, 1])
def test_without_evaluations_nothing_is_tried(broken, pictures, trials, evaluations):
    before = broken.manifest
    assert mend(broken, broken.manifest.variant(INT8), scorer_of(broken, pictures), evaluations) == []
    assert trials == []
    assert broken.manifest.graphs == before.graphs


def test_what_agrees_and_holds_the_gate_is_left_as_it_is(broken, pictures, trials):
    scorer = scorer_of(broken, pictures)
    mend(broken, broken.manifest.variant(INT8), scorer)
    assert broken.manifest.graph("model", "int8-u8s8").conversion.repair.held
    before = broken.manifest
    trials.clear()
    assert mend(broken, broken.manifest.variant(INT8), scorer) == []
    assert trials == []
    assert broken.manifest == before


def test_only_what_does_the_damage_moves_back(broken, pictures):
    notes = mend(broken, broken.manifest.variant(INT8), scorer_of(broken, pictures))
    moved = {m for m, reason in reasons(broken, "int8-u8s8").items() if reason.startswith("moved back")}
    assert moved == {"fragile"}
    assert len(notes) == 1
    assert f"{INT8} is mended by FP32 for fragile" in notes[0]
    assert broken.manifest.variant(INT8).verification.passed
    score = broken.manifest.scoring.scores[INT8]
    assert score.drops["top1"].value <= 2


def test_where_all_nodes_cost_alike_the_graph_is_left_with_a_note(broken, pictures, monkeypatch):
    monkeypatch.setattr(Workbench, "trial", lambda self, converted: Trial(10.0 * len(converted), 0.0))
    order = []
    write = Workbench.__init__

    def reversed_units(self, *arguments, **options):
        write(self, *arguments, **options)
        modules = ("widen", "louden", "head", "fragile")
        self.converter.candidates = tuple(
            sorted(self.converter.candidates, key=lambda unit: modules.index(unit.module))
        )
        order[:] = [unit.module for unit in self.converter.candidates]

    monkeypatch.setattr(Workbench, "__init__", reversed_units)
    notes = mend(broken, broken.manifest.variant(INT8), scorer_of(broken, pictures))
    assert order[-1] == "fragile", "what would have helped is tried last"
    assert len(notes) == 1
    assert notes[0].startswith(f"{INT8} is not mended: half of its nodes would have to stay FP32 (")
    repaired = broken.manifest.graph("model", "int8-u8s8").conversion.repair
    assert not repaired.held
    assert repaired.after > 2


def test_where_the_evaluations_are_spent_that_is_noted(broken, pictures):
    notes = mend(broken, broken.manifest.variant(INT8), scorer_of(broken, pictures), 2)
    assert len(notes) == 1
    assert "is not mended" in notes[0]


# what can be searched


def test_a_search_ranks_all_nodes_the_worst_first(broken, pictures):
    variant = broken.manifest.variant(INT8)
    bench = Workbench(broken, variant, scorer_of(broken, pictures))
    search = find_culprits(bench, 40)
    assert {unit.module for finding in search.findings for unit in finding.items} == {
        "widen",
        "louden",
        "fragile",
        "head",
    }
    assert [unit.module for unit in search.findings[0].items] == ["fragile"]
    assert search.total > 40
    assert bench.damage == Damage("top1", "points", "onnxruntime", true_half=False)


def test_without_data_a_search_goes_by_the_distance_at_the_goldens(broken):
    bench = Workbench(broken, broken.manifest.variant(INT8))
    search = find_culprits(bench, 40)
    assert [unit.module for unit in search.findings[0].items] == ["fragile"]
    assert 0 < search.total < 2
    assert bench.damage == Damage("", "points", "onnxruntime", true_half=False)


def test_a_search_leaves_nothing_in_the_bundle(broken):
    before = sorted(broken.path.rglob("*"))
    find_culprits(Workbench(broken, broken.manifest.variant(INT8)), 4)
    assert sorted(broken.path.rglob("*")) == before


def test_of_what_is_not_converted_the_runtime_is_looked_into(broken, job):
    build_variant(broken, component_of(broken), "onnxruntime", "fp32")
    with pytest.raises(InputError, match=f"{FP32} is not converted node by node") as caught:
        Workbench(broken, broken.manifest.variant(FP32))
    assert "torchlift inspect" in caught.value.remedy
    before = sorted(broken.path.rglob("*"))
    report = bisect_bundle(broken.path, FP32, job())
    assert (report.variant, report.answers, report.partings) == (FP32, (), ())
    assert report.nodes > 4
    assert sorted(broken.path.rglob("*")) == before


def test_a_variant_whose_fp32_is_wrong_is_not_mended(broken, job, monkeypatch):
    variant = broken.manifest.variant(INT8)
    verify_all(broken, [variant])
    proof = broken.manifest.variant(INT8).verification
    wrong = Failure(kind="difference", golden="opt", output="logits", rests_on="onnxruntime/fp32")
    broken.commit(broken.manifest.with_variant(replace(variant, verification=replace(proof, failures=(wrong,)))))
    monkeypatch.setattr("torchlift.stages.repair.Workbench", None)
    before = broken.manifest
    repair(broken, broken.manifest.variant(INT8), None, lambda: None, VerifyOptions(), 40)
    assert broken.manifest == before


def test_a_graph_of_nncf_cannot_be_searched(broken):
    pytest.importorskip("nncf")
    component = component_of(broken)
    convert_component(broken, component, ["int8-nncf"], Samples("noise", "a", lambda _: gated.feeds(), given=True))
    assert broken.manifest.graph("model", "int8-nncf").failure == ""
    variant = build_variant(broken, component, "openvino", "int8-nncf")
    assert variant.failure == ""
    with pytest.raises(InputError, match="model/openvino/int8-nncf is not converted node by node"):
        Workbench(broken, variant)


@pytest.mark.parametrize("runtime", ["tensorrt", "onnxruntime-tensorrt"])
def test_a_variant_that_compiles_is_not_searched_and_another_of_the_same_graph_is_named(broken, job, runtime):
    compiled = replace(broken.manifest.variant(INT8), backend=runtime)
    broken.commit(broken.manifest.with_variant(compiled))
    with pytest.raises(InputError, match=f"{compiled.name} is not searched: each of many trials would be") as caught:
        bisect_bundle(broken.path, compiled.name, job())
    assert caught.value.remedy == f"Bisect {INT8} instead: it has the same graph."


@pytest.mark.parametrize(
    ("form", "maker"),
    [
        ("int8-u8s8", "`backends=onnxruntime` `precisions=int8`"),
        ("int8-s8s8", "`backends=openvino` `precisions=int8`"),
        ("int8-s8s8-fp16", "`backends=onnxruntime` `precisions=int8-fp16`"),
        ("fp16", "`backends=onnxruntime` `precisions=fp16`"),
    ],
)
def test_where_no_other_has_its_graph_the_command_that_makes_one_is_named(broken, form, maker):
    compiled = replace(broken.manifest.variant(INT8), backend="tensorrt", form=form)
    graph = replace(broken.manifest.graph("model", "int8-u8s8"), form=form)
    broken.commit(replace(broken.manifest, variants=(compiled,)).with_graph(graph))
    with pytest.raises(InputError, match="is not searched") as caught:
        Workbench(broken, compiled)
    assert caught.value.remedy == (
        f"Make a variant of the same graph and bisect that: torchlift build {broken.path} {maker}."
    )


def test_a_program_cannot_be_searched(broken):
    program = replace(broken.manifest.variant(INT8), backend="pytorch", precision="bf16", form="program")
    graph = replace(broken.manifest.graph("model", "int8-u8s8"), form="program")
    broken.commit(broken.manifest.with_variant(program).with_graph(graph))
    with pytest.raises(InputError, match="model/pytorch/bf16 is not converted node by node"):
        Workbench(broken, program)


def test_a_graph_that_could_not_be_made_cannot_be_searched(colours):
    def refuse(component):
        raise InputError("no samples")

    convert_component(colours, component_of(colours), ["int8-u8s8"], Samples("x", "a", refuse, given=True))
    variant = build_variant(colours, component_of(colours), "onnxruntime", "int8")
    assert variant.failure == "no samples"
    with pytest.raises(InputError, match=f"{INT8} is not converted node by node"):
        Workbench(colours, variant)


def test_bisect_changes_nothing_in_a_bundle_that_has_no_gate(colours, job):
    build_bundle(colours.path, job("int8", data=False, evaluations=0))
    before = Bundle.open(colours.path).manifest
    assert before.gate == Gate()
    assert bisect_bundle(colours.path, INT8, job()).keep == ("model:fragile",)
    assert Bundle.open(colours.path).manifest == before
