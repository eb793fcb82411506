import itertools

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from onnx import TensorProto, helper, numpy_helper

from torchlift.errors import ConversionError
from torchlift.graph.files import save_model
from torchlift.graph.half import ToHalf, half_candidates, require_half
from torchlift.graph.half_rules import LOST_SHARE, misfit
from torchlift.graph.units import name_nodes
from torchlift.prove.numerics import compare

RNG = np.random.default_rng(0)


def graph(text, opset=20, **weights):
    """A model of the nodes in ``text`` (the body of onnx's text format, after the signature), with float32 weights."""
    model = onnx.parser.parse_model(f'<ir_version: 10, opset_import: ["" : {opset}]>\nnet {text}')
    for name, array in weights.items():
        array = np.asarray(array)
        array = array.astype(np.float32) if array.dtype == np.float64 else array
        model.graph.initializer.append(numpy_helper.from_array(array, name))
    onnx.checker.check_model(model, full_check=True)
    return model


def run(proto, **feeds):
    session = ort.InferenceSession(proto.SerializeToString(), providers=["CPUExecutionProvider"])
    return dict(zip((o.name for o in session.get_outputs()), session.run(None, feeds), strict=True))


class Converted:
    """A converted graph, checked by onnx with all its types and shapes."""

    def __init__(self, proto, keep=()):
        self.before = proto
        self.model = ir.from_proto(proto)
        self.report = ToHalf(keep)(self.model).report
        self.proto = ir.to_proto(self.model)
        onnx.checker.check_model(self.proto, full_check=True)
        self.types = {v.name: v.dtype for node in self.model.graph for v in node.outputs}
        self.types.update({v.name: v.dtype for v in self.model.graph.initializers.values()})

    def half(self, name):
        return self.types[name] == ir.DataType.FLOAT16

    def kept(self):
        return {kept.unit.operator: kept.reason for kept in self.report.kept}

    def agrees(self, tolerance=5e-3, **feeds):
        """The largest error by the scale, of all outputs, in ONNX Runtime; types and shapes must be the same."""
        expected, found = run(self.before, **feeds), run(self.proto, **feeds)
        assert expected.keys() == found.keys()
        for name in expected:
            assert found[name].dtype == expected[name].dtype
            assert compare(found[name], expected[name]).max_scaled <= tolerance, name


def rows(*shape):
    return RNG.standard_normal(shape, np.float32)


def weight(*shape):
    return rows(*shape) / shape[0] ** 0.5


TWO_LAYERS = """(float[n,8] x) => (float[n,4] y) {
    a = MatMul(x, up)
    b = Add(a, bias)
    c = Relu(b)
    d = Sigmoid(c)
    y = MatMul(d, down)
}"""


def two_layers():
    return graph(TWO_LAYERS, up=weight(8, 16), bias=weight(16), down=weight(16, 4))


def test_all_of_a_plain_net_is_converted_and_its_border_stays_float32():
    net = Converted(two_layers())
    assert [unit.operator for unit in net.report.converted] == ["MatMul", "Add", "Relu", "Sigmoid", "MatMul"]
    assert (net.report.kept, net.report.casts, net.report.share, net.report.weight_share) == ((), 2, 1.0, 1.0)
    assert net.report.weight_bytes == 4 * (8 * 16 + 16 + 16 * 4)
    assert [v.dtype for v in (*net.model.graph.inputs, *net.model.graph.outputs)] == [ir.DataType.FLOAT] * 2
    assert [t.data_type for t in net.proto.graph.initializer] == [TensorProto.FLOAT16] * 3
    net.agrees(x=rows(3, 8))


def test_kept_neighbours_talk_float32_and_are_cast_once_on_either_side():
    net = Converted(two_layers(), keep=["Add_1", "Relu_2"])
    assert net.report.casts == 4
    assert [kept.unit.node for kept in net.report.kept] == ["Add_1", "Relu_2"]
    assert {kept.reason for kept in net.report.kept} == {"was asked to"}
    assert net.report.share == pytest.approx(3 / 5)
    assert net.half("a")
    assert not net.half("b")
    assert not net.half("c")
    assert net.half("d")
    net.agrees(x=rows(3, 8))


