import functools
import importlib.util
import itertools
import json
import re
from collections import Counter
from pathlib import Path

import numpy as np
import onnx
import onnx_ir as ir
import onnxruntime as ort
import pytest
import torch
from hypothesis import example, given
from hypothesis import strategies as st
from hypothesis.extra.numpy import arrays
from lowering import OLD, agrees, feeds_of, graph, lowered, node_of, refused, run, weights
from onnx import TensorProto, helper, numpy_helper
from onnx.reference import ReferenceEvaluator

from torchlift.bundle import Bundle
from torchlift.convert.ranges import ranges_of
from torchlift.errors import ConversionError
from torchlift.exporter import ExportOptions, export_component
from torchlift.families.base import LoadOptions
from torchlift.families.module import ModuleFamily
from torchlift.graph.files import save_model
from torchlift.graph.half import ToHalf
from torchlift.graph.inspect import read_facts
from torchlift.graph.lower import Lower, Target, lower_file
from torchlift.graph.lower_operators import EXPANSIONS
from torchlift.graph.lower_rules import CHANGES
from torchlift.graph.quantize import Quantize
from torchlift.graph.schemes import SCHEMES, observed
from torchlift.graph.units import module_of
from torchlift.manifest import Manifest
from torchlift.signature import Axis

FAMILIES, NETS = Path(__file__).parents[1] / "families", Path(__file__).parents[1] / "ship_helpers" / "nets.py"
EXPORTING = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")
WITHOUT = Target(16, frozenset(EXPANSIONS))
FLOATS = Target(16, integer_weights=False)
SCOPES = "pkg.torch.onnx.name_scopes"


# operators that are not there yet

NORM = "(float[n,4,8] x) => (float[n,4,8] y) { y = LayerNormalization <axis = -1, epsilon = 0.02> (x, w, b) }"
QKV = "float[n,2,5,8] q, float[n,2,7,8] k, float[n,2,7,4] v"
NEW = {
    "layer norm": (17, NORM, {"w": weights(8), "b": weights(8)}),
    "layer norm without bias": (20, NORM.replace(", b)", ")"), {"w": weights(8)}),
    "layer norm of two axes": (20, NORM.replace("-1", "1"), {"w": weights(4, 8), "b": weights(4, 8)}),
    "layer norm of two axes from the end": (20, NORM.replace("-1", "-2"), {"w": weights(4, 8), "b": weights(4, 8)}),
    "layer norm by default": (
        20,
        "(float[n,4,8] x) => (float[n,4,8] y) { y = LayerNormalization (x, w) }",
        {"w": weights(8)},
    ),
    "rms norm": (
        23,
        "(float[n,4,8] x) => (float[n,4,8] y) { y = RMSNormalization <epsilon = 0.02> (x, w) }",
        {"w": weights(8)},
    ),
    "group norm": (
        21,
        "(float[n,6,4,5] x) => (float[n,6,4,5] y) { y = GroupNormalization <num_groups = 2, epsilon = 0.2> (x, w, b) }",
        {"w": weights(6), "b": weights(6)},
    ),
    "gelu": (20, "(float[n,9] x) => (float[n,9] y) { y = Gelu (x) }", {}),
    "gelu by tanh": (22, '(float[n,9] x) => (float[n,9] y) { y = Gelu <approximate = "tanh"> (x) }', {}),
    "hard swish": (20, "(float[n,9] x) => (float[n,9] y) { y = HardSwish (x) }", {}),
    "mish": (18, "(float[n,9] x) => (float[n,9] y) { y = Mish (x) }", {}),
    "mish of 22": (22, "(float[n,9] x) => (float[n,9] y) { y = Mish (x) }", {}),
    "attention": (23, f"({QKV}) => (float[n,2,5,4] y) {{ y = Attention <scale = 0.25> (q, k, v) }}", {}),
    "attention by the width": (23, f"({QKV}) => (float[n,2,5,4] y) {{ y = Attention (q, k, v) }}", {}),
    "attention with a mask": (
        23,
        f"({QKV}, float[n,1,5,7] mask) => (float[n,2,5,4] y) {{ y = Attention <softcap = 0.0> (q, k, v, mask) }}",
        {},
    ),
    "attention of 25": (25, f"({QKV}, float[5,7] mask) => (float[n,2,5,4] y) {{ y = Attention (q, k, v, mask) }}", {}),
}


@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
@pytest.mark.parametrize("case", NEW)
def test_an_operator_becomes_older_ones(case, half):
    opset, body, constants = NEW[case]
    agrees(graph(body, opset, half, **constants), WITHOUT, tolerance=4e-3 if half else 2e-6)


@pytest.mark.parametrize("opset", [17, 18, 22])
def test_an_operator_that_only_the_parser_lacks_is_written_at_its_opset(opset):
    body = "(float[n,8] x) => (float[n,8] y) { a = LayerNormalization (x, w) y = HardSwish (a) }"
    count = agrees(graph(body, opset, w=weights(8)), Target(opset, frozenset({"LayerNormalization", "HardSwish"})))
    assert count["ReduceMean"] == 2
    assert count["HardSigmoid"] == 1


def test_a_layer_norm_is_written_as_torchscript_does():
    after = lowered(graph(*NEW["layer norm"][1::-1], **NEW["layer norm"][2]), OLD)
    written = ["ReduceMean", "Sub", "Pow", "ReduceMean", "Add", "Sqrt", "Div", "Mul", "Add"]
    assert [node.op_type for node in after.graph.node] == written


