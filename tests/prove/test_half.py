import io

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator
from shipped import clip  # noqa: F401
from torch import nn

from torchlift.bundle import Bundle
from torchlift.convert.ranges import overflowing, ranges_of
from torchlift.errors import BackendError, ConversionError, SignatureError
from torchlift.graph.files import save_model
from torchlift.graph.half import ToHalf, require_half
from torchlift.graph.units import name_nodes
from torchlift.prove.goldens import load_goldens
from torchlift.prove.half import HalfOracle, HalfSession, run_half
from torchlift.prove.numerics import compare, verify_goldens
from torchlift.signature import Axis, Signature, TensorSpec

RNG = np.random.default_rng(0)


def rows(*shape):
    return RNG.standard_normal(shape, np.float32)


def graph(text, opset=20, **weights):
    """A model of the nodes in ``text`` (onnx's text format from the signature on), with float32 weights."""
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]>\nnet {text}')
    for name, array in weights.items():
        array = np.asarray(array)
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    return model


def halved(proto, keep=()):
    model = ir.from_proto(proto)
    ToHalf(keep)(model)
    return model


def in_runtime(proto, **feeds):
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return session.run(None, feeds)[0]


def exported(net, sample, *, opset=20, dynamo=True):
    """The ONNX graph of a torch module, of either exporter; the rows of its input vary."""
    file = io.BytesIO()
    axes = {"dynamic_shapes": ({0: "rows"},)} if dynamo else {"dynamic_axes": {"x": {0: "rows"}}}
    torch.onnx.export(
        net.eval(), (sample,), file, input_names=["x"], output_names=["y"], opset_version=opset, dynamo=dynamo,
        verbose=False, **axes,
    )  # fmt: skip
    return onnx.load_from_string(file.getvalue())


BEYOND = """(float[n,16] x) => (float[n,4] y) {
    a = MatMul(x, up)
    b = Relu(a)
    c = Reshape(b, shape)
    d = Mul(c, tenth)
    y = MatMul(d, down)
}"""


@pytest.fixture
def beyond(tmp_path):
    """A net whose activations reach several 100,000 between layers, with answers near 1; a file with its weights."""
    model = graph(
        BEYOND,
        up=3e4 * rows(16, 32),
        shape=np.array([-1, 32]),
        tenth=1e-2,
        down=rows(32, 4) / 2e3,
    )
    for weight in model.graph.initializer:
        if weight.name == "up":
            weight.CopyFrom(numpy_helper.from_array(np.clip(numpy_helper.to_array(weight), -6e4, 6e4), "up"))
    save_model(ir.from_proto(model), tmp_path / "model.onnx")
    return tmp_path / "model.onnx"


def test_an_overflow_that_the_runtime_hides_is_seen_and_repaired(beyond):
    feeds = [{"x": rows(4, 16)} for _ in range(3)]
    original = onnx.load(beyond)
    expected = in_runtime(original, **feeds[0])

    all_half = ir.load(beyond)
    ToHalf()(all_half)
    assert compare(in_runtime(ir.to_proto(all_half), **feeds[0]), expected).max_scaled < 0.05
    broken = run_half(all_half, feeds[0])["y"]
    assert not np.isfinite(broken).all()

    repaired = ir.load(beyond)
    name_nodes(repaired)
    keep = overflowing(ranges_of(beyond, feeds), repaired)
    assert list(keep) == ["MatMul_0", "Relu_1", "Reshape_2", "Mul_3"]
    report = ToHalf(keep)(repaired).report
    assert [unit.node for unit in report.converted] == ["MatMul_4"]
    assert all("FP16 holds 65504" in kept.reason for kept in report.kept)
    require_half(report)
    assert compare(run_half(repaired, feeds[0])["y"], expected).max_scaled < 5e-3


def test_the_tensors_that_overflow_can_be_looked_at(beyond):
    model = ir.load(beyond)
    ToHalf()(model)
    found = run_half(model, {"x": rows(4, 16)}, ["b", "x.fp16", "x", "down"])
    assert [array.dtype for array in found.values()] == [np.float16, np.float16, np.float32, np.float16]
    assert np.isposinf(found["b"]).any()
    assert np.isfinite(found["x.fp16"]).all()


SQUARES = """(float[n,64] x) => (float[n,64] y) {
    m = ReduceMean(x, last)
    d = Sub(x, m)
    p = Pow(d, two)
    v = ReduceMean(p, last)
    s = Sqrt(v)
    y = Div(d, s)
}"""


def test_squares_overflow_where_they_are_tensors_and_not_within_a_layer_normalization():
    x = 1000 * rows(3, 64)
    squares = graph(SQUARES, last=np.array([-1]), two=2.0)
    apart = run_half(halved(squares), {"x": x}, ["p", "y"])
    assert np.isinf(apart["p"]).any()
    np.testing.assert_array_equal(apart["y"], 0)
    whole = graph("(float[n,64] x) => (float[n,64] y) { y = LayerNormalization(x, s) }", s=np.ones(64))
    expected = in_runtime(whole, x=x)
    assert compare(run_half(halved(whole), {"x": x})["y"], expected).max_scaled < 2e-3
    kept = run_half(halved(squares, keep=["Pow_2", "ReduceMean_3", "Sqrt_4"]), {"x": x})
    assert compare(kept["y"], expected).max_scaled < 5e-3


