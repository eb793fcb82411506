"""What the tests of the core share: a tiny model, as an ONNX file, as a bundle, and built by the real backends."""

import os
import shutil
import subprocess
import sys
from pathlib import Path

HELPERS = Path(__file__).parent / "helpers"
sys.path.insert(0, str(HELPERS))

import workers  # noqa: E402

workers.take_cores()
os.environ["TORCHINDUCTOR_COMPILE_THREADS"] = "1"  # more are processes, and each imports torch

import onnx  # noqa: E402
import pytest  # noqa: E402
import tiny  # noqa: E402
from hypothesis import settings  # noqa: E402

from torchlift.backends import backend  # noqa: E402
from torchlift.bundle import Bundle  # noqa: E402
from torchlift.stages import build_variant  # noqa: E402

settings.register_profile("torchlift", deadline=None, max_examples=60)
settings.load_profile("torchlift")


@pytest.fixture(scope="session")
def source(tmp_path_factory):
    """The tiny model as an ONNX file."""
    file = tmp_path_factory.mktemp("source") / "model.onnx"
    onnx.save(tiny.model(), file)
    return file


@pytest.fixture(scope="session")
def built_once(tmp_path_factory):
    """The tiny bundle with every variant that the runtimes here make of its own graph; not to be changed."""
    bundle = tiny.make_bundle(tmp_path_factory.mktemp("bundles") / "tiny")
    for name in ("onnxruntime", "openvino"):
        for recipe in (r.name for r in backend(name).recipes.values() if r.form.is_source):
            if backend(name).supports(recipe).ok:
                build_variant(bundle, bundle.manifest.component("model"), name, recipe)
    return bundle


@pytest.fixture
def built(built_once, tmp_path):
    """A copy of the built bundle that a test may change."""
    return Bundle.open(shutil.copytree(built_once.path, tmp_path / "built"))


@pytest.fixture
def bundle(tmp_path):
    """The tiny bundle without variants."""
    return tiny.make_bundle(tmp_path / "tiny")


@pytest.fixture
def python():
    """Runs a script in a fresh interpreter that can import the helpers; returns the finished process."""

    def run(script, *arguments, **options):
        prelude = f"import sys; sys.path.insert(0, {str(HELPERS)!r})\n"
        return subprocess.run(
            [sys.executable, "-c", prelude + script, *map(str, arguments)],
            capture_output=True,
            text=True,
            timeout=120,
            **options,
        )

    return run
