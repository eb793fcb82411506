"""Average precision against pycocotools, and data sets with boxes."""

import contextlib
import io
import json

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from PIL import Image

from torchlift.datasets import BoxData, ReadOptions, open_data
from torchlift.datasets.boxes import Truth, yolo_splits
from torchlift.errors import DataError
from torchlift.processing.boxes import Found
from torchlift.tasks.detection import Picture, average_precision, matched

CLASSES = 3


def made(seed, pictures=12, crowded=True):
    """Truth, and boxes that find some of it."""
    rng = np.random.default_rng(seed)
    truths, found = [], []
    for _ in range(pictures):
        count = rng.integers(0, 6)
        corners = rng.uniform(0, 80, (count, 2))
        boxes = np.concatenate([corners, corners + rng.uniform(5, 40, (count, 2))], axis=1)
        kinds = rng.integers(0, CLASSES - 1, count)
        crowds = (rng.random(count) < 0.15) & crowded
        truths.append(Truth(boxes, kinds, crowds))
        near = boxes + rng.uniform(-2.4, 2.4, boxes.shape)  # of 5 pixels or more: no box turns inside out
        far = rng.uniform(0, 60, (rng.integers(0, 5), 2))
        others = np.concatenate([far, far + rng.uniform(5, 40, far.shape)], axis=1)
        every = np.concatenate([near, near[: count // 2] + 1, others]).astype(np.float32)
        labels = np.concatenate([kinds, kinds[: count // 2], rng.integers(0, CLASSES, len(others))]).astype(np.int64)
        scores = rng.random(len(every)).round(2).astype(np.float32)
        order = np.argsort(-scores, kind="stable")
        found.append(Found(every[order], scores[order], labels[order]))
    return truths, found


def ours(found, truths):
    matches = matched(found, truths, CLASSES)
    outcomes = np.empty(len(truths), object)
    outcomes[:] = [Picture(i, matches) for i in range(len(truths))]
    return average_precision(outcomes, slice(0, 1)), average_precision(outcomes), outcomes


def cocos(found, truths):
    from pycocotools.coco import COCO
    from pycocotools.cocoeval import COCOeval

    images = [{"id": i + 1, "width": 1000, "height": 1000} for i in range(len(truths))]
    annotations = [
        {
            "id": 0,
            "image_id": i + 1,
            "category_id": int(kind) + 1,
            "bbox": [x0, y0, x1 - x0, y1 - y0],
            "area": (x1 - x0) * (y1 - y0),
            "iscrowd": int(crowd),
        }
        for i, truth in enumerate(truths)
        for (x0, y0, x1, y1), kind, crowd in zip(truth.boxes, truth.classes, truth.crowds, strict=True)
    ]
    for number, annotation in enumerate(annotations, 1):
        annotation["id"] = number
    results = [
        {"image_id": i + 1, "category_id": int(k) + 1, "bbox": [x0, y0, x1 - x0, y1 - y0], "score": float(s)}
        for i, one in enumerate(found)
        for (x0, y0, x1, y1), s, k in zip(one.boxes.astype(float), one.scores, one.classes, strict=True)
    ]
    with contextlib.redirect_stdout(io.StringIO()):
        coco = COCO()
        coco.dataset = {
            "images": images,
            "annotations": annotations,
            "categories": [{"id": i + 1, "name": str(i)} for i in range(CLASSES)],
        }
        coco.createIndex()
        evaluation = COCOeval(coco, coco.loadRes(results), "bbox")
        evaluation.evaluate()
        evaluation.accumulate()
        evaluation.summarize()
    # [overlaps, recalls, classes, areas, most]: all areas, the most boxes; -1 for a class without truth
    precision = evaluation.eval["precision"][:, :, :, 0, -1]
    by_class = [p[p > -1].mean() if (p > -1).any() else np.nan for p in np.moveaxis(precision, 2, 0)]
    return evaluation.stats[1], evaluation.stats[0], by_class


@pytest.mark.parametrize("seed", range(8))
def test_average_precision_is_pycocotools(seed):
    truths, found = made(seed)
    at50, mean, outcomes = ours(found, truths)
    theirs = cocos(found, truths)
    assert at50 == pytest.approx(theirs[0], abs=1e-6)
    assert mean == pytest.approx(theirs[1], abs=1e-6)
    by_class = outcomes[0].matches.by_class(slice(None))
    assert by_class == pytest.approx(theirs[2], abs=1e-6, nan_ok=True)
    assert np.isnan(by_class[CLASSES - 1])  # no box of it is true


def test_pictures_that_repeat_count_as_often():
    truths, found = made(1, crowded=False)
    _, _, outcomes = ours(found, truths)
    rows = np.array([0, 0, 3, 5, 5, 5, 7, 11])
    again = ours([found[i] for i in rows], [truths[i] for i in rows])
    assert average_precision(outcomes[rows]) == pytest.approx(again[1], abs=1e-9)


@given(st.integers(0, 1000))
def test_what_finds_all_is_right_and_what_finds_nothing_is_not(seed):
    truths, _ = made(seed, crowded=False)
    if not any(len(truth.boxes) for truth in truths):
        return
    perfect = [Found(t.boxes.astype(np.float32), np.ones(len(t.boxes), np.float32), t.classes) for t in truths]
    assert ours(perfect, truths)[0] == pytest.approx(1)
    none = [Found(np.zeros((0, 4), np.float32), np.zeros(0, np.float32), np.zeros(0, np.int64)) for _ in truths]
    nothing, _, outcomes = ours(none, truths)
    assert nothing == 0
    assert np.nansum(outcomes[0].matches.by_class(slice(None))) == 0


# Data sets.


def picture(file, width=40, height=20):
    file.parent.mkdir(parents=True, exist_ok=True)
    Image.new("RGB", (width, height)).save(file)


@pytest.fixture
def yolo(tmp_path):
    """Two pictures for validation, one of them background."""
    for name in ("a", "b"):
        picture(tmp_path / "images" / "val" / f"{name}.png")
    (tmp_path / "labels" / "val").mkdir(parents=True)
    (tmp_path / "labels" / "val" / "a.txt").write_text("0 0.5 0.5 0.5 1\n1 0 0 .5 0 .5 .5 0 .5\n")
    (tmp_path / "data.yaml").write_text("path: .\nval: images/val\nnc: 2\nnames: [circle, square]\n")
    return tmp_path


def test_yolos_labels_and_polygons_are_boxes_in_shares(yolo):
    data = open_data(yolo / "data.yaml")
    assert isinstance(data, BoxData)
    assert (data.names, data.relative, len(data.images)) == (("circle", "square"), True, 2)
    np.testing.assert_allclose(data.truths[0].boxes, [[0.25, 0, 0.75, 1], [0, 0, 0.5, 0.5]])
    assert data.truths[0].classes.tolist() == [0, 1]
    assert len(data.truths[1].boxes) == 0
    assert len(open_data(yolo).images) == 2, "the folder of data.yaml"
    assert len(open_data(yolo / "data.yaml", ReadOptions(limit=1)).images) == 1


def test_yolos_lists_of_files_and_names_as_a_mapping(yolo):
    (yolo / "val.txt").write_text("images/val/a.png\n")
    (yolo / "data.yaml").write_text("val: [val.txt]\nnames: {0: circle, 1: square}\n")
    data = open_data(yolo / "data.yaml")
    assert (len(data.images), data.names) == (1, ("circle", "square"))
    assert len(data.truths[0].boxes) == 2


def test_a_split_that_is_named_and_not_there_is_not_calibrated_on(yolo):
    file = yolo / "data.yaml"
    file.write_text("train: images/train\nval: images/val\nnames: [circle, square]\n")
    assert yolo_splits(file) == {"val"}
    assert len(open_data(file).images) == 2
    with pytest.raises(DataError, match="images/train"):
        open_data(file, ReadOptions(split="train"))
    picture(yolo / "images" / "train" / "c.png")
    assert yolo_splits(file) == {"train", "val"}


@pytest.mark.parametrize(
    ("line", "said"),
    [
        ("2 0.5 0.5 0.5 0.5", "outside 0..1"),
        ("-1 0.5 0.5 0.5 0.5", "outside 0..1"),
        ("0.5 0.5 0.5 0.5 0.5", "outside 0..1"),
        ("0 0.5 0.5", "a box is"),
        ("0 nan 0.5 0.5 0.5", "a box is"),
        ("0 5 5 0.5 0.5", "outside the picture"),
        ("0 0.5 0.5 0 0.5", "empty"),
        ("circle 0.5 0.5 0.5 0.5", "could not convert"),
    ],
)
def test_a_line_that_is_no_box_is_skipped_and_named(yolo, line, said):
    file = yolo / "labels" / "val" / "a.txt"
    file.write_text(f"{line}\n0 0.5 0.5 0.5 0.5\n")
    data = open_data(yolo / "data.yaml")
    assert data.skips.count == 1
    assert said in str(data.skips)
    assert "a.txt, line 1" in str(data.skips)
    assert len(data.truths[0].boxes) == 1
    with pytest.raises(DataError, match="line 1"):
        open_data(yolo / "data.yaml", ReadOptions(strict=True))


def test_a_box_that_reaches_out_of_the_picture_is_clipped(yolo):
    (yolo / "labels" / "val" / "a.txt").write_text("0 0 0.5 1 1\n")
    np.testing.assert_allclose(open_data(yolo / "data.yaml").truths[0].boxes, [[0, 0, 0.5, 1]])


@pytest.mark.parametrize(
    ("content", "said"),
    [
        ("val: nowhere\nnames: [a]", "nowhere"),
        ("val: images/val\nnames: []", "names no classes"),
        ("val: images/val\nnc: 3\nnames: [a]", "nc 3"),
        ("names: [a]", "no split|has the splits"),
        ("- 1", "no mapping"),
        ("a: [", "cannot be read"),
        ("!!python/object/apply:os.system [echo]", "cannot be read"),
    ],
)
def test_a_yaml_that_is_wrong_is_told(yolo, content, said):
    (yolo / "data.yaml").write_text(content)
    with pytest.raises(DataError, match=said):
        open_data(yolo / "data.yaml")


@pytest.fixture
def coco(tmp_path):
    picture(tmp_path / "val2017" / "1.png")
    said = {
        "images": [{"id": 7, "file_name": "1.png", "width": 40, "height": 20}],
        "categories": [{"id": 90, "name": "square"}, {"id": 3, "name": "circle"}],
        "annotations": [
            {"id": 1, "image_id": 7, "category_id": 90, "bbox": [1, 2, 10, 5], "iscrowd": 0},
            {"id": 2, "image_id": 7, "category_id": 3, "bbox": [0, 0, 40, 20], "iscrowd": 1},
        ],
    }
    file = tmp_path / "annotations" / "instances_val2017.json"
    file.parent.mkdir()

    def write(**more):
        file.write_text(json.dumps({**said, **more}))
        return file

    return write


def test_cocos_annotations_are_boxes_in_pixels(coco):
    data = open_data(coco())
    assert (data.names, data.relative) == (("circle", "square"), False)
    (truth,) = data.truths
    np.testing.assert_allclose(truth.boxes, [[1, 2, 11, 7], [0, 0, 40, 20]])
    assert (truth.classes.tolist(), truth.crowds.tolist()) == ([1, 0], [False, True])
    assert Image.open(io.BytesIO(data.images.read(0))).size == (40, 20)


def test_annotations_that_are_wrong_are_skipped_or_refused(coco):
    wrong = [
        {"id": 1, "image_id": 8, "category_id": 3, "bbox": [1, 2, 10, 5]},
        {"id": 2, "image_id": 7, "category_id": 4, "bbox": [1, 2, 10, 5]},
        {"id": 3, "image_id": 7, "category_id": 3, "bbox": [50, 2, 10, 5]},
        {"id": 4, "image_id": 7, "category_id": 3, "bbox": [1, 2, 0, 5]},
    ]
    assert open_data(coco(annotations=wrong)).skips.count == 4
    with pytest.raises(DataError, match="no COCO"):
        open_data(coco(images=[{"id": 1}]))
    with pytest.raises(DataError, match="outside"):
        open_data(coco(images=[{"id": 7, "file_name": "../x.png", "width": 4, "height": 4}], annotations=[]))
    with pytest.raises(DataError, match="not there"):
        open_data(coco(images=[{"id": 7, "file_name": "2.png", "width": 4, "height": 4}], annotations=[]))
    file = coco()
    file.write_text(file.read_text()[:-20])
    with pytest.raises(DataError, match="cut off"):
        open_data(file)