def test_reasons_given_with_names_are_reported():
    net = Converted(two_layers(), keep={"Relu_2": "writes c, up to 7e+04"})
    assert net.kept() == {"Relu": "writes c, up to 7e+04"}


@given(st.sets(st.sampled_from([f"{op}_{n}" for n, op in enumerate(["MatMul", "Add", "Relu", "Sigmoid", "MatMul"])])))
def test_any_choice_of_nodes_gives_a_valid_graph_without_needless_casts(keep):
    net = Converted(two_layers(), keep)
    edges = [False, *(f"{n}" in {name[-1] for name in keep} for n in range(5)), False]
    halves = [False, *(not kept for kept in edges[1:-1]), False]
    assert net.report.casts == sum(a != b for a, b in itertools.pairwise(halves))
    assert {kept.unit.node for kept in net.report.kept} == keep
    net.agrees(x=rows(2, 8))


def test_a_tensor_with_many_readers_is_cast_once_a_direction():
    text = """(float[n,8] x) => (float[n,8] y) {
        a = Relu(x)
        b = Sigmoid(a)
        c = Tanh(a)
        d = Exp(x)
        e = Add(b, c)
        y = Add(d, e)
    }"""
    net = Converted(graph(text), keep=["Sigmoid_1", "Tanh_2"])
    # x down, a up for both, b and c down, y up
    assert net.report.casts == 5
    net.agrees(x=rows(2, 8))


def test_a_weight_that_both_sides_read_exists_in_both_forms():
    text = "(float[n,8] x) => (float[n,8] y) { a = MatMul(x, w)\n y = MatMul(a, w) }"
    net = Converted(graph(text, w=weight(8, 8)), keep=["MatMul_1"])
    assert {t.name: t.data_type for t in net.proto.graph.initializer} == {
        "w": TensorProto.FLOAT,
        "w.fp16": TensorProto.FLOAT16,
    }
    assert (net.report.weight_bytes, net.report.half_bytes) == (256, 0)
    net.agrees(x=rows(2, 8))


def test_an_output_that_is_read_inside_keeps_its_name_and_type():
    text = "(float[n,8] x) => (float[n,8] a, float[n,8] y) { a = Relu(x)\n b = Exp(a)\n y = Neg(b) }"
    net = Converted(graph(text), keep=["Exp_1"])
    assert [v.name for v in net.proto.graph.output] == ["a", "y"]
    # x down, a up for the output and for Exp, b down, y up
    assert net.report.casts == 4
    net.agrees(x=rows(2, 8))


MOVES = """(float[n,8] x) => (float[n,8] y) {
    a = Relu(x)
    b = Reshape(a, flat)
    c = Exp(b)
    d = Reshape(c, back)
    y = Neg(d)
}"""


def test_a_move_follows_its_neighbours():
    moves = graph(MOVES, flat=np.array([-1]), back=np.array([-1, 8]))
    between = Converted(moves, keep=["Relu_0", "Exp_2"])
    assert not between.half("b")
    assert between.half("d")
    assert between.report.casts == 2
    assert [unit.operator for unit in between.report.converted] == ["Neg"]
    assert Converted(moves, keep=["Exp_2"]).half("b")


def test_a_move_that_was_named_stays():
    assert not Converted(graph(MOVES, flat=np.array([-1]), back=np.array([-1, 8])), keep=["Reshape_1"]).half("b")


@pytest.mark.parametrize(
    ("value", "said"),
    [(1e-12, "is 1e-12, which FP16 rounds to 0"), (-3.4e38, "is -3.4e+38, beyond 65504"), (7e4, "is 7e+04, beyond")],
)
def test_a_constant_that_would_vanish_or_overflow_keeps_its_node(value, said):
    text = "(float[n,8] x) => (float[n,8] y) { a = Relu(x)\n b = Add(a, c)\n y = Exp(b) }"
    net = Converted(graph(text, c=value))
    assert list(net.kept()) == ["Add"]
    assert f"c {said}" in net.kept()["Add"]
    assert [kept.unit.node for kept in net.report.kept] == ["Add_1"]


def test_an_infinite_constant_is_infinite_in_half_precision():
    text = "(float[n,8] x, bool[n,8] m) => (float[n,8] y) { a = Where(m, x, c)\n y = Softmax(a) }"
    net = Converted(graph(text, c=-np.inf))
    assert net.report.share == 1.0
    net.agrees(x=rows(2, 8), m=np.tile([True, False], (2, 4)))


