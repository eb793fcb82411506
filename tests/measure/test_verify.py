from dataclasses import replace
from datetime import datetime, timezone

import numpy as np
import pytest
import tiny

from torchlift.backends import Session, backend
from torchlift.backends.onnxruntime import OnnxRuntime
from torchlift.bundle import Bundle
from torchlift.errors import BackendError
from torchlift.evidence import Tolerance, now
from torchlift.machine import this_machine
from torchlift.measure.numerics import TOLERANCES
from torchlift.measure.verify import VerifyOptions, proven_here, provenance, verify_variant
from torchlift.progress import Progress, Stage
from torchlift.signature import Axis
from torchlift.stages import build_variant, verify_all

VARIANTS = [("onnxruntime", "fp32"), ("openvino", "fp32"), ("openvino", "bf16")]


def variant_of(bundle, name, precision):
    if not backend(name).supports(precision).ok:
        pytest.skip(backend(name).supports(precision).detail)
    return bundle.manifest.variant(f"model/{name}/{precision}")


def verified(bundle, name="onnxruntime", precision="fp32"):
    variant = variant_of(bundle, name, precision)
    return replace(variant, verification=verify_variant(bundle, variant))


@pytest.mark.parametrize(("name", "precision"), VARIANTS)
def test_a_variant_that_answers_as_pytorch_does_passes(built, name, precision):
    proof = verified(built, name, precision).verification
    assert proof.failures == ()
    assert [(c.golden, c.output) for c in proof.checks] == [("min", "y"), ("opt", "y"), ("max", "y")]
    assert [c.golden for c in proof.invariance] == ["opt, rows turned", "opt, rows fewer"]
    assert proof.tolerance == TOLERANCES[precision]
    assert 0 <= proof.worst.difference.max_scaled <= TOLERANCES[precision].scaled
    assert proof.worst.difference.scale > 1


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_variant_of_other_weights_fails_with_words(tmp_path, name):
    bundle = tiny.make_bundle(tmp_path / "other", seed=1)
    variant = build_variant(bundle, bundle.manifest.component("model"), name, "fp32")
    proof = verify_variant(bundle, variant)
    assert not proof.passed
    assert len(proof.failures) == 3
    assert all("of the scale (at most 1e-04)" in f for f in proof.failures)
    assert proof.failures[0].startswith("y at min: off by")


def test_bf16_does_not_pass_for_fp32(built):
    variant = variant_of(built, "openvino", "bf16")
    assert verify_variant(built, variant).passed
    strict = VerifyOptions(tolerances={"bf16": TOLERANCES["fp32"]})
    proof = verify_variant(built, variant, strict)
    assert not proof.passed
    assert proof.tolerance == TOLERANCES["fp32"]
    assert "of the scale (at most 1e-04)" in proof.failures[0]


def test_tolerances_replace_only_those_that_are_named():
    options = VerifyOptions(tolerances={"fp32": Tolerance(1, 0)})
    assert options.tolerance("fp32") == Tolerance(1, 0)
    assert options.tolerance("bf16") == TOLERANCES["bf16"]


def test_a_proof_says_where_it_was_obtained(built):
    proof = verified(built).verification.provenance
    variant = built.manifest.variant("model/onnxruntime/fp32")
    assert proof.machine == this_machine()
    assert proof.runtime == backend("onnxruntime").version()
    assert {*proof.files} == {*variant.files, "model/source/goldens.safetensors"}
    assert proof.files == {f: built.manifest.files[f].sha256 for f in proof.files}


def test_the_time_is_in_utc():
    then = datetime.fromisoformat(now())
    assert then.utcoffset().total_seconds() == 0
    assert abs((datetime.now(timezone.utc) - then).total_seconds()) < 5


def test_a_proof_holds_here_and_after_the_bundle_was_opened_again(built):
    variant = verified(built)
    assert proven_here(built, variant)
    built.commit(built.manifest.with_variant(variant))
    again = Bundle.open(built.path)
    assert proven_here(again, again.manifest.variant(variant.name))


def test_what_was_never_verified_does_not_hold(built):
    assert not proven_here(built, built.manifest.variant("model/onnxruntime/fp32"))


def test_a_proof_does_not_hold_elsewhere(built):
    variant = verified(built)
    here = variant.verification.provenance
    model = built.manifest.component("model").goldens
    elsewhere = [
        replace(here, machine=replace(here.machine, processor="another")),
        replace(here, machine=replace(here.machine, instructions=())),
        replace(here, runtime="onnxruntime 1.0.0"),
        replace(here, files={**here.files, model: "0" * 64}),
        replace(here, files={**here.files, variant.model: "0" * 64}),
    ]
    for there in elsewhere:
        assert not proven_here(built, replace(variant, verification=replace(variant.verification, provenance=there)))


