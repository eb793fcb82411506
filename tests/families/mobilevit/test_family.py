"""What MobileViT reads, what it refuses, and how pictures and classes are described."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from torchlift.declare.inputs import ImageInput
from torchlift.errors import CheckpointError, SignatureError, SourceError, UnsafeCheckpointError
from torchlift.families import family
from torchlift.graph.scales import Scales
from torchlift.processing.image import prepared
from torchlift.signature import Axis


def picture_of(model):
    return model.component("model").inputs["input"]


def labels_of(model):
    return model.component("model").answers["class"]


def without(name):
    return lambda state: {key: value for key, value in state.items() if key != name}


def test_a_checkpoint_of_the_reference(write, open_model, tiny):
    model = open_model(write(shape=tiny))
    assert (model.name, model.family, model.component_names) == ("mobilevit-16x20x24", "mobilevit", ("model",))
    component = model.component("model")
    (given,), (answer,) = component.signature.inputs, component.signature.outputs
    assert (given.name, given.dtype, given.shape) == ("input", "float32", ("batch", 3, 64, 64))
    assert (answer.name, answer.dtype, answer.shape) == ("class", "float32", ("batch", 7))
    assert str(component.signature.batch) == "1..8..64"
    assert component.scales == {}
    feeds = component.sample({"batch": 3}, np.random.default_rng(0))
    assert component.signature.check(feeds) == {"batch": 3}
    assert component.reference(torch.from_numpy(feeds["input"])).std() > 0.05


@pytest.mark.parametrize(("prefix", "wrap"), [("module.", True), ("", True), ("module.", False), ("", False)])
def test_names_and_wrapping_vary(write, open_model, network, images, prefix, wrap):
    component = open_model(write(prefix=prefix, wrap=wrap)).component("model")
    with torch.no_grad():
        assert torch.equal(component.reference(images), network(images))


def test_the_family_is_registered(write):
    assert family("mobilevit").name == "mobilevit"


def test_the_key_tells_models_apart(write, open_model):
    key = open_model(write()).key
    assert open_model(write()).key == key
    assert open_model(write(), resolution=128).key != key
    assert open_model(write(), axes={"": {"batch": Axis("batch", 1, 2, 3)}}).key != key
    changed = write(change=lambda state: state | {"fc.bias": state["fc.bias"] + 1})
    assert open_model(changed).key != key


def test_without_a_file_pictures_are_prepared_as_by_the_reference(write, open_model):
    picture = picture_of(open_model(write(size=None)))
    expected = ImageInput(
        (256, 256), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), resample="bilinear", convert="first"
    )
    assert picture == expected


def test_a_resolution(write, open_model):
    model = open_model(write(size=None), resolution=128)
    assert picture_of(model).size == (128, 128)
    assert model.component("model").signature.inputs[0].shape == ("batch", 3, 128, 128)


@pytest.mark.parametrize(("resolution", "near"), [(100, 128), (32, 64), (0, 64), (-64, 64), (96, 128)])
def test_a_resolution_that_does_not_divide_is_refused(write, open_model, resolution, near):
    with pytest.raises(SourceError, match="do not divide into patches") as caught:
        open_model(write(size=None), resolution=resolution)
    assert f"`resolution={near}`" in caught.value.remedy


class TestLabels:
    def test_numbers_where_nothing_names_them(self, write, open_model):
        assert labels_of(open_model(write())).names == tuple(f"class {n}" for n in range(7))

    def test_a_file_beside_the_checkpoint(self, write, open_model):
        file = write()
        (file.parent / "labels.txt").write_text("\n".join("abcdefg") + "\n")
        assert labels_of(open_model(file)).names == tuple("abcdefg")

    def test_another_number_of_them_is_refused(self, write, open_model):
        file = write()
        (file.parent / "labels.txt").write_text("a\nb\n")
        with pytest.raises(CheckpointError, match="names 2 classes; the checkpoint has 7"):
            open_model(file)

    def test_other_encodings_are_refused(self, write, open_model):
        file = write()
        (file.parent / "labels.txt").write_bytes(b"\xff\xfe")
        with pytest.raises(CheckpointError, match="is not UTF-8"):
            open_model(file)


class TestRefused:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (without("stage3.1.fusion_block1.bias"), "missing stage3.1.fusion_block1.bias"),
            (lambda s: s.update(extra=torch.zeros(1)), "unexpected extra"),
            (lambda s: s.update({"stage1.1.conv.2.weight": torch.zeros(8, 9, 1, 1)}), "stage1.1.conv.2.weight is "),
            (without("stage2.1.fusion_block2.weight"), "stage2.1.fusion_block2.weight is missing"),
        ],
    )
    def test_weights_that_do_not_fit(self, write, open_model, change, message):
        with pytest.raises(CheckpointError, match=message):
            open_model(write(change=change))

    @pytest.mark.parametrize(
        ("names", "author"),
        [
            (["conv_1.block.conv.weight"], "Apple's ml-cvnets"),
            (["stages.0.0.conv1_1x1.conv.weight"], "timm"),
            (["mobilevit.conv_stem.convolution.weight"], "transformers"),
        ],
    )
    def test_other_implementations_are_named(self, tmp_path, open_model, names, author):
        torch.save({"state_dict": {name: torch.zeros(2) for name in names}}, tmp_path / "other.pth")
        with pytest.raises(CheckpointError, match=f"it is the MobileViT of {author}"):
            open_model(tmp_path / "other.pth")

    def test_another_model(self, tmp_path, open_model):
        torch.save({"conv1.weight": torch.zeros(2)}, tmp_path / "resnet.pth")
        with pytest.raises(CheckpointError, match=r"is not a MobileViT checkpoint .* it has conv1.weight"):
            open_model(tmp_path / "resnet.pth")

    def test_a_pickle_with_code(self, tmp_path, open_model):
        import subprocess

        torch.save({"state_dict": {}, "call": subprocess.Popen}, tmp_path / "bad.pth")
        with pytest.raises(UnsafeCheckpointError, match=rf"^{tmp_path}/bad.pth is a pickle that calls \S+\.Popen"):
            open_model(tmp_path / "bad.pth")

    def test_a_torchscript_archive(self, tmp_path, open_model):
        torch.jit.save(torch.jit.script(torch.nn.Linear(1, 1)), tmp_path / "scripted.pt")
        with pytest.raises(CheckpointError, match="TorchScript archive"):
            open_model(tmp_path / "scripted.pt")

    def test_weights_that_are_not_finite(self, write, open_model):
        model = open_model(write(change=lambda s: s | {"fc.bias": torch.full((7,), torch.nan)}))
        with pytest.raises(CheckpointError, match=r"fc.bias holds 7 values that are NaN"):
            model.component("model")

    def test_what_is_not_there(self, open_model, tmp_path):
        with pytest.raises(CheckpointError, match="does not exist"):
            open_model(tmp_path / "none.pth.tar")

    def test_unknown_components_and_attention(self, write, open_model):
        model = open_model(write())
        with pytest.raises(SourceError, match="no component 'image'"):
            model.component("image")
        with pytest.raises(SourceError, match="attention 'flash' is not known"):
            model.component("model", attention="flash")

    def test_unknown_axes(self, write, open_model):
        with pytest.raises(SignatureError, match="no axis 'sequence'"):
            open_model(write(), axes={"": {"sequence": Axis("sequence", 1, 2, 3)}})


class TestTransformers:
    def test_a_folder(self, transformers_folder, open_model):
        folder, _ = transformers_folder(id2label={0: "cat", 1: "dog", 2: "owl", 3: "fox", 4: "bat"})
        model = open_model(folder)
        assert model.name == "mobilevit-apple-16x20x24"
        assert labels_of(model).names == ("cat", "dog", "owl", "fox", "bat")
        expected = ImageInput(
            (64, 64), resample="bilinear", fit="crop", shorter_side=72, convert="first", channels="bgr"
        )
        assert picture_of(model) == expected

    @pytest.mark.parametrize("size", [{"shortest_edge": 72}, {"height": 72, "width": 80}])
    def test_pictures_are_prepared_as_by_transformers(self, transformers_folder, open_model, size):
        from transformers.models.mobilevit.image_processing_pil_mobilevit import MobileViTImageProcessorPil

        apple = {"size": size, "crop_size": {"height": 64, "width": 64}, "resample": 2}
        folder, _ = transformers_folder(said=apple)
        pixels = np.random.default_rng(0).integers(0, 256, (100, 80, 3), np.uint8)
        theirs = MobileViTImageProcessorPil.from_pretrained(folder)(Image.fromarray(pixels), return_tensors="np")
        ours = prepared(picture_of(open_model(folder)), pixels)
        np.testing.assert_allclose(ours, theirs["pixel_values"][0], atol=1e-6)

    @pytest.mark.parametrize(
        ("said", "message"),
        [
            ({"do_resize": False}, "do_resize and do_rescale must be true"),
            ({"rescale_factor": 1.0}, "rescale_factor is 1.0, not 1/255"),
            ({"resample": 17}, "17 is not a valid Resampling"),
            ({"size": {"shortest_edge": 20}}, "shorter_side is 20"),
            ({"do_center_crop": False, "size": {"shortest_edge": 64}}, "without a crop it must be height and width"),
            ({"size": {"height": 60, "width": 72}, "crop_size": 64}, r"stretched is \(60, 72\)"),
            ({"do_normalize": True}, "KeyError: 'image_mean'"),
        ],
    )
    def test_preprocessing_that_cannot_be_done_is_refused(self, transformers_folder, open_model, said, message):
        folder, _ = transformers_folder(said=said)
        with pytest.raises(CheckpointError, match=message):
            open_model(folder)

    def test_sizes_that_do_not_divide(self, transformers_folder, open_model):
        folder, _ = transformers_folder(said={"crop_size": {"height": 224, "width": 224}, "size": 256})
        with pytest.raises(SourceError, match="224 x 224"):
            open_model(folder)
        assert picture_of(open_model(folder, resolution=128)).shorter_side == 146

    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"model_type": "vit"}, "of type 'vit', not 'mobilevit'"),
            ({"output_stride": 16}, "output_stride is 16, not 32"),
            ({"num_attention_heads": 3}, "not a multiple of the number of attention heads"),
            ({"hidden_sizes": [16, 20, 32]}, "wrong shapes: mobilevit.encoder.layer.4"),
        ],
    )
    def test_a_config_that_does_not_fit(self, transformers_folder, open_model, change, message):
        folder, _ = transformers_folder()
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps(config | change))
        with pytest.raises(CheckpointError, match=message):
            open_model(folder)

    def test_a_folder_without_config_names_the_file_in_it(self, write, open_model):
        file = write()
        with pytest.raises(CheckpointError, match=r"has no config.json") as caught:
            open_model(file.parent)
        assert str(file) in caught.value.remedy


class TestFakeQuantisation:
    def test_scales_follow_the_folded_weights(self, write, open_model, network):
        """Modelopt's spelling: a scale a channel for the weight, one for the input."""
        amax = torch.linspace(1, 2, 8)

        def change(state):
            state["stem.1.conv.0.conv.weight_quantizer._amax"] = amax.view(8, 1, 1, 1)
            state["stem.1.conv.0.conv.input_quantizer._amax"] = torch.tensor(3.0)
            state["stage2.1.transformer.layers.0.0.fn.to_qvk.input_quantizer._amax"] = torch.tensor(5.0)

        component = open_model(write(change=change)).component("model")
        norm = network.stem[1].conv[0].norm_layer
        factor = (norm.weight / (norm.running_var + norm.eps).sqrt()).abs().detach()
        assert {*component.scales} == {
            "stem.1.conv.0.conv",
            "stem.1.conv.0.norm_layer",
            "stage2.1.transformer.layers.0.0.fn.to_qvk",
        }
        found = component.scales["stem.1.conv.0.norm_layer"]
        assert found.input == (-3, 3)
        np.testing.assert_allclose(found.weight, (amax * factor).numpy(), rtol=1e-5)
        assert component.scales["stage2.1.transformer.layers.0.0.fn.to_qvk"] == Scales(input=(-5, 5))

    def test_the_stub_is_the_range_of_the_picture(self, write, open_model):
        def change(state):
            state["quant.activation_post_process.scale"] = torch.tensor([0.02])
            state["quant.activation_post_process.zero_point"] = torch.tensor([100])

        component = open_model(write(change=change)).component("model")
        assert component.scales["stem.0"].input == pytest.approx((-2.0, 3.1))


@pytest.mark.parametrize("dtype", [torch.int8, torch.bool, torch.float8_e4m3fn])
def test_weights_that_are_no_floating_point_are_refused(write, open_model, dtype):
    name = "fc.weight"
    model = open_model(write(change=lambda state: {**state, name: state[name].to(dtype)}))
    with pytest.raises(CheckpointError, match=str(dtype).removeprefix("torch.")):
        model.component("model")


def test_a_weight_of_a_layer_without_end_is_refused(write, open_model):
    name = "stage2.1.transformer.layers.999999999.0.fn.w_out.weight"
    with pytest.raises(CheckpointError, match="999,999,999"):
        open_model(write(change=lambda state: {**state, name: torch.zeros(1)}))


@pytest.mark.parametrize("said", [{"size": []}, {"size": "x"}, {"crop_size": "x"}, {"rescale_factor": []}])
def test_preprocessing_of_other_types_is_refused(write, open_model, said):
    file = write()
    (file.parent / "preprocessor_config.json").write_text(json.dumps(said))
    with pytest.raises(CheckpointError, match=r"preprocessor_config\.json cannot be used"):
        open_model(file)
