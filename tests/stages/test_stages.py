"""The stages that need no torch: what is built, proven, measured and chosen, what is kept, and what is never chosen."""

import shutil
from dataclasses import replace

import numpy as np
import onnx
import pytest
import tiny

from torchlift.backends import BACKENDS, backend
from torchlift.backends.onnxruntime import OnnxRuntime
from torchlift.backends.openvino import OpenVino
from torchlift.bundle import Bundle
from torchlift.errors import BackendError, BackendUnavailableError, InputError, StorageError
from torchlift.evidence import Benchmark, Latency, Tolerance
from torchlift.machine import this_machine
from torchlift.measure.goldens import load_goldens
from torchlift.measure.latency import LatencyOptions
from torchlift.measure.numerics import TOLERANCES
from torchlift.measure.verify import VerifyOptions, proven_here
from torchlift.progress import Progress
from torchlift.signature import Axis, Signature, TensorSpec
from torchlift.stages import (
    BenchOptions,
    BuildOptions,
    JobOptions,
    bench_bundle,
    bench_component,
    build_bundle,
    build_variant,
    choose,
    plan,
    verify_all,
    verify_bundle,
    workloads,
)

ORT, OV, BF16 = "model/onnxruntime/fp32", "model/openvino/fp32", "model/openvino/bf16"
QUICK = BenchOptions(latency=LatencyOptions(rounds=2, turn_seconds=0.01, pause_seconds=0))
IMPOSSIBLE = Tolerance(scaled=-1.0, cosine=0.9)


class Recorder(Progress):
    """Remembers the titles of the stages."""

    def __init__(self):
        self.titles = []

    def stage(self, title, total=None):
        self.titles.append(title)
        return super().stage(title, total)


@pytest.fixture(scope="module")
def proven_once(built_once, tmp_path_factory):
    """The built bundle, verified, with a bf16 variant on any machine: it shares the files of fp32."""
    bundle = Bundle.open(shutil.copytree(built_once.path, tmp_path_factory.mktemp("proven") / "bundle"))
    verify_all(bundle, bundle.manifest.variants)
    fp32 = bundle.manifest.variant(OV)
    proof = replace(fp32.verification, tolerance=TOLERANCES["bf16"])
    bundle.commit(bundle.manifest.with_variant(replace(fp32, precision="bf16", verification=proof)))
    return bundle


@pytest.fixture
def proven(proven_once, tmp_path):
    return Bundle.open(shutil.copytree(proven_once.path, tmp_path / "proven"))


def component_of(bundle):
    return bundle.manifest.component("model")


def stamps(bundle, variant):
    return {p: (bundle.file(p).stat().st_ino, bundle.file(p).stat().st_mtime_ns) for p in variant.files}


# plan


def test_without_names_and_data_what_needs_no_score_is_planned_for_every_available_backend():
    expected = [
        (name, recipe)
        for name in BACKENDS
        if backend(name).available().ok
        for recipe in backend(name).recipes
        if backend(name).supports(recipe).ok and recipe in ("fp32", "bf16")
    ]
    assert plan(BuildOptions()) == expected
    assert {("onnxruntime", "fp32"), ("openvino", "fp32")} <= {*expected}
    assert "onnxruntime-cuda" not in {name for name, _ in expected}, "there is no GPU build here"


def test_named_backends_and_precisions_limit_the_plan():
    assert plan(BuildOptions(("openvino",), ("fp32",))) == [("openvino", "fp32")]
    assert {name for name, _ in plan(BuildOptions(("openvino",)))} == {"openvino"}
    assert {precision for _, precision in plan(BuildOptions(precisions=("fp32",)))} == {"fp32"}


def test_a_precision_that_the_processor_lacks_is_left_out_unless_it_is_named(monkeypatch):
    monkeypatch.setattr("torchlift.backends.openvino.this_machine", lambda: replace(this_machine(), instructions=()))
    assert ("openvino", "bf16") not in plan(BuildOptions())
    with pytest.raises(BackendUnavailableError, match=r"no backend here runs bf16: .* has no bf16 instructions"):
        plan(BuildOptions(precisions=("bf16",)))


