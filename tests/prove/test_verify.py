from dataclasses import replace
from datetime import datetime, timezone

import numpy as np
import pytest
import tiny
from onnx import TensorProto, helper

from torchlift.backends import Session, SessionOptions, backend, base
from torchlift.backends.onnxruntime import OnnxRuntime
from torchlift.backends.openvino import OpenVino
from torchlift.bundle import Bundle
from torchlift.errors import BackendError, BackendUnavailableError, BundleError, DeviceMemoryError, EngineError
from torchlift.evidence import Failure, Rows, Tolerance, now
from torchlift.machine import RunOn, this_machine
from torchlift.manifest import Graph
from torchlift.messages import run_text
from torchlift.progress import Progress, Stage
from torchlift.prove.goldens import GOLDENS, Golden, load_goldens, save_goldens
from torchlift.prove.numerics import TOLERANCES
from torchlift.prove.verify import VerifyOptions, proven_here, provenance, verify_variant, within
from torchlift.signature import CORNERS, Axis, Signature, TensorSpec
from torchlift.stages import build_variant, verify_all


def error(said):
    """The failures of a variant that could not run."""
    return (Failure(kind="error", detail=said),)


VARIANT = "model/onnxruntime/fp32"
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
    assert [(run_text(c), c.output) for c in proof.checks] == [("min", "y"), ("opt", "y"), ("max", "y")]
    assert [run_text(c) for c in proof.invariance] == ["opt, rows turned", "opt, rows fewer"]
    assert proof.tolerance == TOLERANCES[precision]
    assert 0 <= proof.worst.difference.max_scaled <= TOLERANCES[precision].scaled
    assert proof.worst.difference.scale > 1


@pytest.mark.parametrize("name", ["onnxruntime", "openvino"])
def test_a_variant_of_other_weights_fails_with_the_numbers(tmp_path, name):
    bundle = tiny.make_bundle(tmp_path / "other", seed=1)
    variant = build_variant(bundle, bundle.manifest.component("model"), name, "fp32")
    proof = verify_variant(bundle, variant)
    assert not proof.passed
    assert len(proof.failures) == 3
    assert {(f.kind, f.limit) for f in proof.failures} == {("difference", TOLERANCES["fp32"].scaled)}
    assert (proof.failures[0].output, proof.failures[0].golden) == ("y", "min")
    assert proof.failures[0].difference == proof.checks[0].difference.max_scaled


def test_bf16_does_not_pass_for_fp32(built):
    variant = variant_of(built, "openvino", "bf16")
    assert verify_variant(built, variant).passed
    strict = VerifyOptions(tolerances={"bf16": TOLERANCES["fp32"]})
    proof = verify_variant(built, variant, strict)
    assert not proof.passed
    assert proof.tolerance == TOLERANCES["fp32"]
    assert (proof.failures[0].kind, proof.failures[0].limit) == ("difference", TOLERANCES["fp32"].scaled)


def test_tolerances_replace_only_those_that_are_named(built):
    options, variant = VerifyOptions(tolerances={"fp32": Tolerance(1, 0)}), built.manifest.variant(VARIANT)
    assert options.tolerance(built, variant) == Tolerance(1, 0)
    assert options.tolerance(built, variant, "bf16") == TOLERANCES["bf16"]


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

    def verify(answer, bundle=built, **how):
        monkeypatch.setattr(type(backend("onnxruntime")), "open", lambda *arguments: Fake(answer))
        return verify_variant(bundle, bundle.manifest.variant("model/onnxruntime/fp32"), **how)

    return verify


def test_rows_that_depend_on_their_neighbours_fail(answering):
    def leaking(x):
        y = tiny.answer(x)
        return {"y": y + (0.01 * y.mean(axis=0) if len(x) == 3 else 0)}

    proof = answering(leaking)
    (failure,) = proof.failures
    assert (failure.kind, failure.output, failure.golden, failure.company) == ("difference", "y", "opt", "fewer")


