import collections
import functools
from dataclasses import replace

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from onnx import TensorProto, helper, numpy_helper
from shipped import clip  # noqa: F401

from torchlift.backends import backend
from torchlift.bundle import Bundle
from torchlift.convert.ranges import ranges_of
from torchlift.errors import ConversionError
from torchlift.graph.files import save_model
from torchlift.graph.half import ToHalf
from torchlift.graph.inspect import read_facts
from torchlift.graph.learnt import learnt_ranges
from torchlift.graph.qdq import LIMITS, Linear, for_activation, for_weight, signal_to_noise
from torchlift.graph.quantize import Quantize
from torchlift.graph.scales import Scales
from torchlift.graph.schemes import SCHEMES, has_attention, observed, quantizable
from torchlift.prove.goldens import load_goldens
from torchlift.signature import Axis, Signature, TensorSpec

U8S8, S8S8, DYNAMIC, WEIGHTS = (SCHEMES[f"int8-{name}"] for name in ("u8s8", "s8s8", "dynamic", "weights"))
SIGNATURE = Signature(
    (TensorSpec("image", "float32", ("batch", 3, 12, 12)),),
    (TensorSpec("y", "float32", ("batch", 5)),),
    (Axis("batch", 1, 2, 4),),
)


def image(rows=2, seed=9):
    return np.random.default_rng(seed).standard_normal((rows, 3, 12, 12), np.float32)


def proto(opset=20):
    """Two convolutions with ReLU, a residual Add, a Gemm, a MatMul with Add: y [batch, 5]."""
    draw = np.random.default_rng(3)

    def weight(name, *shape):
        return numpy_helper.from_array(
            draw.standard_normal(shape, np.float32) / np.float32(np.prod(shape[1:]) ** 0.5), name
        )

    nodes = [
        helper.make_node("Conv", ["image", "w0", "b0"], ["c0"], name="stem", kernel_shape=[3, 3]),
        helper.make_node("Relu", ["c0"], ["r0"], name="relu0"),
        helper.make_node("Conv", ["r0", "w1", "b1"], ["c1"], name="conv", kernel_shape=[3, 3], pads=[1, 1, 1, 1]),
        helper.make_node("Relu", ["c1"], ["r1"], name="relu1"),
        helper.make_node("Add", ["r0", "r1"], ["s1"], name="residual"),
        helper.make_node("GlobalAveragePool", ["s1"], ["g"], name="pool"),
        helper.make_node("Flatten", ["g"], ["f"], name="flatten"),
        helper.make_node("Gemm", ["f", "w2", "b2"], ["h"], name="gemm", transB=1),
        helper.make_node("Tanh", ["h"], ["t"], name="tanh"),
        helper.make_node("MatMul", ["t", "w3"], ["p"], name="matmul"),
        helper.make_node("Add", ["p", "b3"], ["y"], name="bias"),
    ]
    constants = [
        *(weight("w0", 8, 3, 3, 3), weight("b0", 8), weight("w1", 8, 8, 3, 3), weight("b1", 8)),
        *(weight("w2", 16, 8), weight("b2", 16), weight("w3", 16, 5), weight("b3", 5)),
    ]
    graph = helper.make_graph(
        nodes,
        "net",
        [helper.make_tensor_value_info("image", TensorProto.FLOAT, ["batch", 3, 12, 12])],
        [helper.make_tensor_value_info("y", TensorProto.FLOAT, ["batch", 5])],
        constants,
    )
    made = helper.make_model(graph, opset_imports=[helper.make_opsetid("", opset)], ir_version=8)
    return onnx.shape_inference.infer_shapes(made)


def model():
    return ir.from_proto(proto())


def answers(made, feeds=None):
    """What ONNX Runtime computes, with its optimiser."""
    options = ort.SessionOptions()
    options.log_severity_level = 4
    session = ort.InferenceSession(ir.to_proto(made).SerializeToString(), options, providers=["CPUExecutionProvider"])
    return session.run(None, feeds or {"image": image()})[0]


@functools.cache
def ranges():
    """The ranges of all tensors of the net on its test images."""
    source = proto()
    names = [name for node in source.graph.node for name in node.output]
    del source.graph.output[:]
    source.graph.output.extend(onnx.ValueInfoProto(name=name) for name in names)
    found = ort.InferenceSession(source.SerializeToString(), providers=["CPUExecutionProvider"]).run(
        None, {"image": image()}
    )
    everything = {"image": image(), **dict(zip(names, found, strict=True))}
    return {name: (float(v.min()), float(v.max())) for name, v in everything.items()}


