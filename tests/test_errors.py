import ast
import inspect
import pickle
import re
from pathlib import Path

import pytest

import torchlift
from torchlift import errors

OF_OTHERS = ("docker run --gpus", "pip install --no-deps")
"""Flags of other programs."""


def _classes():
    return [c for _, c in inspect.getmembers(errors, inspect.isclass) if issubclass(c, errors.TorchliftError)]


def _drawn_tree():
    """Class name -> name of its parent, as the module's docstring draws them."""
    parents, above = {}, []
    for line in errors.__doc__.splitlines():
        name = line.lstrip("│├└─ \t").split(" ")[0]
        if not name.endswith("Error"):
            continue
        depth = line.index(name) // 4
        above[depth:] = [name]
        parents[name] = above[depth - 1] if depth else "Exception"
    return parents


def test_the_docstring_draws_the_tree_as_it_is():
    assert _drawn_tree() == {c.__name__: c.__base__.__name__ for c in _classes()}


def test_an_error_says_its_remedy_on_a_line_of_its_own():
    error = errors.TorchliftError("x is 3", remedy="Use 2.")
    assert (str(error), error.message, error.remedy) == ("x is 3\nUse 2.", "x is 3", "Use 2.")


def test_an_error_without_a_remedy_is_its_message():
    assert str(errors.TorchliftError("x is 3")) == "x is 3"


@pytest.mark.parametrize("kind", _classes())
def test_an_error_survives_the_way_to_another_process(kind):
    error = pickle.loads(pickle.dumps(kind("x is 3", remedy="Use 2.")))
    assert type(error) is kind
    assert str(error) == "x is 3\nUse 2."


@pytest.mark.parametrize(
    ("kind", "facts"),
    [
        (errors.SignatureError, {"axis": "batch"}),
        (errors.BatchTooLargeError, {"axis": "batch"}),
        (errors.BakedInError, {"axes": ("batch", "length")}),
        (errors.ChecksumError, {"path": "model/model.onnx"}),
        (errors.VerificationError, {"variant": "model/openvino/int8"}),
        (errors.GateError, {"components": ("image",)}),
        (errors.MetricError, {"metric": "top1"}),
    ],
)
def test_what_an_error_is_about_survives_the_way_to_another_process(kind, facts):
    error = pickle.loads(pickle.dumps(kind("x is 3", remedy="Use 2.", **facts)))
    assert {name: getattr(error, name) for name in facts} == facts
    assert error.remedy == "Use 2."


def _texts(file):
    """The strings of a module that are no docstrings."""
    tree = ast.parse(file.read_text())
    documents = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for node in ast.walk(tree):
        if isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in documents:
            yield node.value


def test_only_the_command_line_names_its_flags():
    """Elsewhere an argument is named as Python has it: the command line turns that into its own."""
    source = Path(torchlift.__file__).parent
    files = [file for file in source.rglob("*.py") if file.relative_to(source).parts[0] != "cli"]
    named = {
        (file.relative_to(source).as_posix(), text)
        for file in files
        for text in _texts(file)
        if re.search(r"(^|[\s`(])--[a-z]", text) and not any(other in text for other in OF_OTHERS)
    }
    assert len(files) > 100
    assert named == set()


SCATTER = """net: RuntimeError: Exception from src/inference/src/cpp/infer_request.cpp:224:
Exception from src/plugins/intel_cpu/src/graph.cpp:1628:
Node node_ScatterND_23 of type ScatterNDUpdate
Check 'idxValue >= 0 && idxValue < srcDataDim[i]' failed at src/plugins/intel_cpu/src/nodes/scatter_update.cpp:1123:
ScatterNDUpdate node with name 'node_ScatterND_23'  indices contain values that points to non-existing data


"""
UNKNOWN = """OpenVINO cannot convert model.onnx: Check 'false' failed at src/unconverted_ops_report.cpp:151:
FrontEnd API failed with OpConversionFailure:
Model wasn't fully converted.
Summary:
-- No conversion rule found for operations: my.Foo
"""
MATMUL = """OpenVINO cannot convert model.onnx: Check 'false' failed at src/unconverted_ops_report.cpp:151:
FrontEnd API failed with OpConversionFailure:
Model wasn't fully converted. Failed operations detailed log:
-- MatMul-20 with a message:
[ONNX Frontend] Conversion failed for MatMul-20
While validating ONNX node '<Node(MatMul): y>': Check 'merge(a, b)' failed at src/matmul_shape_inference.hpp:65:
While validating node 'opset1::MatMul MatMul_10 () -> (dynamic[...])' with friendly_name 'MatMul_10':
Incompatible MatMul matrix dimension. First input dimension=3

Summary:
-- Conversion is failed for: MatMul-20
"""


@pytest.mark.parametrize(
    ("log", "line"),
    [
        (
            SCATTER,
            "net: RuntimeError: ScatterNDUpdate node with name 'node_ScatterND_23'  indices contain values that points "
            "to non-existing data",
        ),
        (UNKNOWN, "OpenVINO cannot convert model.onnx: No conversion rule found for operations: my.Foo"),
        (MATMUL, "OpenVINO cannot convert model.onnx: Incompatible MatMul matrix dimension. First input dimension=3"),
        ("net: the device is gone\nat line 3\n", "net: the device is gone"),
        ("Exception from a.cpp:1:\nException from b.cpp:2:", "Exception from a.cpp:1:"),
        ("Exception from a.cpp:1:", "Exception from a.cpp:1:"),
        ("", ""),
    ],
)
def test_of_a_runtime_s_log_the_line_is_told_that_says_what_failed(log, line):
    assert errors.telling(log) == line


def test_a_long_line_is_cut():
    assert errors.telling("x" * 5000) == "x" * 400 + " ..."