def test_single_operations_are_exactly_those_of_half_precision():
    text = """(float[n,8] x, float[n,8] z) => (float[n,8] y) {
        a = Add(x, z)
        b = Mul(a, z)
        c = Div(b, x)
        d = Abs(c)
        e = Sqrt(d)
        y = Sub(e, z)
    }"""
    model = halved(graph(text))
    feeds = {"x": rows(50, 8), "z": 1e-3 * rows(50, 8)}
    ours = run_half(model, feeds)["y"]
    x, z = (torch.from_numpy(feeds[name]).half() for name in ("x", "z"))
    np.testing.assert_array_equal(ours, (((x + z) * z / x).abs().sqrt() - z).float().numpy())
    (reference,) = ReferenceEvaluator(ir.to_proto(model)).run(None, feeds)
    np.testing.assert_array_equal(ours, reference)


class Block(nn.Module):
    """A transformer's layer between two projections."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.norm, self.project, self.out = nn.LayerNorm(32), nn.Linear(32, 96), nn.Linear(32, 32)
        self.mlp = nn.Sequential(nn.LayerNorm(32), nn.Linear(32, 64), nn.GELU(), nn.Linear(64, 32))

    def forward(self, x):
        q, k, v = self.project(self.norm(x)).chunk(3, -1)
        x = x + self.out(torch.softmax(q @ k.transpose(1, 2) * 32**-0.5, -1) @ v)
        return x + self.mlp(x)


class Convolutions(nn.Module):
    """As in MobileViT: strided, depthwise, grouped and pointwise convolutions, SiLU, pooling."""

    def __init__(self):
        super().__init__()
        torch.manual_seed(0)
        self.layers = nn.Sequential(
            nn.Conv2d(3, 16, 3, stride=2, padding=1), nn.BatchNorm2d(16), nn.SiLU(),
            nn.Conv2d(16, 16, 3, padding=1, groups=16), nn.SiLU(), nn.Conv2d(16, 32, 1, groups=4), nn.Hardswish(),
            nn.AdaptiveAvgPool2d(1), nn.Flatten(), nn.Linear(32, 8),
        )  # fmt: skip

    def forward(self, x):
        return self.layers(x)


@pytest.mark.parametrize(("opset", "dynamo"), [(20, True), (16, False)])
@pytest.mark.parametrize(("net", "shape"), [(Block, (3, 5, 32)), (Convolutions, (3, 3, 32, 32))])
@pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::UserWarning", "ignore::FutureWarning")
def test_exported_nets_come_out_as_torchs_own_half(net, shape, opset, dynamo):
    module, x = net(), rows(*shape)
    before = exported(module, torch.from_numpy(x), opset=opset, dynamo=dynamo)
    model = ir.from_proto(before)
    report = ToHalf()(model).report
    assert (report.share, report.casts) == (1.0, 2)
    onnx.checker.check_model(ir.to_proto(model), full_check=True)
    ours = run_half(model, {"x": x})["y"]
    with torch.inference_mode():
        theirs = module.half()(torch.from_numpy(x).half()).float().numpy()
        exact = module.float()(torch.from_numpy(x)).numpy()
    assert compare(ours, theirs).max_scaled < 3e-3
    assert 0 < compare(ours, exact).max_scaled < 5e-3
    assert compare(in_runtime(ir.to_proto(model), x=x), exact).max_scaled < 5e-3


@pytest.mark.parametrize("name", ["image", "text"])
def test_both_towers_of_a_chinese_clip_convert_and_answer_as_pytorch_does(clip, name):  # noqa: F811
    bundle = Bundle.open(clip.path)
    component = bundle.manifest.component(name)
    model = ir.load(bundle.file(component.model))
    report = ToHalf()(model).report
    assert report.share == 1.0
    assert report.casts == (2 if name == "image" else 1)
    assert all(unit.module for unit in report.converted if unit.operator == "LayerNormalization")
    with HalfSession(model, component.signature) as session:
        for check in verify_goldens(session.run, load_goldens(bundle, component).values()):
            assert 0 < check.difference.max_scaled < 5e-3
            assert check.difference.cosine > 0.9999


def test_nodes_in_float32_are_not_rounded():
    text = "(float[n,8] x) => (float[n,8] y) { a = Mul(x, c)\n b = Mul(a, c)\n y = Neg(b) }"
    model = halved(graph(text, c=1.0001), keep=["Mul_0", "Mul_1"])
    x = rows(2, 8)
    found = run_half(model, {"x": x}, ["a", "b", "y"])
    np.testing.assert_array_equal(found["a"], x * np.float32(1.0001))
    assert [array.dtype for array in found.values()] == [np.float32, np.float32, np.float32]
    np.testing.assert_array_equal(found["y"], -found["b"].astype(np.float16).astype(np.float32))


def test_subgraphs_read_tensors_from_outside():
    def branch(operator):
        inner = [helper.make_node(operator, ["a", "w"], ["inner"]), helper.make_node("Relu", ["inner"], [operator])]
        outputs = [helper.make_tensor_value_info(operator, TensorProto.FLOAT, None)]
        return helper.make_graph(inner, operator, [], outputs)

    model = graph("(float[n,8] x, bool c) => (float[n,8] y) { a = Sigmoid(x)\n y = Neg(b) }", w=rows(8))
    model.graph.node.insert(
        1, helper.make_node("If", ["c"], ["b"], then_branch=branch("Add"), else_branch=branch("Mul"))
    )
    x = rows(2, 8)
    for condition in (True, False):
        feeds = {"x": x, "c": np.array(condition)}
        assert compare(run_half(halved(model), feeds)["y"], in_runtime(model, **feeds)).max_scaled < 2e-3


def test_quantised_nodes_run():
    text = """(float[n,8] x) => (float[n,8] y) {
        q = QuantizeLinear(x, scale, zero)
        d = DequantizeLinear(q, scale, zero)
        y = MatMul(d, w)
    }"""
    model = graph(text, scale=0.03, zero=np.int8(0), w=rows(8, 8))
    x = rows(2, 8)
    assert compare(run_half(halved(model), {"x": x})["y"], in_runtime(model, x=x)).max_scaled < 2e-2


def test_nodes_that_are_alike_share_a_session():
    text = "(float[n,8] x) => (float[n,8] y) { a = MatMul(x, w)\n b = MatMul(a, w)\n c = Relu(b)\n y = Relu(c) }"
    oracle = HalfOracle(halved(graph(text, w=rows(8, 8))))
    x = rows(2, 8)
    first = oracle.run({"x": x})["y"]
    np.testing.assert_array_equal(oracle.run({"x": x})["y"], first)
    # MatMul, Relu, a Cast down, a Cast up
    assert oracle.sessions == 4


def test_every_tensor_is_shown_in_order_and_inputs_are_left_alone():
    model = halved(graph("(float[n,8] x) => (float[n,8] y) { a = Relu(x)\n y = Exp(a) }"))
    x = rows(2, 8)
    before, seen = x.copy(), []
    HalfOracle(model).trace({"x": x}, lambda name, array: seen.append((name, array.dtype.name)))
    assert seen == [("x.fp16", "float16"), ("a", "float16"), ("y.fp16", "float16"), ("y", "float32")]
    np.testing.assert_array_equal(x, before)


def test_a_tensor_that_the_graph_lacks_is_named():
    with pytest.raises(ValueError, match="computes no tensor gelu"):
        run_half(halved(graph("(float[n,8] x) => (float[n,8] y) { y = Relu(x) }")), {"x": rows(2, 8)}, ["gelu"])


def test_samples_that_do_not_fit_name_the_node_that_fails():
    model = halved(graph("(float[n,8] x) => (float[n,8] y) { y = MatMul(x, w) }", w=rows(8, 8)))
    with pytest.raises(BackendError, match=r"(?s)MatMul_0 \(MatMul\) fails in the half-precision check.*shapes"):
        run_half(model, {"x": rows(2, 7)})


def test_a_node_that_the_runtime_lacks_is_named():
    model = ir.from_proto(graph("(float[n,8] x) => (float[n,8] y) { y = Relu(x) }"))
    next(iter(model.graph)).op_type = "Relax"
    with pytest.raises(BackendError, match=r"cannot load the node .*\(Relax\) by itself"):
        run_half(model, {"x": rows(2, 8)})


def test_functions_are_refused():
    model = graph("(float[n,8] x) => (float[n,8] y) { y = Relu(x) }")
    inner = helper.make_node("Relu", ["a"], ["b"])
    model.functions.append(helper.make_function("local", "F", ["a"], ["b"], [inner], [helper.make_opsetid("", 20)]))
    model.opset_import.append(helper.make_opsetid("local", 1))
    with pytest.raises(ConversionError, match="functions of its own"):
        HalfOracle(ir.from_proto(model))


def test_a_session_gives_the_oracles_answers_behind_the_contract():
    x, y = (TensorSpec(name, "float32", ("batch", 8)) for name in "xy")
    signature = Signature((x,), (y,), (Axis("batch", 1, 2, 4),))
    model = halved(graph("(float[n,8] x) => (float[n,8] y) { a = Exp(x)\n y = Exp(a) }"))
    x = np.full((2, 8), 2.5, np.float32)
    with HalfSession(model, signature) as session:
        np.testing.assert_array_equal(session.run({"x": x})["y"], np.inf)
        session.prepare({"x": x})()
        with pytest.raises(SignatureError):
            session.run({"x": rows(2, 7)})
