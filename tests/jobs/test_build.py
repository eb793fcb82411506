"""The whole way on a model that lossy precisions break: converted, scored, mended or refused, and chosen."""

from dataclasses import replace

import pytest
import tiny
from staged import Recorder, benchmark, component_of, latency, put_scores, score

from torchlift.backends import Availability, CompileOptions, backend
from torchlift.backends.tensorrt import TensorRt
from torchlift.bundle import Bundle
from torchlift.checksums import sha256
from torchlift.errors import DataError, InputError
from torchlift.evidence import Gate
from torchlift.forms import INT8_U8S8, Recipe, by_name
from torchlift.graph.scales import Scales, save_scales
from torchlift.jobs import JobOptions, bench_bundle, bisect_bundle, build_bundle, score_bundle
from torchlift.jobs.ship import ShipOptions
from torchlift.prove.verify import proven_here
from torchlift.signature import Axis, Profile
from torchlift.stages.choose import choose_all

INT8, FP16, FP32 = (f"model/onnxruntime/{p}" for p in ("int8", "fp16", "fp32"))
TIGHT = Gate({"top1": 2.0})

pytestmark = pytest.mark.usefixtures("unmeasured")


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
    verdict = manifest.choices["model"].others[INT8]
    assert (verdict.kind, verdict.breach.metric, verdict.breach.limit) == ("breach", "top1", 2.0)
    assert verdict.breach.drop == scores[INT8].drops["top1"]


def test_the_node_that_does_it_is_found_and_moved_back(colours, job):
    notes = Recorder()
    manifest = build_bundle(colours.path, job("fp32", "int8", gate=TIGHT), notes)
    assert kept_of(manifest, "int8-u8s8")["fragile"].startswith("moved back: ")
    assert "widen" not in kept_of(manifest, "int8-u8s8")
    assert manifest.scoring.scores[INT8].drops["top1"].value <= 2
    repair = manifest.graph("model", "int8-u8s8").conversion.repair
    assert (repair.held, repair.before > 40, repair.after < 1) == (True, True, True)
    assert repair.evaluations <= 40
    assert INT8 not in [n for n, why in manifest.choices["model"].others.items() if why.refuses]
    assert any(f"{INT8} is mended by FP32 for fragile" in said for said in notes.notes)
    Bundle.open(colours.path)


def test_what_is_left_out_for_lack_of_samples_is_told(colours, job):
    notes = Recorder()
    manifest = build_bundle(colours.path, job(calibrated=False), notes)
    assert INT8 not in [variant.name for variant in manifest.variants]
    assert any("onnxruntime/int8 is left out" in said and "`calibration=`" in said for said in notes.notes)


@pytest.fixture
def compiler(monkeypatch):
    """ONNX Runtime in the place of TensorRT, as if that could be used here; what it was told, and of which graph."""
    told, runtime = [], backend("onnxruntime")

    def build(self, source, folder, signature, compilation):
        told.append((compilation, sha256(source)))
        return runtime.build(source, folder, signature)

    def open_(self, model, signature, recipe, options=None):
        return runtime.open(model, signature, "int8", options)

    monkeypatch.setattr(TensorRt, "available", lambda self: Availability(True, "here"))
    monkeypatch.setattr(TensorRt, "recipes", by_name(Recipe("int8", "int8", INT8_U8S8)))
    monkeypatch.setattr(TensorRt, "build", build)
    monkeypatch.setattr(TensorRt, "open", open_)
    return told


def test_what_compiles_is_made_of_the_mended_graph_once_as_it_was_asked_for_and_proven(colours, job, compiler):
    compiling = CompileOptions((Profile.parse("batch=1:2:4"),), workspace=1 << 20)
    asked = replace(job("int8", gate=TIGHT, backends=("onnxruntime", "tensorrt")), compile=compiling)
    manifest = build_bundle(colours.path, asked)
    graph, engine = manifest.graph("model", "int8-u8s8"), manifest.variant("model/tensorrt/int8")
    assert graph.conversion.repair.held
    assert len(compiler) == 2, "before and after"
    assert [compilation.options for compilation, _ in compiler] == [compiling] * 2
    assert compiler[1][0].profiles == ((Axis("batch", 1, 2, 4),),)
    assert compiler[1][1] == manifest.files[graph.model].sha256 != compiler[0][1]
    assert proven_here(Bundle.open(colours.path), engine)
    assert manifest.scoring.scores[engine.name].drops["top1"].value <= 2
    build_bundle(colours.path, asked)
    assert len(compiler) == 2, "the engine is kept"


def test_what_compiles_is_made_once_where_nothing_is_mended(colours, job, compiler):
    build_bundle(colours.path, job("int8", gate=TIGHT, backends=("onnxruntime", "tensorrt"), evaluations=0))
    assert len(compiler) == 1


