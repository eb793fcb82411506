"""A detector opened for use: pictures of every size and kind to boxes in their own pixels."""

import io

import numpy as np
import pytest
from colour_models import Numpy, bundle_of
from detectors import BOXES, CELL, IMAGE, SIGNATURE, cells, lit
from PIL import Image

from torchlift.declare.answers import Raw
from torchlift.errors import BundleError, InputError
from torchlift.pipelines import of_bundle

MARKS = [(0, 1, 2), (2, 5, 0)]


def bundle(folder, answer=BOXES):
    declared = {"model": ({"image": IMAGE}, {"found": answer})}
    return bundle_of(folder, "detection", {}, {"model": SIGNATURE}, declared)


@pytest.fixture
def detect(tmp_path):
    return of_bundle(bundle(tmp_path / "cells"), {"model": Numpy(SIGNATURE, cells)})


def places(found):
    return {(one.name, *one.box) for one in found}


def expected(marks):
    return {(BOXES.names[kind], c * CELL, r * CELL, (c + 1) * CELL, (r + 1) * CELL) for kind, c, r in marks}


def test_boxes_are_in_pixels_of_each_picture_in_the_order_given(detect):
    wide = lit([(1, 7, 3)], height=32)
    found = detect([lit(MARKS), lit([]), wide])
    assert [places(one) for one in found] == [expected(MARKS), set(), expected([(1, 7, 3)])]
    assert all(one.score == pytest.approx(1) for boxes in found for one in boxes)


def test_paths_bytes_and_pillow_pictures_give_the_same(detect, tmp_path):
    picture = Image.fromarray(lit(MARKS))
    picture.save(tmp_path / "a.png")
    encoded = io.BytesIO()
    picture.save(encoded, "PNG")
    found = detect([tmp_path / "a.png", str(tmp_path / "a.png"), encoded.getvalue(), picture])
    assert [places(one) for one in found] == [expected(MARKS)] * 4


def test_a_larger_picture_has_boxes_as_much_larger(detect):
    (found,) = detect([np.kron(lit(MARKS), np.ones((4, 4, 1), np.uint8))])
    large = {(name, *(edge * 4 for edge in box)) for name, *box in expected(MARKS)}
    assert places(found) == large


@pytest.mark.parametrize("size", [(1, 50), (50, 1), (3, 8000), (1, 1), (17, 33)])
def test_pictures_of_any_size_have_their_boxes_within_them(detect, size):
    (found,) = detect([np.full((*size, 3), 255, np.uint8)], confidence=0.01)
    for one in found:
        x0, y0, x1, y1 = one.box
        assert 0 <= x0 <= x1 <= size[1]
        assert 0 <= y0 <= y1 <= size[0]


@pytest.mark.parametrize("size", [None, 1, 3])
def test_batches_do_not_change_what_is_found(detect, size):
    pictures = [lit([(i % 3, i, i)], height=64 if i % 2 else 32) for i in range(4)]
    assert [places(one) for one in detect(pictures, size=size)] == [expected([(i % 3, i, i)]) for i in range(4)]


def test_what_a_caller_asks_for_takes_the_place_of_what_is_declared(detect):
    dim = lit(MARKS) // 5 * 4
    assert places(detect([lit(MARKS)], classes=["blue"])[0]) == expected(MARKS[1:])
    assert len(detect([lit(MARKS)], most=1)[0]) == 1
    assert detect([dim], confidence=0.9)[0] == []
    assert len(detect([dim], confidence=0.2)[0]) == 2


@pytest.mark.parametrize("pictures", [[], "a.png", lit([])])
def test_no_list_of_pictures_is_refused(detect, pictures):
    with pytest.raises(InputError):
        detect(pictures)


@pytest.mark.parametrize(
    "wrong", [{"classes": ["white"]}, {"confidence": 2}, {"overlap": -1}, {"most": 0}, {"confidence": "high"}]
)
def test_what_cannot_be_asked_is_refused(detect, wrong):
    with pytest.raises(InputError):
        detect([lit([])], **wrong)


def test_a_picture_that_cannot_be_read_is_named(detect):
    with pytest.raises(InputError, match="picture 1"):
        detect([lit([]), b"no picture"])


def test_a_bundle_without_boxes_is_no_detector(tmp_path):
    with pytest.raises(BundleError, match="boxes"):
        of_bundle(bundle(tmp_path / "raw", Raw()), {"model": Numpy(SIGNATURE, cells)})
