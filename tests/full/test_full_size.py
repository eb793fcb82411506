"""Full-size models with random weights in the original format, through the command line; minutes and gigabytes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

REPOSITORY = Path(__file__).parents[2]
CHECKPOINTS = REPOSITORY / "benchmarks" / "random_checkpoint.py"

pytestmark = pytest.mark.full

_MEASURED = """
import resource, subprocess, sys
code = subprocess.run(sys.argv[1:]).returncode
print(f"peak_kilobytes={resource.getrusage(resource.RUSAGE_CHILDREN).ru_maxrss}", file=sys.stderr)
sys.exit(code)
"""

_TORCH_FREE = """
import sys
class Refuse:
    def find_spec(self, name, path=None, target=None):
        if name.split(".")[0] in {"torch", "transformers", "onnxscript"}:
            raise ImportError(f"{name} is refused here")
sys.meta_path.insert(0, Refuse())
import numpy as np, torchlift as tl
with tl.open(sys.argv[1]) as clip:
    pictures = clip.encode_image([np.full((300, 200, 3), 90, np.uint8)] * 9)
    texts = clip.encode_text(["一只猫", "两只狗在草地上奔跑"])
    print(pictures.shape, texts.shape, float(clip.similarity(pictures, texts).std() >= 0))
"""


def checkpoint(size: str, folder: Path) -> Path:
    file = folder / f"{size}.pt"
    subprocess.run([sys.executable, CHECKPOINTS, size, file], check=True)
    return file


def export(size: str, tmp_path: Path) -> tuple[Path, int]:
    """The bundle, and the peak of the exporting process's memory in bytes."""
    source, bundle = checkpoint(size, tmp_path), tmp_path / "bundle"
    command = [sys.executable, "-m", "torchlift", "export", "chinese-clip", "--checkpoint", source, "-o", bundle]
    done = subprocess.run([sys.executable, "-c", _MEASURED, *command], stderr=subprocess.PIPE, text=True)
    assert done.returncode == 0, done.stderr
    return bundle, 1024 * int(done.stderr.rsplit("peak_kilobytes=", 1)[1])


def test_vit_b_16_exports_within_three_gigabytes(tmp_path: Path) -> None:
    _, peak = export("ViT-B-16", tmp_path)
    assert peak < 3e9


def test_vit_h_14_exports_within_three_times_its_weights(tmp_path: Path) -> None:
    bundle, peak = export("ViT-H-14", tmp_path)
    manifest = json.loads((bundle / "manifest.json").read_text())
    weights = 4 * sum(c["parameters"] for c in manifest["components"])
    assert weights > 3.8e9
    assert peak < 3 * weights


@pytest.mark.parametrize("size", ["RN50", "ViT-B-16"])
def test_ships_moves_and_runs_without_torch(size: str, tmp_path: Path) -> None:
    source, bundle, moved = checkpoint(size, tmp_path), tmp_path / "bundle", tmp_path / "elsewhere" / "clip"
    command = [
        sys.executable,
        "-m",
        "torchlift",
        "ship",
        "chinese-clip",
        "--checkpoint",
        source,
        "-o",
        bundle,
        "--json",
    ]
    done = subprocess.run([*command, "--batch", "1", "--rounds", "3"], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    manifest = json.loads(done.stdout)
    assert set(manifest["choices"]) == {"image", "text"}
    for variant in manifest["variants"]:
        assert variant["verification"]["failures"] == []
    source.unlink()
    moved.parent.mkdir()
    bundle.rename(moved)
    answer = subprocess.run([sys.executable, "-c", _TORCH_FREE, moved], capture_output=True, text=True)
    assert answer.returncode == 0, answer.stderr
    embedding = manifest["settings"]["embedding"]
    assert answer.stdout.startswith(f"(9, {embedding}) (2, {embedding})")