def test_an_unknown_backend_is_refused_with_the_nearest():
    with pytest.raises(BackendUnavailableError, match="there is no backend 'openvin'") as caught:
        plan(BuildOptions(("openvin",)))
    assert "Did you mean openvino?" in caught.value.remedy


def test_a_backend_that_is_not_available_is_refused_where_it_is_named():
    assert not backend("onnxruntime-cuda").available().ok
    with pytest.raises(BackendUnavailableError, match="onnxruntime-cuda cannot be used: onnxruntime-gpu") as caught:
        plan(BuildOptions(("onnxruntime", "onnxruntime-cuda")))
    assert "pip install onnxruntime-gpu" in caught.value.remedy


def test_a_named_precision_that_no_chosen_backend_runs_is_refused():
    with pytest.raises(BackendUnavailableError, match="no backend here runs bf16: onnxruntime has no bf16") as caught:
        plan(BuildOptions(("onnxruntime",), ("fp32", "bf16")))
    assert "torchlift doctor" in caught.value.remedy


# build


def test_what_is_built_is_kept(built):
    component, before = component_of(built), built.manifest
    for variant in before.variants:
        stamped = stamps(built, variant)
        recorder = Recorder()
        again = build_variant(built, component, variant.backend, variant.precision, recorder)
        assert again == variant
        assert stamps(built, again) == stamped
        assert recorder.titles == []
    assert built.manifest == before


def test_precisions_that_differ_at_load_time_share_their_files(built):
    fp32 = built.manifest.variant(OV)
    before = stamps(built, fp32)
    built.commit(replace(built.manifest, variants=(fp32,)))
    bf16 = build_variant(built, component_of(built), "openvino", "bf16")
    assert (bf16.name, bf16.files, bf16.model) == (BF16, fp32.files, fp32.model)
    assert bf16.verification is None, "each is proven by itself"
    assert stamps(built, bf16) == before
    assert {v.name for v in built.manifest.variants} == {OV, BF16}


def test_proofs_of_both_precisions_outlive_another_build(proven):
    before = proven.manifest
    for precision in ("fp32", "bf16", "fp32"):
        build_variant(proven, component_of(proven), "openvino", precision)
    assert proven.manifest == before
    assert all(v.verification for v in before.variants)


def test_another_release_of_the_runtime_is_built_again(proven, monkeypatch):
    old = proven.manifest.variant(ORT)
    stamped = stamps(proven, old)
    monkeypatch.setattr(OnnxRuntime, "version", lambda self: "onnxruntime 99")
    new = build_variant(proven, component_of(proven), "onnxruntime", "fp32")
    assert new.key != old.key
    assert new.verification is None
    assert stamps(proven, new) != stamped
    Bundle.open(proven.path)


def test_a_runtime_that_fails_leaves_a_variant_with_the_reason(bundle, monkeypatch):
    def refuse(self, source, folder, signature):
        (folder / "half").write_text("written before it failed")
        raise BackendError("the operator Foo is unknown", remedy="Use another opset.")

    monkeypatch.setattr(OnnxRuntime, "build", refuse)
    variant = build_variant(bundle, component_of(bundle), "onnxruntime", "fp32")
    assert (variant.failure, variant.files, variant.model) == ("the operator Foo is unknown", (), "")
    assert Bundle.open(bundle.path).manifest.variants == (variant,)
    assert not proven_here(bundle, variant)
    assert [p.name for p in (bundle.path / "model").iterdir()] == ["source"]
    verify_all(bundle, [variant])
    assert bundle.manifest.variant(ORT).verification is None
    monkeypatch.undo()
    assert not build_variant(bundle, component_of(bundle), "onnxruntime", "fp32").failure, "it is tried again"


