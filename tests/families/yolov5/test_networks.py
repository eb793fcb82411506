"""Networks that are built from files answer as the ones that were saved."""

import pytest
import torch
import yolo_models as yolo

MODELS = {
    "7.0": yolo.yolov5,
    "5.0": yolo.yolov5_older,
    "3.1": yolo.yolov5_csp,
    "P6": yolo.yolov5_p6,
    "v8": yolo.yolov8,
    "11": yolo.yolo11,
}
SIZES = [(1, 64, 64), (2, 128, 192), (1, 256, 64)]


def differences(reference, network, size):
    """The largest difference of a box, in pixels, and of a score."""
    batch, height, width = size
    pictures = torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(height + width))
    with torch.no_grad():
        expected, found = reference(pictures), network(pictures)
    assert found.shape == expected.shape
    last = expected.shape[-1] < expected.shape[1]
    expected, found = (x if last else x.transpose(1, 2) for x in (expected, found))
    assert expected[..., 4:].std() > 0.02  # the answers carry a signal
    difference = (expected - found).abs()
    return float(difference[..., :4].max()), float(difference[..., 4:].max())


@pytest.mark.parametrize("release", MODELS)
def test_a_network_equals_the_one_that_was_saved(release, open_model, tmp_path):
    reference = MODELS[release]()
    network = open_model(yolo.save(reference, tmp_path / "best.pt")).component("model").reference
    for size in SIZES:
        pixels, score = differences(reference, network, size)
        assert pixels < 5e-3
        assert score < 1e-5