def test_rows_are_compared_at_the_maximum_where_the_optimum_is_one_row(tmp_path, answering):
    signature = replace(tiny.SIGNATURE, axes=(Axis("batch", 1, 1, 3),))
    bundle = tiny.make_bundle(tmp_path / "single", signature=signature)
    build_variant(bundle, bundle.manifest.component("model"), "onnxruntime", "fp32")
    proof = answering(lambda x: {"y": tiny.answer(x)}, bundle)
    assert [run_text(c) for c in proof.invariance] == ["max, rows turned", "max, rows fewer"]


def test_a_runtime_that_fails_is_a_failed_verification(answering):
    def refuse(x):
        raise BackendError("out of memory", remedy="Use a smaller batch.")

    proof = answering(refuse)
    assert proof.failures == error("out of memory; Use a smaller batch.")
    assert proof.checks == ()


FOREIGN = "/home/somebody/clip/image/tensorrt-fp16/model.engine does not fit here: another driver is here"
COMMAND = "Build it here: torchlift build /home/somebody/clip --backend tensorrt --precision fp16."


def test_what_a_runtime_says_is_kept_with_the_remedy_and_without_folders(answering):
    def refuse(x):
        raise EngineError(FOREIGN, remedy=COMMAND)

    assert answering(refuse).failures == error(
        "model.engine does not fit here: another driver is here; Build it here: torchlift build clip --backend "
        "tensorrt --precision fp16."
    )


@pytest.mark.parametrize("error", [EngineError, BackendUnavailableError, DeviceMemoryError, BackendError])
def test_what_keeps_a_runtime_from_running_can_be_raised_as_it_is(answering, error):
    def refuse(x):
        raise error(FOREIGN, remedy=COMMAND)

    with pytest.raises(error) as caught:
        answering(refuse, raising=True)
    assert (caught.value.message, caught.value.remedy) == (FOREIGN, COMMAND)


def test_an_answer_that_is_wrong_is_a_failed_verification_always(answering):
    proof = answering(lambda x: {"y": np.zeros((4, 24), np.float32)}, raising=True)
    assert proof.failures[0].detail.startswith("output y is float32[4, 24] for the golden min")


def test_a_variant_is_verified_on_the_device_and_with_the_threads_that_are_named(built, monkeypatch):
    told, opening = [], OnnxRuntime.open

    def remember(self, model, signature, recipe, options):
        told.append(options)
        return opening(self, model, signature, recipe, options)

    monkeypatch.setattr(OnnxRuntime, "open", remember)
    verify_variant(built, built.manifest.variant("model/onnxruntime/fp32"), on=RunOn(2, 3))
    assert told == [SessionOptions(RunOn(2, 3))]


def test_any_other_failure_names_the_backend(answering):
    proof = answering(lambda x: {"z": x})
    assert proof.failures == error("onnxruntime failed: KeyError: 'y'")


def test_an_output_of_another_shape_fails(answering):
    proof = answering(lambda x: {"y": np.zeros((4, 24), np.float32)})
    (failure,) = proof.failures
    assert failure.detail.startswith(
        "output y is float32[4, 24] for the golden min, PyTorch's is float32[1, 24]; An axis was "
    )


def test_what_failed_before_the_end_keeps_the_checks_so_far(answering):
    def small(x):
        if len(x) > 4:
            raise BackendError("the engine ends at 4 rows")
        return {"y": tiny.answer(x)}

    proof = answering(small)
    assert proof.failures == error("the engine ends at 4 rows")
    assert [run_text(c) for c in proof.checks] == ["min", "opt"]


def test_a_variant_whose_file_is_gone_is_an_error_of_the_bundle_and_no_verdict(built):
    variant = built.manifest.variant("model/onnxruntime/fp32")
    built.file(variant.model).unlink()
    with pytest.raises(BundleError, match=r"model\.onnx is missing"):
        verify_variant(built, variant)


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
    assert built.manifest.variant(name).verification.failures == error("onnxruntime failed: MemoryError: none left")
    monkeypatch.undo()
    verify_all(built, [built.manifest.variant(name)])
    assert built.manifest.variant(name).verification.passed


