import math
import re
import warnings

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from onnx import numpy_helper, parser

from torchlift.backends import backend
from torchlift.graph.files import save_model
from torchlift.graph.fusion import FUSIONS, Fused, fuse, fuse_file
from torchlift.graph.fusion.attention import FuseAttention
from torchlift.graph.fusion.operators import FuseGelu, FuseLayerNorm, FuseSkipLayerNorm
from torchlift.graph.fusion.patches import FusePatches
from torchlift.graph.fusion.projections import FuseQkv
from torchlift.graph.half import ToHalf

WIDTH = 32
SCALARS = {
    "half": 0.5,
    "one": 1.0,
    "two": 2.0,
    "root2": math.sqrt(2),
    "half_root": math.sqrt(0.5),
    "other": 1.5,
    "eps": 1e-5,
    "eighth": 0.125,
    "eight": 8.0,
}
VECTORS = {
    "heads": [0, 0, 2, 16],
    "four_heads": [0, 0, 4, 8],
    "one_query": [0, 2, 1, 16],
    "one_head": [0, 0, 1, 16],
    "wide_heads": [0, 0, 2, WIDTH],
    "width": [0, 0, WIDTH],
    "double": [0, 0, 2 * WIDTH],
    "flat": [0, WIDTH],
    "patches": [0, 5, 6],
    "last": [-1],
    "leading": [0, 1],
    "middle": [1],
}
EVERY = tuple(dict.fromkeys(kind for kinds in FUSIONS.values() for kind in kinds))
ALL = tuple(kind for kind in EVERY if kind is not FuseQkv)


def graph(body, *, inputs="float[B,L,32] x", outputs="float[B,L,32] y", opset=20, half=False):
    """The text of a graph as a model; constants by the names above, matrices a..c, vectors w and v, all seeded."""
    if half:
        inputs, outputs = inputs.replace("float", "float16"), outputs.replace("float", "float16")
    text = (
        f'<ir_version: 8, opset_import: ["" : {opset}, "com.microsoft" : 1]> g ({inputs}) => ({outputs}) {{ {body} }}'
    )
    model = parser.parse_model(text)
    draw = np.random.default_rng(0)
    dtype = np.float16 if half else np.float32
    constants = {name: np.array(value, dtype) for name, value in SCALARS.items()}
    constants |= {name: np.array(value, np.int64) for name, value in VECTORS.items()}
    constants |= {name: draw.normal(0, 0.2, (WIDTH, WIDTH)).astype(dtype) for name in "abc"}
    constants |= {name: draw.normal(1, 0.2, WIDTH).astype(dtype) for name in "wv"}
    constants |= {
        "wide": draw.normal(0, 0.2, (WIDTH, 2 * WIDTH)).astype(dtype),
        "long": np.arange(64, dtype=dtype) / 64,
    }
    constants |= {"long_bias": draw.normal(0, 0.2, 3 * WIDTH).astype(dtype)}
    constants |= {"thin": draw.normal(0, 0.2, (WIDTH, 16)).astype(dtype)}
    constants |= {"ws": draw.normal(1, 0.2, (1, 5, 1)).astype(dtype)}
    constants |= {"kernels": draw.normal(0, 0.2, (5, 2, 4, 4)).astype(dtype), "five": np.arange(5, dtype=dtype)}
    constants |= {"step": np.array(0.05, np.float32), "zero": np.array(128, np.uint8)}
    read = {name for node in model.graph.node for name in node.input}
    model.graph.initializer.extend(numpy_helper.from_array(a, n) for n, a in constants.items() if n in read)
    return model


def answers(model, feeds):
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_DISABLE_ALL
    session = ort.InferenceSession(model, options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds)


def feeds_of(model, batch=3, length=5, seed=0):
    draw = np.random.default_rng(seed)
    sizes = {"B": batch, "L": length}
    feeds = {}
    for value in model.graph.input:
        shape = [d.dim_value or sizes[d.dim_param] for d in value.type.tensor_type.shape.dim]
        dtype = onnx.helper.tensor_dtype_to_np_dtype(value.type.tensor_type.elem_type)
        feeds[value.name] = draw.normal(size=shape).astype(dtype)
    return feeds


def fused(model, passes=ALL, tolerance=1e-5):
    """Counts above 0 and the operators after ``passes``; asserts the same answers at two shapes."""
    changed = ir.from_proto(model)
    counts = fuse(changed, passes)
    after = ir.to_proto(changed).SerializeToString()
    for shape in ((3, 5), (1, 7)) if b"ws" not in after else ((3, 5),):
        feeds = feeds_of(model, *shape)
        for wanted, got in zip(answers(model.SerializeToString(), feeds), answers(after, feeds), strict=True):
            assert np.abs(wanted).max() > 0.01
            np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())
    return {name: count for name, count in counts.items() if count}, changed


def operators(model):
    return [f"{n.domain}::{n.op_type}" if n.domain else n.op_type for n in model.graph]