def quantized(scheme, **options):
    made = model()
    return made, Quantize(scheme, ranges(), **options)(made).report


def constant(made, name):
    return made.graph.initializers[name].const_value.numpy()


def node(made, name):
    return next(n for n in made.graph if n.name == name)


def optimised(made, folder):
    """How often each operator is in what ONNX Runtime makes of a graph."""
    file = folder / "optimised.onnx"
    options = ort.SessionOptions()
    options.log_severity_level = 4
    options.graph_optimization_level = ort.GraphOptimizationLevel.ORT_ENABLE_EXTENDED
    options.optimized_model_filepath = str(file)
    ort.InferenceSession(ir.to_proto(made).SerializeToString(), options, providers=["CPUExecutionProvider"])
    return collections.Counter(n.op_type for n in onnx.load(file).graph.node)


# the arithmetic


@given(
    arrays(np.float32, st.integers(1, 40), elements=st.floats(-1e4, 1e4, width=32)),
    st.sampled_from(["int8", "uint8"]),
)
def test_within_the_range_the_error_is_at_most_half_a_step(values, dtype):
    linear = for_activation(float(values.min()), float(values.max()), dtype)
    error = np.abs(linear.dequantize(linear.quantize(values)).astype(np.float64) - values)
    assert error.max() <= 0.5 * float(linear.scale) * (1 + 1e-4)
    assert linear.dequantize(linear.quantize(np.zeros(1, np.float32))) == 0


@given(st.floats(-1e3, 1e3), st.floats(-1e3, 1e3), st.sampled_from(["int8", "uint8"]))
def test_what_lies_outside_saturates(a, b, dtype):
    low, high = sorted([a, b])
    linear = for_activation(low, high, dtype)
    assert [*linear.quantize(np.array([-1e9, 1e9], np.float32))] == [*LIMITS[dtype]]
    assert linear.scale.dtype == np.float32
    assert linear.scale > 0


def test_activations_by_definition():
    assert for_activation(-1, 3, "uint8").scale == np.float32(4 / 255)
    assert for_activation(-1, 3, "uint8").zero_point == 64
    assert for_activation(1, 3, "uint8") == Linear(np.float32(3 / 255), 0, "uint8")
    assert for_activation(-4, 3, "int8") == Linear(np.float32(4 / 127), 0, "int8")


@pytest.mark.parametrize("dtype", ["int8", "uint8"])
def test_a_tensor_that_is_always_zero_stays_zero(dtype):
    linear = for_activation(0, 0, dtype)
    assert (linear.scale, linear.zero_point) == (1, 0)
    assert linear.dequantize(linear.quantize(np.zeros(3, np.float32))).tolist() == [0, 0, 0]


@given(arrays(np.float32, (4, 3, 2), elements=st.floats(-100, 100, width=32)), st.sampled_from([0, 1, 2]))
def test_weights_have_a_scale_for_each_channel(weight, axis):
    linear = for_weight(weight, axis)
    rest = tuple({0, 1, 2} - {axis})
    amax = np.abs(weight).max(axis=rest)
    seen = amax > 1e-30
    np.testing.assert_allclose(linear.scale[seen], amax[seen] / 127, rtol=1e-6)
    integers = linear.quantize(weight)
    assert np.abs(integers.astype(int)).max(axis=rest)[seen].tolist() == [127] * int(seen.sum())
    error = np.abs(linear.dequantize(integers) - weight).max(axis=rest)
    assert (error <= 0.5 * linear.scale * (1 + 1e-4)).all()


def test_a_dead_channel_takes_the_largest_scale_of_the_others():
    weight = np.array([[1, 0, 4], [-2, 0, 3]], np.float32)
    np.testing.assert_allclose(for_weight(weight, 1).scale, np.array([2, 4, 4]) / 127, rtol=1e-6)
    assert for_weight(np.zeros((2, 2), np.float32), 0).scale.tolist() == [1, 1]


def test_learnt_magnitudes_replace_the_largest():
    weight = np.array([[1, 8], [2, 3]], np.float32)
    np.testing.assert_allclose(for_weight(weight, 1, np.array([2, 4])).scale, np.array([2, 4]) / 127, rtol=1e-6)
    np.testing.assert_allclose(for_weight(weight, 1, np.array(4)).scale, np.array([4, 4]) / 127, rtol=1e-6)
    assert for_weight(weight, 1, np.array([2, 4])).quantize(weight)[0, 1] == 127
    with pytest.raises(ValueError, match="3 ranges for the 2 channels"):
        for_weight(weight, 1, np.ones(3))


