"""A lower precision rests on the FP32 of the same graph in the same runtime."""

from dataclasses import replace

import numpy as np
import pytest
import tiny
from onnx import TensorProto, helper, numpy_helper

from torchlift.backends import Session, backend
from torchlift.backends.onnxruntime import OnnxRuntime
from torchlift.errors import BackendError
from torchlift.evidence import Failure
from torchlift.messages import failure_text
from torchlift.progress import Progress
from torchlift.prove import fp32 as module
from torchlift.prove.goldens import Golden
from torchlift.prove.numerics import TOLERANCES
from torchlift.prove.verify import VerifyOptions, proven_here, verify_variant
from torchlift.signature import CORNERS, Axis, Signature, TensorSpec
from torchlift.stages import build_variant, verify_all


@pytest.fixture(autouse=True)
def nothing_known(monkeypatch):
    monkeypatch.setattr(module, "_FOUND", {})


class Off(Session):
    """Answers with an error of so large a share of the scale."""

    def __init__(self, share):
        super().__init__(tiny.SIGNATURE, "off")
        self._share = share

    def _run(self, feeds):
        y = tiny.answer(feeds["x"])
        y[..., 0] += self._share * np.abs(y).max()
        return {"y": y}

    def _prepare(self, feeds):
        return lambda: None


@pytest.fixture
def opened(monkeypatch):
    """Let ONNX Runtime be off by a share of the scale in each recipe; returns the list of what was opened."""

    def off(**shares):
        seen = []

        def opening(self, model, signature, recipe, options):
            seen.append(recipe)
            return Off(shares[recipe.replace("-", "_")])

        monkeypatch.setattr(OnnxRuntime, "open", opening)
        return seen

    return off


def dynamic(bundle, *, alone=False):
    """INT8 of ONNX Runtime, as if it had been converted; ``alone`` in a bundle without FP32."""
    fp32 = bundle.manifest.variant("model/onnxruntime/fp32")
    lower = replace(fp32, precision="int8", method="dynamic", form="int8-dynamic")
    kept = () if alone else (fp32,)
    bundle.commit(replace(bundle.manifest, variants=(lower, *kept)))
    return lower


@pytest.mark.parametrize("alone", [False, True])
def test_a_lower_precision_is_refused_where_fp32_is_wrong(built, opened, alone):
    lower = dynamic(built, alone=alone)
    opened(fp32=8e-3, int8_dynamic=8e-3)
    proof = verify_variant(built, lower)
    (failure,) = proof.failures
    assert (failure.rests_on, failure.kind, failure.output) == ("onnxruntime/fp32", "difference", "y")
    assert failure.difference == pytest.approx(8e-3, rel=1e-3)
    assert len(proof.checks) == 3  # its own answers are compared all the same
    assert failure_text(failure).startswith("onnxruntime/fp32 of the same graph is wrong: y at min: off by 8.0e-03")


@pytest.mark.parametrize("alone", [False, True])
def test_a_lower_precision_passes_where_fp32_is_right(built, opened, alone):
    lower = dynamic(built, alone=alone)
    opened(fp32=0, int8_dynamic=8e-3)
    assert verify_variant(built, lower).failures == ()


def test_fp32_is_run_once_for_all_that_rest_on_it(built, opened):
    lower = dynamic(built, alone=True)
    seen = opened(fp32=0, int8_dynamic=0, int8=0)
    verify_variant(built, lower)
    verify_variant(built, replace(lower, method="", form="int8-u8s8"))
    assert seen == ["int8-dynamic", "fp32", "int8"]


def test_the_proof_of_the_fp32_variant_serves(built, opened):
    lower = dynamic(built)
    seen = opened(fp32=8e-3, int8_dynamic=0)
    verify_all(built, [lower, built.manifest.variant("model/onnxruntime/fp32")])
    assert seen == ["fp32", "int8-dynamic"]
    assert not proven_here(built, built.manifest.variant(lower.name))


def test_fp32_is_held_to_the_tolerance_that_is_asked_for(built, opened):
    lower = dynamic(built, alone=True)
    opened(fp32=8e-3, int8_dynamic=0)
    loose = replace(TOLERANCES["fp32"], scaled=1e-2, cosine=0.9)
    assert verify_variant(built, lower, VerifyOptions({"fp32": loose})).failures == ()