PROJECTED = "q1 = MatMul(x, a) k1 = MatMul(x, b) v1 = MatMul(x, c)"
SPLIT = """
q2 = Reshape(q1, heads) k2 = Reshape(k1, heads) v2 = Reshape(v1, heads)
q3 = Transpose <perm = [0,2,1,3]> (q2) k3 = Transpose <perm = [0,2,3,1]> (k2) v3 = Transpose <perm = [0,2,1,3]> (v2)
"""
MERGED = "m = Transpose <perm = [0,2,1,3]> (o) y = Reshape(m, width)"
SCORES = {
    "query scaled": "qs = Mul(q3, eighth) s = MatMul(qs, k3)",
    "query divided": "qs = Div(q3, eight) s = MatMul(qs, k3)",
    "scores scaled": "s1 = MatMul(q3, k3) s = Mul(eighth, s1)",
    "scores divided": "s1 = MatMul(q3, k3) s = Div(s1, eight)",
    "both scaled": "qs = Mul(q3, half) ks = Mul(k3, half) s = MatMul(qs, ks)",
    "not scaled": "s = MatMul(q3, k3)",
}
WITHOUT_BIAS = "p = Softmax <axis = -1> (s) o = MatMul(p, v3)"
WITH_BIAS = "t = Add(s, mask) p = Softmax <axis = 3> (t) o = MatMul(p, v3)"
ATTENTION = PROJECTED + SPLIT + SCORES["query scaled"] + WITHOUT_BIAS + MERGED
MASKED = "float[B,L,32] x, float[B,1,1,L] mask"


@pytest.mark.parametrize("scores", SCORES)
def test_attention_becomes_one_operator_however_it_is_scaled(scores):
    counts, model = fused(graph(PROJECTED + SPLIT + SCORES[scores] + WITHOUT_BIAS + MERGED))
    assert counts == {"attention": 1}
    assert sorted(operators(model)) == ["MatMul"] * 3 + ["com.microsoft::MultiHeadAttention"]


@pytest.mark.parametrize("opset", [16, 20, 22])
def test_a_bias_for_every_query_is_expanded_once_for_two_layers(opset):
    layer = PROJECTED + SPLIT + SCORES["scores scaled"] + WITH_BIAS + MERGED
    first = re.sub(r"\b(y|m|o|p|t|s1?|[qkv][123])\b", r"\1_first", layer)
    second = re.sub(r"\bx\b", "y_first", layer)
    counts, model = fused(graph(first + second, inputs=MASKED, opset=opset))
    assert counts == {"attention": 2}
    assert operators(model).count("Expand") == 1


@pytest.mark.parametrize("mask", ["[L]", "[1]", "", "[B,1,L,1]"])
def test_a_bias_of_fewer_or_shorter_axes_is_expanded(mask):
    body = PROJECTED + SPLIT + SCORES["scores scaled"] + WITH_BIAS + MERGED
    assert fused(graph(body, inputs=f"float[B,L,32] x, float{mask} mask"))[0] == {"attention": 1}


def test_a_mask_for_every_query_and_head_is_taken_as_it_is():
    body = PROJECTED + SPLIT + SCORES["scores scaled"] + WITH_BIAS + MERGED
    counts, model = fused(graph(body, inputs="float[B,L,32] x, float[B,2,L,L] mask"))
    assert counts == {"attention": 1}
    assert "Expand" not in operators(model)


def test_the_key_may_be_turned_twice():
    turned = "k0 = Transpose <perm = [0,2,1,3]> (k2) k3 = Transpose <perm = [0,1,3,2]> (k0)"
    counts, model = fused(graph(ATTENTION.replace("k3 = Transpose <perm = [0,2,3,1]> (k2)", turned)))
    assert counts == {"attention": 1}
    assert "Transpose" not in operators(model)


@pytest.mark.parametrize("bias", [False, True])
def test_attention_of_one_query(bias):
    first = "zero_ = Constant <value_int = 0> () x0 = Gather <axis = 1> (x, zero_)"
    one = ATTENTION.replace("q1 = MatMul(x, a)", f"{first} q1 = MatMul(x0, a)").replace(
        "(q1, heads)", "(q1, one_query)"
    )
    one = one.replace("q3 = Transpose <perm = [0,2,1,3]> (q2)", "q3 = Identity(q2)").replace("q3, eighth", "q2, eighth")
    one = one.replace("q3 = Identity(q2)", "").replace(MERGED, "y = Reshape(o, flat)")
    if bias:
        one = one.replace(WITHOUT_BIAS, WITH_BIAS)
    counts, model = fused(graph(one, inputs=MASKED if bias else "float[B,L,32] x", outputs="float[B,32] y"))
    assert counts == {"attention": 1}
    assert not {"Transpose", "Softmax", "Expand"} & set(operators(model))


def test_heads_that_are_read_before_they_are_merged_stay_apart():
    body = ATTENTION.replace(MERGED, "y = Relu(o)")
    counts, model = fused(graph(body, outputs="float[B,2,L,16] y"))
    assert counts == {"attention": 1}
    assert operators(model).count("Transpose") == 1