def test_signal_to_noise():
    values = np.array([0.6, -0.6], np.float32)
    assert signal_to_noise(values, Linear(np.float32(1), 0, "int8")) == pytest.approx(
        20 * np.log10(0.6 / 0.4), rel=1e-5
    )
    assert signal_to_noise(np.array([3.0]), Linear(np.float32(1), 0, "int8")) == np.inf
    counted = signal_to_noise(np.array([0.6, 2.0]), Linear(np.float32(1), 0, "int8"), np.array([3, 0]))
    assert counted == pytest.approx(20 * np.log10(0.6 / 0.4), rel=1e-5)


def test_a_bit_more_is_six_decibels():
    values = np.random.default_rng(0).uniform(-1, 1, 100_000).astype(np.float32)
    coarse, fine = (signal_to_noise(values, Linear(np.float32(s), 0, "int8")) for s in (2 / 127, 1 / 127))
    assert fine - coarse == pytest.approx(6.02, abs=0.1)


# which nodes


def test_products_with_constant_weights_can_be_quantised_and_the_stem_stays():
    assert [u.node for u in quantizable(model(), S8S8)] == ["conv", "gemm", "matmul"]
    assert [u.node for u in quantizable(model(), replace(S8S8, stem=True))] == ["stem", "conv", "gemm", "matmul"]
    assert [u.node for u in quantizable(model(), DYNAMIC)] == ["gemm", "matmul"]


def test_the_tensors_to_observe():
    assert observed(model(), S8S8) == ["r0", "f", "t"]
    assert observed(model(), U8S8) == ["r0", "r1", "f", "t"]
    assert observed(model(), U8S8, keep={"conv", "gemm"}) == ["t"]
    assert observed(model(), replace(U8S8, stem=True)) == ["image", "r0", "r1", "f", "t"]
    assert observed(model(), DYNAMIC) == observed(model(), WEIGHTS) == []


@pytest.mark.parametrize(
    ("name", "change"),
    [
        ("gemm", lambda n: n.attributes.add(ir.AttrFloat32("alpha", 0.5))),
        ("gemm", lambda n: n.attributes.add(ir.AttrInt64("transA", 1))),
        ("matmul", lambda n: n.replace_input_with(1, n.inputs[0])),
    ],
)
def test_what_has_no_form_in_integers_is_left_alone(name, change):
    made = model()
    change(node(made, name))
    assert name not in [u.node for u in quantizable(made, S8S8)]


def test_a_convolution_that_writes_an_output_is_no_integer_convolution_of_onnxruntime():
    made = model()
    made.graph.outputs.append(node(made, "conv").outputs[0])
    assert [u.node for u in quantizable(made, U8S8)] == ["gemm", "matmul"]
    assert [u.node for u in quantizable(made, S8S8)] == ["conv", "gemm", "matmul"]


def test_weights_in_constant_nodes_count():
    made = model()
    weight = made.graph.initializers.pop("w3")
    holder = ir.node("Constant", [], {"value": weight.const_value}, name="holder")
    holder.outputs[0].name = "held"
    made.graph.insert_before(made.graph[0], holder)
    node(made, "matmul").replace_input_with(1, holder.outputs[0])
    assert "matmul" in [u.node for u in quantizable(made, S8S8)]


# the graph


@pytest.mark.parametrize("scheme", [U8S8, S8S8, DYNAMIC, WEIGHTS, replace(U8S8, stem=True)], ids=lambda s: s.name)
def test_answers_stay_within_the_error_of_eight_bits(scheme, tmp_path):
    made, report = quantized(scheme)
    expected = answers(model())
    assert len(report.quantized) == len(quantizable(model(), scheme)) > 0
    save_model(made, tmp_path / "net.onnx")
    onnx.checker.check_model(str(tmp_path / "net.onnx"), full_check=True)
    with backend("onnxruntime").open(tmp_path / "net.onnx", SIGNATURE) as session:
        found = session.run({"image": image()})["y"]
    assert 0 < np.abs(found - expected).max() < 0.03 * np.abs(expected).max()


