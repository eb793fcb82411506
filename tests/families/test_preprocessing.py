"""Image processors of transformers as declarations: pictures come out as from transformers' own processors."""

from __future__ import annotations

import json

import numpy as np
import pytest
from PIL import Image

from torchlift.errors import CheckpointError
from torchlift.families.preprocessing import at_resolution, read_processor
from torchlift.processing.image import prepared

KIND = "image_processor_type"
SQUARE = {"height": 40, "width": 40}
STATED = [
    {KIND: "ViTImageProcessor", "size": SQUARE},
    {KIND: "ViTImageProcessorFast", "size": {"height": 30, "width": 50}, "resample": 3},
    {"feature_extractor_type": "ViTFeatureExtractor", "size": 40, "image_mean": [0.1, 0.2, 0.3]},
    {KIND: "ViTImageProcessor", "size": SQUARE, "do_normalize": False, "resample": 0},
    {KIND: "ViTImageProcessor", "size": SQUARE, "do_rescale": False},
    {KIND: "ViTImageProcessor", "size": SQUARE, "rescale_factor": 1 / 127.5},
    {"feature_extractor_type": "DeiTFeatureExtractor", "size": 48, "crop_size": 40},
    {KIND: "DeiTImageProcessor", "size": {"height": 44, "width": 60}, "crop_size": SQUARE},
    {KIND: "DeiTImageProcessor", "size": SQUARE, "crop_size": SQUARE},
    {KIND: "BeitImageProcessor", "size": SQUARE, "do_center_crop": False},
    {KIND: "BitImageProcessor", "size": {"shortest_edge": 48}, "crop_size": SQUARE},
    {"feature_extractor_type": "ConvNextFeatureExtractor", "size": 42, "crop_pct": 0.875},
    {KIND: "ConvNextImageProcessor", "size": {"shortest_edge": 384}},
    {KIND: "EfficientNetImageProcessor", "size": SQUARE},
    {KIND: "EfficientNetImageProcessor", "size": SQUARE, "rescale_offset": True, "include_top": False},
    {KIND: "EfficientNetImageProcessor", "size": SQUARE, "rescale_offset": True, "resample": 0,
     "rescale_factor": 1 / 127.5, "image_mean": [0.4, 0.5, 0.6], "image_std": [0.2, 0.3, 0.4]},
    {KIND: "MobileViTImageProcessor", "size": {"shortest_edge": 48}, "crop_size": SQUARE},
    {KIND: "SiglipImageProcessor", "size": SQUARE},
]  # fmt: skip


def save(folder, said):
    (folder / "preprocessor_config.json").write_text(json.dumps(said))
    return folder


@pytest.mark.parametrize("said", STATED, ids=lambda said: "-".join(map(str, said.values()))[:60])
@pytest.mark.parametrize("size", [(100, 80), (60, 90), (44, 44)])
def test_pictures_come_out_as_from_transformers(tmp_path, said, size):
    from transformers import AutoImageProcessor

    pixels = np.random.default_rng(0).integers(0, 256, (*size, 3), np.uint8)
    save(tmp_path, said)
    theirs = AutoImageProcessor.from_pretrained(tmp_path, backend="pil")(Image.fromarray(pixels), return_tensors="np")
    ours = prepared(read_processor(tmp_path, ""), pixels)
    largest = max(1.0, float(np.abs(theirs["pixel_values"]).max()))
    np.testing.assert_allclose(ours, theirs["pixel_values"][0], atol=3e-6 * largest)


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({KIND: "ViTImageProcessor", "size": SQUARE, "do_resize": False}, "do_resize is false"),
        ({KIND: "BitImageProcessor", "size": 48, "do_center_crop": False}, "without a crop"),
        ({KIND: "ViTImageProcessor", "size": SQUARE, "resample": 5}, "StopIteration|box|resample"),
        ({KIND: "ViTImageProcessor", "size": SQUARE, "image_std": [1, 1]}, "ValueError"),
        ({KIND: "ViTImageProcessor", "size": SQUARE, "image_std": [0, 1, 1]}, "std is"),
        ({KIND: "DeiTImageProcessor", "size": {"height": 30, "width": 60}, "crop_size": 40}, "stretched is"),
        ({KIND: "DetrImageProcessor"}, "states DetrImageProcessor"),
        ({KIND: "NoSuchProcessor"}, "cannot be used"),
        ({"size": SQUARE}, "cannot be used"),
        ({KIND: "ViTImageProcessor", "size": "large"}, "cannot be used"),
    ],
)  # fmt: skip
def test_what_cannot_be_declared_is_refused_by_name(tmp_path, said, message):
    with pytest.raises(CheckpointError, match=message) as caught:
        read_processor(save(tmp_path, said), "Correct it.")
    assert "preprocessor_config.json" in caught.value.message


def test_a_damaged_file_is_refused(tmp_path):
    (tmp_path / "preprocessor_config.json").write_text("{")
    with pytest.raises(CheckpointError, match="is damaged"):
        read_processor(tmp_path, "")


def test_another_resolution_keeps_the_share_of_a_crop(tmp_path):
    said = {KIND: "BitImageProcessor", "size": {"shortest_edge": 256}, "crop_size": 224}
    picture = at_resolution(read_processor(save(tmp_path, said), ""), 112)
    assert (picture.size, picture.shorter_side) == ((112, 112), 128)
    said = {KIND: "DeiTImageProcessor"}
    picture = at_resolution(read_processor(save(tmp_path, said), ""), 112)
    assert (picture.size, picture.stretched) == ((112, 112), (128, 128))