@pytest.mark.parametrize("operator", ["LayerNormalization", "RMSNormalization"])
def test_mean_and_variance_of_halves_are_computed_in_float32(operator):
    body = f"(float[n,64] x) => (float[n,64] y) {{ y = {operator} (x, w) }}"
    model = graph(body, 23, half=True, w=np.ones(64))
    x = (3000 + np.random.default_rng(0).normal(size=(4, 64)) * 600).astype(np.float16)
    wide = x.astype(np.float64)
    wide = wide - wide.mean(-1, keepdims=True) if operator == "LayerNormalization" else wide
    wanted = wide / np.sqrt((wide**2).mean(-1, keepdims=True))
    (found,) = ReferenceEvaluator(lowered(model)).run(None, {"x": x})
    assert wide.max() ** 2 > np.finfo(np.float16).max, "the squares are beyond float16"
    np.testing.assert_allclose(found.astype(np.float64), wanted, rtol=2e-3, atol=1e-3)


def test_gelu_by_tanh_holds_where_the_cube_overflows_float16():
    model = graph(NEW["gelu by tanh"][1], 20, half=True)
    x = np.array([[-6e4, -300, -41, -1, 0, 1, 41, 300, 6e4]], np.float16)
    with np.errstate(over="ignore"):
        (found,) = ReferenceEvaluator(lowered(model)).run(None, {"x": x})
    np.testing.assert_allclose(found, [[0, 0, 0, -0.1588, 0, 0.8412, 41, 300, 6e4]], rtol=2e-3, atol=1e-3)


ATTENTION = "({inputs}) => (float[n,2,5,4] y) {{ y = Attention {attributes} ({read}) }}"
FEATURES = {
    "is_causal = 1": {"attributes": "<is_causal = 1>"},
    "softcap = 2.0": {"attributes": "<softcap = 2.0>"},
    "states of the past": {
        "inputs": f"{QKV}, float[n,2,3,8] pk, float[n,2,3,4] pv",
        "read": "q, k, v, , pk, pv",
    },
    "a mask of BOOL": {"inputs": f"{QKV}, bool[5,7] mask", "read": "q, k, v, mask"},
    "as many heads of keys": {"inputs": QKV.replace("n,2,5,8", "n,4,5,8")},
    "a width that is not known": {"inputs": QKV.replace("5,8", "5,w").replace("7,8", "7,w")},
}


@pytest.mark.parametrize("said", FEATURES)
def test_attention_with_what_the_exporter_does_not_write_is_refused(said):
    case = {"inputs": QKV, "read": "q, k, v", "attributes": ""} | FEATURES[said]
    body = ATTENTION.format(**case)
    if said.startswith("as many"):
        body = body.replace("n,2,5,4] y", "n,4,5,4] y")
    refused(graph(body, 23), re.escape(said))


def test_attention_of_rows_is_refused():
    heads = "<q_num_heads = 2, kv_num_heads = 2>"
    body = f"(float[n,5,16] q, float[n,7,16] k) => (float[n,5,16] y) {{ y = Attention {heads} (q, k, k) }}"
    refused(graph(body, 23), "kv_num_heads = 2, q_num_heads = 2")


def test_attention_whose_scores_are_read_is_refused():
    body = f"({QKV}) => (float[n,2,5,4] y, float[n,2,5,7] s) {{ y, , , s = Attention (q, k, v) }}"
    refused(graph(body, 23), "has more than its first output read")


@pytest.mark.parametrize(("output", "second"), [("float[n,4,8] y, float[n,4,1] m", "y, m"), ("float[n,4,8] z", "y, m")])
def test_a_normalisation_whose_mean_is_read_is_refused(output, second):
    body = NORM.replace("float[n,4,8] y", output).replace("y = ", f"{second} = ")
    body = body if "z" not in output else body.replace("}", " z = Add(y, m) }")
    refused(graph(body, w=weights(8), b=weights(8)), r"n0 \(LayerNormalization\) has more than its first output read")


def test_a_normalisation_in_another_type_than_float32_is_refused():
    body = NORM.replace("axis = -1", "stash_type = 16")
    refused(graph(body, w=weights(8), b=weights(8)), "computes in type 16, not in float32")


# versions of an operator


def one(inputs, outputs, call, **constants):
    """The signature and the only node of a graph, and its constants."""
    names = ", ".join(part.split()[-1] for part in re.sub(r"\[.*?\]", "", outputs).split(","))
    return f"({inputs}) => ({outputs}) {{ {names} = {call} }}", constants


