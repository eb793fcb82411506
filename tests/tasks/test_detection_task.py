"""The task of detection asked of a detector in NumPy whose every box is known."""

import json

import msgspec
import numpy as np
import pytest
from colour_models import Numpy, Remembering, bundle_of
from detectors import BOXES, IMAGE, NAMES, SIGNATURE, cells, lit, write_data
from PIL import Image

from torchlift.declare.answers import Raw
from torchlift.errors import DataError
from torchlift.pipelines.run import Loader
from torchlift.tasks import metric_of, open_task
from torchlift.tasks.statistics import estimate, paired_drop


def bundle(folder, answer=BOXES):
    declared = {"model": ({"image": IMAGE}, {"found": answer})}
    return bundle_of(folder, "detection", {}, {"model": SIGNATURE}, declared)


def outcomes(task, function=cells):
    with Loader() as loader:
        return task.outcomes({"model": task.ask("model", Numpy(SIGNATURE, function), loader)})


def value(task, metric, function=cells):
    return estimate(metric_of(task, metric), outcomes(task, function)[metric])


def blind_to_blue(images):
    found = cells(images)
    found[..., 7] = 0
    return found


@pytest.fixture
def data(tmp_path):
    return write_data(tmp_path / "data")


def test_a_detector_that_is_right_has_all_and_one_that_misses_a_class_two_thirds(data, tmp_path):
    task = open_task(bundle(tmp_path / "cells"), data)
    assert (task.name, task.primary, task.components) == ("detection", "map50", ("model",))
    assert task.data.samples == {"images": 12, "boxes": 36, "classes": 3}
    for metric in ("map50", "map"):
        assert value(task, metric).value == pytest.approx(100)
        assert value(task, metric, blind_to_blue).value == pytest.approx(200 / 3)
    with Loader() as loader:
        answers = task.ask("model", Numpy(SIGNATURE, blind_to_blue), loader)
    by_class = task.by_class({"model": answers})
    assert {name: found["map"] for name, found in by_class.items()} == pytest.approx(
        {name: 0.0 if name == "blue" else 100.0 for name in NAMES}
    )


def test_a_drop_is_paired_by_picture(data, tmp_path):
    task = open_task(bundle(tmp_path / "cells"), data)
    right, blind = outcomes(task)["map50"], outcomes(task, blind_to_blue)["map50"]
    drop = paired_drop(metric_of(task, "map50"), right, blind)
    assert drop.value == pytest.approx(100 / 3)
    assert paired_drop(metric_of(task, "map50"), right, right).high == 0


def test_what_a_caller_is_given_by_default_does_not_limit_the_score(data, tmp_path):
    few = msgspec.structs.replace(BOXES, most=1, confidence=1.0, agnostic=True)
    assert value(open_task(bundle(tmp_path / "cells", few), data), "map50").value == pytest.approx(100)


def test_pictures_that_are_resized_are_scored_in_their_own_pixels(data, tmp_path):
    for file in (data.parent / "images/val").iterdir():
        large = np.kron(np.asarray(Image.open(file)), np.ones((4, 4, 1), np.uint8))
        Image.fromarray(large).save(file)
    assert value(open_task(bundle(tmp_path / "cells"), data), "map").value == pytest.approx(100)


def test_classes_are_matched_by_name_else_by_order_and_that_is_noted(data, tmp_path):
    detector, progress = bundle(tmp_path / "cells"), Remembering()
    labels = data.parent / "labels/val"
    for file in labels.iterdir():
        lines = [line.split(" ", 1) for line in file.read_text().splitlines()]
        file.write_text("\n".join(f"{2 - int(kind)} {rest}" for kind, rest in lines))
    data.write_text(f"val: images/val\nnames: [{', '.join(reversed(NAMES))}]")
    assert value(open_task(detector, data, progress=progress), "map50").value == pytest.approx(100)
    assert progress.notes == []
    data.write_text("val: images/val\nnames: [rot, gruen, blau]")
    assert value(open_task(detector, data, progress=progress), "map50").value < 50
    assert any("by order" in note for note in progress.notes)
    data.write_text("val: images/val\nnames: [rot, gruen, blau, gelb]")
    with pytest.raises(DataError, match="4 classes, the model has 3"):
        open_task(detector, data)


def test_pictures_that_are_not_there_or_broken_are_skipped_and_counted(data, tmp_path):
    (data.parent / "images/val/0.png").write_bytes(b"no picture")
    names = [*range(12), 99]
    (data.parent / "val.txt").write_text("\n".join(f"images/val/{name}.png" for name in names))
    data.write_text(f"val: val.txt\nnames: [{', '.join(NAMES)}]")
    task = open_task(bundle(tmp_path / "cells"), data)
    assert task.data.samples["images"] == 11
    assert value(task, "map50").value == pytest.approx(100)


def test_data_without_a_box_are_refused(data, tmp_path):
    for file in (data.parent / "labels/val").iterdir():
        file.write_text("")
    with pytest.raises(DataError, match=r"no picture .* has a box"):
        open_task(bundle(tmp_path / "cells"), data)


def test_a_model_without_boxes_is_told_what_to_declare(data, tmp_path):
    with pytest.raises(DataError) as caught:
        open_task(bundle(tmp_path / "raw", Raw()), data)
    assert "Boxes" in caught.value.remedy


def test_cocos_crowds_are_of_no_account(tmp_path):
    (tmp_path / "images").mkdir()
    Image.fromarray(lit([(0, 1, 2), (1, 5, 0)])).save(tmp_path / "images/1.png")
    box = {"image_id": 1, "category_id": 1, "bbox": [8, 16, 8, 8], "iscrowd": 0}
    crowd = {"image_id": 1, "category_id": 2, "bbox": [32, 0, 32, 32], "iscrowd": 1}
    said = {
        "images": [{"id": 1, "file_name": "1.png", "width": 64, "height": 64}],
        "categories": [{"id": number, "name": name} for number, name in enumerate(NAMES, 1)],
        "annotations": [{"id": 1, **box}, {"id": 2, **crowd}],
    }
    file = tmp_path / "instances.json"
    file.write_text(json.dumps(said))
    progress = Remembering()
    task = open_task(bundle(tmp_path / "cells"), file, progress=progress)
    assert any(str(tmp_path / "images") in note for note in progress.notes)
    assert task.data.samples["boxes"] == 1
    assert value(task, "map50").value == pytest.approx(100)
    file.write_text(json.dumps({**said, "annotations": [{"id": 2, **crowd}]}))
    with pytest.raises(DataError, match="has a box"):
        open_task(bundle(tmp_path / "other"), file)
