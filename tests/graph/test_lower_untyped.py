import numpy as np
import onnx_ir as ir
import pytest
from lowering import agrees, graph, lowered
from onnx import TensorProto, helper, numpy_helper

from torchlift.graph.half import ToHalf
from torchlift.graph.lower import Target
from torchlift.graph.quantize import Quantize
from torchlift.graph.schemes import SCHEMES

UNTYPED, TYPED = (Target(16, frozenset({"Attention"}), typed=typed) for typed in (False, True))
HEADS = "float[n,2,5,8] q, float[n,2,8,7] k"
SCORES = f"({HEADS}, float[n,1,1,7] m) => (float[n,2,5,7] y)"


def order(model):
    return [node.op_type for node in model.graph.node]


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(
    ("body", "after"),
    [
        ("a = Mul(q, s) b = MatMul(a, k) c = Add(b, m) y = Softmax <axis = -1> (c)", "MatMul Mul Add Softmax"),
        ("a = Mul(s, q) b = MatMul(a, k) c = Add(m, b) y = Softmax <axis = -1> (c)", "MatMul Mul Add Softmax"),
        ("a = Mul(q, s) b = MatMul(a, k) y = Softmax <axis = -1> (b)", "MatMul Mul Softmax"),
        ("a = Mul(q, s) d = Mul(k, s) b = MatMul(a, d) y = Softmax <axis = -1> (b)", "MatMul Mul Softmax"),
        ("d = Mul(k, s) b = MatMul(q, d) y = Softmax <axis = -1> (b)", "MatMul Mul Softmax"),
        (
            "a = Mul(q, s) t = Transpose <perm = [0, 1, 3, 2]> (k) d = Mul(t, s)"
            " e = Transpose <perm = [0, 1, 3, 2]> (d) b = MatMul(a, e) y = Softmax <axis = -1> (b)",
            "Transpose Transpose MatMul Mul Softmax",
        ),
    ],
)
def test_the_scale_of_an_attention_comes_after_the_product(body, after, half):
    model = graph(f"{SCORES} {{ {body} }}", 16, half, s=np.array(0.35))
    assert order(lowered(model, UNTYPED)) == after.split()
    agrees(model, UNTYPED, 2e-3 if half else 1e-6)
    assert order(lowered(model, TYPED)) == order(model)


@pytest.mark.parametrize(
    "body",
    [
        "a = Mul(q, s) b = MatMul(a, k) y = Add(b, m)",
        "a = Mul(q, q) b = MatMul(a, k) y = Softmax <axis = -1> (b)",
        "b = MatMul(q, k) y = Softmax <axis = -1> (b)",
        "a = Mul(q, w) b = MatMul(a, k) y = Softmax <axis = -1> (b)",
        "a = Mul(q, tiny) b = MatMul(a, k) y = Softmax <axis = -1> (b)",
        "a = Mul(q, s) b = MatMul(a, fixed) y = Softmax <axis = -1> (b)",
        "a = Mul(q, s) b = MatMul(a, k) c = Softmax <axis = -1> (b) y = Add(c, b)",
        "a = Mul(q, s) d = Mul(k, s) b = MatMul(a, k) c = Softmax <axis = -1> (b) e = MatMul(a, d) y = Add(c, e)",
    ],
)
def test_other_products_stay(body):
    constants = {"s": np.array(0.35), "w": np.linspace(0.1, 1, 8), "tiny": np.array(0.03), "fixed": np.ones((8, 7))}
    model = graph(f"{SCORES} {{ {body} }}", 16, **{name: c for name, c in constants.items() if f", {name})" in body})
    assert order(lowered(model, UNTYPED)) == order(model)


@pytest.mark.parametrize("mask", ["", ", m"])
def test_an_attention_of_one_node_is_scaled_after_the_product_too(mask):
    inputs = "float[n,2,5,8] q, float[n,2,7,8] k, float[n,2,7,4] v" + ", float[n,1,5,7] m" * bool(mask)
    model = graph(f"({inputs}) => (float[n,2,5,4] y) {{ y = Attention (q, k, v{mask}) }}", 23)
    agrees(model, UNTYPED)
    agrees(model, TYPED)
    for target, operators in ((UNTYPED, ["MatMul", "Mul"]), (TYPED, ["Mul", "MatMul"])):
        assert [op for op in order(lowered(model, target)) if op in ("Mul", "MatMul")] == [*operators, "MatMul"]


def product(operator, bias=True, quantized=True, half=False):
    """Relu(x W + b), its factors as integers."""
    rng = np.random.default_rng(0)
    constants = {"w": rng.standard_normal((32, 16)), "b": rng.standard_normal(16)}
    if operator == "Gemm":
        nodes = [helper.make_node("Gemm", ["x", "w", "b"], ["s"], name="product")]
    else:
        nodes = [helper.make_node("MatMul", ["x", "w"], ["p" if bias else "s"], name="product")]
        nodes += [helper.make_node("Add", ["b", "p"], ["s"], name="sum")] * bias
    nodes.append(helper.make_node("Relu", ["s"], ["y"], name="relu"))
    held = [numpy_helper.from_array(array.astype(np.float32), name) for name, array in constants.items()]
    values = [helper.make_tensor_value_info(n, TensorProto.FLOAT, ["n", k]) for n, k in (("x", 32), ("y", 16))]
    made = helper.make_graph(nodes, "net", values[:1], values[1:], held)
    model = ir.from_proto(helper.make_model(made, opset_imports=[helper.make_opsetid("", 20)], ir_version=10))
    if quantized:
        Quantize(SCHEMES["int8-s8s8"], {"x": (-3.0, 3.0)})(model)
    if half:
        ToHalf({})(model)
    return ir.to_proto(model)


@pytest.mark.parametrize(("operator", "bias"), [("MatMul", True), ("MatMul", False), ("Gemm", True)])
def test_a_relu_in_half_precision_after_a_product_of_integers_becomes_a_maximum(operator, bias):
    untyped = Target(16, integer_weights=False, typed=False)
    for half in (False, True):
        model = product(operator, bias, half=half)
        agrees(model, untyped, 5e-3 if half else 1e-6)
        assert ("Relu" in order(lowered(model, untyped))) is not half
        assert "Relu" in order(lowered(model, Target(20)))


@pytest.mark.parametrize("swapped", [False, True])
def test_a_sum_with_a_product_of_floats_counts_too(swapped):
    model = ir.from_proto(product("MatMul", bias=False, half=True))
    relu = next(node for node in model.graph if node.op_type == "Relu")
    floats = ir.node(
        "MatMul", [relu.inputs[0], ir.val("v", const_value=ir.tensor(np.eye(16, dtype=np.float16), name="v"))]
    )
    model.graph.register_initializer(floats.inputs[1])
    floats.outputs[0].type = relu.inputs[0].type
    both = [relu.inputs[0], floats.outputs[0]][:: -1 if swapped else 1]
    total = ir.node("Add", both)
    total.outputs[0].type = relu.inputs[0].type
    model.graph.insert_before(relu, [floats, total])
    relu.replace_input_with(0, total.outputs[0])
    assert "Relu" not in order(lowered(ir.to_proto(model), Target(16, integer_weights=False, typed=False)))


def test_a_relu_of_floats_stays():
    assert "Relu" in order(lowered(product("MatMul", quantized=False), UNTYPED))
    convolution = graph(
        "(float[n,2,5,5] x) => (float[n,3,5,5] y) { c = Conv(x, w) y = Relu(c) }", 16, w=np.ones((3, 2, 1, 1))
    )
    assert order(lowered(convolution, UNTYPED)) == ["Conv", "Relu"]