# sessions that run a part of what the signature admits


class Part(Fake):
    """Answers rightly, but runs only batches among ``admitted``."""

    def __init__(self, admitted, answer=lambda x: {"y": tiny.answer(x)}):
        super().__init__(answer)
        self._admitted = {*admitted}
        self.ran = []

    def covers(self, sizes):
        return sizes["batch"] in self._admitted

    def _run(self, feeds):
        assert len(feeds["x"]) in self._admitted
        self.ran.append(len(feeds["x"]))
        return super()._run(feeds)


@pytest.fixture
def partly(built, monkeypatch):
    """Verify ONNX Runtime's variant with a session that runs a part."""

    def verify(*admitted, variant=None, **options):
        session = Part(admitted, **options)
        monkeypatch.setattr(type(backend("onnxruntime")), "open", lambda *arguments: session)
        return verify_variant(built, variant or built.manifest.variant("model/onnxruntime/fp32")), session

    return verify


@pytest.fixture
def largest(built):
    return load_goldens(built, built.manifest.component("model"))["max"]


def test_a_golden_that_the_session_runs_is_taken_as_it_is(largest):
    assert within(Part(range(1, 9)), largest) is largest


@pytest.mark.parametrize(("admitted", "rows"), [((1, 2, 4), 4), ((1,), 1), ((7, 3), 7)])
def test_of_a_golden_that_is_too_large_the_first_rows_are_taken(largest, admitted, rows):
    held = within(Part(admitted), largest)
    assert (held.name, held.rows) == ("max", Rows(rows, 8))
    np.testing.assert_array_equal(held.inputs["x"], largest.inputs["x"][:rows])
    np.testing.assert_array_equal(held.outputs["y"], largest.outputs["y"][:rows])


def test_of_a_golden_none_of_whose_rows_run_nothing_is_taken(largest):
    assert within(Part(()), largest) is None
    assert within(Part((9,)), largest) is None


def test_rows_are_taken_along_the_batch_wherever_that_is():
    signature = Signature(
        (TensorSpec("x", "float32", (3, "batch")), TensorSpec("scale", "float32", (2,))),
        (TensorSpec("y", "float32", (2, 1, "batch")), TensorSpec("z", "float32", ("batch",))),
        (Axis("batch", 1, 2, 4),),
    )
    x, y = np.arange(12, dtype=np.float32).reshape(3, 4), np.arange(8, dtype=np.float32).reshape(2, 1, 4)
    scale, z = np.ones(2, np.float32), np.arange(4, dtype=np.float32)
    session = Part((2,))
    session.signature = signature
    held = within(session, Golden("max", {"x": x, "scale": scale}, {"y": y, "z": z}))
    np.testing.assert_array_equal(held.inputs["x"], x[:, :2])
    np.testing.assert_array_equal(held.inputs["scale"], scale)
    np.testing.assert_array_equal(held.outputs["y"], y[:, :, :2])
    np.testing.assert_array_equal(held.outputs["z"], z[:2])
    assert all(array.flags.c_contiguous for array in (*held.inputs.values(), *held.outputs.values()))


def test_without_a_batch_there_are_no_fewer_rows():
    class Refusing(Fake):
        def covers(self, sizes):
            return False

    session = Refusing(None)
    session.signature = Signature((TensorSpec("x", "float32", ("length",)),), (), (Axis("length", 1, 2, 4),))
    assert within(session, Golden("max", {"x": np.zeros(4, np.float32)}, {})) is None


def test_a_proof_says_how_much_of_a_golden_was_run(partly):
    proof, session = partly(1, 2, 3, 4)
    assert proof.passed, proof.failures
    assert [run_text(c) for c in proof.checks] == ["min", "opt", "max, 4 of 8 rows"]
    assert {c.golden for c in proof.invariance} == {"opt"}
    assert max(session.ran) == 4


