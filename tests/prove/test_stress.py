"""Inputs beyond the goldens: how they are made, kept and compared, and when a difference is a failure."""

from dataclasses import replace

import numpy as np
import pytest
import tiny

from torchlift.backends import Session
from torchlift.backends.onnxruntime import OnnxRuntime
from torchlift.bundle import Bundle
from torchlift.declare.inputs import TextInput, TextPart
from torchlift.errors import BackendError, BundleError, ExportError
from torchlift.evidence import StressNote
from torchlift.messages import failure_text, stress_text
from torchlift.progress import Progress
from torchlift.prove.goldens import Golden, load_goldens
from torchlift.prove.stress import STRESS, STRESSES, load_stress, save_stress, stress_file, stress_samples
from torchlift.prove.verify import verify_variant
from torchlift.signature import Axis, Signature, TensorSpec
from torchlift.stages import build_variant

TOKENS = Signature(
    (
        TensorSpec("ids", "int64", ("batch", "tokens"), bounds=(0, 50)),
        TensorSpec("attention_mask", "int64", ("batch", "tokens"), bounds=(0, 2)),
        TensorSpec("weights", "float32", ("batch", "tokens")),
    ),
    (TensorSpec("y", "float32", ("batch",)),),
    (Axis("batch", 1, 2, 4), Axis("tokens", 1, 3, 5)),
)


def drawn(batch=2, tokens=3):
    rng = np.random.default_rng(0)
    return {
        "ids": rng.integers(0, 50, (batch, tokens)),
        "attention_mask": np.ones((batch, tokens), np.int64),
        "weights": rng.standard_normal((batch, tokens)).astype(np.float32),
    }


def samples(source, signature=TOKENS, inputs=None, golden=None, answer=lambda feeds: {}):
    goldens = [Golden("opt", golden or drawn(), {}), Golden("max", drawn(4, 5), {})]
    return {s.name: s.inputs for s in stress_samples(signature, inputs or {}, goldens, answer, source)}


def test_every_kind_changes_what_it_says_of_the_smallest_golden(source):
    before, found = drawn(), samples(source)
    assert tuple(found) == STRESSES
    for kind, feeds in found.items():
        assert TOKENS.check(feeds) == {"batch": 2, "tokens": 3}
        np.testing.assert_array_equal(feeds["ids"], before["ids"])
        if kind != "masked":
            np.testing.assert_array_equal(feeds["attention_mask"], before["attention_mask"])
    np.testing.assert_array_equal(found["large"]["weights"], 100 * before["weights"])
    assert (np.isnan(found["nan"]["weights"]).sum(), np.isposinf(found["infinite"]["weights"]).sum()) == (1, 1)
    assert not found["zero"]["weights"].any()
    np.testing.assert_array_equal(found["masked"]["weights"], before["weights"])
    assert found["masked"]["attention_mask"].tolist() == [[0, 0, 0], [1, 1, 1]]


def test_without_floats_there_is_the_mask_alone(source):
    whole = replace(TOKENS, inputs=TOKENS.inputs[:2])
    golden = {name: array for name, array in drawn().items() if name != "weights"}
    small = [Golden("opt", golden, {})]
    assert [s.name for s in stress_samples(whole, {}, small, lambda feeds: {}, source)] == ["masked"]


def test_a_mask_may_be_declared_instead_of_called_so(source):
    inputs = {"ids": TextInput("t", 5), "attention_mask": TextPart("ids", "types")}
    assert "masked" not in samples(source, inputs=inputs)
    assert "masked" in samples(source, inputs={**inputs, "attention_mask": TextPart("ids", "mask")})


def test_what_the_network_refuses_is_left_out(source):
    def answer(feeds):
        if np.isnan(feeds["weights"]).any():
            raise ExportError("the network does not run")
        return {}

    assert tuple(samples(source, answer=answer)) == ("large", "infinite", "zero", "masked")