ELSEWHERE = {
    "softmax over another axis": (ATTENTION.replace("axis = -1", "axis = 2"), {}),
    "the scores are read": (ATTENTION + "z = Relu(s)", {"outputs": "float[B,L,32] y, float[B,2,L,L] z"}),
    "the probabilities are an output": (ATTENTION, {"outputs": "float[B,L,32] y, float[B,2,L,L] p"}),
    "a scale for each head": (
        ATTENTION.replace("eighth", "each"),
        {"inputs": "float[B,L,32] x, float[1,2,1,1] each"},
    ),
    "a value of one head for two": (
        ATTENTION.replace("(v1, heads)", "(v0, one_head)").replace(PROJECTED, PROJECTED + "v0 = MatMul(v1, thin)"),
        {},
    ),
    "one query for the whole batch": (
        ATTENTION.replace("q1 = MatMul(x, a)", "q1 = MatMul(query, a)"),
        {"inputs": "float[B,L,32] x, float[1,L,32] query"},
    ),
    "too old an opset": (ATTENTION, {"opset": 14}),
}


@pytest.mark.parametrize("case", ELSEWHERE)
def test_what_is_no_attention_of_the_operator_stays(case):
    body, options = ELSEWHERE[case]
    before = graph(body, **options)
    answers(before.SerializeToString(), feeds_of(before))
    model = ir.from_proto(before)
    assert fuse(model, (FuseAttention,)) == {"attention": 0}
    assert operators(model) == [n.op_type for n in before.graph.node]


CENTRED = "n1 = ReduceMean <axes = [-1]> (x) d = Sub(x, n1)"
SQUARED = "d2 = Pow(d, two) n2 = ReduceMean <axes = [2], keepdims = 1> (d2)"
ROOT = "n3 = Add(n2, eps) r = Sqrt(n3)"
AFFINE = "e = Mul(n, w) y = Add(v, e)"
NORM = CENTRED + SQUARED + ROOT + "n = Div(d, r)" + AFFINE
NORMS = {
    "torchscript": NORM,
    "multiplied": NORM.replace("Pow(d, two)", "Mul(d, d)"),
    "reciprocal": NORM.replace("Div(d, r)", "Mul(d, i)").replace("n = ", "i = Reciprocal(r) n = "),
    "without epsilon": NORM.replace("n3 = Add(n2, eps) r = Sqrt(n3)", "r = Sqrt(n2)"),
    "without bias": NORM.replace("e = Mul(n, w) y = Add(v, e)", "y = Mul(n, w)"),
    "shared weight": "ww = Identity(w)" + NORM.replace("Mul(n, w)", "Mul(n, ww)"),
}


@pytest.mark.parametrize("form", NORMS)
def test_a_written_out_layer_norm_becomes_the_operator(form):
    counts, model = fused(graph(NORMS[form], opset=16))
    assert counts == {"layer-norm": 1}
    assert operators(model)[-1] == "LayerNormalization"
    assert len(operators(model)) == (2 if form == "shared weight" else 1)


def test_axes_may_be_an_input():
    body = NORM.replace("ReduceMean <axes = [-1]> (x)", "ReduceMean(x, last)")
    body = body.replace("ReduceMean <axes = [2], keepdims = 1> (d2)", "ReduceMean(d2, last)")
    assert fused(graph(body))[0] == {"layer-norm": 1}


def test_what_is_added_to_a_norm_is_no_bias_unless_it_is_a_constant_vector():
    body = NORM.replace("Add(v, e)", "Add(x, e)")
    counts, model = fused(graph(body, opset=16))
    assert counts == {"layer-norm": 1}
    assert operators(model) == ["LayerNormalization", "Add"]


NO_NORMS = {
    "over another axis": NORM.replace("[-1]", "[1]").replace("[2]", "[1]").replace("(n, w)", "(n, ws)"),
    "variance over another axis": NORM.replace("[2]", "[1]"),
    "the mean is read": NORM.replace("y = ", "f = Add(e, n1) y = ").replace("(v, e)", "(v, f)"),
    "cubed": NORM.replace("(d, two)", "(d, half)").replace("Pow(d,", "Pow(d4,").replace("d2 =", "d4 = Abs(d) d2 ="),
}


@pytest.mark.parametrize("case", NO_NORMS)
def test_what_is_no_layer_norm_stays(case):
    model = graph(NO_NORMS[case], inputs="float[B,5,32] x", outputs="float[B,5,32] y", opset=16)
    assert fused(model, (FuseLayerNorm,))[0] == {}


GELUS = {
    "divided": "a_ = Div(x, root2) e = Erf(a_) p = Add(e, one) m = Mul(x, p) y = Mul(m, half)",
    "multiplied": "a_ = Mul(x, half_root) e = Erf(a_) p = Add(one, e) m = Mul(p, x) y = Mul(half, m)",
    "half first": "h = Mul(x, half) a_ = Mul(x, half_root) e = Erf(a_) p = Add(e, one) y = Mul(h, p)",
    "half of the sum": "a_ = Div(x, root2) e = Erf(a_) p = Add(e, one) h = Mul(p, half) y = Mul(x, h)",
}


