"""``torchlift run`` of a detector: what is printed, drawn and written."""

import click
import numpy as np
import pytest
from colour_models import Numpy, bundle_of
from detectors import BOXES, IMAGE, SIGNATURE, cells, lit
from PIL import Image

from torchlift.cli.running.detection import answer
from torchlift.errors import InputError
from torchlift.pipelines import of_bundle

MARKS = [(0, 1, 2), (2, 5, 0)]


@pytest.fixture
def asked(tmp_path):
    """Ask a detector about the pictures a.png and b.png, or those named; HERE is their folder."""
    declared = {"model": ({"image": IMAGE}, {"found": BOXES})}
    bundle = bundle_of(tmp_path / "cells", "detection", {}, {"model": SIGNATURE}, declared)
    pipeline = of_bundle(bundle, {"model": Numpy(SIGNATURE, cells)})
    for name, marks in (("a", MARKS), ("b", [])):
        Image.fromarray(lit(marks)).save(tmp_path / f"{name}.png")

    def ask(*names, outputs=(), draw=None, **given):
        images = tuple(str(tmp_path / name) for name in names)
        drawing = {} if draw is None else {"draw": draw.replace("HERE", str(tmp_path))}
        outputs = tuple(text.replace("HERE", str(tmp_path)) for text in outputs)
        return answer(pipeline, {"images": images, **drawing, **given}, outputs).said

    return ask


def test_boxes_are_told_for_each_picture(asked, tmp_path):
    said = asked("a.png", "b.png")
    assert said[str(tmp_path / "b.png")] == []
    told = {one["name"]: one["box"] for one in said[str(tmp_path / "a.png")]}
    assert told == {"red": [8, 16, 16, 24], "blue": [40, 0, 48, 8]}


@pytest.mark.parametrize("name", ["boxes.png", "boxes.jpg", "boxes.WEBP"])
def test_one_picture_is_drawn_into_the_file(asked, tmp_path, name):
    asked("a.png", draw=f"HERE/{name}")
    with Image.open(tmp_path / name) as drawn:
        assert drawn.size == (64, 64)
        assert np.abs(np.asarray(drawn.convert("RGB"), int) - lit(MARKS)).max() > 100


def test_several_pictures_are_drawn_into_a_folder(asked, tmp_path):
    asked("a.png", "b.png", draw="HERE/new/drawn")
    assert sorted(file.name for file in (tmp_path / "new/drawn").iterdir()) == ["a.png", "b.png"]


@pytest.mark.parametrize("draw", ["HERE/a.psd", "HERE/a", "HERE/a.gif", "HERE/a.png", "HERE"])
def test_what_cannot_be_drawn_into_is_wrong_usage_and_no_picture_is_lost(asked, tmp_path, draw):
    before = (tmp_path / "a.png").read_bytes()
    with pytest.raises(click.UsageError, match="--draw"):
        asked("a.png", draw=draw)
    assert (tmp_path / "a.png").read_bytes() == before


def test_a_file_in_place_of_a_folder_is_wrong_usage(asked):
    with pytest.raises(click.UsageError, match="folder"):
        asked("a.png", "b.png", draw="HERE/a.png")


def test_a_picture_too_large_for_the_format_is_told_and_leaves_nothing(asked, tmp_path):
    Image.new("L", (20_000, 2)).save(tmp_path / "wide.png")
    with pytest.raises(InputError, match=r"wide\.webp"):
        asked("wide.png", draw="HERE/wide.webp")
    assert sorted(file.name for file in tmp_path.glob("*wide*")) == ["wide.png"]


def test_arrays_have_places_scores_and_numbers_of_classes(asked, tmp_path):
    asked("a.png", outputs=["HERE/found.npy"])
    found = np.load(tmp_path / "found.npy")
    assert (found.dtype, found.shape) == (np.float32, (2, 6))
    assert {tuple(row[:4]): int(row[5]) for row in found} == {(8, 16, 16, 24): 0, (40, 0, 48, 8): 2}
    asked("a.png", "b.png", outputs=["HERE/both.npz"])
    both = np.load(tmp_path / "both.npz")
    assert {name: both[name].shape for name in both} == {"boxes0": (2, 6), "boxes1": (0, 6)}


def test_options_go_to_the_detector(asked, tmp_path):
    (found,) = asked("a.png", classes=("blue",), most=1, confidence=0.9).values()
    assert [one["name"] for one in found] == ["blue"]
    with pytest.raises(click.UsageError, match="--image"):
        asked()