AXES = {"axes": np.array([1, -1])}
REDUCTIONS = ("L1", "L2", "LogSum", "LogSumExp", "Max", "Mean", "Min", "Prod", "SumSquare")
CHANGED = {
    **{
        f"{kind} over some axes": (
            18,
            one(
                "float[n,4,5] x",
                "float[n] y",
                f"Reduce{kind} <keepdims = 0, noop_with_empty_axes = 0> (x, axes)",
                **AXES,
            ),
            f"Reduce{kind}",
        )
        for kind in REDUCTIONS
    },
    "max of 20": (20, one("float[n,4,5] x", "float[n,1,1] y", "ReduceMax (x, axes)", **AXES), "ReduceMax"),
    "mean of all": (18, one("float[n,4] x", "float[1,1] y", "ReduceMean (x)"), "ReduceMean"),
    "mean over an empty list, which is all": (
        18,
        one("float[n,4] x", "float[1,1] y", "ReduceMean (x, axes)", axes=np.zeros(0, np.int64)),
        "ReduceMean",
    ),
    "mean over none": (
        18,
        one("float[n,4] x", "float[n,4] y", "ReduceMean <noop_with_empty_axes = 1> (x)"),
        "Identity",
    ),
    "pad": (19, one("float[n,4] x", "float[n,7] y", "Pad (x, p)", p=np.array([0, 1, 0, 2])), "Pad"),
    "pad of some axes": (
        18,
        one(
            "float[n,4,5,6] x",
            "float[n,4,11,10] y",
            "Pad (x, p, with, axes)",
            **{"p": np.array([1, 2, 3, 4]), "with": np.array(1.5), "axes": np.array([-1, 2])},
        ),
        "Pad",
    ),
    "pad of an axis by what is there": (
        21,
        one(
            "float[n,4,5] x",
            "float[n,4,8] y",
            'Pad <mode = "reflect"> (x, p, , axes)',
            p=np.array([2, 1]),
            axes=np.array([2]),
        ),
        "Pad",
    ),
    "pad by sizes of the run": (
        18,
        one(
            "float[n,4,5] x, int64[2] p",
            "float[n,b,5] y",
            "Pad (x, p, with, axes)",
            **{"with": np.array(1.5), "axes": np.array([1])},
        ),
        "Concat Gather Pad",
    ),
    "equal parts": (
        18,
        one("float[n,6] x", "float[n,3] y, float[n,3] z", "Split <axis = 1, num_outputs = 2> (x)"),
        "Split",
    ),
    "a smaller last part": (
        18,
        one("float[n,7] x", "float[n,3] a, float[n,3] b, float[n,1] c", "Split <axis = -1, num_outputs = 3> (x)"),
        "Split",
    ),
    "parts of sizes": (
        18,
        one("float[n,7] x", "float[n,2] a, float[n,5] b", "Split <axis = 1> (x, s)", s=np.array([2, 5])),
        "Split",
    ),
    "resize": (
        19,
        one(
            "float[n,2,4,5] x",
            "float[n,2,8,8] y",
            'Resize <mode = "linear", antialias = 0, keep_aspect_ratio_policy = "stretch"> (x, , s)',
            s=np.array([1, 1, 2, 1.6], np.float32),
        ),
        "Resize",
    ),
    "samples on a grid": (
        20,
        one("float[n,2,4,5] x, float[n,3,3,2] g", "float[n,2,3,3] y", 'GridSample <mode = "linear"> (x, g)'),
        "GridSample",
    ),
    "cubic samples on a grid": (
        20,
        one("float[n,2,4,5] x, float[n,3,3,2] g", "float[n,2,3,3] y", 'GridSample <mode = "cubic"> (x, g)'),
        "GridSample",
    ),
    "average pool": (
        22,
        one(
            "float[n,2,7,7] x",
            "float[n,2,3,3] y",
            "AveragePool <kernel_shape = [3,3], strides = [2,2], dilations = [1,1]> (x)",
        ),
        "AveragePool",
    ),
    "max pool of sizes rounded up": (
        22,
        one(
            "float[n,2,8,8] x",
            "float[n,2,5,5] y",
            "MaxPool <kernel_shape = [3,3], strides = [2,2], pads = [1,1,1,1], ceil_mode = 1> (x)",
        ),
        "MaxPool",
    ),
    "cast": (
        25,
        one("float[n,4] x", "int64[n,4] y", "Cast <to = 7, saturate = 1> (x)"),
        "Cast",
    ),
    "more types": (
        25,
        ("(float[n,4] x) => (float[n,4] y) { s = Shape(x) t = Transpose(x) i = Identity(t) y = Reshape(i, s) }", {}),
        "Identity Reshape Shape Transpose",
    ),
}


@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
@pytest.mark.parametrize("case", CHANGED)
def test_a_version_of_an_operator_becomes_the_one_before(case, half):
    opset, (body, constants), operators = CHANGED[case]
    if "Log" in case:
        body = body.replace("{ y = ", "{ a = Abs(x) y = ").replace("(x, axes)", "(a, axes)")
    count = agrees(graph(body, opset, half, **constants), tolerance=2e-3 if half else 1e-6)
    count.pop("Abs", None)
    assert sorted(count.elements()) == operators.split()


def text_of(axes, **constants):
    return one("float[n,4,5] x", "float[a,b,c] y", f"ReduceMean (x, {axes})", **constants)


REFUSED = {
    "BitwiseAnd": (18, one("int64[n] x", "int64[n] y", "BitwiseAnd (x, x)"), r"n0 \(BitwiseAnd\) needs opset 18"),
    "axes of the run": (
        18,
        one("float[n,4,5] x, int64[1] axes", "float[a,b,c] y", "ReduceMean (x, axes)"),
        "finds its axes at run time",
    ),
    "sums over none": (
        18,
        one("float[n,4] x", "float[n,4] y", "ReduceSumSquare <noop_with_empty_axes = 1> (x)"),
        "reduces no axis",
    ),
    "pads axes of the run": (
        18,
        one("float[n,4,5] x, int64[1] axes", "float[a,b,c] y", "Pad (x, p, , axes)", p=np.array([1, 1])),
        "finds its axes at run time",
    ),
    "wraps": (
        19,
        one("float[n,4] x", "float[n,6] y", 'Pad <mode = "wrap"> (x, p)', p=np.array([0, 1, 0, 1])),
        "has mode = wrap, which came later",
    ),
    "parts of an unknown size": (
        18,
        one("float[n,w] x", "float[n,a] y, float[n,b] z", "Split <axis = 1, num_outputs = 2> (x)"),
        "splits an axis of unknown size",
    ),
    "antialias": (
        18,
        one(
            "float[1,1,4,4] x",
            "float[1,1,2,2] y",
            'Resize <mode = "linear", antialias = 1> (x, , s)',
            s=np.array([1, 1, 0.5, 0.5], np.float32),
        ),
        "has antialias = 1, which came later",
    ),
    "resizes some axes": (
        18,
        one(
            "float[1,1,4,4] x",
            "float[1,1,2,2] y",
            "Resize <axes = [2, 3]> (x, , s)",
            s=np.array([0.5, 0.5], np.float32),
        ),
        r"has axes = \(2, 3\), which came later",
    ),
    "symmetric": (
        19,
        one(
            "float[1,1,4,4] x",
            "float[1,1,2,2] y",
            'Resize <coordinate_transformation_mode = "half_pixel_symmetric"> (x, , s)',
            s=np.array([1, 1, 0.5, 0.5], np.float32),
        ),
        "half_pixel_symmetric, which came later",
    ),
    "scatters maxima": (
        18,
        one(
            "float[3,4] x, int64[1,4] i",
            "float[3,4] y",
            'ScatterElements <reduction = "max"> (x, i, u)',
            u=np.ones((1, 4)),
        ),
        "has reduction = max, which came later",
    ),
    "a window in the padding": (
        22,
        one(
            "float[1,1,4,4] x",
            "float[1,1,2,2] y",
            "MaxPool <kernel_shape = [1,1], strides = [3,3], pads = [0,0,2,2], ceil_mode = 1> (x)",
        ),
        "may have a window in the padding",
    ),
    "windows of unknown size": (
        22,
        one(
            "float[1,1,h,w] x",
            "float[1,1,a,b] y",
            "MaxPool <kernel_shape = [3,3], strides = [2,2], ceil_mode = 1> (x)",
        ),
        "may have a window in the padding",
    ),
    "dilations": (
        19,
        one("float[1,1,5,5] x", "float[1,1,3,3] y", "AveragePool <kernel_shape = [2,2], dilations = [2,2]> (x)"),
        r"has dilations = \(2, 2\), which came later",
    ),
    "a grid of three dimensions": (
        20,
        one("float[1,1,4,4,4] x, float[1,2,2,2,3] g", "float[1,1,2,2,2] y", "GridSample (x, g)"),
        "samples no pictures",
    ),
    "8-bit floats": (
        19,
        ("(float[n] x) => (float[n] y) { e = Cast <to = 17> (x) y = Cast <to = 1> (e) }", {}),
        "has e as FLOAT8E4M3FN, which it did not take then",
    ),
}