@pytest.mark.parametrize(("opset", "operator"), [(16, "com.microsoft::Gelu"), (20, "Gelu")])
@pytest.mark.parametrize("form", GELUS)
def test_a_written_out_gelu_becomes_the_operator(form, opset, operator):
    counts, model = fused(graph(GELUS[form], opset=opset))
    assert counts == {"gelu": 1}
    assert operators(model) == [operator]


@pytest.mark.parametrize(
    "body",
    [
        GELUS["divided"].replace("root2", "other"),
        GELUS["divided"].replace("half)", "other)"),
        GELUS["divided"].replace("(e, one)", "(e, other)"),
        GELUS["divided"].replace("Erf", "Tanh"),
        GELUS["divided"].replace("y = ", "z = Relu(p) y0 = ") + "y = Add(y0, z)",
        GELUS["divided"].replace("Mul(x, p)", "Mul(w, p)"),
    ],
)
def test_what_is_no_gelu_stays(body):
    assert fused(graph(body), (FuseGelu,))[0] == {}


BIASED = "q0 = MatMul(x, a) q1 = Add(q0, w) k0 = MatMul(x, b) k1 = Add(v, k0) v0 = MatMul(x, c) v1 = Add(v0, w)"


@pytest.mark.parametrize("half", [False, True])
def test_three_projections_become_one_product(half):
    counts, model = fused(graph(ATTENTION, half=half), EVERY, 4e-3 if half else 1e-5)
    assert counts == {"attention": 1, "qkv": 1}
    found = operators(model)
    assert [found.count(name) for name in ("MatMul", "Concat", "Split")] == [1, 1, 1]
    product = next(n for n in model.graph if n.op_type == "Split")
    attention = next(n for n in model.graph if n.op_type == "MultiHeadAttention")
    assert list(attention.inputs[:3]) == list(product.outputs)


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize(
    ("scores", "mask", "expands"), [(WITHOUT_BIAS, "", 0), (WITH_BIAS, "B,1,1,L", 1), (WITH_BIAS, "B,2,L,L", 0)]
)
def test_three_projections_with_biases_and_attention_become_one_operator(scores, mask, expands, half):
    body = BIASED + SPLIT + SCORES["scores scaled"] + scores + MERGED
    inputs = f"float[B,L,32] x, float[{mask}] mask" if mask else "float[B,L,32] x"
    counts, model = fused(graph(body, inputs=inputs, half=half), EVERY, 4e-3 if half else 1e-5)
    assert counts == {"attention": 1, "qkv": 1}
    found = operators(model)
    assert found.count("com.microsoft::Attention") == 1
    assert [found.count(name) for name in ("MatMul", "Add", "Split", "Expand")] == [0, 0, 0, expands]


def test_projections_of_unlike_widths_are_split():
    wide = BIASED.replace("MatMul(x, c)", "MatMul(x, wide)").replace("(v0, w)", "(v0, long)")
    body = ATTENTION.replace(PROJECTED, wide).replace("(v1, heads)", "(v1, wide_heads)").replace("width)", "double)")
    counts, model = fused(graph(body, outputs="float[B,L,64] y"), EVERY)
    assert counts == {"attention": 1, "qkv": 1}
    assert operators(model).count("Split") == 1


def test_a_projection_that_is_read_elsewhere_is_split():
    counts, model = fused(
        graph(ATTENTION.replace(PROJECTED, BIASED) + "z = Relu(q1)", outputs="float[B,L,32] y, float[B,L,32] z"), EVERY
    )
    assert counts == {"attention": 1, "qkv": 1}
    assert operators(model).count("Split") == 1


KEPT = {
    "a bias": ("y = com.microsoft.MultiHeadAttention <num_heads = 2> (q1, k1, v1, long_bias)", ""),
    "a causal mask": ("y = com.microsoft.MultiHeadAttention <num_heads = 2, unidirectional = 1> (q1, k1, v1)", ""),
    "keys for later": (
        "y, keys, values = com.microsoft.MultiHeadAttention <num_heads = 2> (q1, k1, v1)",
        ", float[B,2,L,16] keys, float[B,2,L,16] values",
    ),
}


@pytest.mark.parametrize("case", KEPT)
def test_what_the_operator_lacks_keeps_the_attention_as_it_is(case):
    attention, outputs = KEPT[case]
    counts, model = fused(graph(f"{BIASED} {attention}", outputs=f"float[B,L,32] y{outputs}"), (FuseQkv,))
    assert counts == {"qkv": 1}
    assert operators(model).count("com.microsoft::MultiHeadAttention") == operators(model).count("Split") == 1