def test_a_full_disk_ends_the_build(bundle, monkeypatch):
    monkeypatch.setattr("torchlift.storage.free_space", lambda folder: 10)
    with pytest.raises(StorageError, match="are needed"):
        build_variant(bundle, component_of(bundle), "onnxruntime", "fp32")
    assert bundle.manifest.variants == ()


# verify


def test_what_is_proven_here_is_not_proven_again(built):
    first, second, third = Recorder(), Recorder(), Recorder()
    verify_all(built, built.manifest.variants, progress=first)
    proofs = {v.name: v.verification for v in built.manifest.variants}
    assert first.titles == [f"verify {v.name}" for v in built.manifest.variants]
    assert all(proof.passed for proof in proofs.values())
    verify_all(built, built.manifest.variants, progress=second)
    assert second.titles == []
    assert {v.name: v.verification for v in built.manifest.variants} == proofs
    verify_all(built, built.manifest.variants, progress=third, again=True)
    assert third.titles == first.titles


def test_another_tolerance_is_proven_again_for_its_precision_only(proven):
    recorder = Recorder()
    options = VerifyOptions({"bf16": Tolerance(0.5, 0.9)})
    verify_all(proven, proven.manifest.variants, options, recorder)
    assert recorder.titles == [f"verify {BF16}"]
    assert proven.manifest.variant(BF16).verification.tolerance == Tolerance(0.5, 0.9)


@pytest.mark.parametrize("changed", ["processor", "instructions"])
def test_a_proof_of_another_machine_is_not_taken(proven, changed):
    variant = proven.manifest.variant(ORT)
    machine = replace(this_machine(), **{changed: {"processor": "another", "instructions": ("other",)}[changed]})
    proof = replace(variant.verification, provenance=replace(variant.verification.provenance, machine=machine))
    proven.commit(proven.manifest.with_variant(replace(variant, verification=proof)))
    assert not proven_here(proven, proven.manifest.variant(ORT))
    recorder = Recorder()
    verify_all(proven, proven.manifest.variants, progress=recorder)
    assert recorder.titles == [f"verify {ORT}"]
    assert proven_here(proven, proven.manifest.variant(ORT))


def test_a_graph_that_answers_otherwise_is_refused(tmp_path):
    wrong = tiny.make_bundle(tmp_path / "wrong", seed=1)
    variant = build_variant(wrong, component_of(wrong), "onnxruntime", "fp32")
    verify_all(wrong, [variant])
    assert not proven_here(wrong, wrong.manifest.variant(ORT))
    assert "y at min: off by" in wrong.manifest.variant(ORT).verification.failures[0]
    with pytest.raises(BackendUnavailableError, match="no variant of model is verified on this machine") as caught:
        bench_component(wrong, component_of(wrong), options=QUICK)
    assert f"torchlift build {wrong.path}" in caught.value.remedy


def test_verify_bundle_proves_everything_anew(proven):
    before = proven.manifest.variant(ORT).verification
    manifest = verify_bundle(proven.path, VerifyOptions({"fp32": IMPOSSIBLE}))
    assert before.passed
    assert not manifest.variant(ORT).verification.passed
    assert Bundle.open(proven.path).manifest == manifest


# choose, by made-up times


def latency(contender, median, batch=1):
    return Latency(
        contender, {"batch": batch}, 20, median, 0.1, median, median, median, median, median, 1e3 * batch / median
    )


def benchmark(*latencies, failures=None):
    return Benchmark(this_machine(), "2030-01-01T00:00:00+00:00", 2, 2, None, latencies, failures=failures or {})


def choice(bundle, *latencies, **options):
    found = choose(bundle, component_of(bundle), benchmark(*latencies, **options))
    assert Bundle.open(bundle.path).manifest.choices == {"model": found}
    return found


def test_the_fastest_is_chosen_and_the_others_are_told_how_much_slower(proven):
    found = choice(proven, latency(ORT, 4.0), latency(OV, 2.0), latency(BF16, 3.0))
    assert found.variant == OV
    assert found.reason == "the fastest at batch 1 of those that agree with PyTorch"
    assert found.others == {ORT: "2.00 times the time", BF16: "1.50 times the time"}