@pytest.mark.parametrize("case", REFUSED)
def test_what_an_older_version_cannot_say_is_refused(case):
    opset, (body, constants), words = REFUSED[case]
    refused(graph(body, opset, **constants), words)


def test_an_error_names_the_module_and_the_opset():
    model = graph("(int64[n] x) => (int64[n] y) { y = BitwiseNot (x) }")
    entry = node_of(model, "n0").metadata_props.add()
    entry.key, entry.value = SCOPES, "['', 'encoder.layer.3', 'bitwise_not']"
    error = refused(model, "BitwiseNot")
    assert error.message == (
        "for a parser of opset 16: n0 (BitwiseNot of encoder.layer.3) needs opset 18, "
        "and no rule writes it with other operators"
    )


def test_an_operator_that_the_parser_lacks_and_no_rule_writes():
    model = graph("(float[n] x) => (float[n] y) { y = Erf (x) }", 16)
    refused(
        model, r"n0 \(Erf\) is an operator that the parser does not know, and no rule", Target(16, frozenset({"Erf"}))
    )


def test_a_version_that_was_never_compared_is_refused():
    model = graph("(float[n] x) => (float[n] y) { y = Relu (x) }", 20)
    with pytest.raises(ConversionError, match=r"n0 \(Relu\) needs opset 14"):
        Lower(Target(13))(ir.from_proto(model))


def test_an_opset_that_the_installed_onnx_does_not_know():
    model = ir.from_proto(graph("(float[n] x) => (float[n] y) { y = Relu (x) }", 20))
    model.opset_imports[""] = 99
    with pytest.raises(ConversionError, match="the graph is of opset 99, and the installed onnx knows up to") as error:
        Lower(OLD)(model)
    assert "Install a later release of onnx" in error.value.remedy


def history():
    found = {}
    for schema in onnx.defs.get_all_schemas_with_history():
        if schema.domain == "":
            found.setdefault(schema.name, {})[schema.since_version] = schema
    return found


def ports(parameters):
    return [(p.name, p.option, p.is_homogeneous, p.min_arity) for p in parameters]


def attributes(schema):
    return {name: (a.type, a.required, str(a.default_value)) for name, a in schema.attributes.items()}


SAME = CHANGES["Tan", 22]
"""The rule for a version that only takes more types."""


@pytest.mark.parametrize(("operator", "opset"), [key for key, rule in CHANGES.items() if rule is SAME])
def test_versions_that_are_said_to_take_more_types_do_only_that(operator, opset):
    versions = history()[operator]
    if opset not in versions:
        pytest.skip(f"the installed onnx knows no {operator} of {opset}")
    new, old = versions[opset], versions[max(v for v in versions if v < opset)]
    assert (ports(new.inputs), ports(new.outputs)) == (ports(old.inputs), ports(old.outputs))
    assert attributes(new) == attributes(old)
    for after, before in zip((*new.inputs, *new.outputs), (*old.inputs, *old.outputs), strict=True):
        assert after.types >= before.types


@pytest.mark.parametrize(("operator", "opset"), [key for key, rule in CHANGES.items() if rule is not SAME])
def test_every_rule_is_of_a_version_that_there_is(operator, opset):
    assert opset in history()[operator]


# names


def test_names_modules_types_and_shapes_are_those_of_the_original():
    body = """(float[n,4,8] x) => (float[n,4,9] y) {
        a = LayerNormalization (x, w) g = Gelu (a) y = Pad (g, p, , axes)
    }"""
    model = onnx.shape_inference.infer_shapes(graph(body, w=weights(8), p=np.array([0, 1]), axes=np.array([2])))
    for name, scope in {"n0": "norm", "n1": "act", "n2": "pad"}.items():
        entry = node_of(model, name).metadata_props.add()
        entry.key, entry.value = SCOPES, f"['', '{scope}', 'operation']"
    made = ir.from_proto(model)
    Lower(OLD)(made)
    nodes = {node.name: node for node in made.graph}
    assert len(nodes) == len(made.graph)
    assert {n: nodes[n].op_type for n in ("n0", "n1", "n2")} == {"n0": "Mul", "n1": "Mul", "n2": "Pad"}
    assert {n: nodes[n].outputs[0].name for n in ("n0", "n1", "n2")} == {"n0": "a", "n1": "g", "n2": "y"}
    modules = {"n0": "norm", "n1": "act", "n2": "pad"}
    assert all(module_of(node) == modules[name.partition(".")[0]] for name, node in nodes.items())
    for node in made.graph:
        assert node.outputs[0].dtype == ir.DataType.FLOAT
        assert str(node.outputs[0].shape) in ("[n,4,8]", "[n,4,9]", "[n,4,1]")
    assert {"n0.mean", "n0.centred", "n0.variance"} <= nodes.keys()