def test_fp32_that_does_not_run_is_no_ground_to_rest_on_and_is_tried_again(built, opened, monkeypatch):
    lower = dynamic(built, alone=True)
    opened(fp32=0, int8_dynamic=0)

    def refuse(*_, **__):
        raise BackendError("no memory is left", remedy="Free some.")

    with monkeypatch.context() as patched:
        patched.setattr(OnnxRuntime, "build", refuse)
        (failure,) = verify_variant(built, lower).failures
    said = "no memory is left; Free some."
    assert failure == Failure(kind="error", detail=said, rests_on="onnxruntime/fp32")
    assert verify_variant(built, lower).passed


def test_a_runtime_that_compiles_for_minutes_is_not_asked_to_and_that_is_said(built, opened, monkeypatch):
    lower = dynamic(built, alone=True)
    seen = opened(fp32=8e-3, int8_dynamic=0)
    monkeypatch.setattr(OnnxRuntime, "compiles", True)
    notes = []

    class Notes(Progress):
        def note(self, text):
            notes.append(text)

    assert verify_variant(built, lower, progress=Notes()).passed
    assert seen == ["int8-dynamic"]
    assert [lower.name in note and "without the FP32 of onnxruntime" in note for note in notes] == [True]


POOLED = Signature(
    (TensorSpec("x", "float32", ("batch", 2, 8, 8)),),
    (TensorSpec("y", "float32", ("batch", 2, 5, 5)),),
    (Axis("batch", 1, 2, 4),),
)
FAINT = np.float32(0.03)


def pooled(x, bias):
    """What torch.nn.AvgPool2d(3, 2, 1, ceil_mode=True) gives of [N, 2, 8, 8]; a window beyond the padding is cut."""
    padded = np.zeros((*x.shape[:2], 11, 11), np.float32)
    padded[..., 1:9, 1:9] = x
    y = np.empty((*x.shape[:2], 5, 5), np.float32)
    for i in range(5):
        for j in range(5):
            inside = min(3, 10 - 2 * i) * min(3, 10 - 2 * j)
            y[..., i, j] = padded[..., 2 * i : 2 * i + 3, 2 * j : 2 * j + 3].sum(axis=(2, 3)) / inside
    return y * FAINT + bias


def test_openvinos_average_pool_is_refused_in_every_precision(tmp_path):
    if not backend("openvino").supports("bf16").ok:
        pytest.skip(backend("openvino").supports("bf16").detail)
    rng = np.random.default_rng(0)
    bias = rng.uniform(0.5, 1, (1, 2, 5, 5)).astype(np.float32)
    pool = {"kernel_shape": [3, 3], "strides": [2, 2], "pads": [1] * 4, "ceil_mode": 1, "count_include_pad": 1}
    graph = helper.make_graph(
        [
            helper.make_node("AveragePool", ["x"], ["pooled"], **pool),
            helper.make_node("Mul", ["pooled", "faint"], ["product"]),
            helper.make_node("Add", ["product", "bias"], ["y"]),
        ],
        "pool",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["batch", 2, 8, 8])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 2, 5, 5])],
        [numpy_helper.from_array(np.array(FAINT), "faint"), numpy_helper.from_array(bias, "bias")],
    )
    proto = helper.make_model(graph, opset_imports=[helper.make_opsetid("", 20)], ir_version=10)
    draws = {c: rng.standard_normal((POOLED.sizes(c)["batch"], 2, 8, 8)).astype(np.float32) for c in CORNERS}
    goldens = [Golden(corner, {"x": x}, {"y": pooled(x, bias)}) for corner, x in draws.items()]
    bundle = tiny.Bundle.create(tmp_path / "pool", tiny.MANIFEST)
    tiny.put_component(bundle, proto, goldens, POOLED, 1, "pool")
    for name, recipe in [("onnxruntime", "fp32"), ("openvino", "bf16")]:
        build_variant(bundle, bundle.manifest.component("model"), name, recipe)
    verify_all(bundle, bundle.manifest.variants)
    assert bundle.manifest.variant("model/onnxruntime/fp32").verification.passed
    proof = bundle.manifest.variant("model/openvino/bf16").verification
    assert {failure.rests_on for failure in proof.failures} == {"openvino/fp32"}
    assert proof.worst.difference.max_scaled < proof.tolerance.scaled  # by itself it would have passed
