"""Candidates to boxes: suppression against its plain definition, and places in the picture."""

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from torchlift.declare.answers import Boxes
from torchlift.declare.inputs import ImageInput
from torchlift.errors import InputError
from torchlift.processing.boxes import Detection, found_boxes, overlaps, suppressed
from torchlift.processing.drawing import drawn
from torchlift.processing.image import Frame, frame_of, pixels_of

NAMES = ("helmet", "head", "person")
WHOLE = Frame(640, 640, 640, 640, 0, 0)


def edges_of(seed, count, side=20.0):
    rng = np.random.default_rng(seed)
    corners = rng.uniform(0, 60, (count, 2))
    return np.concatenate([corners, corners + rng.uniform(1, side, (count, 2))], axis=1)


def plainly(edges, kinds, limit, most):
    """Suppression as it is defined, pair by pair."""
    kept = []
    for i in range(len(edges)):
        rivals = [j for j in kept if kinds is None or kinds[i] == kinds[j]]
        if not rivals or overlaps(edges[i : i + 1], edges[rivals]).max() <= limit:
            kept.append(i)
    return kept[:most]


@given(st.integers(0, 10**6), st.integers(0, 60), st.sampled_from([0.0, 0.3, 0.45, 0.9, 1.0]), st.booleans())
def test_suppression_is_as_it_is_defined(seed, count, limit, agnostic):
    edges = edges_of(seed, count)
    kinds = None if agnostic else np.random.default_rng(seed).integers(0, 3, count)
    assert suppressed(edges, kinds, limit, 300).tolist() == plainly(edges, kinds, limit, 300)
    assert suppressed(edges, kinds, limit, 4).tolist() == plainly(edges, kinds, limit, 4)


@pytest.mark.parametrize("agnostic", [False, True])
@pytest.mark.parametrize("most", [3, 200, 500])
def test_suppression_of_more_boxes_than_a_block_is_as_it_is_defined(agnostic, most):
    edges = edges_of(7, 600, side=12.0)
    kinds = None if agnostic else np.random.default_rng(7).integers(0, 3, 600)
    kept = suppressed(edges, kinds, 0.2, most).tolist()
    assert kept == plainly(edges, kinds, 0.2, most)
    assert len(kept) == most or most == 500


def test_of_very_many_candidates_the_best_are_compared(monkeypatch):
    monkeypatch.setattr("torchlift.processing.boxes.MOST_CANDIDATES", 2)
    rows = candidates([10, 10, 4, 4, 0.5, 0, 0], [30, 30, 4, 4, 0.9, 0, 0], [50, 50, 4, 4, 0.5, 0, 0])
    found = found_boxes(Boxes(NAMES, objectness=False), rows.T, WHOLE)
    assert found.boxes[:, 0].tolist() == [28, 8], "of equal scores the first stays"


def candidates(*rows):
    """YOLOv5's: x, y, width, height, objectness, class scores."""
    return np.array(rows, np.float32)


def test_a_box_has_its_best_class_and_its_score_is_the_product():
    declared = Boxes(NAMES, objectness=True)
    found = found_boxes(declared, candidates([100, 50, 20, 10, 0.8, 0.1, 0.9, 0.5], [9, 9, 4, 4, 0.2, 1, 1, 1]), WHOLE)
    np.testing.assert_allclose(found.boxes, [[90, 45, 110, 55]])
    np.testing.assert_allclose(found.scores, [0.72], rtol=1e-6)
    assert found.named(NAMES)[0].name == "head"
    every = found_boxes(declared, candidates([100, 50, 20, 10, 0.8, 0.1, 0.9, 0.5]), WHOLE, every_class=True)
    assert every.classes.tolist() == [1, 2]


def test_yolov8s_layout_is_the_other_way_round():
    declared = Boxes(NAMES, objectness=False)
    rows = candidates([100, 50, 20, 10, 0.1, 0.9, 0.5], [9, 9, 4, 4, 0.1, 0.1, 0.1])
    found = found_boxes(declared, rows.T, WHOLE)
    assert found.classes.tolist() == [1]
    np.testing.assert_allclose(found.boxes, [[90, 45, 110, 55]])