def test_key_and_value_of_one_query_are_joined():
    first = "zero_ = Constant <value_int = 0> () x0 = Gather <axis = 1> (x, zero_)"
    one = ATTENTION.replace("q1 = MatMul(x, a)", f"{first} q1 = MatMul(x0, a)").replace(
        "(q1, heads)", "(q1, one_query)"
    )
    one = one.replace("q3 = Transpose <perm = [0,2,1,3]> (q2)", "").replace("q3, eighth", "q2, eighth")
    counts, model = fused(graph(one.replace(MERGED, "y = Reshape(o, flat)"), outputs="float[B,32] y"), EVERY)
    assert counts == {"attention": 1, "qkv": 1}
    assert operators(model).count("MatMul") == 2
    split = next(n for n in model.graph if n.op_type == "Split")
    assert split.inputs[1].const_value.numpy().tolist() == [WIDTH, WIDTH]


def test_only_projections_that_all_have_a_bias_or_none_are_joined():
    mixed = BIASED.replace("v0 = MatMul(x, c) v1 = Add(v0, w)", "v1 = MatMul(x, c)")
    counts, model = fused(graph(ATTENTION.replace(PROJECTED, mixed)), EVERY)
    assert counts == {"attention": 1, "qkv": 1}
    assert operators(model).count("MatMul") == 2


APART = {
    "each of its own input": (
        PROJECTED.replace("(x, b)", "(z, b)").replace("(x, c)", "(u, c)"),
        {"inputs": "float[B,L,32] x, float[B,L,32] z, float[B,L,32] u"},
    ),
    "by matrices that are inputs": (
        PROJECTED.replace("(x, b)", "(x, m1)").replace("(x, c)", "(x, m2)"),
        {"inputs": "float[B,L,32] x, float[32,32] m1, float[32,32] m2"},
    ),
    "a bias for each position": (
        "q1 = MatMul(x, a) k0 = MatMul(x, b) k1 = Add(k0, rows) v0 = MatMul(x, c) v1 = Add(v0, rows)",
        {"inputs": "float[B,L,32] x, float[L,32] rows"},
    ),
    "outputs of the graph": (PROJECTED, {"outputs": "float[B,L,32] y, float[B,L,32] k1, float[B,L,32] v1"}),
    "read before the biases": (
        BIASED.replace("q0 = MatMul(x, a) q1 = Add(q0, w)", "q1 = MatMul(x, a)") + "r = Add(k0, v0)",
        {"outputs": "float[B,L,32] y, float[B,L,32] r"},
    ),
}


@pytest.mark.parametrize("case", APART)
def test_projections_that_cannot_be_joined_stay(case):
    projected, options = APART[case]
    counts, model = fused(graph(ATTENTION.replace(PROJECTED, projected), **options), EVERY)
    assert counts == {"attention": 1}
    assert operators(model).count("MatMul") == 3


def test_projections_of_int8_are_not_joined():
    weights = "a8 = QuantizeLinear(a, step, zero) ad = DequantizeLinear(a8, step, zero)"
    body = weights + ATTENTION.replace("(x, a)", "(x, ad)").replace("(x, b)", "(x, ad)").replace("(x, c)", "(x, ad)")
    assert fused(graph(body), EVERY)[0] == {"attention": 1}


def test_joined_weights_are_not_read(tmp_path):
    save_model(ir.from_proto(graph(ATTENTION)), tmp_path / "net.onnx")
    made = fuse_file(tmp_path / "net.onnx", "gpu")
    assert made.counts["qkv"] == 1
    assert len(made.graph) < WIDTH * WIDTH * 4


RESIDUAL = "float[B,L,32] x, float[B,L,32] z"
SKIP = "t = Add(x, z) n = LayerNormalization <axis = -1, epsilon = 0.001> (t, w, v)"


@pytest.mark.parametrize(("rest", "outputs"), [("y = Relu(n)", 1), ("y = Add(t, n)", 4)])
def test_a_residual_sum_joins_the_norm_and_stays_where_it_is_read(rest, outputs):
    counts, model = fused(graph(SKIP + rest, inputs=RESIDUAL), (FuseSkipLayerNorm,))
    assert counts == {"skip-layer-norm": 1}
    skip = model.graph[0]
    assert (skip.domain, skip.op_type, len(skip.outputs)) == ("com.microsoft", "SkipLayerNormalization", outputs)


@pytest.mark.parametrize("order", ["Add(x, s)", "Add(s, x)"])
@pytest.mark.parametrize(("bias", "name"), [("Add(z, w)", "w"), ("Add(v, z)", "v")])
@pytest.mark.parametrize("rest", ["Relu(n)", "Add(t, n)"])
def test_a_bias_of_the_residual_joins_too(order, bias, name, rest):
    body = f"s = {bias} {SKIP} y = {rest}".replace("Add(x, z)", order)
    counts, model = fused(graph(body, inputs=RESIDUAL), (FuseSkipLayerNorm,))
    assert counts == {"skip-layer-norm": 1}
    assert len(operators(model)) == 2
    assert [value.name for value in model.graph[0].inputs[4:]] == [name]