def test_rows_that_are_wrong_are_found_in_a_part_too(partly):
    def wrong_in_the_last(x):
        y = tiny.answer(x)
        y[3:] += 1
        return {"y": y}

    proof, _ = partly(1, 4, answer=wrong_in_the_last)
    wrong = [(f.golden, f.rows) for f in proof.failures if f.company == "alone"]
    assert wrong == [("opt", None), ("max", Rows(4, 8))]


def test_a_batch_that_does_not_run_is_not_asked_for_by_the_check_of_rows(partly):
    proof, session = partly(1, 8)
    assert proof.passed, proof.failures
    assert [run_text(c) for c in proof.checks] == ["min", "opt, 1 of 4 rows", "max"]
    assert [run_text(c) for c in proof.invariance] == ["max, rows turned"]
    assert {*session.ran} == {1, 8}


def test_what_runs_no_golden_is_not_proven(partly):
    proof, session = partly(9)
    assert proof.failures == (Failure(kind="unproven"),)
    assert (proof.checks, proof.invariance, session.ran) == ((), (), [])


def calibrated_on(bundle, variant, golden):
    """A variant as if its graph had been calibrated on a golden."""
    model = bundle.manifest.component("model").model
    with bundle.adding("model/int8") as added:
        save_goldens(added.path / GOLDENS, [golden])
    graph = Graph("model", "int8", "key", model, (model, *added.files))
    bundle.commit(bundle.manifest.with_graph(graph), added.files)
    return replace(variant, form="int8")


def test_goldens_at_which_it_is_not_judged_prove_nothing(built, partly):
    """A calibrated variant is judged at samples; that it is finite elsewhere does not say that it is right."""
    calibrated = calibrated_on(built, built.manifest.variant("model/onnxruntime/fp32"), samples(3))
    proof, _ = partly(1, 3, 4, 8, variant=calibrated)
    assert ([run_text(c) for c in proof.checks], proof.failures) == (["samples"], ())
    proof, session = partly(4, 8, variant=calibrated)
    assert proof.failures == (Failure(kind="unproven"),)
    assert session.ran, "others ran"


class Replaying(Session):
    """A session that answers by ``replay(answer, first)``, of what is right and what it answered to the first inputs of
    their shape, once it has run that; it keeps the last ``records`` shapes.
    """

    def __init__(self, inner, replay, records):
        super().__init__(inner.signature, inner.runtime)
        self._inner, self._replay, self.records = inner, replay, records
        self._first = {}

    def _run(self, feeds):
        answers = self._inner.run(feeds)
        first = self._first.pop(feeds["x"].shape, None)
        self._first[feeds["x"].shape] = first or answers
        while len(self._first) > self.records:
            self._first.pop(next(iter(self._first)))
        return {name: self._replay(array, first[name]) if first else array for name, array in answers.items()}

    def _prepare(self, feeds):
        raise NotImplementedError

    def close(self):
        self._inner.close()


def rightly(answer, first):
    return answer


def amiss(answer, first):
    return answer + 0.5


def for_ever(answer, first):
    """As a graph that does not read its inputs."""
    return first


@pytest.fixture
def replaying(monkeypatch):
    """Lets ONNX Runtime claim to be on a GPU, with sessions that replay graphs in a certain way, or raise."""
    plain = OnnxRuntime.open

    def put(replay, records=8):
        def opened(self, model, signature, recipe="fp32", options=None):
            session = plain(self, model, signature, recipe, options)
            if not (options and options.cuda_graph):
                return session
            if isinstance(replay, Exception):
                raise replay
            return Replaying(session, replay, records)

        monkeypatch.setattr(OnnxRuntime, "open", opened)
        for name in ("replays", "for_gpus"):
            monkeypatch.setattr(type(backend("onnxruntime")), name, True)
        monkeypatch.setattr(base, "gpus", lambda: ("a GPU",))

    return put


