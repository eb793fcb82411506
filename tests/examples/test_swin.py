"""The Swin example: its training learns, what it saves is Microsoft's format, and it ships under a gate."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch

import torchlift as tl

pytest.importorskip("sklearn", reason="the digits are scikit-learn's")

STEPS = 64
FILE = Path(__file__).parents[2] / "examples" / "swin" / "train.py"


@pytest.fixture(scope="module")
def written(tmp_path_factory):
    """The command with few steps: its folder."""
    folder, path, threads = tmp_path_factory.mktemp("swin"), list(sys.path), torch.get_num_threads()
    spec = importlib.util.spec_from_file_location("train_swin", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["train_swin"] = module
    try:
        spec.loader.exec_module(module)
        module.main([str(folder), "--steps", str(STEPS)])
        yield folder
    finally:
        sys.path[:] = path
        torch.set_num_threads(threads)
        for name in ("train_swin", "digits"):
            sys.modules.pop(name, None)


def test_the_file_is_as_microsofts(written):
    file = torch.load(written / "digits.pth", weights_only=True)
    assert {*file} == {"model", "optimizer", "max_accuracy", "epoch"}
    assert {"patch_embed.proj.weight", "layers.0.blocks.1.attn.qkv.weight", "head.weight"} <= {*file["model"]}


def test_it_learns_and_ships_under_a_gate(written, tmp_path):
    file = torch.load(written / "digits.pth", weights_only=True)
    bundle = tl.ship(
        "swin",
        written / "digits.pth",
        tmp_path / "net",
        data=written / "val",
        within={"top1": 1.0},
        backends=["onnxruntime"],
        precisions=["fp32", "int8-dynamic"],
        batches=[1],
        rounds=2,
    )
    manifest = bundle.manifest
    assert manifest.name == "swin-32x2x2x1-64"
    top1 = manifest.scoring.metrics["top1"].value
    assert top1 > 50
    assert top1 == pytest.approx(file["max_accuracy"], abs=0.4)
    chosen = manifest.variant(manifest.choices["model"].variant)
    assert chosen.verification.passed
    with tl.open(tmp_path / "net") as net:
        picture = next((written / "val" / "7").glob("*.png"))
        ((best, share), *_) = net({"image": [picture]})["logits"][0]
    assert best in {str(digit) for digit in range(10)}
    assert 0 < share <= 1
    assert np.isfinite(share)
