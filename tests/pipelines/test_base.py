import os
import shutil
from dataclasses import replace

import numpy as np
import pytest
import tiny
from shipped import pictures

from torchlift.backends import Availability, Session, SessionOptions, backend
from torchlift.backends.onnxruntime import OnnxRuntime
from torchlift.bundle import Bundle
from torchlift.errors import (
    BackendUnavailableError,
    BundleError,
    ChecksumError,
    EngineError,
    StorageError,
    VerificationError,
)
from torchlift.evidence import Failure, Tolerance
from torchlift.machine import RunOn
from torchlift.pipelines import OpenOptions, of_bundle, open_bundle
from torchlift.prove.verify import VerifyOptions, verify_variant
from torchlift.stages import build_variant
from torchlift.staging import locked

ORT, OPENVINO = "model/onnxruntime/fp32", "model/openvino/fp32"


def answer(pipeline, rows=2):
    return pipeline({"x": tiny.sample(rows)})["y"]


def from_elsewhere(bundle, name, **changes):
    """Make the evidence of a variant say that it was obtained on another machine."""
    variant = bundle.manifest.variant(name)
    proof = variant.verification or verify_variant(bundle, variant)
    machine = replace(proof.provenance.machine, processor="Another 9000")
    proof = replace(proof, provenance=replace(proof.provenance, machine=machine), **changes)
    bundle.commit(bundle.manifest.with_variant(replace(variant, verification=proof)))


def test_a_bundle_answers_with_its_chosen_variant(ready):
    with open_bundle(ready.path) as pipeline:
        assert pipeline.variant("model").name == ORT
        np.testing.assert_allclose(answer(pipeline), tiny.answer(tiny.sample(2)), rtol=1e-5, atol=1e-5)
        assert "onnxruntime" in pipeline.session("model").runtime


def test_without_a_choice_the_remedy_is_to_build(built):
    with (
        open_bundle(built.path) as pipeline,
        pytest.raises(BundleError, match="no variant of model has been") as caught,
    ):
        answer(pipeline)
    assert f"torchlift build {built.path}" in caught.value.remedy
    assert "`variants=`" in caught.value.remedy


@pytest.mark.parametrize("name", [OPENVINO, "openvino/fp32"])
def test_another_than_the_chosen_variant_can_be_named(ready, name, progress):
    with open_bundle(ready.path, OpenOptions({"model": name}), progress) as pipeline:
        answer(pipeline)
        assert "openvino" in pipeline.session("model").runtime
    assert any(OPENVINO in note for note in progress.notes), "it was not verified before"


@pytest.mark.parametrize(
    ("variants", "message", "remedy"),
    [
        ({"model": "onnxruntime/int4"}, "no variant 'model/onnxruntime/int4'", ORT),
        ({"model": "model/tensorrt/fp32"}, "no variant 'model/tensorrt/fp32'", ORT),
        ({"onnxruntime": "onnxruntime/fp32"}, "no component 'onnxruntime'", "model"),
    ],
)
def test_an_unknown_variant_is_refused_when_the_bundle_is_opened(ready, variants, message, remedy):
    with pytest.raises(BundleError) as caught:
        open_bundle(ready.path, OpenOptions(variants))
    assert message in caught.value.message
    assert remedy in caught.value.remedy


def test_an_unknown_component_has_no_variant(ready):
    with open_bundle(ready.path) as pipeline, pytest.raises(BundleError, match="no component 'image'"):
        pipeline.variant("image")


def test_a_variant_whose_runtime_is_not_here_is_refused_with_what_to_install(ready, monkeypatch):
    missing = Availability(False, "openvino is not installed", "pip install openvino")
    monkeypatch.setattr(type(backend("openvino")), "available", lambda self: missing)
    with (
        open_bundle(ready.path, OpenOptions({"model": OPENVINO})) as pipeline,
        pytest.raises(BackendUnavailableError, match="openvino cannot be used: openvino is not installed") as caught,
    ):
        answer(pipeline)
    assert caught.value.remedy == "pip install openvino"


def test_a_variant_that_was_not_built_is_refused(ready):
    broken = replace(ready.manifest.variant(OPENVINO), model="", files=(), failure="the operator Foo is not known")
    ready.commit(ready.manifest.with_variant(broken))
    with (
        open_bundle(ready.path, OpenOptions({"model": OPENVINO})) as pipeline,
        pytest.raises(VerificationError, match="was not built: the operator Foo is not known") as caught,
    ):
        answer(pipeline)
    assert "another variant" in caught.value.remedy


def test_evidence_that_holds_here_is_not_obtained_again(ready, progress):
    with open_bundle(ready.path, progress=progress) as pipeline:
        answer(pipeline)
    assert progress.notes == []
    assert not any(title.startswith("verify") for title in progress.stages)