def test_weights_out_of_range_are_kept_and_counted_never_clamped():
    big = weight(8, 8)
    big[0, :2] = 7e4, -9e4
    net = Converted(graph("(float[n,8] x) => (float[n,8] y) { a = Relu(x)\n y = MatMul(a, w) }", w=big))
    assert net.kept() == {"MatMul": "w holds 2 numbers beyond 65504, up to 9e+04"}
    assert {t.data_type for t in net.proto.graph.initializer} == {TensorProto.FLOAT}
    net.agrees(x=rows(2, 8))


@given(st.lists(st.floats(width=32, allow_nan=False), min_size=1))
def test_the_limits_are_those_of_rounding_to_half(numbers):
    array = np.array([*numbers, 65519.9, 65504, 2.0**-24], np.float32)
    with np.errstate(over="ignore"):
        half = array.astype(np.float16)
    overflows = np.count_nonzero(np.isinf(half) & np.isfinite(array))
    lost = np.count_nonzero((half == 0) & (array != 0)) / np.count_nonzero(array)
    said = misfit(array)
    if overflows:
        assert said.startswith(f"holds {overflows} numbers beyond 65504")
    else:
        assert said == (f"would lose {lost:.0%} to 0" if lost > LOST_SHARE else "")


def test_weights_that_would_mostly_vanish_are_kept():
    small = weight(8, 8)
    small[:4] *= 1e-8
    net = Converted(graph("(float[n,8] x) => (float[n,8] y) { a = Relu(x)\n y = MatMul(a, w) }", w=small))
    assert net.kept() == {"MatMul": "w would lose 50% to 0"}


def test_a_few_vanishing_weights_and_zeros_do_no_harm():
    few = np.zeros((64, 64))
    few[:32] = weight(32, 64)
    few[0, 0] = 1e-9
    net = Converted(graph("(float[n,64] x) => (float[n,64] y) { y = MatMul(x, w) }", w=few))
    assert net.report.share == 1.0


def test_weights_out_of_range_stay_float32_after_they_were_moved():
    table = weight(5, 8)
    table[2] = 1e5
    text = """(int64[n] i) => (float[n,8] y) {
        a = Gather(table, i)
        b = Mul(a, scale)
        y = Relu(b)
    }"""
    net = Converted(graph(text, table=table, scale=1e-3))
    assert not net.half("a")
    assert "table holds 8 numbers" in net.kept()["Mul"]
    net.agrees(i=np.array([0, 2]))


def test_an_embedding_is_halved_with_what_reads_it():
    text = "(int64[n] i) => (float[n,8] y) { a = Gather(table, i)\n y = Relu(a) }"
    assert Converted(graph(text, table=weight(5, 8))).report.weight_share == 1.0
    assert Converted(graph(text, table=weight(5, 8)), keep=["Relu_1"]).report.weight_share == 0.0


def test_a_cast_from_integers_writes_half_only_where_all_readers_are():
    text = "(int64[n,8] i) => (float[n,8] y) { a = Cast<to = 1>(i)\n b = Exp(a)\n c = Neg(a)\n y = Add(b, c) }"
    assert Converted(graph(text)).half("a")
    assert Converted(graph(text)).report.casts == 1
    net = Converted(graph(text), keep=["Exp_1"])
    assert not net.half("a")
    net.agrees(i=RNG.integers(-3, 3, (2, 8)))


def test_a_cast_to_integers_and_shape_read_whatever_there_is():
    text = """(float[n,8] x) => (int64[n,8] i, int64[2] s, float[n,8] y) {
        a = Mul(x, ten)
        i = Cast<to = 7>(a)
        s = Shape(a)
        y = Neg(a)
    }"""
    net = Converted(graph(text, ten=10.0))
    assert (net.report.casts, net.report.share) == (2, 1.0)
    net.agrees(x=np.float32([[0.25, 1.5, 2.75, 3, 4, 5, 6, 7]]))


