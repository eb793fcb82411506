"""The example of detection: it trains a small YOLO, whose checkpoint ships under a gate and finds shapes."""

import importlib.util
import json
import sys
from pathlib import Path

import pytest
import torch
from PIL import Image
from shipped import torchlift

import torchlift as tl

FOLDER = Path(__file__).parents[2] / "examples" / "detection"


@pytest.fixture(scope="module")
def trained(tmp_path_factory):
    """A data set and a checkpoint of fewer steps than the example's."""
    before, threads = {*sys.modules}, torch.get_num_threads()
    spec = importlib.util.spec_from_file_location("train_detection", FOLDER / "train.py")
    module = importlib.util.module_from_spec(spec)
    torch.set_num_threads(1)
    try:
        spec.loader.exec_module(module)
        folder = tmp_path_factory.mktemp("shapes")
        module.write(folder, "train", 8, seed=1)
        module.write(folder, "val", 40, seed=2)
        module.save(module.train(steps=120, pictures=400), folder / "shapes.pt")
    finally:
        torch.set_num_threads(threads)
        sys.path.remove(str(FOLDER))
        for name in {*sys.modules} - before:  # the checkpoint must open without the modules that wrote it
            if name.split(".")[0] in ("models", "shapes"):
                del sys.modules[name]
    return folder


@pytest.fixture(scope="module")
def bundle(trained):
    axes = [tl.Axis("batch", 1, 2, 2), tl.Axis("height", 128, 128, 128), tl.Axis("width", 128, 128, 128)]
    return tl.ship(
        "yolov5", str(trained / "shapes.pt"), str(trained / "yolo"), resolution=128, axes=axes,
        backends=["onnxruntime"], precisions=["fp32"], data=str(trained / "data.yaml"), within={"map50": 0.5}, rounds=2,
    )  # fmt: skip


def test_it_finds_most_shapes_and_ships_under_the_gate(bundle):
    scoring = bundle.manifest.scoring
    assert scoring.task == "detection"
    assert scoring.metrics["map50"].value > 40
    assert scoring.metrics["map"].value < scoring.metrics["map50"].value
    drop = scoring.scores["model/onnxruntime/fp32"].drops["map50"]
    assert abs(drop.value) < 0.5
    assert bundle.manifest.choices["model"].held


def test_boxes_are_printed_and_drawn(trained, bundle, tmp_path):
    picture, drawn = trained / "images" / "val" / "0000.png", tmp_path / "boxes.png"
    done = torchlift("run", bundle.path, "--image", picture, "--draw", drawn, "--json", "--confidence", 0.1)
    found = json.loads(done.out)[str(picture)]
    assert found
    assert {one["name"] for one in found} <= {"circle", "square", "triangle"}
    assert all(0 <= edge <= 128 for one in found for edge in one["box"])
    with Image.open(picture) as before, Image.open(drawn) as after:
        assert after.size == before.size
        assert after.tobytes() != before.convert("RGB").tobytes()
