"""A user's file is run as a module of its own: it replaces no other, and finds its neighbours."""

import ast
import json
import sys
import types

import pytest
import torch

from torchlift.errors import ModuleSourceError
from torchlift.families.user_code import imported


@pytest.fixture(autouse=True)
def clean_imports(monkeypatch):
    """Users' files and their neighbours are imported: forget them."""
    monkeypatch.setattr(sys, "path", [*sys.path])
    before = {**sys.modules}
    yield
    for name in sys.modules.keys() - before.keys():
        del sys.modules[name]
    sys.modules.update(before)


@pytest.mark.parametrize("module", [ast, json, types, torch])
def test_a_file_with_the_name_of_another_module_replaces_it_nowhere(tmp_path, module):
    file = tmp_path / f"{module.__name__}.py"
    file.write_text(f"import {module.__name__} as real\n\ndef build():\n    return real\n")
    assert imported(file, "build")() is module
    assert sys.modules[module.__name__] is module


def test_pythons_own_modules_come_before_those_beside_the_file(tmp_path):
    (tmp_path / "colorsys.py").write_text("raise RuntimeError('not this one')\n")
    (tmp_path / "net.py").write_text("import colorsys\n\ndef build():\n    return colorsys.rgb_to_hsv(0, 0, 0)\n")
    sys.modules.pop("colorsys", None)
    assert imported(tmp_path / "net.py", "build")() == (0.0, 0.0, 0)


def test_modules_beside_the_file_come_before_installed_ones_while_it_is_imported_and_after_them_later(tmp_path):
    installed, beside = tmp_path / "site", tmp_path / "project"
    for folder in (installed, beside):
        folder.mkdir()
        for name in ("early_helper", "late_helper"):
            (folder / f"{name}.py").write_text(f"PLACE = {folder.name!r}\n")
    (beside / "only_here.py").write_text("PLACE = 'project'\n")
    sys.path.append(str(installed))
    (beside / "net.py").write_text(
        "import early_helper\n\n"
        "def build():\n"
        "    import late_helper, only_here\n"
        "    return early_helper.PLACE, late_helper.PLACE, only_here.PLACE\n"
    )
    assert imported(beside / "net.py", "build")() == ("project", "site", "project")


def test_two_files_of_one_name_are_two_modules(tmp_path):
    found = []
    for number in (1, 2):
        file = tmp_path / str(number) / "net.py"
        file.parent.mkdir()
        file.write_text(f"class Net:\n    number = {number}\n\ndef build():\n    return Net\n")
        found.append(imported(file, "build")())
    assert [sys.modules[net.__module__].Net.number for net in found] == [1, 2]


def test_the_functions_of_the_file_are_named_where_the_one_that_is_asked_for_is_missing(tmp_path):
    (tmp_path / "net.py").write_text("from json import loads\n\ndef make():\n    pass\n")
    with pytest.raises(ModuleSourceError) as caught:
        imported(tmp_path / "net.py", "build")
    assert caught.value.remedy == "Its functions are make."
