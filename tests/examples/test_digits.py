"""The digits example: what it writes, and that its training learns and saves what it should."""

from __future__ import annotations

import importlib.util
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from torchlift.families.base import LoadOptions
from torchlift.families.mobilevit import MobileViTFamily
from torchlift.processing.image import prepared

pytest.importorskip("sklearn", reason="the digits are scikit-learn's")

STEPS = 16
FILE = Path(__file__).parents[2] / "examples" / "digits" / "train.py"


@pytest.fixture(scope="module")
def train():
    spec = importlib.util.spec_from_file_location("train_digits", FILE)
    module = importlib.util.module_from_spec(spec)
    sys.modules["train_digits"] = module
    path = list(sys.path)
    sys.path.insert(0, str(FILE.parent))  # as Python does for a script
    try:
        spec.loader.exec_module(module)
    finally:
        sys.path[:] = path
    yield module
    for name in ("train_digits", "digits"):
        sys.modules.pop(name, None)


@pytest.fixture(scope="module")
def digits(train):
    """The module with the data and the training."""
    return sys.modules["digits"]


@pytest.fixture(autouse=True, scope="module")
def one_thread():
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def data(train):
    return train.load()


@pytest.fixture(scope="module")
def written(train, tmp_path_factory):
    """The command with few steps: its folder."""
    folder = tmp_path_factory.mktemp("digits")
    train.main([str(folder), "--steps", str(STEPS)])
    return folder


def test_the_split_is_fixed_even_and_without_overlap(train, data):
    digits, held_out = data
    assert (len(digits.labels), len(held_out.labels)) == (1198, 599)
    assert digits.pictures.shape == (1198, 64, 64)
    assert digits.pictures.dtype == np.uint8
    assert np.array_equal(train.load()[1].pictures, held_out.pictures)
    assert np.bincount(held_out.labels).min() >= 57
    seen = {picture.tobytes() for picture in digits.pictures}
    assert sum(picture.tobytes() in seen for picture in held_out.pictures) == 0


def test_moved_digits_stay_the_same_digit(digits, data):
    pictures = torch.from_numpy(data[0].pictures[:64])
    torch.manual_seed(0)
    moved = digits.moved(pictures)
    assert moved.shape == pictures.shape
    assert moved.min() >= 0
    assert moved.max() <= 255.01
    assert (moved - pictures).abs().mean() > 1
    ink = moved.sum((1, 2)) / pictures.sum((1, 2))
    assert 0.6 < ink.min() < ink.max() < 1.6


def test_the_rate_rises_and_falls(train, digits):
    plan = train.Plan(steps=100, warm_up=10)
    rates = [digits.rate(step, plan) for step in range(101)]
    assert rates[:10] == sorted(rates[:10])
    assert rates[10] == 1
    assert rates[10:] == sorted(rates[10:], reverse=True)
    assert rates[100] == pytest.approx(0, abs=1e-9)


def test_a_short_training_lowers_the_loss(train, data):
    trained = train.train(
        lambda: train.MobileViT(train.ARCHITECTURE), train.Plan(steps=STEPS, batch=32, warm_up=4), *data, every_s=1e9
    )
    assert len(trained.losses) == STEPS
    assert np.mean(trained.losses[-4:]) < 0.85 * np.mean(trained.losses[:4])
    assert not trained.model.training


def test_the_pictures_are_written_as_folders(written, data):
    for split, digits in zip(("train", "val"), data, strict=True):
        files = sorted((written / split).glob("*/*.png"))
        assert len(files) == len(digits.labels)
        assert [int(file.parent.name) for file in sorted(files, key=lambda f: f.name)] == digits.labels.tolist()
        assert np.array_equal(
            np.asarray(Image.open(written / split / str(digits.labels[0]) / "0000.png")), digits.pictures[0]
        )


def test_the_file_is_as_the_references_and_holds_the_model(train, digits, written, data):
    file = torch.load(written / "digits.pth.tar", weights_only=True)
    assert {*file} == {"epoch", "state_dict", "best_acc1", "optimizer"}
    assert {name.split(".")[0] for name in file["state_dict"]} == {"module"}
    model = MobileViTFamily().load(str(written / "digits.pth.tar"), LoadOptions())
    component = model.component("model")
    assert component.signature.inputs[0].shape == ("batch", 3, 64, 64)
    assert component.answers["class"].names == train.NAMES
    picture = written / "val" / str(data[1].labels[0]) / "0000.png"
    expected = digits.normalised(torch.from_numpy(data[1].pictures[:1]))
    np.testing.assert_allclose(prepared(component.inputs["input"], picture), expected[0].numpy(), atol=1e-5)
    logits = component.reference(expected)
    assert logits.shape == (1, 10)
    assert file["best_acc1"] == pytest.approx(100 * train.accuracy(component.reference, data[1]))