def test_the_first_batch_decides(proven):
    times = [latency(ORT, 1.0, 4), latency(OV, 2.0, 4), latency(ORT, 9.0), latency(OV, 2.0)]
    found = choice(proven, *times)
    assert (found.variant, found.reason.split(" of ")[0]) == (ORT, "the fastest at batch 4")
    assert choice(proven, *reversed(times)).variant == OV


def test_a_tie_goes_to_the_more_precise(proven):
    found = choice(proven, latency(ORT, 3.0), latency(OV, 1.019), latency(BF16, 1.0))
    assert found.variant == OV
    assert found.others[BF16] == "as good within 2%, not more precise"


def test_beyond_two_percent_there_is_no_tie(proven):
    found = choice(proven, latency(OV, 1.021), latency(BF16, 1.0))
    assert found.variant == BF16
    assert found.others[OV] == "1.02 times the time"


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
    assert found.others[OV] == "not measured: the process died (exit status 9)"


def test_a_variant_that_was_refused_is_not_chosen_and_says_why(proven):
    verify_all(proven, [proven.manifest.variant(OV)], VerifyOptions({"fp32": IMPOSSIBLE}))
    found = choice(proven, latency(ORT, 5.0), latency(OV, 1.0))
    assert found.variant == ORT
    assert found.others[OV].startswith("refused: y at min: off by")


def test_a_variant_that_was_not_built_is_not_chosen_and_says_why(proven):
    failed = replace(proven.manifest.variant(OV), failure="no such operator")
    proven.commit(proven.manifest.with_variant(failed))
    found = choice(proven, latency(ORT, 5.0), latency(OV, 1.0))
    assert found.variant == ORT
    assert found.others[OV] == "not built: no such operator"


def test_a_variant_that_is_not_verified_here_is_not_chosen(proven):
    proven.commit(proven.manifest.with_variant(replace(proven.manifest.variant(OV), verification=None)))
    found = choice(proven, latency(ORT, 5.0), latency(OV, 1.0))
    assert (found.variant, found.others[OV]) == (ORT, "not verified on this machine")


@pytest.mark.parametrize("times", [[], ["model/another/fp32"]])
def test_where_nothing_can_serve_there_is_no_choice(proven, times):
    with pytest.raises(BackendUnavailableError, match="no variant of model can serve") as caught:
        choose(proven, component_of(proven), benchmark(*(latency(name, 1.0) for name in times)))
    assert "torchlift inspect" in caught.value.remedy
    assert proven.manifest.choices == {}


# bench


def test_workloads_have_the_sizes_that_were_asked_for(bundle):
    found = workloads(bundle, component_of(bundle), BenchOptions(batches=(2, 8)))
    largest = load_goldens(bundle, component_of(bundle))["max"].inputs["x"]
    assert [w.sizes for w in found] == [{"batch": 2}, {"batch": 8}]
    for workload in found:
        np.testing.assert_array_equal(workload.feeds["x"], largest[: workload.sizes["batch"]])


def test_without_sizes_the_least_batch_and_the_optimum_are_measured(bundle):
    assert [w.sizes["batch"] for w in workloads(bundle, component_of(bundle), BenchOptions())] == [1, 4]


def two_axes(bundle):
    """The tiny component as if its width could vary, too."""
    axes = (Axis("batch", 1, 4, 8), Axis("width", 4, 16, tiny.WIDTH))
    shaped = Signature((TensorSpec("x", "float32", ("batch", "width")),), tiny.SIGNATURE.outputs, axes)
    return replace(component_of(bundle), signature=shaped)


def test_other_axes_are_at_their_optimum_or_as_asked(bundle):
    component = two_axes(bundle)
    assert workloads(bundle, component, BenchOptions((2,)))[0].feeds["x"].shape == (2, 16)
    asked = workloads(bundle, component, BenchOptions((2,), {"width": 5, "another": 3}))[0]
    assert (asked.sizes, asked.feeds["x"].shape) == ({"batch": 2, "width": 5}, (2, 5))


