"""Full-size YOLOs with random weights, in the format in which training saves them, through the command line."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import yolo_models as yolo
from PIL import Image

pytestmark = pytest.mark.full


def torchlift(*arguments: object) -> str:
    command = [sys.executable, "-m", "torchlift", *map(str, arguments)]
    done = subprocess.run(command, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


@pytest.mark.parametrize(("name", "parameters"), [("yolov5s", 7_235_389), ("yolov8n", 3_157_184)])
def test_ships_and_finds_boxes(name: str, parameters: int, tmp_path: Path) -> None:
    model = {"yolov5s": yolo.yolov5s, "yolov8n": yolo.yolov8n}[name]()
    source, bundle, picture = yolo.save(model, tmp_path / f"{name}.pt"), tmp_path / "bundle", tmp_path / "site.jpg"
    said = torchlift("ship", "yolov5", "--checkpoint", source, "-o", bundle, "--rounds", 3, "--json")
    manifest = json.loads(said)
    (component,) = manifest["components"]
    assert component["parameters"] == parameters
    assert manifest["choices"]
    for variant in manifest["variants"]:
        if variant["recipe"] == "fp32":
            assert variant["verification"]["failures"] == []
    Image.fromarray(np.random.default_rng(0).integers(0, 255, (1080, 1920, 3), np.uint8)).save(picture)
    answer = json.loads(torchlift("run", bundle, "--image", picture, "--confidence", 0.01, "--json"))
    assert answer