@pytest.mark.parametrize(
    ("added", "inputs", "outputs"),
    [
        ("s = Add(z, w) u = Relu(s)", RESIDUAL, "float[B,L,32] y, float[B,L,32] u"),
        ("s = Add(z, w)", RESIDUAL, "float[B,L,32] y, float[B,L,32] s"),
        ("s = Add(z, w)", "float[B,L,32] x, float[B,L,1] z", "float[B,L,32] y"),
        ("s = Add(z, half)", RESIDUAL, "float[B,L,32] y"),
        ("s = Add(z, u)", f"{RESIDUAL}, float[32] u", "float[B,L,32] y"),
    ],
)
def test_what_is_no_bias_of_the_residual_is_added_before(added, inputs, outputs):
    body = f"{added} {SKIP} y = Relu(n)".replace("Add(x, z)", "Add(x, s)")
    counts, model = fused(graph(body, inputs=inputs, outputs=outputs), (FuseSkipLayerNorm,))
    assert counts == {"skip-layer-norm": 1}
    skip = next(node for node in model.graph if node.op_type == "SkipLayerNormalization")
    assert [value.name for value in skip.inputs[:2]] == ["x", "s"]
    assert len(skip.inputs) == 4


def test_a_norm_whose_weight_is_computed_stays():
    mean = "t = Add(x, z) u = ReduceMean <keepdims = 0> (t, leading)"
    body = f"{mean} n = LayerNormalization <axis = -1> (t, u, v) y = Relu(n)"
    assert fused(graph(body, inputs=RESIDUAL), (FuseSkipLayerNorm,))[0] == {}


def test_a_sum_that_is_read_before_the_norm_still_comes_first():
    body = "t = Add(x, z) r = Relu(t) n = LayerNormalization <axis = -1> (t, w, v) y = Add(r, n)"
    counts, model = fused(graph(body, inputs=RESIDUAL), (FuseSkipLayerNorm,))
    assert counts == {"skip-layer-norm": 1}
    assert operators(model) == ["com.microsoft::SkipLayerNormalization", "Relu", "Add"]


@pytest.mark.parametrize(
    ("body", "inputs", "outputs"),
    [
        (SKIP + "y = Relu(n)", "float[B,L,32] x, float[L,32] z", "float[B,L,32] y"),
        (SKIP + "y = Relu(n)", "float[B,L,32] x, float[B,1,32] z", "float[B,L,32] y"),
        (SKIP + "y = Relu(n)", "float[B,3,L,32] x, float[B,3,L,32] z", "float[B,3,L,32] y"),
        (SKIP.replace("axis = -1", "axis = 1").replace("t, w, v", "t, a, b") + "y = Relu(n)",
         "float[B,32,32] x, float[B,32,32] z", "float[B,32,32] y"),
    ],
)  # fmt: skip
def test_a_sum_that_broadcasts_or_a_norm_over_more_axes_stays(body, inputs, outputs):
    assert fused(graph(body, inputs=inputs, outputs=outputs), (FuseSkipLayerNorm,))[0] == {}


PATCHES = "d = Conv <strides = [4, 4]> (x, kernels) r = Reshape (d, patches) y = Transpose <perm = [0, 2, 1]> (r)"
PICTURES = {"inputs": "float[B,2,8,12] x", "outputs": "float[B,6,5] y"}


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("bias", ["", ", five"])
def test_patches_become_one_product(bias, half):
    model = graph(PATCHES.replace("kernels", f"kernels{bias}"), half=half, **PICTURES)
    counts, model = fused(model, (FusePatches,), 4e-3 if half else 1e-5)
    assert counts == {"patches": 1}
    assert operators(model).count("MatMul") == 1
    assert "Conv" not in operators(model)


@pytest.mark.parametrize(
    ("body", "inputs"),
    [
        (PATCHES.replace("[4, 4]", "[4, 2]"), "float[B,2,8,8] x"),
        (PATCHES.replace("> (x", ", pads = [0, 0, 0, 4]> (x"), "float[B,2,8,8] x"),
        (PATCHES.replace("> (x", ", dilations = [1, 2]> (x"), "float[B,2,8,15] x"),
        (PATCHES, "float[B,2,9,12] x"),
        (PATCHES, "float[B,2,H,12] x"),
        (PATCHES.replace("r = Reshape (d", "u = Relu (d) r = Reshape (u"), "float[B,2,8,12] x"),
    ],
)
def test_what_is_no_sequence_of_patches_stays(body, inputs):
    model = ir.from_proto(graph(body, inputs=inputs, outputs="float[B,6,5] y"))
    assert fuse(model, (FusePatches,)) == {"patches": 0}
    assert "Conv" in operators(model)


@pytest.mark.parametrize(
    ("body", "opset", "name"), [(ATTENTION, 20, "attention"), (NORM, 16, "layer-norm"), (GELUS["divided"], 20, "gelu")]
)
def test_half_precision_is_fused_too(body, opset, name):
    assert fused(graph(body, opset=opset, half=True), tolerance=4e-3)[0] == {name: 1}