def test_evidence_of_another_machine_is_obtained_anew_and_kept(ready, progress):
    from_elsewhere(ready, ORT)
    with open_bundle(ready.path, progress=progress) as pipeline:
        answer(pipeline)
    assert progress.notes == [f"{ORT} was not verified on this machine with these releases: verifying it now"]
    kept = Bundle.open(ready.path).manifest.variant(ORT).verification
    assert kept.passed
    assert kept.provenance.machine.processor != "Another 9000"
    progress.notes.clear()
    with open_bundle(ready.path, progress=progress) as pipeline:
        answer(pipeline)
    assert progress.notes == []


def test_what_another_machine_refused_may_be_right_here(ready):
    from_elsewhere(ready, ORT, failures=(Failure(kind="nonfinite", golden="min", output="y", nan=3),))
    with open_bundle(ready.path) as pipeline:
        assert answer(pipeline).shape == (2, tiny.OUTPUTS)


@pytest.mark.parametrize(
    ("tolerance", "looser"),
    [
        (Tolerance(0.5, 0.99999), True),
        (Tolerance(1e-4, 0.5), True),
        (Tolerance(1e-4, 0.99999), False),
        (Tolerance(5e-5, 0.999999), False),
    ],
)
def test_evidence_is_obtained_anew_at_the_tolerance_of_before_and_a_looser_one_is_noted(
    ready, progress, tolerance, looser
):
    from_elsewhere(ready, ORT, tolerance=tolerance)
    with open_bundle(ready.path, progress=progress) as pipeline:
        answer(pipeline)
    assert Bundle.open(ready.path).manifest.variant(ORT).verification.tolerance == tolerance
    noted = (
        f"{ORT} is held to the tolerance of before: off by at most {tolerance.scaled:g} of the scale, cosine at least "
        f"{tolerance.cosine:g}; the default is 0.0001 and 0.99999"
    )
    assert (noted in progress.notes) == looser
    assert len(progress.notes) == 1 + looser


def test_evidence_of_both_towers_is_kept(copied, progress):
    names = [copied.manifest.choices[component].variant for component in ("image", "text")]
    for name in names:
        from_elsewhere(copied, name)
    with open_bundle(copied.path, progress=progress) as pipeline:
        for component in ("image", "text"):
            pipeline.session(component)
    assert len(progress.notes) == 2
    manifest = Bundle.open(copied.path).manifest
    assert all(manifest.variant(n).verification.provenance.machine.processor != "Another 9000" for n in names)


@pytest.fixture
def wrong(tmp_path):
    """A bundle whose graph has other weights than those that gave the goldens."""
    bundle = tiny.make_bundle(tmp_path / "wrong", seed=1)
    build_variant(bundle, bundle.manifest.component("model"), "onnxruntime", "fp32")
    return bundle


def test_a_variant_that_does_not_agree_is_refused_now_and_later(wrong):
    for _ in range(2):
        with (
            open_bundle(wrong.path, OpenOptions({"model": ORT})) as pipeline,
            pytest.raises(VerificationError, match="does not agree with PyTorch: y at min: off by") as caught,
        ):
            answer(pipeline)
        assert "torchlift build" in caught.value.remedy
    assert not Bundle.open(wrong.path).manifest.variant(ORT).verification.passed


@pytest.fixture
def foreign(ready, monkeypatch):
    """The tiny bundle, proven elsewhere, whose files are engines of another driver."""
    from_elsewhere(ready, ORT)

    def refuse(self, model, *_):
        raise EngineError(f"{model} does not fit here: another driver is here", remedy=f"torchlift build {ready.path}")

    monkeypatch.setattr(OnnxRuntime, "open", refuse)
    return ready


def test_an_engine_of_another_machine_is_refused_in_its_own_words_and_the_proof_of_before_stays(foreign):
    before = foreign.manifest
    with open_bundle(foreign.path) as pipeline, pytest.raises(EngineError, match="does not fit here") as caught:
        answer(pipeline)
    assert caught.value.remedy == f"torchlift build {foreign.path}"
    assert Bundle.open(foreign.path).manifest == before


def test_what_could_not_be_compared_is_not_said_to_disagree(ready, monkeypatch):
    from_elsewhere(ready, ORT)
    monkeypatch.setattr(OnnxRuntime, "open", lambda *_: (_ for _ in ()).throw(MemoryError("none left")))
    said = f"{ORT} cannot be used here: onnxruntime failed: MemoryError: none left"
    with open_bundle(ready.path) as pipeline, pytest.raises(VerificationError, match=said) as caught:
        answer(pipeline)
    assert "torchlift build" in caught.value.remedy


