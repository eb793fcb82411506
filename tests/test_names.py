"""Who may name a runtime: the backends alone. All else asks for a role, or reads a fact of a backend's class."""

import re
from pathlib import Path

import torchlift
from torchlift.backends import BACKENDS, module_runtime, reference_runtime

SOURCE = Path(torchlift.__file__).parent
OUTSIDE = [file for file in sorted(SOURCE.rglob("*.py")) if "backends" not in file.relative_to(SOURCE).parts]

NAMED = re.compile(r"""["'](onnxruntime|openvino|tensorrt|pytorch)""")
IMPORTED = re.compile(r"import (onnxruntime|tensorrt)\b|torchlift\.backends\.(onnxruntime|openvino|tensorrt|pytorch)")


def found(pattern):
    """File -> what the pattern finds in it."""
    hits = {file.relative_to(SOURCE).as_posix(): pattern.findall(file.read_text("utf-8")) for file in OUTSIDE}
    return {file: found for file, found in hits.items() if found}


def test_outside_the_backends_no_runtime_is_named():
    reference = {"evidence/accuracy.py": 1, "messages.py": 1, "stages/score.py": 1, "upgrade/evidence.py": 3}
    assert found(NAMED) == {
        "api.py": ["openvino"],  # an example in a docstring
        "families/transformers_folder.py": ["pytorch"],  # pytorch_model.bin, a file
        "jobs/ship.py": ["onnxruntime", "openvino"],  # distributions whose releases the manifest notes
        **{file: ["pytorch"] * count for file, count in reference.items()},  # how evidence calls its reference
    }


def test_outside_the_backends_no_runtime_is_imported():
    assert found(IMPORTED) == {}


def test_the_roles_are_of_runtimes_that_there_are():
    assert {reference_runtime().name, module_runtime().name} <= {*BACKENDS}
    assert reference_runtime().available().ok
    assert not reference_runtime().on_gpu()