def test_names_that_are_taken_are_left_alone():
    body = """(float[n,9] x) => (float[n,9] y, float[n,9] z) {
        [n1.erf] "n1.erf" = Relu (x) [n1] y = Gelu ("n1.erf") z = Neg ("n1.erf")
    }"""
    text = body.replace('"n1.erf"', "t").replace("[n1.erf]", "").replace("[n1]", "")
    model = graph(text)
    for node, name in zip(model.graph.node, ("n1.erf", "n1", "n2"), strict=True):
        node.name = name
    model.graph.node[0].output[0] = model.graph.node[1].input[0] = model.graph.node[2].input[0] = "n1.inner"
    agrees(model)
    names = [node.name for node in lowered(model).graph.node]
    assert len({*names}) == len(names)


def test_a_graph_that_is_old_enough_is_left_alone():
    model = graph("(float[n,4] x) => (float[n,4] y) { a = Erf (x) y = Relu (a) }", 13)
    model = onnx.shape_inference.infer_shapes(model)
    made = ir.from_proto(model)
    assert not Lower(Target(16)).call(made).modified
    assert ir.to_proto(made) == ir.to_proto(ir.from_proto(model))


def test_nodes_within_nodes_are_rewritten_too():
    body = """(bool b, float[n,9] x) => (float[n,9] y) {
        y = If (b) <then_branch = t () => (float[n,9] u) { u = Gelu (x) },
                    else_branch = e () => (float[n,9] v) { v = Mish (x) }>
    }"""
    model = graph(body)
    for flag in (True, False):
        agrees(model, feeds={"b": np.array(flag), "x": feeds_of(model)["x"]})


def test_nodes_of_other_domains_stay():
    model = graph("(float[n,9] x) => (float[n,9] y) { y = Gelu (x) }")
    model.graph.node[0].domain = "com.microsoft"
    model.opset_import.append(helper.make_opsetid("com.microsoft", 1))
    made = ir.from_proto(model)
    Lower(OLD)(made)
    assert [(node.domain, node.op_type) for node in made.graph] == [("com.microsoft", "Gelu")]
    assert made.opset_imports == {"": 16, "com.microsoft": 1}


# comparisons

COMPARED = {
    "Equal": np.equal,
    "Greater": np.greater,
    "GreaterOrEqual": np.greater_equal,
    "Less": np.less,
    "LessOrEqual": np.less_equal,
}
INTEGERS = st.integers(-(2**63), 2**63 - 1) | st.integers(-(2**24) - 3, 2**24 + 3)


@functools.cache
def comparison(operator, number, swapped):
    read = "c, x" if swapped else "x, c"
    return graph(f"(int64[n] x) => (bool[n] y) {{ y = {operator} ({read}) }}", 20, c=np.array(number, np.int64))


@given(
    st.sampled_from([*COMPARED]),
    st.integers(-(2**24) + 1, 2**24 - 1),
    arrays(np.int64, 5, elements=INTEGERS),
    st.booleans(),
)
@example("Equal", 2**24 - 1, np.array([2**24 - 1, 2**24, 2**24 + 1, 2**24 - 2, -(2**63)]), False)
@example("Less", 1 - 2**24, np.array([-(2**24), -(2**24) - 1, 1 - 2**24, 2 - 2**24, 2**63 - 1]), True)
def test_any_integer_compares_with_a_small_constant_as_before(operator, number, values, swapped):
    after = lowered(comparison(operator, number, swapped))
    assert [node.op_type for node in after.graph.node] == ["Cast", operator]
    assert {t.data_type for t in after.graph.initializer} == {TensorProto.FLOAT}
    wanted = COMPARED[operator](number, values) if swapped else COMPARED[operator](values, number)
    np.testing.assert_array_equal(run(after, {"x": values})[0], wanted)


@pytest.mark.parametrize(("number", "opset"), [(2**24, 16), (-(2**24), 16), (3, 17)])
def test_a_large_constant_and_a_newer_parser_compare_integers(number, opset):
    after = lowered(comparison("Equal", number, False), Target(opset))
    assert [node.op_type for node in after.graph.node] == ["Equal"]
    assert {t.data_type for t in after.graph.initializer} == {TensorProto.INT64}


@pytest.mark.parametrize("read", ["x, x", "c, c"])
def test_a_comparison_of_two_inputs_or_two_constants_stays(read):
    body = f"(int64[n] x) => (bool[n] y) {{ a = Equal ({read}) b = Equal (x, x) y = And (a, b) }}"
    assert agrees(graph(body, c=np.array(3))) == {"Equal": 2, "And": 1}


# integers

PAIRS = """(float[n,8] x) => (float[n,8] y) {
    q = QuantizeLinear <saturate = 0> (x, s, z) y = DequantizeLinear (q, s, z)
}"""
STEP = {"s": np.array(0.05), "z": np.array(3, np.int8)}