def test_graphs_are_proven_too(built, replaying):
    replaying(rightly)
    proof = verify_variant(built, built.manifest.variant("model/onnxruntime/fp32"))
    assert proof.passed, proof.failures
    assert proof.replays
    assert {run_text(c) for c in proof.checks} == {n for g in ("min", "opt", "max") for n in (g, f"{g}, replayed")}


@pytest.mark.parametrize("records", [1, 2, 8])
@pytest.mark.parametrize("replay", [amiss, for_ever])
def test_graphs_that_answer_amiss_or_do_not_read_their_inputs_are_refused(built, replaying, replay, records):
    replaying(replay, records)
    proof = verify_variant(built, built.manifest.variant("model/onnxruntime/fp32"))
    assert [(f.golden, f.replayed) for f in proof.failures] == [(g, True) for g in ("min", "opt", "max")]


class Notes(Progress):
    def __init__(self):
        self.said = []

    def note(self, text):
        self.said.append(text)


@pytest.fixture
def notes():
    return Notes()


def test_what_cannot_replay_is_proven_as_it_is_and_noted(built, replaying, notes):
    replaying(BackendError("no CUDA graph could be recorded"))
    proof = verify_variant(built, built.manifest.variant("model/onnxruntime/fp32"), progress=notes)
    assert proof.passed
    assert not proof.replays
    assert {run_text(c) for c in proof.checks} == {"min", "opt", "max"}
    assert notes.said == ["model/onnxruntime/fp32 replays no CUDA graphs: no CUDA graph could be recorded"]


def test_a_session_that_records_nothing_replays_nothing(built, replaying, notes):
    replaying(rightly, records=0)
    proof = verify_variant(built, built.manifest.variant("model/onnxruntime/fp32"), progress=notes)
    assert (proof.passed, proof.replays) == (True, False)
    assert notes.said == ["model/onnxruntime/fp32 replays no CUDA graphs: it computes the size of an output"]


def test_what_cannot_replay_all_shapes_replays_none(built, replaying):
    def until_rows_are_many(answer, first):
        if len(answer) == 8:
            raise BackendError("no room for another graph")
        return answer

    replaying(until_rows_are_many)
    proof = verify_variant(built, built.manifest.variant("model/onnxruntime/fp32"))
    assert (proof.passed, proof.replays) == (True, False)


# kernels of their own for some sizes


class Tuned(Session):
    """A session that covers batches among ``covered`` and has kernels of its own for some sizes; those for the batch
    ``broken`` multiply by -50.
    """

    def __init__(self, inner, sizes, broken, covered):
        super().__init__(inner.signature, inner.runtime)
        self._inner, self._sizes, self._broken, self._covered = inner, sizes, broken, covered

    def covers(self, sizes):
        return sizes["batch"] in self._covered

    def specialised(self):
        return self._sizes

    def _run(self, feeds):
        factor = -50 if len(feeds["x"]) == self._broken else 1
        return {name: factor * array for name, array in self._inner.run(feeds).items()}

    def _prepare(self, feeds):
        raise NotImplementedError

    def close(self):
        self._inner.close()


@pytest.fixture
def tuned(built, monkeypatch):
    """Verify OpenVINO's variant, calibrated on a golden where one is given, with kernels for some sizes."""
    plain = OpenVino.open

    def verify(*sizes, bundle=built, golden=None, broken=None, covered=range(1, 9), **how):
        monkeypatch.setattr(OpenVino, "open", lambda *given: Tuned(plain(*given), sizes, broken, covered))
        variant = bundle.manifest.variant("model/openvino/fp32")
        return verify_variant(bundle, calibrated_on(bundle, variant, golden) if golden else variant, **how)

    return verify


@pytest.mark.parametrize(("broken", "passed"), [(None, True), (2, False)])
def test_sizes_with_kernels_of_their_own_are_run_though_no_golden_has_them(tuned, broken, passed):
    proof = tuned({"batch": 1}, {"batch": 2}, {"batch": 8}, broken=broken)
    assert proof.passed is passed
    assert [run_text(c) for c in proof.checks] == ["min", "opt", "max", "batch 2"]
    assert all(failure.sizes == {"batch": 2} for failure in proof.failures)