def test_positions_computed_from_sizes_stay_float32_and_do_not_count():
    text = """(float[n,s,8] x) => (float[n,s,8] y) {
        size = Shape<start = 1, end = 2>(x)
        count = Squeeze(size)
        steps = Range(zero, count, one)
        place = Cast<to = 1>(steps)
        angle = Mul(place, rate)
        wave = Sin(angle)
        column = Unsqueeze(wave, axis)
        y = Add(x, column)
    }"""
    model = graph(text, zero=np.array(0), one=np.array(1), rate=0.37, axis=np.array([-1]))
    net = Converted(model)
    assert [unit.operator for unit in net.report.converted] == ["Add"]
    assert net.report.kept == ()
    assert not any(net.half(name) for name in ("place", "angle", "wave", "column"))
    net.agrees(x=rows(1, 5000, 8))


def test_scales_of_a_resize_stay_float32():
    text = '(float[n,3,4,4] x) => (float[n,3,h,w] y) { a = Relu(x)\n y = Resize<mode = "linear">(a, , scales) }'
    net = Converted(graph(text, scales=np.array([1, 1, 2, 2], np.float32)))
    assert net.report.share == 1.0
    assert not net.half("scales")
    net.agrees(x=rows(1, 3, 4, 4))


def test_statistics_of_a_layer_normalization_stay_float32():
    text = """(float[n,8] x) => (float[n,8] y, float[n,1] mean) {
        y, mean = LayerNormalization(x, scale, bias)
    }"""
    net = Converted(graph(text, scale=1 + weight(8), bias=weight(8)))
    assert not net.half("mean")
    assert (net.report.share, net.report.casts) == (1.0, 2)
    net.agrees(x=rows(2, 8))


@pytest.mark.parametrize(
    ("node", "said"),
    [
        ("RandomNormalLike(a)", "random numbers"),
        ("GridSample(image, grid)", "coordinates"),
        ("NonMaxSuppression(boxes, scores)", "no NonMaxSuppression in FP16"),
    ],
)
def test_operators_that_need_float32_say_why(node, said):
    texts = {
        "RandomNormalLike(a)": f"(float[n,8] x) => (float[n,8] y) {{ a = Relu(x)\n b = {node}\n y = Neg(b) }}",
        "GridSample(image, grid)": f"""(float[1,1,4,4] x, float[1,4,4,2] grid) => (float[1,1,4,4] y) {{
            image = Relu(x)\n b = {node}\n y = Neg(b) }}""",
        "NonMaxSuppression(boxes, scores)": f"""(float[1,2,4] x, float[1,1,2] s) => (int64[k,3] y) {{
            boxes = Relu(x)\n scores = Relu(s)\n y = {node} }}""",
    }
    net = Converted(graph(texts[node]))
    (kept,) = net.report.kept
    assert said in kept.reason
    assert net.report.converted


def test_a_subgraph_stays_float32_and_reads_what_it_needs():
    branches = [
        helper.make_graph(
            [helper.make_node(operator, ["a"], [operator])],
            operator,
            [],
            [helper.make_tensor_value_info(operator, TensorProto.FLOAT, None)],
        )
        for operator in ("Exp", "Neg")
    ]
    model = graph("(float[n,8] x, bool c) => (float[n,8] y) { a = Sigmoid(x)\n y = Relu(a) }")
    del model.graph.node[1]
    model.graph.node.append(helper.make_node("If", ["c"], ["b"], then_branch=branches[0], else_branch=branches[1]))
    model.graph.node.append(helper.make_node("Relu", ["b"], ["y"]))
    net = Converted(model)
    assert net.kept() == {"If": "it holds a subgraph"}
    for condition in (True, False):
        net.agrees(x=rows(2, 8), c=np.array(condition))


def test_an_operator_of_another_domain_stays_float32():
    model = graph("(float[n,8] x) => (float[n,8] y) { a = Relu(x)\n b = Exp(a)\n y = Neg(b) }")
    model.graph.node[1].op_type, model.graph.node[1].domain = "QuickGelu", "com.microsoft"
    model.graph.value_info.append(helper.make_tensor_value_info("b", TensorProto.FLOAT, ["n", 8]))
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    net = ir.from_proto(model)
    report = ToHalf()(net).report
    assert {kept.unit.operator: kept.reason for kept in report.kept} == {
        "QuickGelu": "it is no operator of the ONNX standard"
    }
    x = rows(2, 8)
    assert compare(run(ir.to_proto(net), x=x)["y"], run(model, x=x)["y"]).max_scaled < 5e-3