@pytest.mark.parametrize("opset", [19, 21, 23, 25])
@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
def test_quantised_activations(opset, half):
    model = graph(PAIRS.replace("<saturate = 0>", "<saturate = 0>" if opset < 25 else ""), opset, half, **STEP)
    x = feeds_of(model, n=200)["x"]
    count = agrees(model, tolerance=0, feeds={"x": x}) if not half else None
    if half:
        after = lowered(model)
        count = Counter(node.op_type for node in after.graph.node)
        assert node_of(after, "n0").op_type == "QuantizeLinear"
        assert [node.name for node in after.graph.node if node.op_type == "Cast"] == ["n0.float32", "n1"]
        wanted, found = (run(m, {"x": x})[0].astype(np.float64) for m in (model, after))
        one_step = 0.05 + np.spacing(np.abs(wanted).max().astype(np.float16))
        assert np.abs(found - wanted).max() <= one_step
        assert np.mean(found != wanted) < 0.02, "float16 rounds the quotient before it is rounded to an integer"
    assert count == {"QuantizeLinear": 1, "DequantizeLinear": 1} | ({"Cast": 2} if half else {})


@pytest.mark.parametrize(
    ("attributes", "said"),
    [
        ("<precision = 10>", "QuantizeLinear.* precision = 10"),
        ("<output_dtype = 3>", "QuantizeLinear.* output_dtype = 3"),
    ],
)
def test_attributes_that_decide_how_to_quantise_are_refused(attributes, said):
    refused(graph(PAIRS.replace("<saturate = 0>", attributes), 23, **STEP), said)


def test_blocks_of_scales_are_refused():
    body = """(float[8,4] x) => (float[8,4] y) {
        q = QuantizeLinear <block_size = 4, axis = 0> (x, s, z)
        y = DequantizeLinear <block_size = 4, axis = 0> (q, s, z)
    }"""
    model = graph(body, 21, s=np.full((2, 4), 0.1), z=np.zeros((2, 4), np.int8))
    refused(model, "has block_size = 4")


def dequantised(integers, scale, zero=None, axis=None, half=False, opset=20):
    """A graph that multiplies [n, rows] by a constant in 8 bits."""
    rows, columns = integers.shape
    where = "" if axis is None else f"<axis = {axis}>"
    constants = {"w": integers, "s": scale.astype(np.float16 if half else np.float32)}
    constants |= {} if zero is None else {"z": zero}
    read = "w, s" if zero is None else "w, s, z"
    body = (
        f"(float[n,{rows}] x) => (float[n,{columns}] y) {{ d = DequantizeLinear {where} ({read}) y = MatMul (x, d) }}"
    )
    return graph(body, opset, half, **constants)


def requantised(model):
    """The integers and the floats of the constant once it went through the lowered graph."""
    after = lowered(model, FLOATS)
    assert not any(
        t.data_type in (TensorProto.INT8, TensorProto.UINT8) and len(t.dims) == 2 for t in after.graph.initializer
    )
    writer = next(node for node in after.graph.node if node.op_type == "QuantizeLinear")
    assert node_of(after, "n0").output[0] == "d"
    del after.graph.output[:]
    after.graph.output.extend(onnx.ValueInfoProto(name=name) for name in (writer.output[0], "d"))
    return run(after, feeds_of(model))


TINY, LARGE = float(np.finfo(np.float32).tiny), float(np.finfo(np.float32).max) / 256
SCALES = st.floats(TINY, LARGE, width=32) | st.floats(2**-10, 1, width=32)


@given(st.data(), st.sampled_from([np.int8, np.uint8]), st.sampled_from([None, 0, 1]), st.booleans(), st.booleans())
def test_a_weight_is_quantised_to_exactly_the_integers_that_it_was(data, dtype, axis, with_zero, half):
    every = np.arange(256).astype(dtype).reshape(2, 128)
    count = () if axis is None else every.shape[axis]
    floats = st.floats(2**-14, 200, width=16) if half else SCALES
    scale = data.draw(arrays(np.float16 if half else np.float32, count, elements=floats, fill=floats))
    limits = np.iinfo(dtype)
    zero = data.draw(arrays(dtype, count, elements=st.integers(limits.min, limits.max))) if with_zero else None
    model = dequantised(every, scale, zero, axis, half)
    integers, found = requantised(model)
    np.testing.assert_array_equal(integers, every)
    assert integers.dtype == dtype
    shift = (
        0
        if zero is None
        else zero.astype(np.int32).reshape([-1 if d == axis else 1 for d in range(2)] if count else ())
    )
    factors = scale.astype(np.float32).reshape([-1 if d == axis else 1 for d in range(2)] if count else ())
    with np.errstate(over="ignore"):
        wanted = ((every.astype(np.int32) - shift).astype(np.float32) * factors).astype(scale.dtype)
    np.testing.assert_array_equal(found, wanted)


@pytest.mark.parametrize("scale", [TINY / 2, 2 * LARGE, np.inf, np.nan, 0.0, -1.0])
def test_a_scale_at_which_floats_fail_is_refused(scale):
    every = np.arange(-128, 128).astype(np.int8).reshape(2, 128)
    refused(dequantised(every, np.array(scale)), "has a scale outside of 1.18e-38..1.33e", FLOATS)


def test_a_scale_that_is_computed_is_refused():
    body = "(float s) => (float[4] y) { d = DequantizeLinear (w, s) y = Neg (d) }"
    refused(graph(body, w=np.arange(4, dtype=np.int8)), "has a scale or a zero point that is computed", FLOATS)


@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
@pytest.mark.parametrize("read", ["y = Add (x, d)", "y = Neg (x)"], ids=["read", "output"])
def test_a_wider_integer_becomes_a_plain_constant(half, read):
    output = ", float[6] d" if "Neg" in read else ""
    body = f"(float[n,6] x) => (float[n,6] y{output}) {{ d = DequantizeLinear <axis = 0> (b, s) {read} }}"
    scale = np.geomspace(1e-5, 1e-3, 6).astype(np.float16 if half else np.float32)
    bias = np.array([0, 1, -1, 30000, -(2**20), 2**24 + 1], np.int32)
    count = agrees(graph(body, 20, half, b=bias, s=scale), FLOATS, tolerance=0)
    assert "DequantizeLinear" not in count