@pytest.mark.parametrize("scheme", [U8S8, S8S8], ids=lambda s: s.name)
def test_openvino_computes_the_same(scheme, tmp_path):
    made, _ = quantized(scheme)
    save_model(made, tmp_path / "net.onnx")
    openvino = backend("openvino")
    file = openvino.build(tmp_path / "net.onnx", tmp_path, SIGNATURE)
    with openvino.open(tmp_path / file, SIGNATURE) as session:
        found = session.run({"image": image()})["y"]
    expected = answers(model())
    assert 0 < np.abs(found - expected).max() < 0.03 * np.abs(expected).max()


@pytest.mark.parametrize("scheme", SCHEMES.values(), ids=lambda s: s.name)
def test_with_all_nodes_kept_the_graph_is_as_it_was(scheme):
    keep = [u.node for u in quantizable(model(), scheme)]
    made, report = quantized(scheme, keep=keep)
    assert ir.to_proto(made).SerializeToString(deterministic=True) == ir.to_proto(model()).SerializeToString(
        deterministic=True
    )
    assert report.quantized == ()
    assert report.share == 0
    assert not Quantize(scheme, keep=keep)(model()).modified
    np.testing.assert_array_equal(answers(made), answers(model()))


@pytest.mark.parametrize("scheme", [U8S8, S8S8], ids=lambda s: s.name)
def test_one_node_is_kept(scheme):
    made, report = quantized(scheme, keep={"gemm"})
    assert [q.unit.node for q in report.quantized] == ["conv", "matmul"]
    assert [u.node for u in report.kept] == ["stem", "gemm"]
    assert [v.name for v in node(made, "gemm").inputs] == ["f", "w2", "b2"]


def test_weights_are_int8_by_the_definition():
    made, report = quantized(S8S8)
    source = model()
    for name, weight, axis in (("conv", "w1", 0), ("gemm", "w2", 0), ("matmul", "w3", 1)):
        values = constant(source, weight)
        amax = np.abs(values).max(axis=tuple(d for d in range(values.ndim) if d != axis))
        scale = constant(made, f"{name}.weight.scale")
        np.testing.assert_allclose(scale, amax / 127, rtol=1e-6)
        shape = [-1 if d == axis else 1 for d in range(values.ndim)]
        np.testing.assert_array_equal(constant(made, f"{name}.weight.int8"), np.rint(values / scale.reshape(shape)))
        assert node(made, f"{name}.weight").attributes["axis"].value == axis
        assert weight not in made.graph.initializers
    assert {"w0", "b0", "b1", "b2", "b3"} <= {*made.graph.initializers}
    assert [round(q.weight_noise) for q in report.quantized] == pytest.approx([46, 46, 46], abs=4)


def test_symmetric_activations():
    made, report = quantized(S8S8)
    low, high = ranges()["t"]
    assert constant(made, "t.scale") == np.float32(max(-low, high) / 127)
    assert constant(made, "t.zero") == np.zeros((), np.int8)
    assert constant(made, "t.zero").dtype == np.int8
    assert {q.activation: q.input.zero_point for q in report.quantized} == {"r0": 0, "f": 0, "t": 0}


def test_asymmetric_activations():
    made, _ = quantized(U8S8)
    low, high = ranges()["t"]
    assert constant(made, "t.scale") == np.float32((high - low) / 255)
    assert constant(made, "t.zero") == round(-low / float(constant(made, "t.scale")))
    assert constant(made, "t.zero").dtype == np.uint8


def test_others_read_the_tensor_as_before_unless_a_convolution_of_onnxruntime_writes_it():
    symmetric, _ = quantized(S8S8)
    assert [v.name for v in node(symmetric, "residual").inputs] == ["r0", "r1"]
    asymmetric, _ = quantized(U8S8)
    assert [v.name for v in node(asymmetric, "residual").inputs] == ["r0", "r1.dq"]


def test_biases_are_int32_only_where_onnxruntime_wants_it():
    symmetric, _ = quantized(S8S8)
    assert node(symmetric, "conv").inputs[2].name == "b1"
    made, _ = quantized(U8S8)
    steps = constant(made, "r0.scale") * constant(made, "conv.weight.scale")
    np.testing.assert_allclose(constant(made, "conv.bias.scale"), steps, rtol=1e-6)
    np.testing.assert_array_equal(constant(made, "conv.bias.int32"), np.rint(constant(model(), "b1") / steps))
    assert "b1" not in made.graph.initializers


def test_a_bias_that_int32_cannot_hold_stays():
    made = model()
    made.graph.initializers["b1"].const_value = ir.tensor(np.full(8, 1e9, np.float32), name="b1")
    Quantize(U8S8, {**ranges(), "r0": (0, 1e-6)})(made)
    assert node(made, "conv").inputs[2].name == "b1"


