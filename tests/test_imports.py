import importlib
import pkgutil
import subprocess
import sys
from pathlib import Path

import pytest

import torchlift

ROOT = Path(__file__).parents[1]
TORCH_SIDE = (
    "torchlift.families.",
    "torchlift.exporter",
    "torchlift.jobs.ship",
    "torchlift.jobs.source",
    "torchlift.jobs.peers",
    "torchlift.backends.pytorch",
    "torchlift.torch_module",
)
TORCH_FREE = [
    name
    for _, name, _ in pkgutil.walk_packages(torchlift.__path__, "torchlift.")
    if not name.startswith(TORCH_SIDE) and not name.endswith("__main__")
]

WITHOUT_OPTIONAL_PACKAGES = """
import importlib

class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] in {
            "torch", "torchvision", "transformers", "onnxscript", "openvino", "huggingface_hub", "tensorrt", "lmdb",
            "nncf", "sklearn"
        }:
            raise ImportError(f"{name} is not there")

sys.meta_path.insert(0, Refuse())
for name in sys.argv[1:]:
    try:
        importlib.import_module(name)
    except ImportError as error:
        print(name, error)
"""

HEAVY = {
    "torch", "torchvision", "transformers", "onnx", "onnx_ir", "onnxruntime", "onnxscript", "openvino", "numpy", "PIL",
    "safetensors", "tokenizers", "huggingface_hub", "rich", "msgspec", "lmdb", "nncf", "sklearn",
}  # fmt: skip

DOOR = ("as_module", "bench", "bisect", "build", "export", "open", "pack", "score", "ship", "unpack", "verify")

IMPORTED = """
import {module}
sys.argv = ["torchlift", "--help"]
try:
    {call}
except SystemExit as exit:
    assert exit.code in (0, None), exit.code
sys.stderr.write(" ".join(sys.modules))
"""


def test_imports_run_downwards_and_torch_stays_on_its_side():
    pytest.importorskip("importlinter", reason="a tool of the development install")
    done = subprocess.run(
        [sys.executable, "-c", "from importlinter.cli import lint_imports_command; lint_imports_command()"],
        cwd=ROOT,
        capture_output=True,
        text=True,
        check=False,
    )
    assert done.returncode == 0, done.stdout + done.stderr
    assert "imports run downwards only KEPT" in done.stdout
    assert "only the torch side imports torch KEPT" in done.stdout


def test_what_serves_imports_without_torch_and_without_any_optional_package(python):
    served = {"pipelines.dual_encoder", "families", "cli.run", "jobs.build", "datasets.records", "tasks.retrieval"}
    made = {"graph.half", "graph.quantize", "graph.fusion", "prove.half", "convert.calibration", "convert.nncf"}
    assert {f"torchlift.{name}" for name in served | made} <= {*TORCH_FREE}
    done = python(WITHOUT_OPTIONAL_PACKAGES, *TORCH_FREE)
    assert (done.returncode, done.stdout, done.stderr) == (0, "", "")


@pytest.mark.parametrize(
    ("module", "call"), [("torchlift", "torchlift.__version__"), ("torchlift.cli", "torchlift.cli.main()")]
)
def test_the_package_and_its_help_cost_next_to_nothing(python, module, call):
    done = python(IMPORTED.format(module=module, call=call))
    assert done.returncode == 0, done.stderr
    assert ("Usage" in done.stdout) == (module == "torchlift.cli")
    imported = {*done.stderr.split()}
    assert module in imported
    assert not imported & HEAVY


def test_every_public_name_is_there_and_imported_when_used():
    assert {*torchlift.__all__} <= {*dir(torchlift)}
    for name in dir(torchlift):
        assert getattr(torchlift, name) is not None
    for module in ("torchlift.bundle", "torchlift.exporter", "torchlift.jobs.bench"):
        importlib.import_module(module)
    assert {type(getattr(torchlift, name)).__name__ for name in DOOR} == {"function"}, "no module took a name"
    assert {*dir(torchlift)} - {*torchlift.__all__} == {"open"}, "import * would hide Python's own"
    with pytest.raises(AttributeError, match="module 'torchlift' has no attribute 'onnx'"):
        _ = torchlift.onnx