def test_weights_in_integers_stay_for_a_parser_that_reads_them():
    every = np.arange(256).astype(np.int8).reshape(2, 128)
    assert agrees(dequantised(every, np.array(0.02)), Target(16)) == {"DequantizeLinear": 1, "MatMul": 1}


# files


def test_a_file_is_written_with_its_weights_and_only_small_ones_are_read(tmp_path):
    model = graph(NORM.replace("}", " z = MatMul (y, m) }").replace("float[n,4,8] y)", "float[n,4,300] z)"),
                  w=weights(8), b=weights(8), m=weights(8, 300))  # fmt: skip
    (tmp_path / "new").mkdir()
    (tmp_path / "old").mkdir()
    source = tmp_path / "new" / "model.onnx"
    save_model(ir.from_proto(model), source)
    feeds = feeds_of(model)
    wanted = run(source, feeds)
    file = lower_file(source, tmp_path / "old", OLD)
    assert file == tmp_path / "old" / "model.onnx"
    assert sorted(p.name for p in file.parent.iterdir()) == ["model.onnx", "model.onnx.data"]
    onnx.checker.check_model(file, full_check=True)
    assert onnx.load(file, load_external_data=False).opset_import[0].version == 16
    np.testing.assert_allclose(run(file, feeds), wanted, rtol=0, atol=1e-5)
    loaded = ir.load(source)
    (source.parent / "model.onnx.data").unlink()
    assert Lower(OLD)(loaded).modified


def test_float_weights_are_computed_when_they_are_written(tmp_path):
    every = np.tile(np.arange(-128, 128).astype(np.int8), (4, 1))
    source = tmp_path / "model.onnx"
    save_model(ir.from_proto(dequantised(every, np.array(0.02))), source)
    loaded = ir.load(source)
    (tmp_path / "model.onnx.data").unlink()
    Lower(FLOATS)(loaded)
    weight = loaded.graph.initializers["n0.float"].const_value
    assert (weight.dtype, tuple(weight.shape)) == (ir.DataType.FLOAT, every.shape)
    with pytest.raises(FileNotFoundError):
        weight.numpy()


# what the exporters write


def helpers_of(family):
    spec = importlib.util.spec_from_file_location(f"{family}_models", FAMILIES / family / "conftest.py")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


BATCH = {"": {"batch": Axis("batch", 1, 2, 4)}}


def chinese_clip(folder, architecture):
    models = helpers_of("chinese_clip")
    return models.load(models.original_file(folder, getattr(models, architecture)), axes=BATCH)


def mobilevit(folder):
    models = helpers_of("mobilevit")
    torch.save(dict(models.awake(models.MobileViT(models.TINY)).state_dict()), folder / "model.pth")
    (folder / "preprocessor_config.json").write_text(json.dumps(models.preprocessing()))
    return models.load(folder / "model.pth", axes=BATCH)


MODELS = {
    "transformer": (lambda folder: chinese_clip(folder, "VIT"), "image"),
    "text": (lambda folder: chinese_clip(folder, "VIT"), "text"),
    "resnet": (lambda folder: chinese_clip(folder, "RESNET"), "image"),
    "mobilevit": (mobilevit, "model"),
    "events": (lambda folder: ModuleFamily().load(f"{NETS}:events", LoadOptions()), "model"),
}


@pytest.fixture(scope="module")
def exported(tmp_path_factory):
    """The file of a small model by its name and opset; not to be changed."""

    @functools.cache
    def export(name, opset):
        folder = tmp_path_factory.mktemp(f"{name}-{opset}")
        load, component = MODELS[name]
        model = load(folder)
        bundle = Bundle.create(folder / "bundle", Manifest(model.name, model.family, model.key, dict(model.settings)))
        return bundle.file(export_component(model, component, bundle, ExportOptions(opset=opset)).model)

    return export


def operators(file):
    return Counter(node.op_type for node in onnx.load(file, load_external_data=False).graph.node)


@EXPORTING
@pytest.mark.parametrize(("name", "opset"), [("text", 18), *itertools.product(MODELS, (20, 23))])
def test_what_the_exporter_writes_is_lowered(exported, name, opset, tmp_path):
    source = exported(name, opset)
    file = lower_file(source, tmp_path, OLD)
    onnx.checker.check_model(file, full_check=True)
    facts = read_facts(file)
    assert (facts.opset, onnx.load(file, load_external_data=False).ir_version) == (16, 8)
    assert not {"LayerNormalization", "Gelu", "Attention"} & facts.operators.keys()
    assert facts.inputs == read_facts(source).inputs
    assert facts.outputs == read_facts(source).outputs
    for sizes in ({"batch": 1, "sequence": 5, "events": 2}, {"batch": 3, "sequence": 9, "events": 4}):
        feeds = feeds_of(source, **sizes)
        for wanted, got in zip(run(source, feeds), run(file, feeds), strict=True):
            assert np.abs(wanted).max() > 0.05
            np.testing.assert_allclose(got, wanted, rtol=0, atol=1e-5 * np.abs(wanted).max())


@EXPORTING
@pytest.mark.parametrize("opset", [20, 23])
@pytest.mark.parametrize("name", ["transformer", "text", "mobilevit"])
def test_an_exported_model_in_float16_is_lowered(exported, name, opset, tmp_path):
    model = ir.load(exported(name, opset))
    report = ToHalf()(model).report
    assert report.share > 0.5
    save_model(model, tmp_path / "half.onnx")
    (tmp_path / "old").mkdir()
    file = lower_file(tmp_path / "half.onnx", tmp_path / "old", OLD)
    onnx.checker.check_model(file, full_check=True)
    feeds = feeds_of(file, sequence=9)
    (wanted,), (before,), (after,) = (run(f, feeds) for f in (exported(name, opset), tmp_path / "half.onnx", file))
    scale = np.abs(wanted).max()
    assert 1e-6 * scale < np.abs(before - wanted).max()
    assert np.abs(after - wanted).max() < max(3 * np.abs(before - wanted).max(), 2e-3 * scale)