def test_onnxruntime_runs_every_product_in_integers(tmp_path):
    counts = optimised(quantized(U8S8)[0], tmp_path)
    assert (counts["QLinearConv"], counts["QGemm"], counts["MatMulIntegerToFloat"] + counts["QGemm"]) == (1, 2, 2)
    assert (counts["Conv"] + counts["FusedConv"], counts["Gemm"], counts["MatMul"]) == (1, 0, 0)
    dynamic = optimised(quantized(DYNAMIC)[0], tmp_path)
    assert dynamic["DynamicQuantizeMatMul"] == 2
    assert dynamic["Gemm"] + dynamic["MatMul"] + dynamic["Add"] == 1


def test_the_share_counts_multiplications():
    _, report = quantized(S8S8)
    stem, conv, gemm, matmul = 8 * 27 * 100, 8 * 72 * 100, 16 * 8, 16 * 5
    assert report.share == pytest.approx((conv + gemm + matmul) / (stem + conv + gemm + matmul))
    _, report = quantized(DYNAMIC)
    assert report.share == pytest.approx((gemm + matmul) / (stem + conv + gemm + matmul))


def test_learnt_weights_are_used():
    made, _ = quantized(WEIGHTS, learnt={"matmul": np.full(5, 0.1, np.float32)})
    np.testing.assert_allclose(constant(made, "matmul.weight.scale"), 0.1 / 127, rtol=1e-6)
    assert np.abs(constant(made, "matmul.weight.int8").astype(int)).max() == 127
    assert [n.op_type for n in made.graph if "Quantize" in n.op_type] == []


def test_learnt_weights_of_another_layer():
    with pytest.raises(
        ConversionError, match="learnt scales of matmul do not fit: 3 ranges for the 5 channels"
    ) as error:
        quantized(WEIGHTS, learnt={"matmul": np.ones(3, np.float32)})
    assert "output channel" in error.value.remedy


@pytest.mark.parametrize("keep", [set(), {"second"}])
def test_a_weight_that_two_nodes_read(keep):
    made = model()
    twin = ir.node(
        "Gemm", [node(made, "flatten").outputs[0], made.graph.initializers["w2"]], {"transB": 1}, name="second"
    )
    twin.outputs[0].name = "z"
    twin.outputs[0].type = ir.TensorType(ir.DataType.FLOAT)
    made.graph.insert_after(node(made, "flatten"), twin)
    made.graph.outputs.append(twin.outputs[0])
    before = answers(made)
    Quantize(S8S8, ranges(), keep=keep)(made)
    assert ("w2" in made.graph.initializers) == bool(keep)
    assert sum(n.op_type == "QuantizeLinear" and n.inputs[0].name == "f" for n in made.graph) == 1
    np.testing.assert_allclose(answers(made), before, atol=0.03 * np.abs(before).max())


def test_the_rest_can_be_fp16():
    made, _ = quantized(S8S8)
    expected = answers(model())
    report = ToHalf()(made).report
    assert {"stem", "tanh"} <= {u.node for u in report.converted}
    assert constant(made, "matmul.weight.int8").dtype == np.int8
    assert constant(made, "w0").dtype == np.float16
    assert np.abs(answers(made) - expected).max() < 0.03 * np.abs(expected).max()


@pytest.mark.parametrize("scheme", [U8S8, S8S8], ids=lambda s: s.name)
def test_a_range_that_is_missing_or_not_finite(scheme):
    with pytest.raises(ConversionError, match="the range of t, which matmul reads or writes, is not known") as error:
        Quantize(scheme, {n: r for n, r in ranges().items() if n != "t"})(model())
    assert "Calibrate" in error.value.remedy
    with pytest.raises(ConversionError, match=r"the range of t, .* is -1\.\.inf"):
        Quantize(scheme, {**ranges(), "t": (-1, np.inf)})(model())


def test_a_node_to_keep_that_is_not_there():
    with pytest.raises(ConversionError, match="the graph has no node nothing, other") as error:
        Quantize(S8S8, ranges(), keep={"other", "nothing", "conv"})(model())
    assert "bisect" in error.value.remedy


def test_an_opset_without_scales_by_channel():
    old = ir.from_proto(proto(12))
    with pytest.raises(ConversionError, match="opset 12 has no scales by channel") as error:
        Quantize(S8S8, ranges())(old)
    assert "`opset=13`" in error.value.remedy


