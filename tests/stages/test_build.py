"""What is built and proven on this machine, and what is kept of an earlier run."""

from dataclasses import replace
from pathlib import Path

import onnx
import pytest
import tiny
from staged import BF16, ORT, OV, QUICK, Recorder, component_of, stamps

from torchlift.backends.onnxruntime import OnnxRuntime
from torchlift.backends.openvino import OpenVino
from torchlift.backends.pytorch import PyTorch
from torchlift.bundle import Bundle
from torchlift.errors import BackendError, BackendUnavailableError, ChecksumError, InputError, StorageError
from torchlift.evidence import Tolerance
from torchlift.jobs import JobOptions, bench_bundle, build_bundle, verify_bundle
from torchlift.machine import this_machine
from torchlift.manifest import Graph, read_manifest
from torchlift.prove.verify import VerifyOptions, proven_here
from torchlift.stages import BuildOptions, ConvertOptions, bench_component, build_variant, verify_all

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
    def refuse(self, source, folder, signature, compilation):
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
    failure = wrong.manifest.variant(ORT).verification.failures[0]
    assert (failure.kind, failure.output, failure.golden) == ("difference", "y", "min")
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


def cut_off(file):
    file.write_bytes(file.read_bytes()[:-7])


def change(file):
    file.write_bytes(b"x" + file.read_bytes()[1:])


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
@pytest.mark.parametrize("damage", [cut_off, change, Path.unlink])
def test_a_variant_whose_own_files_are_damaged_is_built_again(bundle, unmeasured, damage, name):
    options = JobOptions(BuildOptions(("onnxruntime", "openvino"), ("fp32",)), bench=replace(QUICK, batches=(1,)))
    before = build_bundle(bundle.path, options)
    for path in before.variant(f"model/{name}/fp32").files:
        damage(bundle.file(path))
    for work in (bench_bundle, verify_bundle):
        with pytest.raises(ChecksumError, match=f"model/{name}-fp32"):
            work(bundle.path, VerifyOptions() if work is verify_bundle else QUICK)
    recorder = Recorder()
    manifest = build_bundle(bundle.path, options, recorder)
    assert [said.partition(":")[0] for said in recorder.notes] == [f"model/{name}/fp32 counts as not built"]
    assert [t for t in recorder.titles if t.startswith("build")] == [f"build model/{name}/fp32"]
    again = Bundle.open(bundle.path)
    assert again.manifest == manifest
    assert {v.name for v in manifest.variants} == {ORT, OV}
    assert all(proven_here(again, v) for v in manifest.variants)
    assert {manifest.choices["model"].variant, *manifest.choices["model"].others} == {ORT, OV}


def test_a_damaged_variant_that_is_not_asked_for_is_gone(bundle, unmeasured):
    options = JobOptions(BuildOptions(("onnxruntime", "openvino"), ("fp32",)), bench=replace(QUICK, batches=(1,)))
    damaged = build_bundle(bundle.path, options).variant(OV)
    cut_off(bundle.file(damaged.model))
    manifest = build_bundle(bundle.path, replace(options, build=BuildOptions(("onnxruntime",), ("fp32",))))
    assert [v.name for v in manifest.variants] == [ORT]
    assert manifest.choices["model"].variant == ORT
    assert Bundle.open(bundle.path).manifest == manifest
    assert not bundle.file(damaged.model).exists()


def test_a_build_that_is_refused_leaves_a_damaged_bundle_as_it_was(built):
    cut_off(built.file(built.manifest.variant(OV).model))
    with pytest.raises(InputError, match="names no component"):
        build_bundle(built.path, JobOptions(convert=ConvertOptions(keep=("nothing:*",))))
    assert read_manifest(built.path) == built.manifest


@pytest.mark.parametrize("path", ["model/source/model.onnx", "model/source/goldens.safetensors", "model/program/notes"])
def test_damage_to_what_variants_are_built_from_is_refused(with_program, path):
    build_variant(with_program, component_of(with_program), "pytorch", "fp32")
    before = with_program.manifest
    change(with_program.file(path))
    with pytest.raises(ChecksumError, match=f"{path} was changed"):
        build_bundle(with_program.path)
    assert read_manifest(with_program.path) == before


def test_a_variant_that_fails_its_check_is_neither_measured_nor_chosen(bundle, tmp_path, monkeypatch, unmeasured):
    onnx.save(tiny.model(seed=1), tmp_path / "other.onnx")
    build = OpenVino.build
    monkeypatch.setattr(OpenVino, "build", lambda self, _, *rest: build(self, tmp_path / "other.onnx", *rest))
    options = JobOptions(BuildOptions(precisions=("fp32",)), bench=replace(QUICK, batches=(1,)))
    manifest = build_bundle(bundle.path, options)
    assert {x.contender.name for x in manifest.benchmarks["model"].latencies} == {ORT}
    assert manifest.choices["model"].variant == ORT
    verdict = manifest.choices["model"].others[OV]
    assert (verdict.kind, verdict.failure.output, verdict.failure.golden) == ("disagrees", "y", "min")


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


PROGRAM = "model/pytorch/fp32"