@pytest.mark.parametrize(
    ("options", "said", "wider"),
    [
        (BenchOptions((1, 9)), "batch 9 is outside 1..8", "--axis batch=1..4..9"),
        (BenchOptions((0,)), "batch 0 is outside 1..8", "--axis batch=0..4..8"),
        (BenchOptions(sizes={"width": 64}), "width 64 is outside 4..32", "--axis width=4..16..64"),
        (BenchOptions(sizes={"width": 2}), "width 2 is outside 4..32", "--axis width=2..16..32"),
    ],
)
def test_sizes_outside_the_range_are_refused(bundle, options, said, wider):
    with pytest.raises(InputError) as caught:
        workloads(bundle, two_axes(bundle), options)
    assert caught.value.message == said
    assert wider in caught.value.remedy


@pytest.fixture
def measurable(proven):
    """The variants that any machine runs."""
    proven.commit(
        replace(proven.manifest, variants=tuple(v for v in proven.manifest.variants if v.precision == "fp32"))
    )
    return proven


def test_a_benchmark_is_kept_until_something_changes(measurable):
    component = component_of(measurable)
    first = bench_component(measurable, component, options=QUICK)
    assert [(x.contender, x.batch) for x in first.latencies] == [(n, b) for b in (1, 4) for n in (ORT, OV)]
    assert (first.baseline, first.failures) == (ORT, {})
    files = {f for v in measurable.manifest.variants for f in v.files}
    assert first.files == measurable.manifest.hashes(tuple(files))
    recorder = Recorder()
    assert bench_component(measurable, component, options=QUICK, progress=recorder) == first
    assert recorder.titles == [], "nothing was measured"
    assert bench_component(measurable, component, options=replace(QUICK, batches=(1,))).key != first.key


def test_what_was_built_for_another_release_is_measured_again(measurable):
    ort = measurable.manifest.variant(ORT)
    measurable.commit(replace(measurable.manifest, variants=(ort,)))
    options = replace(QUICK, batches=(1,))
    first = bench_component(measurable, component_of(measurable), options=options)
    measurable.commit(measurable.manifest.with_variant(replace(ort, key="of another release, with the same files")))
    assert bench_component(measurable, component_of(measurable), options=options).key != first.key


def test_build_bundle_makes_proves_measures_and_chooses(bundle):
    build = BuildOptions(("onnxruntime", "openvino"), ("fp32",))
    manifest = build_bundle(bundle.path, JobOptions(build, bench=replace(QUICK, batches=(2,))))
    assert [v.name for v in manifest.variants] == [ORT, OV]
    assert all(v.verification.passed for v in manifest.variants)
    found = manifest.choices["model"]
    assert {found.variant, *found.others} == {ORT, OV}
    assert [x.batch for x in manifest.benchmarks["model"].latencies] == [2, 2]
    assert Bundle.open(bundle.path).manifest == manifest
    again = bench_bundle(bundle.path, replace(QUICK, batches=(8,)))
    assert {x.batch for x in again.benchmarks["model"].latencies} == {8}
    assert again.variants == manifest.variants


def test_a_variant_that_fails_its_check_is_neither_measured_nor_chosen(bundle, tmp_path, monkeypatch):
    onnx.save(tiny.model(seed=1), tmp_path / "other.onnx")
    build = OpenVino.build
    monkeypatch.setattr(OpenVino, "build", lambda self, _, *rest: build(self, tmp_path / "other.onnx", *rest))
    options = JobOptions(BuildOptions(precisions=("fp32",)), bench=replace(QUICK, batches=(1,)))
    manifest = build_bundle(bundle.path, options)
    assert {x.contender for x in manifest.benchmarks["model"].latencies} == {ORT}
    assert manifest.choices["model"].variant == ORT
    assert manifest.choices["model"].others[OV].startswith("refused: y at min: off by")
