"""The types of torchlift reach whoever imports it."""

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

SOURCES = Path(__file__).parents[1] / "src"

USER = """
import torchlift as tl

batch: tl.Axis = tl.Axis("batch", 1, 2, 4)
reveal_type(batch.max)
reveal_type(tl.pack)
wrong: str = batch
"""

SKIPPED = """
[mypy]
[mypy-torch.*,transformers.*,onnx.*,onnx_ir.*,onnxruntime.*,onnxscript.*,huggingface_hub.*,PIL.*,rich.*,msgspec.*]
follow_imports = skip
ignore_missing_imports = true
"""
"""Keeps mypy from reading other packages, which takes most of its time; torchlift itself is read as installed."""


@pytest.fixture(scope="module")
def checked(tmp_path_factory):
    """What a user's mypy says of a module that imports torchlift from among the installed packages."""
    pytest.importorskip("mypy", reason="a tool of the development install")
    folder = tmp_path_factory.mktemp("user")
    (folder / "user.py").write_text(USER)
    (folder / "mypy.ini").write_text(SKIPPED)
    command = [sys.executable, "-m", "mypy", "--config-file=mypy.ini", "--cache-dir=cache", "user.py"]
    environment = {**os.environ, "PYTHONPATH": str(SOURCES)}
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, check=False).stdout


def test_a_user_s_mypy_knows_the_types_of_public_names(checked):
    revealed = re.findall(r'Revealed type is "(.*)"', checked)
    assert len(revealed) == 2, checked
    assert revealed[0] in ("int", "builtins.int")
    assert revealed[1].startswith("def (")


def test_it_finds_the_user_s_own_mistake_and_nothing_else(checked):
    assert re.findall(r"error: .*\[(.*)\]", checked) == ["assignment"], checked