# what the exporter writes


@pytest.fixture(scope="module")
def bundle(clip):  # noqa: F811
    return Bundle.open(clip.path)


def optimum(bundle, component):
    return dict(load_goldens(bundle, bundle.manifest.component(component))["opt"].inputs)


def graph_of(bundle, component):
    return ir.load(bundle.file(bundle.manifest.component(component).model))


@pytest.mark.parametrize("component", ["image", "text"])
@pytest.mark.parametrize("scheme", [U8S8, S8S8, DYNAMIC, WEIGHTS], ids=lambda s: s.name)
def test_an_exported_tower(bundle, component, scheme, tmp_path):
    part = bundle.manifest.component(component)
    source, feeds = bundle.file(part.model), optimum(bundle, component)
    made = ir.load(source)
    names = observed(made, scheme)
    found = {n: (r.low, r.high) for n, r in ranges_of(source, [feeds], names).items()} if names else {}
    report = Quantize(scheme, found)(made).report
    save_model(made, tmp_path / "model.onnx")
    operators = read_facts(tmp_path / "model.onnx").operators
    assert all(q.unit.module for q in report.quantized)
    assert [u.operator for u in report.kept] == (["Conv"] if component == "image" else [])
    assert operators["Softmax"] == read_facts(source).operators["Softmax"]
    for n in made.graph:
        if n.op_type in ("Softmax", "LayerNormalization") or (
            n.op_type == "MatMul" and n.name.startswith("node_matmul")
        ):
            assert not any(v.producer() and v.producer().op_type == "DequantizeLinear" for v in n.inputs if v)
    with (
        backend("onnxruntime").open(tmp_path / "model.onnx", part.signature) as session,
        backend("onnxruntime").open(source, part.signature) as reference,
    ):
        (got,), (truth,) = session.run(feeds).values(), reference.run(feeds).values()
    cosine = (got * truth).sum(1) / np.linalg.norm(got, axis=1) / np.linalg.norm(truth, axis=1)
    assert 0.99 < cosine.min() < 1 - 1e-7


def test_queries_keys_and_values_share_one_pair(bundle):
    made = graph_of(bundle, "image")
    Quantize(S8S8, dict.fromkeys(observed(made, S8S8), (-1, 1)))(made)
    readers = [
        len(n.outputs[0].uses()) for n in made.graph if n.op_type == "DequantizeLinear" and n.name.endswith(".dq")
    ]
    assert max(readers) == 3
    assert len(readers) == len({n.inputs[0].name for n in made.graph if n.op_type == "QuantizeLinear"})


def test_the_quantised_weights_take_a_quarter(bundle):
    source = graph_of(bundle, "image")
    made = graph_of(bundle, "image")
    report = Quantize(S8S8, dict.fromkeys(observed(made, S8S8), (-1, 1)))(made).report
    gone = sum(v.const_value.nbytes for k, v in source.graph.initializers.items() if k not in made.graph.initializers)
    new = sum(v.const_value.nbytes for k, v in made.graph.initializers.items() if k not in source.graph.initializers)
    assert len(report.quantized) >= 12
    assert 0.25 <= new / gone < 0.30


def test_only_the_towers_have_attention(bundle):
    assert has_attention(graph_of(bundle, "text"))
    assert not has_attention(model())


def test_learnt_scales_come_to_the_tensors_of_their_modules(bundle):
    made = graph_of(bundle, "text")
    units = quantizable(made, S8S8)
    query = next(u for u in units if u.module.endswith("0.attention.self.query"))
    output = next(u for u in units if u.module.endswith("0.output.dense"))
    norm = query.module.rpartition("encoder")[0] + "embeddings.LayerNorm"
    amax = np.full(64, 0.5, np.float32)
    scales = {
        query.module: Scales(weight=amax),
        norm: Scales(output=(-3.0, 4.0)),
        output.module: Scales(input=(-1.0, 2.0)),
        "nowhere": Scales(output=(0.0, 1.0)),
    }
    learnt = learnt_ranges(scales, made, S8S8)
    assert {k: v.tolist() for k, v in learnt.weights.items()} == {query.node: amax.tolist()}
    read = {u: node(made, u.node).inputs[0].name for u in (query, output)}
    assert learnt.ranges == {read[query]: (-3.0, 4.0), read[output]: (-1.0, 2.0)}
    assert learnt.unused == ("nowhere",)
    assert learnt_ranges(scales, made, WEIGHTS).ranges == {}