def test_a_variant_is_verified_as_it_is_opened_on_the_device_that_was_named(ready, monkeypatch):
    from_elsewhere(ready, ORT)
    told, opening = [], OnnxRuntime.open

    def remember(self, model, signature, recipe, options):
        told.append(options)
        return opening(self, model, signature, recipe, options)

    monkeypatch.setattr(OnnxRuntime, "open", remember)
    with open_bundle(ready.path, OpenOptions(on=RunOn(threads=1, device=2))) as pipeline:
        answer(pipeline)
    assert told == [SessionOptions(RunOn(1, 2))] * 2


def test_a_variant_that_failed_a_stricter_tolerance_is_refused(ready):
    variant = ready.manifest.variant(ORT)
    proof = verify_variant(ready, variant, VerifyOptions({"fp32": Tolerance(0, 1)}))
    proof = replace(
        proof,
        failures=proof.failures or (Failure(kind="difference", golden="min", output="y", difference=1e-7, limit=0.0),),
    )
    ready.commit(ready.manifest.with_variant(replace(variant, verification=proof)))
    with open_bundle(ready.path) as pipeline, pytest.raises(VerificationError, match="off by"):
        answer(pipeline)


@pytest.fixture
def read_only(ready, monkeypatch):
    """The tiny bundle with evidence of another machine, in a folder that may not be written."""
    from_elsewhere(ready, ORT)
    if os.geteuid():
        for folder in (ready.path, ready.path.parent):
            folder.chmod(0o555)
    else:  # permissions do not bind

        def refuse(self, manifest, added=None):
            raise StorageError(f"{self.path} may not be written: Read-only file system")

        monkeypatch.setattr(Bundle, "commit", refuse)
    yield ready
    for folder in (ready.path, ready.path.parent):
        folder.chmod(0o755)


def test_a_bundle_that_cannot_be_written_serves_and_says_that_the_proof_is_not_kept(read_only, progress):
    with open_bundle(read_only.path, progress=progress) as pipeline:
        np.testing.assert_allclose(answer(pipeline), tiny.answer(tiny.sample(2)), rtol=1e-5, atol=1e-5)
    assert "verifying it now" in progress.notes[0]
    assert progress.notes[1].startswith("the proof is not kept:")
    assert "may not be written" in progress.notes[1]


def test_a_bundle_that_is_being_written_serves_and_the_proof_is_not_kept(ready, progress):
    from_elsewhere(ready, ORT)
    with locked(ready.path), open_bundle(ready.path, progress=progress) as pipeline:
        assert answer(pipeline).shape == (2, tiny.OUTPUTS)
    assert "being written by another process" in progress.notes[1]


def test_what_was_written_after_opening_is_not_overwritten(ready, progress):
    from_elsewhere(ready, ORT)
    with open_bundle(ready.path, progress=progress) as pipeline:
        later = Bundle.open(ready.path)
        later.commit(replace(later.manifest, made_with={"somebody": "else"}))
        assert answer(pipeline).shape == (2, tiny.OUTPUTS)
    assert Bundle.open(ready.path).manifest.made_with == {"somebody": "else"}
    assert "the proof is not kept: the bundle was changed" in progress.notes[1]


@pytest.mark.parametrize(
    ("chosen", "graphed", "proven", "replays"),
    [(ORT, True, True, True), (ORT, True, False, False), (ORT, False, True, False), (OPENVINO, True, True, False)],
)
def test_the_chosen_replays_graphs_where_it_was_faster_so_and_proven_so_and_on_the_device_that_was_named(
    ready, monkeypatch, progress, chosen, graphed, proven, replays
):
    if proven:
        variant = ready.manifest.variant(ORT)
        replayed = tuple(replace(c, replayed=True) for c in variant.verification.checks)
        verification = replace(variant.verification, checks=variant.verification.checks + replayed)
        ready.commit(ready.manifest.with_variant(replace(variant, verification=verification)))
    choice = replace(ready.manifest.choices["model"], variant=chosen, cuda_graph=graphed)
    ready.commit(replace(ready.manifest, choices={"model": choice}))
    told, opening = [], OnnxRuntime.open

    def remember(self, model, signature, recipe, options):
        told.append(options)
        return opening(self, model, signature, recipe, options)

    with open_bundle(ready.path, OpenOptions({"model": ORT}, RunOn(threads=1, device=2)), progress) as pipeline:
        monkeypatch.setattr(OnnxRuntime, "open", remember)
        answer(pipeline)
    assert told == [SessionOptions(RunOn(1, 2), cuda_graph=replays)]
    without = [f"{ORT} runs without CUDA graphs: its verification here replayed none"]
    assert progress.notes == (without if chosen == ORT and graphed and not proven else [])