def test_a_mended_graph_is_not_searched_again(colours, job):
    build_bundle(colours.path, job("int8", gate=TIGHT))
    notes = Recorder()
    before = Bundle.open(colours.path).manifest
    again = build_bundle(colours.path, job("int8", gate=TIGHT), notes)
    assert again.graphs == before.graphs
    assert not any("mended" in said for said in notes.notes)


def test_bisect_names_the_module_and_the_options_that_keep_it(broken, job):
    _, path = broken
    before = Bundle.open(path).manifest
    report = bisect_bundle(path, INT8, job())
    worst = report.search.findings[0]
    assert [unit.module for unit in worst.items] == ["fragile"]
    assert worst.damage > 40
    assert report.keep == ("model:fragile",)
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
    with pytest.raises(InputError, match="`keep=image:fragile` names no component"):
        build_bundle(colours.path, job("int8", keep=("image:fragile",)))


def test_where_nothing_that_was_asked_for_holds_fp32_serves_and_it_is_said(colours, job):
    manifest = build_bundle(colours.path, job("int8", gate=TIGHT, evaluations=0))
    choice = manifest.choices["model"]
    assert (choice.variant, choice.held) == (FP32, False)
    assert choice.gate == TIGHT
    assert manifest.scoring.together.drops["top1"].value == 0


def test_the_gate_stays_with_the_bundle(broken, job):
    manifest, path = broken
    assert bench_bundle(path, job().bench).choices["model"].variant == FP32
    assert manifest.gate == TIGHT
    loose = score_bundle(path, job(gate=Gate({"top1": 100.0}, "size")))
    assert loose.gate.objective == "size"
    assert loose.choices["model"].variant == f"{INT8}-dynamic"
    assert {INT8, FP32} <= loose.choices["model"].others.keys()
    assert not any(verdict.breach for verdict in loose.choices["model"].others.values())


def test_int8_is_not_made_without_samples_to_calibrate_on(colours, job):
    with pytest.raises(InputError, match="int8 needs samples to calibrate on") as error:
        build_bundle(colours.path, job("int8", calibrated=False))
    assert "`calibration=`" in error.value.remedy


def test_a_gate_needs_data(colours):
    with pytest.raises(InputError, match="top1 within 2 cannot be held without data"):
        build_bundle(colours.path, JobOptions(gate=TIGHT))
    with pytest.raises(InputError, match="top1 within 2 cannot be held without data"):
        ShipOptions(gate=TIGHT)


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
    half = [c for c in manifest.variant(FP16).verification.checks if c.true_half]
    assert [c.difference.nan + c.difference.inf for c in half] == [0]


def test_later_machines_use_the_graphs_that_are_there(colours, job):
    made = build_bundle(colours.path, job("int8", gate=TIGHT)).graphs
    later = build_bundle(colours.path, job("int8", calibrated=False))
    assert later.graphs == made
    assert not later.variant(INT8).failure


def test_a_build_without_data_leaves_the_gate_and_the_score_alone(broken, job):
    before, path = broken
    later = build_bundle(path, job("fp32", "int8", data=False, calibrated=False, evaluations=0))
    assert later.gate == TIGHT
    assert later.scoring == before.scoring
    assert later.choices == before.choices


def test_with_data_and_no_gate_little_of_the_primary_metric_may_be_lost(colours, job):
    manifest = build_bundle(colours.path, job("fp32", "int8", evaluations=0))
    assert manifest.gate == Gate({"top1": 1.0})
    assert manifest.choices["model"].variant == FP32
    assert manifest.choices["model"].others[INT8].refuses


def test_another_objective_leaves_the_limits_as_they_were(broken, job):
    _, path = broken
    assert score_bundle(path, job(gate=Gate({}, "size"))).gate == Gate({"top1": 2.0}, "size")


def test_a_choice_that_was_not_scored_together_has_no_score_together(broken, monkeypatch, job):
    manifest, path = broken
    assert manifest.scoring.together.drops["top1"].value == 0
    bundle = Bundle.open(path)
    bundle.commit(replace(manifest, gate=Gate({"top1": 100.0})))
    later = bench_bundle(path, job().bench)
    assert later.choices["model"].variant != FP32
    assert later.scoring.together is None


def test_a_network_that_was_trained_for_int8_holds_the_gate_without_samples_and_without_repair(colours, job):
    limits = {"widen": 0.5, "louden": 1.0, "fragile": 2.0, "head": 1.0}
    folder = colours.file(component_of(colours).model).parent
    save_scales(folder, {name: Scales(input=(-limit, limit)) for name, limit in limits.items()})
    path = (folder / "scales.json").relative_to(colours.path).as_posix()
    colours.commit(colours.manifest, {path: tiny.record_of(folder / "scales.json")})
    manifest = build_bundle(colours.path, job("int8", gate=TIGHT, calibrated=False, evaluations=0))
    assert manifest.choices["model"].held
    assert manifest.scoring.scores[INT8].drops["top1"].value <= 2
    done = manifest.graph("model", "int8-u8s8").conversion
    assert (done.converted, done.repair) == (4, None)


