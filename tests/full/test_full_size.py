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


def test_srcnn_of_full_size_enlarges_256_by_256_as_pytorch_does(tmp_path: Path) -> None:
    import numpy as np
    import torch
    from torch import nn

    import torchlift as tl

    torch.manual_seed(0)
    upsampler = nn.Upsample(scale_factor=3, mode="bicubic", align_corners=False)
    layers = [nn.Conv2d(3, 64, 9, padding=4), nn.Conv2d(64, 32, 1), nn.Conv2d(32, 3, 5, padding=2)]
    parts = ((f"generator.conv{n}", layer.state_dict()) for n, layer in enumerate(layers, 1))
    state = {f"{name}.{part}": value for name, found in parts for part, value in found.items()}
    assert sum(value.numel() for value in state.values()) == 20_099
    torch.save({"meta": {}, "state_dict": state}, tmp_path / "srcnn.pth")
    tl.ship("srcnn", tmp_path / "srcnn.pth", tmp_path / "sr", backends=["onnxruntime"])
    picture = np.random.default_rng(0).integers(0, 256, (256, 256, 3)).astype(np.uint8)
    with tl.open(tmp_path / "sr") as enlarge:
        (ours,) = enlarge([picture], factor=3)
    with torch.no_grad():
        image = torch.from_numpy(picture.transpose(2, 0, 1).copy()).float()[None] / 255
        theirs = nn.Sequential(upsampler, layers[0], nn.ReLU(), layers[1], nn.ReLU(), layers[2])(image)[0]
    expected = (theirs * 255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
    assert np.abs(ours.astype(int) - expected).max() <= 1