def test_only_the_classes_that_are_wanted_and_at_most_so_many():
    declared = Boxes(NAMES, objectness=False, most=1)
    rows = candidates([10, 10, 4, 4, 0.9, 0, 0], [30, 30, 4, 4, 0, 0.8, 0], [50, 50, 4, 4, 0, 0.7, 0])
    assert found_boxes(declared, rows.T, WHOLE, classes=[1]).boxes[:, 0].tolist() == [28]


def test_what_is_not_finite_is_no_box():
    declared = Boxes(NAMES, objectness=True)
    rows = candidates([np.nan, 5, 2, 2, 1, 1, 0, 0], [5, 5, np.inf, 2, 1, 1, 0, 0], [5, 5, 2, 2, np.nan, 1, 0, 0])
    assert len(found_boxes(declared, rows, WHOLE).boxes) == 0
    assert len(found_boxes(declared, rows[:0], WHOLE).boxes) == 0


@pytest.mark.parametrize("shape", [(480, 640), (8000, 100), (1, 1), (3, 900), (641, 639)])
@pytest.mark.parametrize("stride", [None, 32])
def test_a_box_is_where_it_was_in_the_picture(shape, stride):
    image = ImageInput((640, 640), fit="letterbox", stride=stride, resample="linear")
    picture = np.zeros((*shape, 3), np.uint8)
    frame = frame_of(image, picture)
    pixels = pixels_of(image, picture)
    inside = np.argwhere((pixels != 114).any(axis=2))
    assert inside.min(axis=0).tolist() == [frame.top, frame.left]
    assert (inside.max(axis=0) + 1).tolist() == [frame.top + frame.rows, frame.left + frame.columns]
    whole = [frame.left + frame.columns / 2, frame.top + frame.rows / 2, frame.columns, frame.rows]
    found = found_boxes(Boxes(("x",), objectness=False), np.array([[*whole, 1.0]], np.float32).T, frame)
    np.testing.assert_allclose(found.boxes, [[0, 0, shape[1], shape[0]]], atol=1e-2)


def test_boxes_are_clipped_to_the_picture():
    found = found_boxes(Boxes(("x",), objectness=False), np.array([[0, 0, 2000, 20, 1.0]], np.float32).T, WHOLE)
    assert found.boxes.tolist() == [[0, 0, 640, 10]]


def test_places_of_a_cropped_picture_are_refused():
    with pytest.raises(InputError, match="cropped"):
        frame_of(ImageInput((4, 4), fit="crop"), np.zeros((5, 5, 3), np.uint8))


def test_linear_takes_the_four_pixels_around_each_place():
    picture = np.random.default_rng(0).integers(0, 256, (37, 53, 3), np.uint8)
    for rows, columns in ((19, 27), (80, 111), (37, 53)):
        made = pixels_of(ImageInput((rows, columns), resample="linear", fit="stretch"), picture).astype(float)
        ys = ((np.arange(rows) + 0.5) * 37 / rows - 0.5).clip(0, 36)
        xs = ((np.arange(columns) + 0.5) * 53 / columns - 0.5).clip(0, 52)
        y0, x0 = np.floor(ys).astype(int), np.floor(xs).astype(int)
        y1, x1 = np.minimum(y0 + 1, 36), np.minimum(x0 + 1, 52)
        fy, fx = (ys - y0)[:, None, None], (xs - x0)[None, :, None]
        top = picture[y0][:, x0] * (1 - fx) + picture[y0][:, x1] * fx
        below = picture[y1][:, x0] * (1 - fx) + picture[y1][:, x1] * fx
        assert np.abs(made - (top * (1 - fy) + below * fy)).max() < 1.001


@pytest.mark.parametrize(
    "wrong",
    [{"names": ()}, {"names": (1,)}, {"confidence": 1.5}, {"overlap": -1}, {"most": 0}, {"confidence": "high"}],
)
def test_what_is_no_declaration_of_boxes_is_refused(wrong):
    with pytest.raises(InputError):
        Boxes(**{"names": NAMES, "objectness": True, **wrong})


def test_boxes_are_drawn_where_they_are():
    from PIL import Image

    found = [Detection("head", 0.9, (10.0, 20.0, 60.0, 80.0)), Detection("helmet", 0.5, (0.0, 0.0, 200.0, 200.0))]
    picture = np.asarray(drawn(Image.new("L", (100, 100)), found, NAMES))
    assert picture.shape == (100, 100, 3)
    assert picture[50, 10].any()
    assert picture[80, 30].any()
    assert not picture[50, 35].any()