# two components


class Additive:
    """A scorer by which components together lose the sum of what each loses."""

    def __init__(self, bundle, drops):
        self.bundle = bundle
        self.drops = drops

    def begin(self):
        return self.bundle.manifest.scoring

    def score(self, variants):
        lost = sum(self.drops.get(variant.name, 0.0) for variant in variants.values())
        return score(self.bundle, next(iter(variants.values())).name, top1=lost)


def recipe_of(bundle):
    """Component -> the precision that serves."""
    return {name: bundle.manifest.variant(choice.variant).precision for name, choice in bundle.manifest.choices.items()}


@pytest.fixture
def pair(proven):
    """Maker of a bundle of some components, each with a fast bf16 variant that loses as many points as given."""

    def make(limit, **drops):
        bundle, whole = proven, proven.manifest
        variants = [whole.variant("model/openvino/fp32"), whole.variant("model/openvino/bf16")]
        components = tuple(replace(whole.component("model"), name=name) for name in drops)
        ours = tuple(replace(variant, component=name) for name in drops for variant in variants)
        bundle.commit(replace(whole, components=components, variants=ours))
        lost = {f"{name}/openvino/bf16": drop for name, drop in drops.items()}
        put_scores(bundle, Gate({"top1": limit}), {name: score(bundle, name, top1=drop) for name, drop in lost.items()})
        times = {
            name: benchmark(latency(f"{name}/openvino/fp32", 2.0), latency(f"{name}/openvino/bf16", 1.0))
            for name in drops
        }
        bundle.commit(replace(bundle.manifest, benchmarks=times))
        return bundle, Additive(bundle, lost)

    return make


def test_what_holds_alone_and_together_serves(pair):
    bundle, scorer = pair(2.0, image=1.2, text=0.8)
    choose_all(bundle, scorer)
    assert recipe_of(bundle) == {"image": "bf16", "text": "bf16"}
    assert bundle.manifest.scoring.together.drops["top1"].value == pytest.approx(2.0)


def test_what_holds_alone_and_not_together_makes_room_the_worst_first(pair):
    bundle, scorer = pair(2.0, text=0.8, image=1.5)
    choose_all(bundle, scorer)
    assert recipe_of(bundle) == {"text": "bf16", "image": "fp32"}
    choice = bundle.manifest.choices["image"]
    assert choice.held
    breach = choice.others["image/openvino/bf16"].breach
    assert (breach.components, breach.metric, breach.limit) == ("all", "top1", 2.0)
    assert (breach.drop.value, breach.bound) == (pytest.approx(2.3), breach.drop.value)
    assert bundle.manifest.scoring.together.drops["top1"].value == pytest.approx(0.8)
    assert Bundle.open(bundle.path).manifest == bundle.manifest


def test_of_three_that_are_too_much_together_as_many_make_room_as_must(pair):
    bundle, scorer = pair(1.0, image=0.9, text=0.8, sound=0.2)
    choose_all(bundle, scorer)
    assert recipe_of(bundle) == {"image": "fp32", "text": "bf16", "sound": "bf16"}


def test_without_a_scorer_choices_are_taken_to_lose_the_sum(pair):
    bundle, _ = pair(2.0, image=1.5, text=0.8)
    choose_all(bundle)
    assert recipe_of(bundle) == {"image": "fp32", "text": "bf16"}
    breach = bundle.manifest.choices["image"].others["image/openvino/bf16"].breach
    assert (breach.components, breach.drop, breach.bound) == ("sum", None, pytest.approx(2.3))
    assert bundle.manifest.scoring.together is None


def test_without_a_scorer_choices_that_were_scored_together_stay(pair):
    bundle, scorer = pair(2.3, image=1.5, text=0.8)
    choose_all(bundle, scorer)
    together = bundle.manifest.scoring.together
    bundle.commit(replace(bundle.manifest, gate=Gate({"top1": 2.0})))
    choose_all(bundle)
    assert recipe_of(bundle) == {"image": "bf16", "text": "bf16"}
    assert bundle.manifest.scoring.together == together


def test_what_is_in_reserve_serves_in_place_of_the_worst(pair):
    bundle, scorer = pair(2.0, image=1.5, text=0.8)
    in_reserve = tuple(replace(v, reserve=v.precision == "fp32") for v in bundle.manifest.variants)
    bundle.commit(replace(bundle.manifest, variants=in_reserve))
    choose_all(bundle, scorer)
    assert recipe_of(bundle) == {"image": "fp32", "text": "bf16"}
    assert {name: choice.held for name, choice in bundle.manifest.choices.items()} == {"image": False, "text": True}
