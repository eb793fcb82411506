import numpy as np
import pytest
from datafiles import contents, encoded, read

from torchlift.datasets import ImageData, LabelledData, ZeroShotData
from torchlift.datasets.labelled import PROMPTS
from torchlift.errors import DataError


def folders(root, classes):
    """Class folder -> number of pictures."""
    for kind, count in classes.items():
        (root / kind).mkdir(parents=True)
        for i in range(count):
            (root / kind / f"{i:03}.png").write_bytes(encoded(i))
    return root


def test_classes_are_the_folders_in_sorted_order(tmp_path):
    folders(tmp_path, {"b": 2, "a": 1, "10": 1, "9": 1})
    (tmp_path / "b" / "deep").mkdir()
    (tmp_path / "b" / "deep" / "x.JPEG").write_bytes(encoded(7))
    (tmp_path / "b" / "notes.txt").write_text("no picture")
    (tmp_path / ".cache").mkdir()
    data = read(tmp_path)
    assert type(data) is LabelledData
    assert data.classes == ("10", "9", "a", "b")
    assert [*data.images.ids] == ["10/000.png", "9/000.png", "a/000.png", "b/000.png", "b/001.png", "b/deep/x.JPEG"]
    np.testing.assert_array_equal(data.labels, [0, 1, 2, 3, 3, 3])
    assert contents(data.images)["b/deep/x.JPEG"] == encoded(7)


def test_a_class_folder_without_images_is_refused(tmp_path):
    folders(tmp_path, {"cat": 1, "dog": 0})
    with pytest.raises(DataError, match=r"dog has no images") as caught:
        read(tmp_path)
    assert ".jpeg" in caught.value.remedy


def test_a_split_is_a_folder_of_class_folders(tmp_path):
    folders(tmp_path / "train", {"a": 1, "b": 1})
    folders(tmp_path / "val", {"a": 2, "b": 1})
    data = read(tmp_path)
    assert (data.name, len(data.images)) == (f"{tmp_path.name}/val", 3)
    assert len(read(tmp_path, split="train").images) == 2
    assert len(read(tmp_path / "train").images) == 2
    with pytest.raises(DataError, match="no split 'test'") as caught:
        read(tmp_path, split="test")
    assert "train, val" in caught.value.remedy


def test_a_limit_gives_every_class_its_share(tmp_path):
    data = read(folders(tmp_path, {"a": 8, "b": 8, "c": 8}), limit=6)
    np.testing.assert_array_equal(np.bincount(data.labels), [2, 2, 2])
    assert len(read(tmp_path, limit=1).images) == 1


@pytest.mark.parametrize("place", [".", "test"])
def test_labels_make_zero_shot_data(tmp_path, place):
    folders(tmp_path / "test", {"000": 1, "001": 2})
    (tmp_path / place / "label_cn.txt").write_bytes("\ufeff猫\r\n 狗 \n\n".encode())
    data = read(tmp_path)
    assert type(data) is ZeroShotData
    assert data.captions == ("猫", "狗")
    assert data.texts == tuple(p.replace("{}", c) for c in ("猫", "狗") for p in PROMPTS)
    assert len({*PROMPTS}) == len(PROMPTS)


@pytest.mark.parametrize("labels", ["猫", "猫\n狗\n鸟"])
def test_another_number_of_labels_than_folders_is_refused(tmp_path, labels):
    folders(tmp_path, {"000": 1, "001": 2})
    (tmp_path / "label_cn.txt").write_text(labels, "utf-8")
    with pytest.raises(DataError, match=f"has {labels.count(chr(10)) + 1} labels for 2 class folders") as caught:
        read(tmp_path)
    assert "000, 001" in caught.value.remedy


def test_labels_that_are_not_utf8_are_refused(tmp_path):
    folders(tmp_path, {"000": 1})
    (tmp_path / "label_cn.txt").write_bytes("狗狗".encode("gb18030"))
    with pytest.raises(DataError, match="is not UTF-8"):
        read(tmp_path)


def test_prompts_of_a_file_replace_ours(tmp_path):
    folders(tmp_path / "data", {"000": 1})
    (tmp_path / "data" / "label_cn.txt").write_text("猫", "utf-8")
    prompts = tmp_path / "prompts.txt"
    prompts.write_text("这是{}。\n{}呀\n", "utf-8")
    assert read(tmp_path / "data", prompts=prompts).texts == ("这是猫。", "猫呀")


@pytest.mark.parametrize(
    ("written", "message"),
    [
        ("这是{}\n没有", "line 2: the prompt '没有' has no"),
        ("\n", "no prompts"),
        (None, "cannot be read"),
    ],
)
def test_prompts_without_a_place_for_the_label_are_refused(tmp_path, written, message):
    folders(tmp_path / "data", {"000": 1})
    (tmp_path / "data" / "label_cn.txt").write_text("猫", "utf-8")
    if written:
        (tmp_path / "prompts.txt").write_text(written, "utf-8")
    with pytest.raises(DataError, match=message):
        read(tmp_path / "data", prompts=tmp_path / "prompts.txt")


def test_images_without_class_folders_have_no_labels(tmp_path):
    for i in range(3):
        (tmp_path / f"{i}.png").write_bytes(encoded(i))
    data = read(tmp_path, limit=2)
    assert type(data) is ImageData
    assert contents(data.images) == {"0.png": encoded(0), "2.png": encoded(2)}


def test_an_image_that_went_away_is_an_error_that_names_it(tmp_path):
    (tmp_path / "cat.png").write_bytes(encoded())
    data = read(tmp_path)
    (tmp_path / "cat.png").unlink()
    with pytest.raises(DataError, match=r"image cat.png cannot be read: No such file"):
        data.images.read(0)


@pytest.mark.parametrize("found", [[], ["a.csv", "b.csv", "c.csv", "d.csv", "e.csv", "f.csv", "g.csv"]])
def test_a_folder_of_no_known_kind_says_what_is_there_and_what_is_expected(tmp_path, found):
    for name in found:
        (tmp_path / name).write_text("x")
    with pytest.raises(DataError, match="no data set that is known") as caught:
        read(tmp_path)
    assert ("has nothing" if not found else "a.csv, b.csv, c.csv, d.csv, e.csv and 2 more") in caught.value.message
    assert all(kind in caught.value.remedy for kind in ("_imgs.tsv", "lmdb/<split>/imgs", "label_cn.txt", "a class"))


def test_what_is_not_there_or_no_data_is_refused(tmp_path):
    with pytest.raises(DataError, match="does not exist"):
        read(tmp_path / "nowhere")
    (tmp_path / "model.onnx").write_text("x")
    with pytest.raises(DataError, match="no data set that is known") as caught:
        read(tmp_path / "model.onnx")
    assert ".npz" in caught.value.remedy
