import inspect
import pickle

import pytest

from torchlift import errors


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