QUANTIZED = """(float[n,8] x) => (float[n,8] y) {
    a = Relu(x)
    q = QuantizeLinear(a, scale, zero)
    b = DequantizeLinear(q, scale, zero)
    y = MatMul(b, w)
}"""


@pytest.mark.parametrize(("opset", "scale", "half"), [(20, 0.02, True), (20, 2e-5, False), (17, 0.02, False)])
def test_quantised_nodes_take_half_scales_where_the_standard_has_them_and_they_keep_their_bits(opset, scale, half):
    net = Converted(graph(QUANTIZED, opset, scale=scale, zero=np.int8(0), w=weight(8, 8)))
    assert net.half("b") == half
    assert [unit.operator for unit in net.report.converted] == ["Relu", "MatMul"]
    net.agrees(1e-2, x=rows(2, 8))


def test_tensors_without_types_get_them_first():
    model = two_layers()
    del model.graph.value_info[:]
    for node in model.graph.node:
        assert not node.name
    net = Converted(model)
    assert net.report.share == 1.0


def test_candidates_are_what_is_converted_and_their_names_can_be_kept():
    model = graph(MOVES.replace("Neg(d)", "Mul(d, tiny)"), flat=np.array([-1]), back=np.array([-1, 8]), tiny=1e-9)
    found = half_candidates(ir.from_proto(model))
    assert [str(unit) for unit in found] == ["Relu_0 (Relu)", "Exp_2 (Exp)"]
    assert Converted(model).report.converted == tuple(found)
    assert Converted(model, [unit.node for unit in found]).report.converted == ()


def test_names_are_those_that_the_graph_has_before_constants_are_lifted():
    text = "(float[n,8] x) => (float[n,8] y) { c = Constant<value_float = 2.0>()\n a = Mul(x, c)\n y = Exp(a) }"
    named = ir.from_proto(graph(text))
    name_nodes(named)
    names = [node.name for node in named.graph]
    assert names == ["Constant_0", "Mul_1", "Exp_2"]
    assert [kept.unit.node for kept in Converted(graph(text), keep=names).report.kept] == names[1:]


def test_a_name_that_the_graph_lacks_is_refused():
    with pytest.raises(ConversionError, match=r"no node Gelu_7\nName nodes as `torchlift bisect`"):
        Converted(two_layers(), keep=["Gelu_7"])


def test_a_graph_that_stays_float32_but_in_name_is_an_error():
    net = Converted(two_layers(), keep=[f"{op}_{n}" for n, op in enumerate(["MatMul", "Add", "Relu", "Sigmoid"])])
    require_half(net.report)
    with pytest.raises(ConversionError) as refused:
        require_half(net.report, 0.3)
    assert "only 1 of 5 nodes would compute in FP16 (20%, at least 30%)" in str(refused.value)
    assert "MatMul_0 (MatMul): was asked to" in str(refused.value)
    assert "FP32 in all but name" in refused.value.remedy


def test_a_graph_without_a_float_node_is_an_error():
    net = Converted(graph("(int64[n] x) => (int64[n] y) { y = Neg(x) }"))
    assert net.report.share == 0.0
    with pytest.raises(ConversionError, match="only 0 of 0 nodes"):
        require_half(net.report, 0.0)


def test_weights_beside_the_file_are_converted_when_written(tmp_path):
    file = tmp_path / "model.onnx"
    save_model(ir.from_proto(graph("(float[n,64] x) => (float[n,64] y) { y = MatMul(x, w) }", w=weight(64, 64))), file)
    model = ir.load(file)
    report = ToHalf()(model).report
    assert isinstance(model.graph.initializers["w"].const_value, ir.LazyTensor)
    (tmp_path / "half").mkdir()
    save_model(model, tmp_path / "half" / "model.onnx")
    sizes = [(folder / "model.onnx.data").stat().st_size for folder in (tmp_path, tmp_path / "half")]
    assert sizes == [report.weight_bytes, report.weight_bytes // 2]
    saved = onnx.load(tmp_path / "half" / "model.onnx")
    np.testing.assert_array_equal(
        numpy_helper.to_array(saved.graph.initializer[0]),
        numpy_helper.to_array(onnx.load(file).graph.initializer[0]).astype(np.float16),
    )
