"""What is taken from a file, and what is refused: nothing in it runs."""

import copy
import os
import pickle
import sys
from collections import OrderedDict

import pytest
import torch
import yolo_models as yolo
from torch import nn

from torchlift.declare.inputs import ImageInput
from torchlift.errors import CheckpointError, SignatureError, SourceError, UnsafeCheckpointError
from torchlift.families import family
from torchlift.signature import Axis

pytestmark = pytest.mark.filterwarnings("ignore:Couldn't retrieve source code:UserWarning")


@pytest.fixture(scope="module")
def small():
    return yolo.yolov5()


@pytest.fixture
def changed(small):
    """A copy of the small network, to be changed."""
    return copy.deepcopy(small)


class Calls:
    """A pickle of this calls a function of any module."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


def test_the_family_is_found_by_its_name():
    assert family("yolov5").name == "yolov5"


def test_what_the_file_says_is_declared(small, open_model, tmp_path):
    model = open_model(yolo.save(small, tmp_path / "best.pt"))
    assert model.pipeline == "detection"
    assert model.answer.names == ("shape 0", "shape 1", "shape 2")
    assert model.answer.objectness
    assert model.answer.overlap == 0.45
    assert [axis.step for axis in model.signature.axes] == [1, 32, 32]
    assert model.picture == ImageInput((640, 640), resample="linear", fit="letterbox", convert="first", stride=32)
    assert model.signature.outputs[0].shape_at({"batch": 2, "height": 640, "width": 640}) == (2, 25200, 8)
    assert model.component("model").keep == ("head.decode",)


def test_yolov8_has_no_objectness_and_its_own_overlap(open_model, tmp_path):
    model = open_model(yolo.save(yolo.yolov8(classes=5), tmp_path / "best.pt"))
    assert not model.answer.objectness
    assert model.answer.overlap == 0.7
    assert model.answer.names == tuple(f"shape {n}" for n in range(5))  # they are a dict in the file
    assert model.signature.outputs[0].shape_at({"batch": 1, "height": 640, "width": 640}) == (1, 9, 8400)


def test_the_average_over_training_counts_before_the_last_weights(small, changed, open_model, tmp_path):
    for weight in changed.parameters():
        weight.data.zero_()
    content = yolo.checkpoint(changed, ema=copy.deepcopy(small).half())
    found = open_model(yolo.save(small, tmp_path / "last.pt", content=content)).component("model").reference
    assert found.model[0].conv.weight.abs().max() > 0


def test_the_format_before_torch_1_6_is_refused(small, open_model, tmp_path):
    file = yolo.save(small, tmp_path / "best.pt", legacy=True)
    with pytest.raises(CheckpointError, match=r"before 1\.6"):
        open_model(file)


def test_the_names_of_the_package_on_pypi_are_read(small, open_model, tmp_path):
    package = {f"yolov5.{module}": classes for module, classes in yolo.V5.items()}
    assert open_model(yolo.save(small, tmp_path / "best.pt", package)).answer.objectness


def test_the_name_of_the_class_until_6_1_is_read(small, open_model, tmp_path):
    assert open_model(yolo.save(small, tmp_path / "best.pt", DetectionModel="Model")).answer.objectness


def test_nothing_is_imported_or_left_behind(small, open_model, tmp_path):
    file = yolo.save(small, tmp_path / "best.pt")
    before = {*torch.serialization.get_safe_globals()}
    open_model(file)
    assert not {"models", "models.yolo", "ultralytics"} & sys.modules.keys()
    assert {*torch.serialization.get_safe_globals()} == before


@pytest.mark.parametrize("function", [os.system, eval, getattr, __import__, os.open, pickle.loads])
def test_a_pickle_that_names_other_code_is_refused_by_that_name(function, small, open_model, tmp_path):
    mark = tmp_path / "ran"
    content = yolo.checkpoint(small, opt=Calls(function, f"touch {mark}"))
    with pytest.raises(UnsafeCheckpointError, match=function.__name__):
        open_model(yolo.save(small, tmp_path / "best.pt", content=content))
    assert not mark.exists()


def test_code_behind_a_name_of_the_package_does_not_run(small, open_model, tmp_path):
    """The file names models.tricks.wipe. A module of that name is there, and is not asked."""
    ran = []

    def wipe(*arguments):
        ran.append(arguments)

    wipe.__module__, wipe.__qualname__ = "models.tricks", "wipe"
    with yolo.named({"models.tricks": (yolo.Concat,), **yolo.V5}):
        sys.modules["models.tricks"].wipe = wipe
        content = yolo.checkpoint(small, opt=Calls(wipe, "everything"))
        torch.save(content, tmp_path / "best.pt")
        assert open_model(tmp_path / "best.pt").answer.objectness
    assert ran == []


def with_layer(model, number, layer):
    layer.i, layer.f, layer.type = number, model.model[number].f, "x"
    model.model[number] = layer
    return model


def test_a_layer_that_is_not_known_is_refused_by_name(changed, open_model, tmp_path):
    with_layer(changed, 9, nn.Softmax(1))
    with pytest.raises(CheckpointError, match=r"model\.9 is a torch\.nn\.modules\.activation\.Softmax"):
        open_model(yolo.save(changed, tmp_path / "best.pt"))


@pytest.mark.parametrize("name", ["Segment", "Pose", "OBB", "Classify"])
def test_heads_of_other_tasks_are_refused_by_name(name, small, open_model, tmp_path):
    with pytest.raises(CheckpointError, match=name):
        open_model(yolo.save(small, tmp_path / "best.pt", Detect=name))


def test_models_of_other_tasks_are_refused_by_name(small, open_model, tmp_path):
    with pytest.raises(CheckpointError, match="RTDETRDetectionModel"):
        open_model(yolo.save(small, tmp_path / "best.pt", DetectionModel="RTDETRDetectionModel"))


def test_a_head_without_nms_is_refused(open_model, tmp_path):
    model = yolo.yolov8()
    model.model[-1].one2one_cv2 = copy.deepcopy(model.model[-1].cv2)
    with pytest.raises(CheckpointError, match="one2one_cv2"):
        open_model(yolo.save(model, tmp_path / "best.pt"))


def test_a_layer_within_itself_is_refused(changed, open_model, tmp_path):
    loop = nn.Sequential()
    loop._modules["0"] = loop
    with_layer(changed, 9, loop)
    with yolo.named(yolo.V5):
        torch.save({"model": changed}, tmp_path / "best.pt")
    with pytest.raises(CheckpointError, match="layer"):
        open_model(tmp_path / "best.pt")


def wrong_source(model):
    model.model[12].f = [-1, 40]


def wrong_channels(model):
    model.model[12].f = [-1, 4]


def wrong_strides(model):
    model.model[-1].stride = torch.tensor([8.0, 16.0, 64.0])


def no_strides(model):
    model.model[-1].stride = None
    model.stride = None


def infinite(model):
    model.model[0].conv.weight.data[0] = torch.inf


def no_weight(model):
    model.model[0].conv._parameters["weight"] = None


def wrong_eps(model):
    model.model[0].bn.eps = "1e-3"


def wrong_names(model):
    model.names = ["one"]


def names_with_gaps(model):
    model.names = {0: "a", 1: "b", 7: "c"}


def bilinear(model):
    with_layer(model, 11, nn.Upsample(scale_factor=2, mode="bilinear"))


def reflected(model):
    model.model[0].conv.padding_mode = "reflect"


def integers(model):
    conv = model.model[0].conv
    conv._parameters["weight"] = nn.Parameter(conv.weight.data.to(torch.int8), requires_grad=False)


@pytest.mark.parametrize(
    ("spoil", "said"),
    [
        (wrong_source, "model.12 reads"),
        (wrong_channels, "do not fit each other"),
        (wrong_strides, "strides"),
        (no_strides, "strides"),
        (infinite, "infinite"),
        (no_weight, "model.0.conv.weight is no tensor"),
        (wrong_eps, "eps '1e-3'"),
        (wrong_names, "names 1 classes"),
        (names_with_gaps, "7"),
        (bilinear, "bilinear"),
        (reflected, "reflect"),
        (integers, "int8"),
    ],
)
def test_a_file_that_does_not_fit_is_refused(spoil, said, changed, open_model, tmp_path):
    spoil(changed)
    with yolo.named(yolo.V5):
        torch.save({"model": changed}, tmp_path / "best.pt")
    with pytest.raises(CheckpointError, match=said):
        open_model(tmp_path / "best.pt")


@pytest.mark.parametrize(
    "content",
    [
        {"state_dict": OrderedDict(a=torch.zeros(3))},
        {"model": OrderedDict(a=torch.zeros(3))},
        {"model": None, "ema": None},
        OrderedDict(a=torch.zeros(3)),
        [torch.zeros(3)],
        {"model": nn.Linear(3, 3)},
        {"model": torch.zeros(3), "ema": torch.zeros(2)},
    ],
)
def test_a_checkpoint_of_something_else_is_refused(content, open_model, tmp_path):
    torch.save(content, tmp_path / "other.pt")
    with pytest.raises(CheckpointError):
        open_model(tmp_path / "other.pt")


def test_a_file_that_is_cut_off_is_refused(small, open_model, tmp_path):
    for legacy in (False, True):
        file = yolo.save(small, tmp_path / "best.pt", legacy=legacy)
        for share in (0, 0.01, 0.5, 0.99):
            (tmp_path / "cut.pt").write_bytes(file.read_bytes()[: int(share * file.stat().st_size)])
            with pytest.raises(CheckpointError):
                open_model(tmp_path / "cut.pt")


def test_a_source_that_is_no_file_is_refused(open_model, tmp_path):
    for source in (tmp_path, tmp_path / "missing.pt"):
        with pytest.raises(CheckpointError):
            open_model(source)


@pytest.mark.parametrize(
    ("change", "said"),
    [
        (lambda text: text[: len(text) // 2], "damaged|cut off"),
        (lambda text: "\n".join(text.split("\n")[:-9]), "cut off"),
        (lambda text: text.replace("model.24.anchor_grid", "model.24.other"), "anchor_grid"),
        (lambda text: text.replace("model.2.cv1.bn.bias", "model.2.cv1.bn.other"), "model.2.cv1.bn.bias"),
        (lambda text: text.replace("model.24.", "model.25."), "no YOLOv5"),
        (lambda text: text.replace("model.24.strides 3 41000000", "model.24.strides 3 7fc00000"), "."),
        (lambda text: "", "damaged"),
        (lambda text: "3\nabc\n", "damaged"),
        (lambda text: "\x00\xff" * 100, "damaged"),
        (lambda text: "1\nweight 1 3f8zzzzz\n", "damaged"),
    ],
)
def test_a_wts_file_that_does_not_fit_is_refused(change, said, small, open_model, tmp_path):
    file = yolo.write_wts(small, tmp_path / "yolo.wts")
    file.write_text(change(file.read_text()))
    with pytest.raises(CheckpointError, match=said):
        open_model(file)


def test_a_wts_file_with_weights_of_other_sizes_is_refused(small, open_model, tmp_path):
    file = yolo.write_wts(small, tmp_path / "yolo.wts")
    lines = file.read_text().split("\n")
    place = next(n for n, line in enumerate(lines) if line.startswith("model.5.conv.weight"))
    lines[place] = "model.5.conv.weight 5" + " 3f800000" * 5
    file.write_text("\n".join(lines))
    with pytest.raises(CheckpointError):
        open_model(file)


def test_another_resolution_moves_the_optimum(small, open_model, tmp_path):
    model = open_model(yolo.save(small, tmp_path / "best.pt"), resolution=320)
    assert model.picture.size == (320, 320)
    assert [axis.opt for axis in model.signature.axes] == [1, 320, 320]
    with pytest.raises(SourceError, match="resolution=320"):
        open_model(tmp_path / "best.pt", resolution=330)


def test_axes_that_are_fixed_take_pictures_that_are_filled_up(small, open_model, tmp_path):
    fixed = {"": {name: Axis(name, 128, 128, 128) for name in ("height", "width")}}
    model = open_model(yolo.save(small, tmp_path / "best.pt"), axes=fixed)
    assert model.picture.size == (128, 128)
    assert model.picture.stride is None
    with pytest.raises(SignatureError):
        open_model(tmp_path / "best.pt", axes={"": {"height": Axis("height", 100, 130, 200)}})
    with pytest.raises(SignatureError):
        open_model(tmp_path / "best.pt", axes={"": {"depth": Axis("depth", 1, 2, 3)}})


def test_p6_has_a_step_of_64(open_model, tmp_path):
    model = open_model(yolo.save(yolo.yolov5_p6(), tmp_path / "best.pt"))
    assert [axis.step for axis in model.signature.axes] == [1, 64, 64]
    assert model.picture.stride == 64


def test_unknown_components_and_attention_are_refused(small, open_model, tmp_path):
    model = open_model(yolo.save(small, tmp_path / "best.pt"))
    with pytest.raises(SourceError):
        model.component("image")
    with pytest.raises(SourceError):
        model.component("model", attention="flash")