def test_projections_in_int8_leave_attention_to_be_fused():
    body = ATTENTION
    for name in ("q1", "k1", "v1"):
        body = body.replace(f"({name}, heads)", f"({name}_d, heads)")
        body += f"{name}_i = QuantizeLinear({name}, step, zero) {name}_d = DequantizeLinear({name}_i, step, zero) "
    lines = re.findall(r"\w+ = [^=]*?(?:<[^>]*> )?\([^)]*\)", body)
    order = sorted(lines, key=lambda line: 0 if "MatMul(x" in line else 1 if "Linear" in line else 2)
    counts, model = fused(graph(" ".join(order)), tolerance=1e-5)
    assert counts == {"attention": 1}
    assert operators(model).count("DequantizeLinear") == 3


def test_a_second_run_finds_nothing():
    model = ir.from_proto(graph(ATTENTION))
    fuse(model, ALL)
    assert not any(fuse(model, ALL).values())


def test_the_pass_says_whether_it_changed_the_model():
    model = ir.from_proto(graph(GELUS["divided"]))
    assert FuseGelu()(model).modified
    assert not FuseGelu()(model).modified


def test_the_new_node_carries_the_module_scopes():
    model = ir.from_proto(graph(ATTENTION))
    for node in model.graph:
        node.metadata_props["pkg.torch.onnx.name_scopes"] = "['', 'layers.0.attention', 'matmul']"
    fuse(model, ALL)
    node = next(n for n in model.graph if n.op_type == "MultiHeadAttention")
    assert node.metadata_props["pkg.torch.onnx.name_scopes"] == "['', 'layers.0.attention', 'matmul']"
    assert node.name


def test_weights_stay_where_they_are(tmp_path):
    model = ir.from_proto(graph(ATTENTION))
    save_model(model, tmp_path / "net.onnx")
    made = fuse_file(tmp_path / "net.onnx", "processor")
    assert isinstance(made, Fused)
    assert made.counts == {"layer-norm": 0, "gelu": 0, "attention": 1}
    assert len(made.graph) < 3 * WIDTH * WIDTH * 4
    places = {
        entry.value
        for tensor in onnx.load_from_string(made.graph).graph.initializer
        for entry in tensor.external_data
        if entry.key == "location"
    }
    assert places == {"net.onnx.data"}
    assert sorted(file.name for file in tmp_path.iterdir()) == ["net.onnx", "net.onnx.data"]


@pytest.mark.parametrize("target", FUSIONS)
def test_a_graph_without_a_pattern_keeps_its_file(source, target):
    assert fuse_file(source, target) is None


def test_what_ort_runs_on_decides_what_it_is_given_fused():
    found = {name: backend(f"onnxruntime{name}").fused_for for name in ("", "-cuda", "-tensorrt")}
    assert found == {"": "processor", "-cuda": "gpu", "-tensorrt": None}
    assert {*found.values()} - {None} == {*FUSIONS}


def counts_for(file, target, feeds, tolerance=1e-5):
    """Counts above 0 of the target's passes on a file; asserts the same answers as before, fully optimised."""
    made = fuse_file(file, target)
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.add_session_config_entry("session.model_external_initializers_file_folder_path", str(file.parent))
    sessions = [ort.InferenceSession(what, options) for what in (str(file), made.graph)]
    for fed in feeds:
        named = dict(zip((value.name for value in sessions[0].get_inputs()), fed, strict=True))
        wanted, got = (session.run(None, named)[0] for session in sessions)
        assert np.abs(wanted).max() > 0.01
        np.testing.assert_allclose(got, wanted, rtol=0, atol=tolerance * np.abs(wanted).max())
    return {name: count for name, count in made.counts.items() if count}


def tokens(batch, length):
    ids = np.random.default_rng(length).integers(1, 50, (batch, length))
    ids[-1, -2:] = 0
    return ids


@pytest.fixture(scope="module", params=["dynamo", "torchscript"])
def towers(request, tmp_path_factory):
    """A Chinese-CLIP as it is exported: two layers in each tower, one head, of which the last has one query."""
    from shipped import checkpoint

    from torchlift.exporter import ExportOptions
    from torchlift.families.base import LoadOptions
    from torchlift.jobs.ship import export
    from torchlift.jobs.source import Source
    from torchlift.signature import Axis

    folder = tmp_path_factory.mktemp("towers")
    small = LoadOptions(axes={"": {"batch": Axis("batch", 1, 2, 4)}})
    options = ExportOptions() if request.param == "dynamo" else ExportOptions(exporter="torchscript", opset=16)
    export(Source("chinese-clip", str(checkpoint(folder)), small), folder / "clip", options)
    return folder / "clip", request.param


