"""Pythons that are started for what needs a process of its own."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import traps

import torchlift
from torchlift.interpreter import Interpreter, guarded_children, start

PROBE = """
import json, os, sys
import random
print(json.dumps({"path": sys.path, "folder": os.getcwd(), "arguments": sys.argv[1:], "name": __name__,
                  "safe": os.environ.get("PYTHONSAFEPATH"), "said": os.environ.get("SAID")}))
"""


@pytest.fixture
def trapped(tmp_path, monkeypatch):
    """The current folder is full of traps; the marks must not be there in the end."""
    folder = tmp_path / "trapped"
    folder.mkdir()
    mark = traps.lay(folder)
    monkeypatch.chdir(folder)
    yield folder
    assert not mark.exists(), mark.read_text()


@pytest.fixture
def modules(tmp_path):
    """A folder with the module ``probe``, which tells what it finds."""
    folder = tmp_path / "modules"
    folder.mkdir()
    (folder / "probe.py").write_text(PROBE)
    return folder


def told(*arguments, **options):
    with start("probe", *arguments, stdout=subprocess.PIPE, text=True, **options) as process:
        out, _ = process.communicate(timeout=60)
    assert process.returncode == 0
    return json.loads(out)


@pytest.mark.parametrize("entry", [None, "", ".", "./"])
@pytest.mark.parametrize("variable", [None, f"{os.pathsep}/nowhere", f"/nowhere{os.pathsep}", "."])
def test_nothing_of_the_current_folder_is_imported(trapped, modules, monkeypatch, entry, variable):
    monkeypatch.setattr(sys, "path", [*([] if entry is None else [entry]), str(modules), *sys.path])
    if variable is not None:
        monkeypatch.setenv("PYTHONPATH", variable)
    found = told("one", "two words")
    assert found["name"] == "__main__"
    assert found["arguments"] == ["one", "two words"]
    assert found["folder"] == str(trapped), "relative paths mean what they did"
    assert not {"", ".", str(trapped), str(Path(torchlift.__file__).parent)} & {*found["path"]}


@pytest.mark.parametrize("variable", ["{modules}", f"{os.pathsep}{{modules}}", f"{{modules}}{os.pathsep}."])
def test_another_python_has_its_own_path_without_the_current_folder(trapped, modules, monkeypatch, variable):
    monkeypatch.setattr(sys, "path", ["/only/here", *sys.path])
    python = Interpreter(sys.executable, {"PYTHONPATH": variable.format(modules=modules), "SAID": "there"})
    found = told(python=python)
    assert found["said"] == "there"
    assert str(modules) in found["path"]
    assert not {"", ".", str(trapped), "/only/here", str(Path(torchlift.__file__).parent)} & {*found["path"]}


def test_a_folder_that_is_named_from_the_current_one_is_found_there(trapped, modules, monkeypatch):
    (trapped / "ours").mkdir()
    (trapped / "ours" / "probe.py").write_text(PROBE)
    monkeypatch.setattr(sys, "path", ["ours", *sys.path, "an_import_hook"])
    found = told()
    assert found["path"][0] == str(trapped / "ours")
    assert found["path"][-1] == "an_import_hook"


def test_a_python_that_is_named_from_the_current_folder_is_found_there(trapped, modules, monkeypatch):
    (trapped / "bin").mkdir()
    (trapped / "bin" / "python").write_text(f'#!/bin/sh\nSAID=wrapped exec {sys.executable} "$@"\n')
    (trapped / "bin" / "python").chmod(0o755)
    assert told(python=Interpreter("bin/python", {"PYTHONPATH": str(modules)}))["said"] == "wrapped"


def test_what_is_added_to_the_environment_is_there(modules, monkeypatch):
    monkeypatch.syspath_prepend(modules)
    assert told(environment={"SAID": "more"})["said"] == "more"


def test_folders_of_any_name_are_passed_on(tmp_path, modules, monkeypatch):
    odd = tmp_path / "{odd} 'name' \" \\ 猫"
    odd.mkdir()
    (odd / "probe.py").write_text(PROBE)
    monkeypatch.setattr(sys, "path", [str(odd), *sys.path])
    monkeypatch.chdir(odd)
    found = told("猫 {x}")
    assert (found["folder"], found["path"][0], found["arguments"]) == (str(odd), str(odd), ["猫 {x}"])


STARTS_ANOTHER = """
import subprocess, sys
sys.exit(subprocess.run([sys.executable, "-c", "import random, ctypes"]).returncode)
"""


@pytest.mark.skipif(sys.version_info < (3, 11), reason="this Python has no variable for it")
def test_a_python_that_a_started_one_starts_leaves_the_current_folder_out_too(trapped, modules, monkeypatch):
    (modules / "starts_another.py").write_text(STARTS_ANOTHER)
    monkeypatch.syspath_prepend(modules)
    with start("starts_another") as process:
        assert process.wait(60) == 0


@pytest.mark.parametrize("before", [None, "", "1"])
def test_what_guards_children_is_as_it_was_afterwards(trapped, monkeypatch, before):
    monkeypatch.delenv("PYTHONSAFEPATH", raising=False)
    if before is not None:
        monkeypatch.setenv("PYTHONSAFEPATH", before)
    with guarded_children():
        if sys.version_info >= (3, 11):
            subprocess.run([sys.executable, "-c", "import random"], check=True)
    assert os.environ.get("PYTHONSAFEPATH") == before


def test_ctrl_c_does_not_end_a_started_python_at_any_moment(modules, monkeypatch):
    (modules / "slow.py").write_text("import time\nprint('here', flush=True)\ntime.sleep(0.3)")
    monkeypatch.syspath_prepend(modules)
    before = signal.pthread_sigmask(signal.SIG_BLOCK, [])
    with start("slow", stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True) as process:
        assert signal.pthread_sigmask(signal.SIG_BLOCK, []) == before
        while process.poll() is None:
            process.send_signal(signal.SIGINT)
            time.sleep(0.001)
        assert process.communicate(timeout=60) == ("here\n", "")
    assert process.returncode == 0