def test_a_graph_with_loops_may_never_end_on_such_inputs(source, monkeypatch):
    monkeypatch.setattr("torchlift.prove.stress.may_loop", lambda *_: True)
    assert samples(source) == {}


def spoilt(array, value):
    array = array.copy()
    array.flat[array.size // 2] = value
    return array


def right(x):
    with np.errstate(all="ignore"):
        return tiny.answer(x)


def bundle_of(folder, bounds=None, kinds=STRESSES, answer=right):
    """The tiny bundle with stress, as an export writes it, and ONNX Runtime's variant."""
    spec = replace(tiny.SIGNATURE.inputs[0], bounds=bounds)
    signature = replace(tiny.SIGNATURE, inputs=(spec,))
    bundle = tiny.make_bundle(folder, signature=signature)
    component = bundle.manifest.component("model")
    goldens = load_goldens(bundle, component).values()
    made = stress_samples(signature, {}, goldens, lambda feeds: {"y": answer(feeds["x"])}, bundle.file(component.model))
    put(bundle, [sample for sample in made if sample.name in kinds])
    build_variant(bundle, component, "onnxruntime", "fp32")
    return bundle


def put(bundle, made):
    folder = bundle.path / "model" / "source"
    save_stress(folder, made)
    bundle.commit(bundle.manifest, {f"model/source/{STRESS}": tiny.record_of(folder / STRESS)})


@pytest.fixture
def stressed(tmp_path):
    return bundle_of(tmp_path / "stressed")


def test_samples_are_read_as_they_were_written(stressed):
    again = Bundle.open(stressed.path)
    component = again.manifest.component("model")
    assert stress_file(again, component) == f"model/source/{STRESS}"
    found = load_stress(again, component)
    assert [sample.name for sample in found] == ["large", "nan", "infinite", "zero"]
    assert all(sample.inputs["x"].shape == (1, tiny.WIDTH) for sample in found)
    assert np.isnan(found[1].outputs["y"]).all()


def test_a_bundle_without_samples_has_none(built):
    component = built.manifest.component("model")
    assert (stress_file(built, component), load_stress(built, component)) == ("", [])


def test_samples_that_do_not_fit_are_an_error_of_the_bundle(stressed):
    put(stressed, [Golden("nan", {"x": np.zeros((1, 3), np.float32)}, {"y": np.zeros((1, 24), np.float32)})])
    with pytest.raises(BundleError, match=r"stress\.safetensors: the golden nan: input x is float32\[1, 3\]"):
        load_stress(stressed, stressed.manifest.component("model"))


class Answers(Session):
    def __init__(self, answer):
        super().__init__(tiny.SIGNATURE, "answers")
        self._answer = answer

    def _run(self, feeds):
        return {"y": self._answer(feeds["x"])}

    def _prepare(self, feeds):
        return lambda: None


class Notes(Progress):
    def __init__(self):
        self.notes = []

    def note(self, text):
        self.notes.append(text)


@pytest.fixture
def proof(monkeypatch):
    """Verify ONNX Runtime's variant, or that at another precision, with a session that answers as told."""

    def verify(bundle, answer, precision="fp32", progress=None):
        monkeypatch.setattr(OnnxRuntime, "open", lambda *_: Answers(answer))
        variant = bundle.manifest.variant("model/onnxruntime/fp32")
        if precision == "int8":
            variant = replace(variant, precision="int8", method="dynamic", form="int8-dynamic")
        return verify_variant(bundle, variant, progress=progress or Notes())

    return verify


def finite(x):
    """As a runtime whose operators lose NaN."""
    return np.nan_to_num(right(x), nan=0, posinf=np.inf, neginf=-np.inf).astype(np.float32)


def test_answers_like_pytorchs_are_noted_nowhere(stressed, proof):
    notes = Notes()
    found = proof(stressed, right, progress=notes)
    assert (found.passed, found.stress, notes.notes) == (True, (), [])
    assert f"model/source/{STRESS}" in found.provenance.files


@pytest.mark.parametrize("precision", ["fp32", "int8"])
def test_nan_that_a_runtime_loses_is_noted_and_is_no_failure(stressed, proof, precision):
    notes = Notes()
    found = proof(stressed, finite, precision, notes)
    assert found.passed
    note = next(note for note in found.stress if note.kind == "nan")
    assert (note.output, note.nan, note.nan_expected, note.nonfinite) == ("y", 0, tiny.OUTPUTS, tiny.OUTPUTS)
    assert stress_text(note) == "NaN in one element: y has 0 NaN and 0 infinite values, PyTorch's 24 and 0"
    assert [stress_text(note) in said for said in notes.notes] == [True] * (precision == "fp32")


@pytest.mark.parametrize(("precision", "kinds"), [("fp32", ["large"]), ("int8", [])])
def test_large_inputs_are_compared_by_value_in_fp32_alone(stressed, proof, precision, kinds):
    found = proof(stressed, lambda x: np.minimum(right(x), 100), precision)
    assert [note.kind for note in found.stress if note.kind == "large"] == kinds
    assert found.passed


def test_what_is_rounded_coarsely_is_not_noted(stressed, proof):
    found = proof(stressed, lambda x: right(x) * np.float32(1 + 5e-3 * (np.abs(x).max() > 20)))
    assert found.stress == ()


def test_a_difference_at_zeros_is_a_share_of_the_goldens_scale(tmp_path, proof):
    bundle = bundle_of(tmp_path / "zero", answer=lambda x: right(x) * np.float32(1e-9 if not x.any() else 1))
    found = proof(bundle, lambda x: np.zeros_like(right(x)) if not x.any() else right(x))
    assert [note for note in found.stress if note.kind == "zero"] == []


@pytest.mark.parametrize(
    ("bounds", "failing"), [(None, []), ((-1, 1), ["zero"]), ((0.5, 9), []), ((-1000, 1000), ["large", "zero"])]
)
def test_a_difference_within_the_declared_bounds_is_a_failure(tmp_path, proof, bounds, failing):
    bundle = bundle_of(tmp_path / "bounded", bounds)

    def wrong(x):
        return right(x) + np.float32(not np.abs(x).max() < 20 or not x.any())

    found = proof(bundle, wrong)
    assert [failure.golden for failure in found.failures] == failing
    assert {note.kind for note in found.stress} >= {*failing}


def test_a_failure_beyond_the_goldens_names_its_kind(tmp_path, proof):
    bundle = bundle_of(tmp_path / "named", (-1, 1))
    (failure,) = proof(bundle, lambda x: right(x) + np.float32(not x.any())).failures
    assert (failure.kind, failure.limit) == ("difference", 1e-4)
    assert failure_text(failure).startswith("y at all floats zero: off by")


def test_a_runtime_that_fails_on_them_is_noted(stressed, proof):
    def refuse(x):
        if np.isnan(x).any():
            raise BackendError("no NaN, please")
        return right(x)

    assert proof(stressed, refuse).stress == (StressNote("nan", detail="no NaN, please"),)


def test_the_node_that_loses_or_makes_them_is_named(stressed, monkeypatch):
    opening = OnnxRuntime.open

    class Losing(Session):
        def __init__(self, session):
            super().__init__(session.signature, "losing")
            self._inner = session

        def _run(self, feeds):
            found = self._inner.run(feeds)
            return {
                name: array if name in ("product", "sum") else np.nan_to_num(array) for name, array in found.items()
            }

        def _prepare(self, feeds):
            return lambda: None

    monkeypatch.setattr(OnnxRuntime, "open", lambda *given: Losing(opening(*given)))
    found = verify_variant(stressed, stressed.manifest.variant("model/onnxruntime/fp32"))
    note = next(note for note in found.stress if note.kind == "nan")
    assert (note.node, note.operator) == ("relu", "Relu")
    assert "Relu of relu is the first that parts" in stress_text(note)