@pytest.mark.parametrize("threads", [1, 3])
def test_the_number_of_threads_reaches_the_runtime(ready, threads):
    with open_bundle(ready.path, OpenOptions(on=RunOn(threads=threads))) as pipeline:
        options = pipeline.session("model")._session.get_session_options()
        assert options.intra_op_num_threads == threads


def test_sessions_are_opened_once_and_closed(ready):
    with open_bundle(ready.path) as pipeline:
        session = pipeline.session("model")
        assert pipeline.session("model") is session
    assert session._session is None


def test_a_closed_pipeline_says_so(ready, copied):
    with open_bundle(ready.path) as tensors:
        answer(tensors)
    with open_bundle(copied.path) as clip_:
        pass
    for use in (lambda: answer(tensors), lambda: clip_.encode_text(["猫"]), lambda: clip_.encode_image(pictures(1))):
        with pytest.raises(BundleError, match="the pipeline is closed") as caught:
            use()
        assert "Open " in caught.value.remedy
    tensors.close()


def test_a_bundle_that_was_replaced_before_its_session_opened_is_refused(ready, tmp_path):
    with open_bundle(ready.path) as pipeline:
        shutil.rmtree(ready.path)
        other = tiny.make_bundle(ready.path, seed=1)
        build_variant(other, other.manifest.component("model"), "onnxruntime", "fp32")
        with pytest.raises(BundleError, match=f"{ready.path} changed since it was opened") as caught:
            answer(pipeline)
    assert caught.value.remedy == "Open it again."


def test_an_open_session_goes_on_when_the_bundle_is_replaced(ready):
    with open_bundle(ready.path) as pipeline:
        before = answer(pipeline)
        shutil.rmtree(ready.path)
        np.testing.assert_array_equal(answer(pipeline), before)


def test_a_changed_file_is_found_before_the_runtime_is_given_it(ready, monkeypatch):
    given = []
    monkeypatch.setattr(OnnxRuntime, "open", lambda *_, **__: given.append("opened"))
    tiny.flip(ready.file(ready.manifest.variant(ORT).model))
    with open_bundle(ready.path) as pipeline:
        for _ in range(2):
            with pytest.raises(ChecksumError, match=r"model\.onnx was changed"):
                answer(pipeline)
    assert given == []


def test_what_the_served_variant_does_not_need_is_not_compared(ready, progress):
    component = ready.manifest.component("model")
    for path in (ready.manifest.variant(OPENVINO).model, component.model, component.goldens):
        tiny.flip(ready.file(path))
    with open_bundle(ready.path, progress=progress) as pipeline:
        answer(pipeline)
        answer(pipeline)
    assert progress.stages == [f"compare checksums of {ORT}"]


@pytest.mark.parametrize("part", ["goldens", "model"])
def test_what_proves_a_variant_is_compared_when_it_is_proven(ready, part):
    from_elsewhere(ready, ORT)
    owner = ready.manifest.component("model") if part == "goldens" else ready.manifest.variant(ORT)
    tiny.flip(ready.file(getattr(owner, part)))
    with open_bundle(ready.path) as pipeline, pytest.raises(ChecksumError, match="was changed"):
        answer(pipeline)


def test_a_changed_vocabulary_is_not_read(copied):
    tiny.flip(copied.file(copied.manifest.assets["vocabulary"]))
    with pytest.raises(ChecksumError, match="was changed"):
        open_bundle(copied.path)


class Doubling(Session):
    """Answers twice what the tiny model answers, and must not be closed by a pipeline."""

    def __init__(self):
        super().__init__(tiny.SIGNATURE, "doubling")
        self.closed = False

    def _run(self, feeds):
        return {"y": 2 * tiny.answer(feeds["x"])}

    def _prepare(self, feeds):
        return lambda: None

    def close(self):
        self.closed = True


def test_a_session_that_is_given_serves_unproven_in_place_of_a_variant_and_stays_open(bundle, progress):
    session = Doubling()
    with of_bundle(bundle, {"model": session}, progress=progress) as pipeline:
        assert pipeline.session("model") is session
        np.testing.assert_allclose(answer(pipeline), 2 * tiny.answer(tiny.sample(2)), rtol=1e-5)
    assert not session.closed
    assert (progress.notes, bundle.manifest.variants) == ([], ())
    with pytest.raises(BundleError, match="the pipeline is closed"):
        answer(pipeline)


def test_a_component_without_a_given_session_is_served_by_its_variant(copied):
    given = Doubling()
    with of_bundle(copied, {"image": given}) as pipeline:
        assert pipeline.session("image") is given
        assert pipeline.session("text") is not given
        assert pipeline.encode_text(["猫"]).shape[0] == 1


def test_a_session_for_an_unknown_component_is_refused(bundle):
    with pytest.raises(BundleError, match="no component 'image'"):
        of_bundle(bundle, {"image": Doubling()})
