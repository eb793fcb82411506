"""Which split samples are drawn from."""

import gated
import pytest
from PIL import Image

from torchlift.convert.calibration import CalibrationOptions
from torchlift.datasets import ReadOptions
from torchlift.jobs import DataOptions, JobOptions
from torchlift.stages import ConvertOptions, train_split


@pytest.fixture
def splits(tmp_path):
    """Maker of class folders in folders a split."""

    def make(*names):
        for seed, name in enumerate(names):
            gated.write_pictures(tmp_path / "data" / name, 1, seed)
        return tmp_path / "data"

    return make


def test_the_split_train_is_what_is_calibrated_on(splits):
    data = splits("train", "val")
    assert train_split(data, ReadOptions(), "") == ReadOptions(split="train")
    found = JobOptions(data=DataOptions(data)).calibration()
    assert (found.source, found.read.split) == (data, "train")


def test_pictures_without_labels_are_calibrated_on_their_split_train(tmp_path):
    for split in ("train", "valid"):
        (tmp_path / split).mkdir()
        Image.new("RGB", (8, 8)).save(tmp_path / split / "0.png")
    found = JobOptions(data=DataOptions(tmp_path)).calibration()
    assert (found.source, found.read.split) == (tmp_path, "train")
    (tmp_path / "train" / "0.png").rename(tmp_path / "train" / "notes.txt")
    assert JobOptions(data=DataOptions(tmp_path)).calibration().source is None, "it has no images"


def test_what_is_scored_is_not_calibrated_on(splits):
    data = splits("train")
    assert train_split(data, ReadOptions(), "") is None, "it is the only split, and so the one that is scored"
    assert train_split(data, ReadOptions(), "train") is None
    assert JobOptions(data=DataOptions(data)).calibration().source is None


def test_of_data_to_calibrate_on_the_split_train_comes_first(splits):
    data = splits("train", "val")
    found = JobOptions(convert=ConvertOptions(CalibrationOptions("entropy", source=data))).calibration()
    assert (found.method, found.source, found.read.split) == ("entropy", data, "train")
    val = JobOptions(convert=ConvertOptions(CalibrationOptions(source=data, read=ReadOptions("val"))))
    assert val.calibration().read.split == "val"


def test_no_more_samples_are_read_than_a_calibration_runs(splits):
    data = splits("train", "val")
    assert JobOptions(data=DataOptions(data)).calibration().read.limit == JobOptions().convert.calibration.samples