def test_the_towers_of_chinese_clip(towers):
    folder, exporter = towers
    pictures = [(np.random.default_rng(n).normal(size=(n, 3, 32, 32)).astype(np.float32),) for n in (1, 3)]
    image = counts_for(folder / "image/source/model.onnx", "processor", pictures)
    text = counts_for(folder / "text/source/model.onnx", "processor", [(tokens(3, 7),), (tokens(1, 12),)])
    written = {"dynamo": [{}, {}], "torchscript": [{"layer-norm": 6}, {"layer-norm": 5, "gelu": 2}]}[exporter]
    assert image == {"attention": 2, **written[0]}
    assert text == {"attention": 2, **written[1]}


@pytest.mark.parametrize("half", [False, True])
@pytest.mark.parametrize("part", ["image", "text"])
def test_the_towers_as_a_gpu_gets_them(towers, tmp_path, part, half):
    folder, exporter = towers
    file = folder / part / "source/model.onnx"
    if half:
        model = ir.load(file)
        ToHalf()(model)
        file = tmp_path / "half.onnx"
        save_model(model, file)
    draw = np.random.default_rng(0)
    feeds = [
        (tokens(n, 7),) if part == "text" else (draw.normal(size=(n, 3, 32, 32)).astype(np.float32),) for n in (1, 3)
    ]
    counts = counts_for(file, "gpu", feeds, 5e-3 if half else 1e-5)
    assert counts["attention"] == 2
    assert counts.get("patches", 0) == (1 if part == "image" else 0)
    assert counts.get("qkv", 0) == (2 if exporter == "dynamo" else 0)
    assert counts["skip-layer-norm"] == (2 if exporter == "dynamo" else 1)
    made = ir.from_proto(onnx.load_from_string(fuse_file(file, "gpu").graph))
    whole = operators(made).count("com.microsoft::Attention")
    assert whole == (1 if exporter == "dynamo" else 0)  # the last layer has one query
    outer = {*made.graph.inputs, *made.graph.outputs}
    inner = [n for n in made.graph if n.op_type == "Cast" and not {*n.inputs, *n.outputs} & outer]
    assert [n.inputs[0].producer().op_type for n in inner] == ["ConstantOfShape"] * len(inner)


BLOCKS = """
import torch
from torch import nn
from torch.nn import functional as F

from torchlift.families.attention import Heads


class Block(nn.Module):
    def __init__(self, style):
        super().__init__()
        self.heads = Heads(2, 16, style)
        self.project = nn.ModuleList(nn.Linear(32, 32) for _ in range(4))
        self.wide, self.narrow = nn.Linear(32, 64), nn.Linear(64, 32)
        self.norms = nn.ModuleList(nn.LayerNorm(32) for _ in range(3))

    def attend(self, x, bias):
        q, k, v, o = self.project
        return o(self.heads.attend(q(x), k(x), v(x), (x.shape[0], x.shape[1]), bias))


class Bert(Block):
    def forward(self, x, keep):
        bias = ((keep - 1.0) * 10000.0)[:, None, None, :]
        x = self.norms[0](x + self.attend(x, bias))
        return self.norms[1](x + self.narrow(F.gelu(self.wide(x))))


class Mobile(Block):
    def forward(self, x):
        x = x + self.attend(self.norms[0](x), None)
        return self.norms[2](x + self.narrow(F.silu(self.wide(self.norms[1](x)))))
"""


@pytest.mark.parametrize(
    ("kind", "style", "exporter"),
    [
        ("Bert", "eager", "dynamo"),
        ("Mobile", "sdpa", "dynamo"),
        *((kind, style, "torchscript") for kind in ("Bert", "Mobile") for style in ("eager", "sdpa")),
    ],
)
def test_blocks_like_those_of_bert_and_mobilevit(tmp_path, kind, style, exporter):
    import torch

    scope = {}
    exec(BLOCKS, scope)
    torch.manual_seed(0)
    block = scope[kind](style).eval()
    inputs = (torch.randn(3, 5, 32), torch.ones(3, 5))[: 2 if kind == "Bert" else 1]
    file, names = tmp_path / "block.onnx", ["x", "keep"][: len(inputs)]
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        if exporter == "dynamo":
            sizes = ({0: torch.export.Dim("batch"), 1: torch.export.Dim("length")},) * len(inputs)
            torch.onnx.export(block, inputs, file, dynamo=True, opset_version=20, dynamic_shapes=sizes, verbose=False)
        else:
            axes = {name: {0: "batch", 1: "length"} for name in names}
            torch.onnx.export(block, inputs, file, dynamo=False, opset_version=16, input_names=names, dynamic_axes=axes)
    draw = np.random.default_rng(0)
    feeds = [
        (draw.normal(size=(batch, length, 32)).astype(np.float32), (tokens(batch, length) > 0).astype(np.float32))
        for batch, length in ((2, 9), (1, 4))
    ]
    counts = counts_for(file, "gpu", [fed[: len(inputs)] for fed in feeds])
    norms, gelus = (2, {"gelu": 1}) if kind == "Bert" else (3, {})
    written = {"layer-norm": norms, **gelus} if exporter == "torchscript" else {}
    assert counts == {"attention": 1, "skip-layer-norm": 2, **written, "qkv": 1}
