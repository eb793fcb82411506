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


@pytest.mark.parametrize("style", ["sdpa", "eager", "node"])
def test_every_style_of_attention_gives_the_same(style, open_model, tmp_path):
    reference = yolo.yolo11()
    component = open_model(yolo.save(reference, tmp_path / "best.pt")).component("model", attention=style)
    assert max(differences(reference, component.exported, SIZES[1])) < 5e-3


def test_the_exported_network_has_no_batch_normalisation_and_the_same_answers(open_model, tmp_path):
    reference = yolo.yolov5()
    component = open_model(yolo.save(reference, tmp_path / "best.pt")).component("model")
    assert not any(isinstance(module, torch.nn.BatchNorm2d) for module in component.exported.modules())
    assert any(isinstance(module, torch.nn.BatchNorm2d) for module in component.reference.modules())
    assert max(differences(reference, component.exported, SIZES[0])) < 5e-3


def test_eps_is_that_of_the_file(open_model, tmp_path):
    reference = yolo.yolov5()
    for module in reference.modules():
        if isinstance(module, torch.nn.BatchNorm2d):
            module.eps = 0.3
    network = open_model(yolo.save(reference, tmp_path / "best.pt")).component("model").reference
    assert max(differences(reference, network, SIZES[0])) < 5e-3


def test_anchors_in_pixels_are_those_that_decode(open_model, tmp_path):
    """Releases to 5.0 store them beside the anchors as shares of the stride, which half precision rounds."""
    reference = yolo.yolov5_older()
    reference.model[-1].anchors[0, 0] = torch.tensor([1.234567, 2.345678])
    component = open_model(yolo.save(reference, tmp_path / "best.pt")).component("model")
    assert torch.equal(component.reference.head.decode.anchors[0, 0], torch.tensor([10.0, 13.0]))


@pytest.mark.parametrize(("release", "tolerance"), [("7.0", 5e-3), ("5.0", 5e-3), ("3.1", 5e-3), ("P6", 5e-3)])
def test_a_wts_file_gives_the_same_network(release, tolerance, open_model, tmp_path):
    reference = MODELS[release]()
    model = open_model(yolo.write_wts(reference, tmp_path / "yolo.wts"))
    assert model.answer.names == ("class 0", "class 1", "class 2")
    for size in SIZES[:2]:
        assert max(differences(reference, model.component("model").reference, size)) < tolerance
