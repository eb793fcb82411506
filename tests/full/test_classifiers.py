"""Full-size Swins and a ViT with random weights, in the formats that people have, through the command line; minutes."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from torchlift.families.base import LoadOptions
from torchlift.families.swin import SwinFamily
from torchlift.families.swin.architecture import Architecture
from torchlift.families.swin.geometry import apart, pair_index
from torchlift.families.swin.network import Swin

pytestmark = pytest.mark.full

BASE = (128, (2, 2, 18, 2), (4, 8, 16, 32))
LARGE = (192, (2, 2, 18, 2), (6, 12, 24, 48))


def microsoft(folder: Path, size: tuple, resolution: int, window: int, classes: int) -> Path:
    """A ``.pth`` as Microsoft's, its buffers included."""
    torch.manual_seed(0)
    width, depths, heads = size
    shape = Architecture(resolution, 4, width, depths, heads, (window,) * 4, classes)
    state = dict(Swin(shape).state_dict())
    for stage in shape.stages:
        for block in range(depths[stage]):
            name = f"layers.{stage}.blocks.{block}"
            state[f"{name}.attn.relative_position_index"] = torch.from_numpy(pair_index(window))
            if shift := shape.shift(stage, block):
                state[f"{name}.attn_mask"] = -100.0 * torch.from_numpy(apart(shape.side(stage), window, shift))
    torch.save({"model": state}, folder / "swin.pth")
    return folder / "swin.pth"


def ship(family: str, source: Path, bundle: Path) -> dict:
    command = [sys.executable, "-m", "torchlift", "ship", family, "--checkpoint", source, "-o", bundle, "--json"]
    options = ["--batch", "1", "--batch", "8", "--rounds", "3", "--axis", "batch=1..8..16"]
    done = subprocess.run([*command, *options], capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)


@pytest.mark.parametrize(
    ("size", "resolution", "window", "classes", "parameters"),
    [
        (BASE, 224, 7, 1000, 87_768_224),
        (BASE, 384, 12, 1000, 87_903_584),
        (LARGE, 224, 7, 21_841, None),
    ],
)
def test_a_full_size_swin_ships(
    tmp_path: Path, size: tuple, resolution: int, window: int, classes: int, parameters: int | None
) -> None:
    source = microsoft(tmp_path, size, resolution, window, classes)
    manifest = ship("swin", source, tmp_path / "bundle")
    (component,) = manifest["components"]
    assert component["signature"]["inputs"][0]["shape"] == ["batch", 3, resolution, resolution]
    assert component["signature"]["outputs"][0]["shape"] == ["batch", classes]
    if parameters is not None:
        network = SwinFamily().load(str(source), LoadOptions()).component("model").reference
        assert sum(p.numel() for p in network.parameters()) == parameters
    for variant in manifest["variants"]:
        assert variant["verification"]["failures"] == []


@pytest.mark.parametrize("version", [1, 2])
def test_a_full_size_swin_answers_as_transformers_does(tmp_path: Path, version: int) -> None:
    import transformers as t

    kinds = {
        1: (t.SwinConfig, t.SwinForImageClassification, {"window_size": 7, "image_size": 224}),
        2: (t.Swinv2Config, t.Swinv2ForImageClassification, {"window_size": 16, "image_size": 256}),
    }
    config, kind, sizes = kinds[version]
    torch.manual_seed(0)
    width, depths, heads = BASE
    theirs = kind(config(embed_dim=width, depths=depths, num_heads=heads, num_labels=1000, **sizes)).eval()
    for name, weight in theirs.named_parameters():
        if name.endswith("bias_table") or "position_bias_mlp" in name:
            torch.nn.init.normal_(weight, 0, 0.2)
    theirs.save_pretrained(tmp_path)
    component = SwinFamily().load(str(tmp_path), LoadOptions()).component("model")
    for rows in (1, 2):
        pictures = torch.randn(rows, 3, sizes["image_size"], sizes["image_size"])
        with torch.no_grad():
            expected = theirs(pictures).logits
            for ours in (component.reference, component.exported):
                torch.testing.assert_close(ours(pictures), expected, atol=1e-4, rtol=1e-4)


def test_a_full_size_vit_ships(tmp_path: Path) -> None:
    import transformers as t

    torch.manual_seed(0)
    t.ViTForImageClassification(t.ViTConfig(num_labels=1000)).save_pretrained(tmp_path / "vit")
    said = {"image_processor_type": "ViTImageProcessor", "size": {"height": 224, "width": 224}}
    (tmp_path / "vit" / "preprocessor_config.json").write_text(json.dumps(said))
    manifest = ship("image-classifier", tmp_path / "vit", tmp_path / "bundle")
    assert manifest["name"] == "vit-224"
    for variant in manifest["variants"]:
        assert variant["verification"]["failures"] == []
