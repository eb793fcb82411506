import numpy as np
import pytest
from lowering import agrees, graph, lowered

from torchlift.graph.lower import Target

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
