"""The example of super-resolution: it trains above bicubic, ships under a gate, and enlarges pictures."""

import importlib.util
import json
import shutil
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from shipped import torchlift

import torchlift as tl
from torchlift.stages.convert import convert_component
from torchlift.stages.samples import goldens_as_samples

FILE = Path(__file__).parents[2] / "examples" / "super_resolution" / "train.py"


@pytest.fixture(scope="module")
def train():
    spec = importlib.util.spec_from_file_location("train_super_resolution", FILE)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield module
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def trained(train, tmp_path_factory):
    folder = tmp_path_factory.mktemp("super")
    return folder, train.make(folder, steps=120, first=12, second=6)


@pytest.fixture(scope="module")
def shipped(trained):
    folder, _ = trained
    axes = [tl.Axis("height", 1, 16, 40), tl.Axis("width", 1, 16, 40)]
    bundle = tl.ship(
        "srcnn", str(folder / "srcnn.pth"), str(folder / "sr"), backends=["onnxruntime"], precisions=["fp32"],
        data=str(folder / "test"), within={"psnr": 0.05}, axes=axes, rounds=2,
    )  # fmt: skip
    return folder / "sr", bundle


def test_it_trains_above_bicubic(trained):
    ours, bicubic = trained[1]
    assert ours > bicubic + 0.1


def test_it_ships_under_the_gate_with_the_score_of_training(trained, shipped):
    _, bundle = shipped
    scoring = bundle.manifest.scoring
    assert scoring.task == "super-resolution"
    assert scoring.metrics["psnr@x3"].value == pytest.approx(trained[1][0], abs=0.02)
    assert scoring.metrics["psnr"].value == pytest.approx(
        np.mean([scoring.metrics[f"psnr@x{factor}"].value for factor in (2, 3, 4)])
    )
    assert 0.5 < scoring.metrics["ssim"].value < 1
    assert bundle.manifest.choices["model"].variant == "model/onnxruntime/fp32"


def test_one_file_enlarges_by_every_factor_and_size_as_pytorch_does(train, trained, shipped):
    net = train.network(12, 6)
    state = torch.load(trained[0] / "srcnn.pth", weights_only=True)["state_dict"]
    names = {"conv1": "0", "conv2": "2", "conv3": "4"}
    split = {tuple(name.split(".")[1:]): value for name, value in state.items()}
    net.load_state_dict({f"{names[layer]}.{part}": value for (layer, part), value in split.items()})
    rng = np.random.default_rng(0)
    with tl.open(shipped[0]) as enlarge:
        for factor, size in ((1, (20, 30)), (2, (1, 1)), (3, (40, 90)), (4, (57, 23)), (8, (5, 9))):
            picture = rng.integers(0, 256, (*size, 3)).astype(np.uint8)
            (ours,) = enlarge([picture], factor=factor)
            with torch.no_grad():
                theirs = net(train.enlarged(train.tensor(picture)[None], factor))[0]
            expected = (theirs * 255).round().clamp(0, 255).byte().permute(1, 2, 0).numpy()
            assert ours.shape == expected.shape
            assert np.abs(ours.astype(int) - expected).max() <= 1


def test_int8_leaves_the_last_convolution_in_floating_point(shipped, tmp_path):
    shutil.copytree(shipped[0], tmp_path / "sr")
    bundle = tl.Bundle.open(tmp_path / "sr")
    drawn = goldens_as_samples(bundle)
    convert_component(bundle, bundle.manifest.components[0], ["int8-u8s8", "fp16"], replace(drawn, given=True))
    kept = {graph.form: {node.module for node in graph.conversion.kept} for graph in bundle.manifest.graphs}
    assert "conv3" in kept["int8-u8s8"]
    assert "conv2" not in kept["int8-u8s8"]
    assert "conv3" not in kept["fp16"]


def test_the_command_writes_a_picture(trained, shipped, tmp_path):
    face = tmp_path / "face.png"
    Image.fromarray(np.random.default_rng(0).integers(0, 256, (50, 60, 3)).astype(np.uint8)).save(face)
    for name, kind in (("a.png", "PNG"), ("a.jpg", "JPEG"), ("a.webp", "WEBP")):
        assert torchlift("run", shipped[0], "--image", face, "--factor", 3, "-o", tmp_path / name).code == 0
        with Image.open(tmp_path / name) as written:
            assert (written.size, written.format) == ((180, 150), kind)
    other = tmp_path / "other.png"
    other.write_bytes(face.read_bytes())
    images = ["--image", face, "--image", other]
    done = torchlift("run", shipped[0], *images, "--factor", 2, "-o", tmp_path / "all", "--json")
    said = json.loads(done.out)
    assert said[str(other)]["width"] == 120
    assert sorted(file.name for file in (tmp_path / "all").iterdir()) == ["face.png", "other.png"]


@pytest.mark.parametrize(
    "asked",
    [
        *(["--factor", factor, "-o", "x.png"] for factor in ("0", "-2", "2.5", "9", "1e12", "nan")),
        ["-o", "x.png"],
        ["--factor", "3"],
        ["--factor", "3", "-o", "x.npy"],
        ["--factor", "3", "-o", "x.png", "--text", "a face"],
    ],
)
def test_what_cannot_be_done_is_an_error_and_writes_nothing(shipped, tmp_path, monkeypatch, asked):
    monkeypatch.chdir(tmp_path)
    Image.new("RGB", (20, 20)).save("face.png")
    assert torchlift("run", shipped[0], "--image", "face.png", *asked).code != 0
    assert [file.name for file in tmp_path.iterdir()] == ["face.png"]


def test_pictures_one_pixel_and_eight_thousand_wide(shipped):
    with tl.open(shipped[0]) as enlarge:
        narrow, wide = enlarge([np.zeros((30, 1, 3), np.uint8), np.zeros((2, 8_000, 3), np.uint8)], factor=2)
    assert (narrow.shape, wide.shape) == ((60, 2, 3), (4, 16_000, 3))


def test_a_format_that_is_too_small_is_refused(shipped, tmp_path):
    Image.new("RGB", (8_400, 1)).save(tmp_path / "wide.png")
    made = tmp_path / "x.webp"
    assert torchlift("run", shipped[0], "--image", tmp_path / "wide.png", "--factor", 2, "-o", made).code != 0
    assert not made.exists()


def test_a_damaged_picture_is_an_error(shipped, tmp_path):
    (tmp_path / "face.png").write_bytes(b"no picture")
    assert (
        torchlift("run", shipped[0], "--image", tmp_path / "face.png", "--factor", 2, "-o", tmp_path / "x.png").code
        != 0
    )
    assert not (tmp_path / "x.png").exists()