@pytest.fixture
def with_program(bundle):
    """The tiny bundle with a program, and something that belongs to it; whether torch opens it is not asked here."""
    with bundle.adding("model/program") as added:
        (added.path / "model.pt2").write_bytes(b"a program")
        (added.path / "notes").write_bytes(b"on it")
    graph = Graph("model", "program", "key", f"{added.folder}/model.pt2", tuple(added.files))
    bundle.commit(bundle.manifest.with_graph(graph), added.files)
    return bundle


def test_a_backend_that_opens_graphs_shares_their_files(with_program):
    bundle, recorder = with_program, Recorder()
    before = contents(bundle)
    variants = [build_variant(bundle, component_of(bundle), "pytorch", r, recorder) for r in ("fp32", "bf16")]
    files = ("model/program/model.pt2", "model/program/notes")
    assert [(v.name, v.model, v.files) for v in variants] == [
        (PROGRAM, files[0], files),
        ("model/pytorch/bf16", files[0], files),
    ]
    assert variants[0].form == "program"
    assert recorder.titles == []
    assert contents(bundle) == before
    assert Bundle.open(bundle.path).manifest.variants == tuple(variants)
    assert build_variant(bundle, component_of(bundle), "pytorch", "fp32") is bundle.manifest.variant(PROGRAM)
    bundle.commit(replace(bundle.manifest, variants=()))
    assert contents(bundle) == before, "the graph is the bundle's"


def test_another_torch_makes_another_variant_of_the_same_program(with_program, monkeypatch):
    old = build_variant(with_program, component_of(with_program), "pytorch", "fp32")
    monkeypatch.setattr(PyTorch, "version", lambda self: "torch 2.11.0+cu130 on NVIDIA H200, driver 580")
    new = build_variant(with_program, component_of(with_program), "pytorch", "fp32")
    assert (new.key != old.key, new.files) == (True, old.files)


def test_a_backend_that_opens_the_components_own_graph_has_its_weights_too(bundle, monkeypatch):
    (bundle.path / "model/source/model.onnx.data").write_bytes(b"weights")
    record = tiny.record_of(bundle.path / "model/source/model.onnx.data")
    bundle.commit(bundle.manifest, {"model/source/model.onnx.data": record})
    monkeypatch.setattr(OnnxRuntime, "opens_graphs", True)
    variant = build_variant(bundle, component_of(bundle), "onnxruntime", "fp32")
    assert variant.files == ("model/source/model.onnx", "model/source/model.onnx.data")
    assert not (bundle.path / "model" / "onnxruntime-fp32").exists()


def test_a_bundle_without_a_program_says_how_it_gets_one(bundle):
    variant = build_variant(bundle, component_of(bundle), "pytorch", "fp32")
    assert variant.failure == (
        "the bundle has no torch.export program; ship it with `backends=pytorch`, or export with `program=`"
    )
    assert Bundle.open(bundle.path).manifest.variants == (variant,)


def contents(bundle):
    return {p.relative_to(bundle.path): p.stat().st_ino for p in (bundle.path / "model").rglob("*") if p.is_file()}


# builds that make nothing


def test_a_build_that_makes_nothing_of_what_was_asked_for_is_an_error_with_the_reasons(proven, monkeypatch, unmeasured):
    before = {v.name for v in proven.manifest.variants}
    with pytest.raises(BackendError, match="nothing that was asked for was built") as caught:
        build_bundle(proven.path, JobOptions(BuildOptions(("pytorch",), ("fp32",)), bench=QUICK))
    assert "model/pytorch/fp32: the bundle has no torch.export program" in caught.value.message
    assert before <= {v.name for v in Bundle.open(proven.path).manifest.variants if not v.failure}


def test_a_build_that_leaves_the_variant_of_before_is_an_error_too(proven, monkeypatch, unmeasured):
    def refuse(self, *_):
        raise BackendError("the file is too large")

    before = proven.manifest.variant(ORT)
    monkeypatch.setattr(OnnxRuntime, "version", lambda self: "onnxruntime 99")
    monkeypatch.setattr(OnnxRuntime, "build", refuse)
    with pytest.raises(BackendError, match=f"{ORT}: the file is too large"):
        build_bundle(proven.path, JobOptions(BuildOptions(("onnxruntime",), ("fp32",)), bench=QUICK))
    assert Bundle.open(proven.path).manifest.variant(ORT).files == before.files


def test_a_build_that_makes_a_part_of_what_was_asked_for_goes_on_and_says_what_is_missing(bundle, unmeasured):
    options = JobOptions(BuildOptions(("onnxruntime", "pytorch"), ("fp32",)), bench=QUICK)
    manifest = build_bundle(bundle.path, options)
    assert manifest.choices["model"].variant == ORT
    assert manifest.variant(PROGRAM).failure
    assert "no torch.export program" in manifest.choices["model"].others[PROGRAM].detail


def test_a_second_build_with_nothing_to_do_is_no_error(bundle, unmeasured):
    options = JobOptions(BuildOptions(("onnxruntime",), ("fp32",)), bench=QUICK)
    first = build_bundle(bundle.path, options)
    assert build_bundle(bundle.path, options).variants == first.variants