def test_a_proof_does_not_hold_for_files_that_changed(built):
    variant = verified(built)
    record = built.manifest.files[variant.files[0]]
    files = {**built.manifest.files, variant.files[0]: replace(record, sha256="0" * 64)}
    assert not proven_here(Bundle(built.path, replace(built.manifest, files=files)), variant)


def test_a_proof_of_one_backend_does_not_hold_for_another(built):
    proof = verified(built, "onnxruntime").verification
    assert not proven_here(built, replace(variant_of(built, "openvino", "fp32"), verification=proof))


class Fake(Session):
    def __init__(self, answer):
        super().__init__(tiny.SIGNATURE, "fake")
        self._answer = answer

    def _run(self, feeds):
        return self._answer(feeds["x"])

    def _prepare(self, feeds):
        return lambda: None


@pytest.fixture
def answering(built, monkeypatch):
    """Verify ONNX Runtime's variant with a session that answers as told."""

    def verify(answer, bundle=built):
        monkeypatch.setattr(type(backend("onnxruntime")), "open", lambda *arguments: Fake(answer))
        return verify_variant(bundle, bundle.manifest.variant("model/onnxruntime/fp32"))

    return verify


def test_rows_that_depend_on_their_neighbours_fail_with_words(answering):
    def leaking(x):
        y = tiny.answer(x)
        return {"y": y + (0.01 * y.mean(axis=0) if len(x) == 3 else 0)}

    proof = answering(leaking)
    assert len(proof.failures) == 1
    assert proof.failures[0].startswith("rows depend on their neighbours: y at opt, rows fewer: off by")


def test_rows_are_compared_at_the_maximum_where_the_optimum_is_one_row(tmp_path, answering):
    signature = replace(tiny.SIGNATURE, axes=(Axis("batch", 1, 1, 3),))
    bundle = tiny.make_bundle(tmp_path / "single", signature=signature)
    build_variant(bundle, bundle.manifest.component("model"), "onnxruntime", "fp32")
    proof = answering(lambda x: {"y": tiny.answer(x)}, bundle)
    assert [c.golden for c in proof.invariance] == ["max, rows turned", "max, rows fewer"]


def test_a_runtime_that_fails_is_a_failed_verification(answering):
    def refuse(x):
        raise BackendError("out of memory", remedy="Use a smaller batch.")

    proof = answering(refuse)
    assert proof.failures == ("out of memory",)
    assert proof.checks == ()


def test_any_other_failure_names_the_backend(answering):
    proof = answering(lambda x: {"z": x})
    assert proof.failures == ("onnxruntime failed: KeyError: 'y'",)


def test_an_output_of_another_shape_fails(answering):
    proof = answering(lambda x: {"y": np.zeros((4, 24), np.float32)})
    assert proof.failures == ("output y is float32[4, 24] for the golden min, PyTorch's is float32[1, 24]",)


def test_what_failed_before_the_end_keeps_the_checks_so_far(answering):
    def small(x):
        if len(x) > 4:
            raise BackendError("the engine ends at 4 rows")
        return {"y": tiny.answer(x)}

    proof = answering(small)
    assert proof.failures == ("the engine ends at 4 rows",)
    assert [c.golden for c in proof.checks] == ["min", "opt"]


def test_a_variant_whose_file_is_gone_fails(built):
    variant = built.manifest.variant("model/onnxruntime/fp32")
    built.file(variant.model).unlink()
    (failure,) = verify_variant(built, variant).failures
    assert failure.startswith("ONNX Runtime cannot load model.onnx")


def test_progress_takes_a_step_a_golden_and_one_for_the_rows(built):
    told = []

    class Recorder(Progress, Stage):
        def stage(self, title, total=None):
            told.append((title, total))
            return self

        def __enter__(self):
            return self

        def __exit__(self, *error):
            return None

        def advance(self, steps=1):
            told.append(steps)

    verify_variant(built, built.manifest.variant("model/onnxruntime/fp32"), progress=Recorder())
    assert told == [("verify model/onnxruntime/fp32", 4), 1, 1, 1, 1]


def test_provenance_is_of_the_variant_that_is_asked_for(built):
    proof = provenance(built, built.manifest.variant("model/openvino/fp32"))
    assert proof.runtime == backend("openvino").version()
    assert {f.split("/")[1] for f in proof.files} == {"openvino-fp32", "source"}


def test_what_failed_is_tried_again(built, monkeypatch):
    name = "model/onnxruntime/fp32"
    monkeypatch.setattr(OnnxRuntime, "open", lambda *_, **__: (_ for _ in ()).throw(MemoryError("none left")))
    verify_all(built, [built.manifest.variant(name)])
    assert built.manifest.variant(name).verification.failures == ("onnxruntime failed: MemoryError: none left",)
    monkeypatch.undo()
    verify_all(built, [built.manifest.variant(name)])
    assert built.manifest.variant(name).verification.passed
