"""Forms and recipes: what their data say of each other, and that everything has what makes it."""

import pytest

from torchlift import forms as known
from torchlift.backends import BACKENDS, backend, forms
from torchlift.convert.forms import made_in_parts, maker_of
from torchlift.errors import BackendError, BackendUnavailableError
from torchlift.exporter import EXPORTERS
from torchlift.forms import FP16, Form, Recipe
from torchlift.graph.schemes import SCHEMES
from torchlift.machine import Availability

RECIPES = [(name, recipe) for name in BACKENDS for recipe in backend(name).recipes.values()]


@pytest.mark.parametrize("name", forms())
def test_every_form_is_made_in_one_place(name):
    form = forms()[name]
    makers = [form.is_source, name in EXPORTERS, maker_of(name) is not None]
    assert makers.count(True) == 1
    assert form.exported == (form.is_source or name in EXPORTERS)


def test_a_name_that_no_backend_builds_from_has_no_maker():
    assert maker_of("int4") is None
    assert not made_in_parts("int4")


def test_what_is_converted_node_by_node_can_be_made_in_parts():
    whole = {"fp32", "program", "int8-nncf"}
    assert {name for name in forms() if made_in_parts(name)} == {*forms()} - whole
    assert whole < {*forms()}


def test_integers_follow_a_scheme_that_there_is():
    schemes = {form.scheme for form in forms().values() if form.made_by == "integers"}
    assert schemes
    assert schemes <= {*SCHEMES}
    assert {form.scheme for form in forms().values() if form.made_by != "integers"} == {""}


def test_two_backends_that_name_a_form_mean_the_same():
    for _, recipe in RECIPES:
        assert recipe.form is forms()[recipe.form.name]
    assert forms()["fp32"] is known.SOURCE


@pytest.mark.parametrize(("name", "recipe"), RECIPES, ids=lambda value: getattr(value, "name", value))
def test_a_recipe_says_the_same_by_its_name_and_its_data(name, recipe):
    assert backend(name).recipe(recipe.name) is recipe
    assert "-".join(filter(None, (recipe.precision, recipe.method))) == recipe.name
    assert recipe.precision in backend(name).precisions
    shared = backend(name).recipe(recipe.files)
    assert (shared.files, shared.form) == (recipe.files, recipe.form), "files of another graph cannot serve it"
    assert recipe.lossy == (recipe.precision in ("fp16", "int8"))
    if recipe.emulated:
        assert "fp16" in recipe.name


@pytest.mark.parametrize("name", BACKENDS)
def test_a_recipe_that_a_backend_lacks_is_an_error_that_lists_those_it_has(name):
    with pytest.raises(BackendError, match=f"{name} has no recipe 'int4'") as caught:
        backend(name).recipe("int4")
    assert all(recipe in caught.value.remedy for recipe in backend(name).recipes)


def test_a_user_means_a_recipe_by_its_name_or_its_precision():
    recipe = Recipe("int8-dynamic", "int8", known.INT8_DYNAMIC)
    assert recipe.is_meant_by("int8-dynamic")
    assert recipe.is_meant_by("int8")
    assert not any(recipe.is_meant_by(asked) for asked in ("dynamic", "fp32"))


def test_a_form_that_cannot_be_made_here_says_why():
    absent = Form("int2", "half", available=lambda: Availability(False, "its tool is missing", "pip install tool"))
    with pytest.raises(BackendUnavailableError, match="int2 cannot be made: its tool is missing") as caught:
        absent.require()
    assert caught.value.remedy == "pip install tool"
    FP16.require()
