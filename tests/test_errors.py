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
