"""The family srcnn: its formats, its network against the reference written plainly, and files that it refuses."""

import pickle

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from safetensors.torch import save_file
from torch import nn

from torchlift.declare.answers import Picture
from torchlift.errors import CheckpointError, SignatureError, SourceError, UnsafeCheckpointError
from torchlift.families.base import LoadOptions
from torchlift.families.srcnn import SrcnnFamily
from torchlift.signature import Axis


class Reference(nn.Module):
    """mmagic's SRCNNNet, written plainly."""

    def __init__(self, factor, first=64, second=32, kernels=(9, 1, 5)):
        super().__init__()
        self.img_upsampler = nn.Upsample(scale_factor=factor, mode="bicubic", align_corners=False)
        widths = zip((3, first, second), (first, second, 3), kernels, strict=True)
        self.conv1, self.conv2, self.conv3 = (nn.Conv2d(i, o, k, padding=k // 2) for i, o, k in widths)
        self.relu = nn.ReLU()

    def forward(self, x):
        x = self.img_upsampler(x)
        return self.conv3(self.relu(self.conv2(self.relu(self.conv1(x)))))


def state(prefix="", **shape):
    torch.manual_seed(0)
    return {f"{prefix}{name}": value for name, value in Reference(2, **shape).state_dict().items()}


def write(file, content):
    torch.save(content, file)
    return str(file)


def load(source, **options):
    return SrcnnFamily().load(source, LoadOptions(**options))


TINY = {"first": 6, "second": 4, "kernels": (5, 1, 3)}

WRAPPED = {
    "mmagic": lambda s: {"meta": {"epoch": 1}, "state_dict": {f"generator.{n}": v for n, v in s.items()}},
    "mmagic with what it keeps beside": lambda s: {
        "state_dict": {"step_counter": torch.zeros(1), "data_preprocessor.mean": torch.zeros(3)}
        | {f"generator.{n}": v for n, v in s.items()}
    },
    "of DataParallel": lambda s: {f"module.generator.{n}": v for n, v in s.items()},
    "nested": lambda s: {"state_dict": s},
    "bare": lambda s: s,
}


@pytest.mark.parametrize("form", WRAPPED)
def test_every_form_of_file_gives_the_same_weights(tmp_path, form):
    model = load(write(tmp_path / "a.pth", WRAPPED[form](state(**TINY))))
    network = model.component("model").reference
    for name, value in state(**TINY).items():
        assert torch.equal(network.state_dict()[name], value)


def test_safetensors_are_read(tmp_path):
    save_file(state("generator.", **TINY), tmp_path / "a.safetensors")
    assert load(str(tmp_path / "a.safetensors")).architecture.channels == (6, 4)


def test_channels_and_kernels_are_found_from_the_shapes(tmp_path):
    found = load(write(tmp_path / "a.pth", state(first=5, second=7, kernels=(3, 5, 7)))).architecture
    assert (found.channels, found.kernels) == ((5, 7), (3, 5, 7))
    assert found.margin == 1 + 2 + 3 + 3


def test_the_published_size_has_20099_parameters(tmp_path):
    network = load(write(tmp_path / "a.pth", state())).component("model").reference
    assert sum(weight.numel() for weight in network.parameters()) == 20_099


@pytest.mark.parametrize("factor", [1, 2, 3, 4, 8])
@pytest.mark.parametrize("size", [(1, 1), (7, 5), (33, 48)])
def test_it_answers_as_the_reference_at_every_size_and_factor(tmp_path, factor, size):
    network = load(write(tmp_path / "a.pth", state("generator.", **TINY))).component("model").reference
    reference = Reference(factor, **TINY)
    reference.load_state_dict(state(**TINY))
    image = torch.rand(2, 3, *size, generator=torch.Generator().manual_seed(1))
    with torch.no_grad():
        ours, theirs = network(image, torch.tensor(factor)), reference(image)
    assert ours.shape == (2, 3, size[0] * factor, size[1] * factor)
    assert float((ours - theirs).abs().max()) <= 1e-6


def test_what_it_declares(tmp_path):
    part = load(write(tmp_path / "a.pth", state(**TINY))).component("model")
    assert part.inputs["image"].scale == "unit"
    assert part.inputs["image"].size is None
    assert part.answers["output"] == Picture(factor="factor", margin=2 + 0 + 1 + 3)
    assert part.keep_int8 == ("conv3",)


def test_samples_are_of_bounded_size(tmp_path):
    part = load(write(tmp_path / "a.pth", state(**TINY))).component("model")
    for corner in ("min", "opt", "max"):
        sizes = part.signature.sizes(corner)
        feeds = part.sample(sizes, np.random.default_rng(0))
        part.signature.check(feeds)
        assert sizes["batch"] * sizes["height"] * sizes["width"] * int(feeds["factor"]) ** 2 <= 1 << 20


def test_axes_may_be_stated(tmp_path):
    axes = {"": {"height": Axis("height", 1, 8, 16)}}
    model = load(write(tmp_path / "a.pth", state(**TINY)), axes=axes)
    assert model.declared("model").axis("height").max == 16
    with pytest.raises(SignatureError):
        load(write(tmp_path / "a.pth", state(**TINY)), axes={"": {"depth": Axis("depth", 1, 8, 16)}})


class Evil:
    """Writes a file where it is unpickled."""

    def __reduce__(self):
        return (open, ("pickle-ran", "w"))


def test_no_code_of_a_pickle_runs(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    torch.save({"state_dict": state(**TINY), "logs": Evil()}, "evil.pth")
    (tmp_path / "plain.pth").write_bytes(pickle.dumps({"state_dict": Evil()}))
    for name in ("evil.pth", "plain.pth"):
        with pytest.raises(UnsafeCheckpointError):
            load(name)
    assert not (tmp_path / "pickle-ran").exists()


def without(name):
    found = state(**TINY)
    del found[name]
    return found


def changed(**values):
    return {**state(**TINY), **{name.replace("_", ".", 1): value for name, value in values.items()}}


REFUSED = {
    "a missing weight": (without("conv2.bias"), "conv2.bias"),
    "an unknown weight": ({**state(**TINY), "conv4.weight": torch.zeros(3)}, "conv4.weight"),
    "another network": ({"backbone.stem.weight": torch.zeros(3)}, "conv1.weight"),
    "one channel": (changed(conv1_weight=torch.zeros(6, 1, 5, 5)), "brightness"),
    "an even kernel": (changed(conv1_weight=torch.zeros(6, 3, 4, 4)), "odd"),
    "channels that do not follow": (changed(conv2_weight=torch.zeros(4, 5, 1, 1)), "conv2.weight"),
    "a bias of another size": (changed(conv1_bias=torch.zeros(5)), "conv1.bias"),
    "another number of colours": (changed(conv3_weight=torch.zeros(1, 4, 3, 3), conv3_bias=torch.zeros(1)), "conv3"),
    "no tensors": ({"state_dict": {"conv1.weight": 3}}, "state_dict"),
}


@pytest.mark.parametrize("what", REFUSED)
def test_what_is_refused_is_named(tmp_path, what):
    content, named = REFUSED[what]
    with pytest.raises(CheckpointError) as error:
        load(write(tmp_path / "a.pth", content))
    assert named in error.value.message


def test_files_that_are_none(tmp_path):
    with pytest.raises(CheckpointError):
        load(str(tmp_path / "missing.pth"))
    (tmp_path / "cut.pth").write_bytes((tmp_path / write(tmp_path / "a.pth", state(**TINY))).read_bytes()[:300])
    with pytest.raises(CheckpointError):
        load(str(tmp_path / "cut.pth"))


def test_weights_that_are_not_numbers(tmp_path):
    model = load(write(tmp_path / "a.pth", changed(conv1_bias=torch.full((6,), float("nan")))))
    with pytest.raises(CheckpointError):
        model.component("model")


def test_a_resolution_is_refused(tmp_path):
    with pytest.raises(SourceError):
        load(write(tmp_path / "a.pth", state(**TINY)), resolution=64)


def test_bicubic_is_that_of_the_reference():
    """The network enlarges by a size, the reference by a factor: for whole factors they are the same."""
    image = torch.rand(1, 3, 9, 7)
    by_size = F.interpolate(image, size=(27, 21), mode="bicubic", align_corners=False)
    assert torch.equal(by_size, F.interpolate(image, scale_factor=3, mode="bicubic", align_corners=False))
