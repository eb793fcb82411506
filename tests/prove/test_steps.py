"""A network that rounds inside is held to its own step: where it rounds differently in a runtime, that is one step."""

import numpy as np
import onnx
import pytest
import tiny
from onnx import helper, numpy_helper

from torchlift.backends import Session
from torchlift.backends.onnxruntime import OnnxRuntime
from torchlift.graph.steps import rounding_step
from torchlift.prove.goldens import Golden
from torchlift.prove.numerics import TOLERANCES, with_step
from torchlift.prove.verify import proven_here, verify_variant
from torchlift.signature import CORNERS
from torchlift.stages import build_variant, verify_all

SCALE = np.float32(0.05)


def constant(name, value, dtype):
    return numpy_helper.from_array(np.array(value, dtype), name)


def quantised(dtype=np.int8, point=0):
    """The tiny network, whose sum is rounded to integers and back before the Relu."""
    model = tiny.model()
    graph = model.graph
    relu = graph.node.pop()
    pair = [
        helper.make_node("QuantizeLinear", ["sum", "scale", "point"], ["q"]),
        helper.make_node("DequantizeLinear", ["q", "scale", "point"], ["d"]),
    ]
    relu.input[0] = "d"
    graph.node.extend([*pair, relu])
    graph.initializer.extend([constant("scale", SCALE, np.float32), constant("point", point, dtype)])
    return model


def clipped(ends):
    """The same by Round and Clip, as a network that is written so is exported."""
    model = tiny.model()
    graph = model.graph
    relu = graph.node.pop()
    nodes = [
        helper.make_node("Div", ["sum", "scale"], ["steps"]),
        helper.make_node("Round", ["steps"], ["whole"]),
        helper.make_node("Clip", ["whole", *ends], ["inside"]),
        helper.make_node("Mul", ["inside", "scale"], ["d"]),
    ]
    relu.input[0] = "d"
    graph.node.extend([*nodes, relu])
    given = {"low": -128, "high": 127, "huge": np.inf}
    graph.initializer.extend(constant(n, v, np.float32) for n, v in {"scale": SCALE, **given}.items())
    return model


@pytest.mark.parametrize(
    ("model", "step"),
    [
        (tiny.model(), 0),
        (quantised(), 1 / 128),
        (quantised(np.uint8), 1 / 255),
        (quantised(np.uint8, 128), 1 / 128),
        (quantised(np.uint16), 0),
        (clipped(["low", "high"]), 1 / 128),
        (clipped(["low"]), 0),
        (clipped(["low", "huge"]), 0),
    ],
)
def test_the_step_is_a_share_of_what_the_integers_reach(tmp_path, model, step):
    onnx.save(model, tmp_path / "model.onnx")
    assert rounding_step(tmp_path / "model.onnx") == pytest.approx(step)


def test_a_step_widens_what_is_tighter_alone():
    assert with_step(TOLERANCES["fp32"], 0) == TOLERANCES["fp32"]
    wide = with_step(TOLERANCES["fp32"], 1 / 128)
    assert (wide.scaled, wide.cosine) == (pytest.approx(2 / 128), pytest.approx(1 - (2 / 128) ** 2))
    assert with_step(TOLERANCES["int8"], 1 / 128) == TOLERANCES["int8"]


def answer(x):
    matrix, bias = tiny.weights()
    steps = np.clip(np.round((x @ matrix + bias) / SCALE), -128, 127)
    return np.maximum(steps * SCALE, 0).astype(np.float32)


class Flipped(Session):
    """Rounds one value of each row ``steps`` further."""

    def __init__(self, steps):
        super().__init__(tiny.SIGNATURE, "flipped")
        self._steps = steps

    def _run(self, feeds):
        y = answer(feeds["x"])
        y[np.arange(len(y)), y.argmax(axis=1)] -= self._steps * SCALE
        return {"y": y}

    def _prepare(self, feeds):
        return lambda: None


def goldens():
    for seed, corner in enumerate(CORNERS):
        x = tiny.sample(tiny.SIGNATURE.sizes(corner)["batch"], seed)
        yield Golden(corner, {"x": x}, {"y": answer(x)})


@pytest.fixture
def fake_quantised(tmp_path):
    bundle = tiny.Bundle.create(tmp_path / "fake", tiny.MANIFEST)
    tiny.put_component(bundle, quantised(), goldens(), tiny.SIGNATURE, 1, "fake")
    build_variant(bundle, bundle.manifest.component("model"), "onnxruntime", "fp32")
    return bundle


@pytest.mark.parametrize(("steps", "passes"), [(0, True), (1, True), (4, False)])
def test_one_step_passes_and_several_do_not(fake_quantised, monkeypatch, steps, passes):
    monkeypatch.setattr(OnnxRuntime, "open", lambda *_: Flipped(steps))
    (variant,) = fake_quantised.manifest.variants
    assert verify_variant(fake_quantised, variant).passed is passes


def test_a_step_of_a_network_that_does_not_round_is_refused(built, monkeypatch):
    monkeypatch.setattr(OnnxRuntime, "open", lambda *_: Flipped(0))
    assert not verify_variant(built, built.manifest.variant("model/onnxruntime/fp32")).passed


def test_a_proof_at_the_step_holds(fake_quantised):
    verify_all(fake_quantised, fake_quantised.manifest.variants)
    (variant,) = fake_quantised.manifest.variants
    assert variant.verification.tolerance.scaled == pytest.approx(2 / 128)
    assert proven_here(fake_quantised, variant, variant.verification.tolerance)
    assert not proven_here(fake_quantised, variant, TOLERANCES["fp32"])