def samples(rows):
    x = tiny.sample(rows)
    return Golden("samples", {"x": x}, {"y": tiny.answer(x)})


KERNELS = ({"batch": 1}, {"batch": 3}, {"batch": 5})


def test_samples_are_brought_to_what_has_kernels_of_its_own(tuned, notes):
    proof = tuned(*KERNELS, golden=samples(3), progress=notes)
    assert proof.passed, proof.failures
    assert [run_text(c) for c in proof.checks] == ["samples", "samples, 1 of 3 rows", "samples, 3 rows repeated to 5"]
    assert notes.said == []


@pytest.mark.parametrize("batch", [1, 5])
def test_kernels_that_answer_nonsense_are_refused_though_the_samples_have_another_size(tuned, batch):
    (failure,) = tuned(*KERNELS, golden=samples(3), broken=batch).failures
    assert (failure.kind, failure.golden, failure.rows) == ("difference", "samples", Rows(batch, 3))


def test_a_row_of_small_answers_does_not_refuse_what_all_rows_together_do_not(tuned):
    """INT8 is off by a share of its range, which is that of all rows."""
    x = np.concatenate([0 * tiny.sample(1), tiny.sample(2)])
    y = tiny.answer(x)
    y[0] *= 0.5
    tolerance = VerifyOptions({"fp32": Tolerance(0.2, -1)})
    golden = Golden("samples", {"x": x}, {"y": y})
    proof = tuned(*KERNELS, golden=golden, options=tolerance)
    assert proof.passed, proof.failures
    assert {c.difference.scale for c in proof.checks} == {np.abs(y).max()}


def test_repeated_samples_prove_what_runs_none_as_they_are(tuned):
    proof = tuned({"batch": 5}, golden=samples(3), covered=(4, 5, 8))
    assert ([run_text(c) for c in proof.checks], proof.failures) == (["samples, 3 rows repeated to 5"], ())


@pytest.fixture
def stretching(tmp_path):
    """A bundle of y = relu(x), both [batch, width], built for OpenVINO."""
    shape = ("batch", "width")
    signature = Signature(
        (TensorSpec("x", "float32", shape),),
        (TensorSpec("y", "float32", shape),),
        (Axis("batch", 1, 4, 8), Axis("width", 2, 6, 9)),
    )
    x, y = (helper.make_tensor_value_info(name, TensorProto.FLOAT, shape) for name in "xy")
    graph = helper.make_graph([helper.make_node("Relu", ["x"], ["y"])], "stretching", [x], [y])
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    bundle = Bundle.create(tmp_path / "stretching", tiny.MANIFEST)
    goldens = [wide(signature.sizes(corner), corner) for corner in CORNERS]
    tiny.put_component(bundle, proto, goldens, signature, 0, "stretching")
    build_variant(bundle, bundle.manifest.component("model"), "openvino", "fp32")
    return bundle


def wide(sizes, name="samples"):
    x = np.random.default_rng(3).standard_normal((sizes["batch"], sizes["width"]), np.float32)
    return Golden(name, {"x": x}, {"y": np.maximum(x, 0)})


def test_where_samples_cannot_be_brought_to_a_size_it_is_noted_and_their_own_is_run(tuned, stretching, notes):
    single, many = {"batch": 1, "width": 6}, {"batch": 4, "width": 5}
    given = {"bundle": stretching, "golden": wide({"batch": 3, "width": 5})}
    proof = tuned(single, many, **given, progress=notes)
    assert proof.passed, proof.failures
    assert [run_text(c) for c in proof.checks] == ["samples", "samples, 1 of 3 rows", "samples, 3 rows repeated to 4"]
    assert notes.said == [
        "model/openvino/fp32 is only known to be finite at batch 1, width 6: its samples cannot be brought to that size"
    ]
    (failure,) = tuned(single, many, **given, broken=1).failures
    assert (failure.kind, failure.golden, failure.rows) == ("difference", "samples", Rows(1, 3))
