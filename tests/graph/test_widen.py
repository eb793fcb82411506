import numpy as np
import onnx
import onnx_ir as ir
import pytest
from lowering import agrees, feeds_of, graph, lowered, run

from torchlift.graph.half import ToHalf
from torchlift.graph.lower import Lower, Target
from torchlift.graph.quantize import Quantize
from torchlift.graph.schemes import SCHEMES
from torchlift.graph.types import infer_types
from torchlift.graph.widen import Widen

RNG = np.random.default_rng(0)
PRODUCTS = """(float[n,8] x) => (float[n,8] y, float[n,8] b) {
    a = MatMul(x, up) b = Sigmoid(a) c = Mul(a, b) d = Exp(c) e = Add(d, bias) y = MatMul(e, down)
}"""
WEIGHTS = {name: RNG.standard_normal((8, 8)) / 3 for name in ("up", "down")} | {"bias": np.arange(8.0)}
HALVES = (ir.DataType.FLOAT16, ir.DataType.BFLOAT16)


def in_half(keep=(), quantized=False):
    model = ir.from_proto(graph(PRODUCTS, 20, **WEIGHTS))
    if quantized:
        Quantize(SCHEMES["int8-s8s8"], {"x": (-3.0, 3.0), "e": (0.0, 40.0)})(model)
    ToHalf(keep)(model)
    return model


def halves(model):
    values = (*model.graph.initializers.values(), *(v for node in model.graph for v in node.outputs))
    return [value.name for value in values if value.dtype in HALVES]


@pytest.mark.parametrize("keep", [(), ("n3",), ("n0", "n4")])
def test_a_graph_in_half_precision_is_fp32_again_with_the_weights_that_it_had(keep):
    model = in_half(keep)
    names, before = {node.name for node in model.graph if node.op_type != "Cast"}, ir.to_proto(model)
    assert halves(model)
    assert Widen()(model).modified
    after = ir.to_proto(model)
    onnx.checker.check_model(after, full_check=True)
    assert not halves(model)
    assert {node.name for node in model.graph if node.op_type != "Cast"} == names
    assert all(node.outputs[0].is_graph_output() for node in model.graph if node.op_type == "Cast")
    assert [(v.name, v.type.tensor_type.elem_type) for v in after.graph.output] == [("y", 1), ("b", 1)]
    for name, reader in {"up": "n0", "bias": "n4", "down": "n5"}.items():
        had = WEIGHTS[name].astype(np.float32 if reader in keep else np.float16).astype(np.float32)
        np.testing.assert_array_equal(model.graph.initializers[name].const_value.numpy(), had)
    feeds = feeds_of(before)
    for exact, found in zip(run(before, feeds), run(after, feeds), strict=True):
        np.testing.assert_allclose(found, exact, rtol=2e-2, atol=2e-2)
    assert not Widen()(model).modified


def test_casts_that_change_a_type_stay():
    body = "a = Cast <to = 1> (i) b = Exp(a) c = Cast <to = 7> (b) y = Cast <to = 1> (c)"
    model = ir.from_proto(graph(f"(int64[n] i) => (float[n] y) {{ {body} }}"))
    ToHalf()(model)
    Widen()(model)
    assert [node.op_type for node in model.graph] == ["Cast", "Exp", "Cast", "Cast"]
    onnx.checker.check_model(ir.to_proto(model), full_check=True)


OWN = {
    "an input": "(float16[n,8] h) => (float[n,8] y) { y = Cast <to = 1> (h) }",
    "an output": "(float[n,8] x) => (float16[n,8] y) { y = Cast <to = 10> (x) }",
    "a constant": """(float[n,8] x) => (float[n,8] y) {
        a = Cast <to = 10> (x) b = Constant <value = float16[1] {2}> () c = Mul(a, b) y = Cast <to = 1> (c) }""",
    "an attribute": """(float[n,8] x) => (float[n,8] y) {
        a = Cast <to = 10> (x) b = RandomNormalLike <dtype = 10> (a) y = Cast <to = 1> (b) }""",
    "a subgraph": """(bool b, float[n,8] x) => (float[n,8] y) {
        y = If (b) <then_branch = one () => (float[n,8] s) { h = Cast <to = 10> (x) g = Exp(h) s = Cast <to = 1> (g) },
                    else_branch = two () => (float[n,8] t) { t = Exp(x) }> }""",
}


@pytest.mark.parametrize("body", OWN.values(), ids=OWN)
def test_half_precision_of_the_networks_own_stays(body):
    model, before = (ir.from_proto(graph(body, 20)) for _ in range(2))
    infer_types(before)
    assert not Widen()(model).modified
    assert ir.to_proto(model) == ir.to_proto(before)


def test_integers_beside_half_precision_of_the_networks_own_are_lowered_with_casts():
    body = """(float[n,8] x) => (float16[n,8] y) {
        q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) h = Cast <to = 10> (d) y = Exp(h) }"""
    proto = graph(body, 20, s=np.array(0.05), z=np.int8(0))
    untyped = Target(16, integer_weights=False, typed=False)
    assert lowered(proto, untyped).graph.output[0].type.tensor_type.elem_type == onnx.TensorProto.FLOAT16
    agrees(proto, untyped, 1e-3)


def test_the_casts_alone_are_something_that_was_rewritten():
    body = """(float[n,8] x) => (float[n,8] y) {
        q = QuantizeLinear(x, s, z) d = DequantizeLinear(q, s, z) h = Cast <to = 10> (d) e = Exp(h)
        y = Cast <to = 1> (e) }"""
    model = ir.from_proto(graph(body, 16, s=np.array(0.05), z=np.int8(0)))
    assert Lower(Target(16, typed=False))(model).modified
    assert [node.op_type for node in model.graph] == ["QuantizeLinear", "DequantizeLinear", "Exp", "Cast"]


def test_integers_are_read_without_casts_between_where_the_compiler_chooses_types():
    proto = ir.to_proto(in_half(quantized=True))
    untyped = lowered(proto, Target(16, integer_weights=False, typed=False))
    writers = {name: node for node in untyped.graph.node for name in node.output}
    products = [node for node in untyped.graph.node if node.op_type == "MatMul"]
    assert len(products) == 2
    assert all(writers[name].op_type == "DequantizeLinear" for node in products for name in node.input)
    assert all(kind != onnx.TensorProto.FLOAT16 for kind in (weight.data_type for weight in untyped.graph.initializer))
    agrees(proto, Target(16, integer_weights=False, typed=False), 2e-2)
    typed = lowered(proto, Target(20))
    assert onnx.TensorProto.FLOAT16 in {weight.data_type for weight in typed.graph.initializer}


def test_half_precision_without_integers_stays():
    proto = ir.to_proto(in_half())
    untyped = lowered(proto, Target(16, typed=False))
    assert onnx.TensorProto.FLOAT16 in {weight.data_type for weight in untyped.graph.initializer}
