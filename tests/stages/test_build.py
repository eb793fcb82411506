"""What is built and proven on this machine, and what is kept of an earlier run."""

from dataclasses import replace

import onnx
import pytest
import tiny
from staged import BF16, ORT, OV, QUICK, Recorder, component_of, stamps

from torchlift.backends.onnxruntime import OnnxRuntime
from torchlift.backends.openvino import OpenVino
from torchlift.bundle import Bundle
from torchlift.errors import BackendError, BackendUnavailableError, StorageError
from torchlift.evidence import Tolerance
from torchlift.machine import this_machine
from torchlift.manifest import Graph
from torchlift.measure.verify import VerifyOptions, proven_here
from torchlift.stages import (
    BuildOptions,
    JobOptions,
    bench_bundle,
    bench_component,
    build_bundle,
    build_variant,
    verify_all,
    verify_bundle,
)

IMPOSSIBLE = Tolerance(scaled=-1.0, cosine=0.9)


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


def test_build_bundle_makes_proves_measures_and_chooses(bundle, unmeasured):
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


def test_a_variant_that_fails_its_check_is_neither_measured_nor_chosen(bundle, tmp_path, monkeypatch, unmeasured):
    onnx.save(tiny.model(seed=1), tmp_path / "other.onnx")
    build = OpenVino.build
    monkeypatch.setattr(OpenVino, "build", lambda self, _, *rest: build(self, tmp_path / "other.onnx", *rest))
    options = JobOptions(BuildOptions(precisions=("fp32",)), bench=replace(QUICK, batches=(1,)))
    manifest = build_bundle(bundle.path, options)
    assert {x.contender for x in manifest.benchmarks["model"].latencies} == {ORT}
    assert manifest.choices["model"].variant == ORT
    assert manifest.choices["model"].others[OV].startswith("refused: y at min: off by")


@pytest.mark.parametrize(
    ("graph", "reason"),
    [
        (None, "the bundle has no graph model/int8-u8s8"),
        (Graph("model", "int8-u8s8", "key", failure="nothing could be converted"), "nothing could be converted"),
    ],
)
def test_without_its_graph_a_variant_is_not_built_and_says_why(bundle, graph, reason):
    if graph is not None:
        bundle.commit(bundle.manifest.with_graph(graph))
    variant = build_variant(bundle, component_of(bundle), "onnxruntime", "int8")
    assert (variant.name, variant.failure, variant.files) == ("model/onnxruntime/int8", reason, ())
    assert Bundle.open(bundle.path).manifest.variants == (variant,)