def rms(array):
    return float(np.sqrt(np.square(array, dtype=np.float64).mean()))


@EXPORTING
@pytest.mark.parametrize("half", [False, True], ids=["float32", "float16"])
@pytest.mark.parametrize("opset", [20, 23])
@pytest.mark.parametrize("name", ["transformer", "text"])
def test_an_exported_model_in_int8_is_lowered(exported, name, opset, half, tmp_path):
    source, scheme = exported(name, opset), SCHEMES["int8-s8s8"]
    model, feeds = ir.load(source), feeds_of(source, batch=8, sequence=9)
    found = {n: (r.low, r.high) for n, r in ranges_of(source, [feeds], observed(model, scheme)).items()}
    Quantize(scheme, found)(model)
    if half:
        ToHalf()(model)
    quantised = tmp_path / "int8.onnx"
    save_model(model, quantised)
    (tmp_path / "old").mkdir()
    file = lower_file(quantised, tmp_path / "old", Target(16, OLD.unknown, integer_weights=False, typed=False))
    onnx.checker.check_model(file, full_check=True)
    matrices = Counter(t.data_type for t in onnx.load(file).graph.initializer if len(t.dims) > 1)
    assert matrices[TensorProto.INT8] == matrices[TensorProto.FLOAT16] == 0
    pairs, before = operators(file), operators(quantised)
    assert pairs["QuantizeLinear"] == pairs["DequantizeLinear"] == before["DequantizeLinear"]
    assert matrices[TensorProto.FLOAT] >= before["DequantizeLinear"] - before["QuantizeLinear"] > 5
    (wanted,), (integers,), (found,) = (run(f, feeds) for f in (source, quantised, file))
    assert rms(integers - wanted) > 1e-3 * rms(wanted), "integers lose something"
    if half:
        assert rms(found - wanted) < 1.3 * rms(integers - wanted), "a quotient in float16 rounds to another integer"
    else:
        np.testing.assert_allclose(found, integers, rtol=0, atol=1e-5 * np.abs(wanted).max())


@pytest.mark.parametrize(("start", "end"), [(0, 1), (1, None), (1, 3), (-2, None), (-3, -1), (2, 2)])
def test_part_of_a_shape_is_cut_from_the_whole_for_parsers_that_know_no_part(tmp_path, start, end):
    ends = {} if end is None else {"end": end}
    graph = helper.make_graph(
        [helper.make_node("Shape", ["x"], ["y"], name="sizes", start=start, **ends)],
        "part",
        [helper.make_tensor_value_info("x", TensorProto.FLOAT, ["a", "b", 4])],
        [helper.make_tensor_value_info("y", TensorProto.INT64, [None])],
    )
    model = ir.from_proto(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=8))
    Lower(Target(16))(model)
    assert [node.op_type for node in model.graph] == ["Shape", "Slice"]
    assert not {*model.graph[0].attributes} & {"start", "end"}
    session = ort.InferenceSession(ir.to_proto(model).SerializeToString(), providers=["CPUExecutionProvider"])
    (found,) = session.run(None, {"x": np.zeros((2, 3, 4), np.float32)})
    assert found.tolist() == [2, 3, 4][start:end]


def test_a_network_that_chooses_its_types_is_not_told_those_inside_of_a_normalisation():
    for typed, casts in ((True, 2), (False, 0)):
        model = ir.from_proto(half_normalisation())
        Lower(Target(16, frozenset({"LayerNormalization"}), typed=typed))(model)
        assert sum(node.op_type == "Cast" for node in model.graph) == casts
        assert {"LayerNormalization"}.isdisjoint(node.op_type for node in model.graph)


def half_normalisation():
    """LayerNormalization in half precision, opset 17."""
    half = TensorProto.FLOAT16
    graph = helper.make_graph(
        [helper.make_node("LayerNormalization", ["x", "w", "b"], ["y"], name="norm", axis=-1)],
        "norm",
        [helper.make_tensor_value_info("x", half, ["batch", 8])],
        [helper.make_tensor_value_info("y", half, ["batch", 8])],
        [numpy_helper.from_array(np.ones(8, np.float16), "w"), numpy_helper.from_array(np.zeros(8, np.float16), "b")],
    )
    return helper.make_model(graph, opset_imports=[helper.make_opsetid("", 17)], ir_version=8)


CONVOLVED = "(float[n,2,6,6] x) => (float[n,3,W,W] y) { w = DequantizeLinear(q, s) y = Conv(x, w) }"


@pytest.mark.parametrize("size", [1, 3])
def test_convolutions_state_their_kernels_size_for_parsers_that_read_it_of_constants_only(size):
    weight = np.random.default_rng(0).integers(-9, 9, (3, 2, size, size), dtype=np.int8)
    model = graph(CONVOLVED.replace("W", str(7 - size)), 16, q=weight, s=np.array(0.05))
    agrees(model, OLD)
    found = node_of(lowered(model, OLD), "n1")
    assert helper.get_node_attr_value(found, "kernel_shape") == [size, size]
    kept = node_of(lowered(model, Target(20)), "n1")
    assert not any(attribute.name == "kernel_shape" for attribute in kept.attribute)


def test_a_kernel_whose_size_is_not_known_is_left_as_it_is():
    body = "w = Transpose <perm = [0, 1, 3, 2]> (v) y = Conv(x, w)"
    body = f"(float[n,2,9,9] x, float[A,B,C,D] v) => (float[n,K,H,W] y) {{ {body} }}"
    found = node_of(lowered(graph(body, 16), OLD), "n1")
    assert not any(attribute.name == "kernel_shape" for attribute in found.attribute)
