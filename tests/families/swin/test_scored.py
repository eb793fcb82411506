"""A Swin is scored on class folders and on labelled records of an LMDB, as ImageNet lies there."""

from __future__ import annotations

import pickle

import datafiles
import numpy as np
import pytest
import torch
from PIL import Image

import torchlift as tl

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning", "ignore::FutureWarning")

PICTURES = 14


@pytest.fixture(scope="module")
def pictures():
    rng = np.random.default_rng(0)
    coarse = rng.integers(0, 256, (PICTURES, 8, 8, 3), np.uint8)
    return [Image.fromarray(pixels).resize((64, 64), Image.Resampling.NEAREST) for pixels in coarse]


@pytest.fixture
def shipped(write, open_model, pictures, tmp_path):
    """A bundle, and the class that PyTorch finds in each picture."""
    file = write()
    picture = open_model(file).picture
    from torchlift.processing.image import prepared

    with torch.no_grad():
        batch = torch.from_numpy(np.stack([prepared(picture, p) for p in pictures]))
        found = open_model(file).component("model").reference(batch).argmax(1).tolist()
    tl.ship("swin", file, tmp_path / "net", backends=["onnxruntime"], precisions=["fp32"], batches=[1], rounds=2)
    return tmp_path / "net", found


def test_class_folders_and_an_lmdb_give_the_same_score(shipped, pictures, tmp_path):
    """Two of the labels are wrong on purpose."""
    net, found = shipped
    labels = [(label + (number < 2)) % 7 for number, label in enumerate(found)]
    folder = tmp_path / "val"
    for number in range(7):
        (folder / f"class {number}").mkdir(parents=True)
        pictures[0].save(folder / f"class {number}" / "same.png")  # a class needs a picture
    for number, (picture, label) in enumerate(zip(pictures, labels, strict=True)):
        picture.save(folder / f"class {label}" / f"{number}.png")
    records = {b"%03d" % n: pickle.dumps((png_of(p), c)) for n, (p, c) in enumerate(zip(pictures, labels, strict=True))}
    datafiles.database(tmp_path / "lmdb", records)
    right = sum(a == b for a, b in zip(found, labels, strict=True))
    from_folders = tl.score(net, data=folder).scoring.metrics["top1"].value
    from_records = tl.score(net, data=tmp_path / "lmdb").scoring.metrics["top1"].value
    assert from_folders == pytest.approx(100 * (right + 1) / (PICTURES + 7))
    assert from_records == pytest.approx(100 * right / PICTURES)


def png_of(picture):
    """The picture as the bytes of a PNG file."""
    import io

    stream = io.BytesIO()
    picture.save(stream, "PNG")
    return stream.getvalue()
