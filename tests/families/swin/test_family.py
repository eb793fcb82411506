"""What Swin reads, what it refuses, and how pictures and classes are described."""

from __future__ import annotations

import json
import sys
import types
from dataclasses import replace

import numpy as np
import pytest
import torch
from PIL import Image
from safetensors.torch import save_file

from torchlift.declare.inputs import ImageInput
from torchlift.errors import CheckpointError, SignatureError, SourceError, UnsafeCheckpointError
from torchlift.families import family
from torchlift.processing.image import prepared
from torchlift.signature import Axis

MEAN, STD = (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)


def labels_of(model):
    return model.component("model").answers["logits"]


def without(name):
    return lambda state: {key: value for key, value in state.items() if key != name}


def test_a_file_of_microsofts(write, open_model, network, images):
    model = open_model(write())
    assert (model.name, model.family, model.component_names) == ("swin-16x2x3-64", "swin", ("model",))
    component = model.component("model")
    (given,), (answer,) = component.signature.inputs, component.signature.outputs
    assert (given.name, given.dtype, given.shape) == ("image", "float32", ("batch", 3, 64, 64))
    assert (answer.name, answer.dtype, answer.shape) == ("logits", "float32", ("batch", 7))
    assert str(component.signature.batch) == "1..8..64"
    feeds = component.sample({"batch": 3}, np.random.default_rng(0))
    assert component.signature.check(feeds) == {"batch": 3}
    with torch.no_grad():
        assert torch.equal(component.reference(images(3)), network(images(3)))


def test_the_family_is_registered():
    assert family("swin").name == "swin"


@pytest.mark.parametrize("bare", [True, False])
@pytest.mark.parametrize("prefix", ["", "module."])
def test_wrapping_and_prefixes_vary(write, open_model, network, images, bare, prefix):
    def whole(state):
        state = {prefix + name: tensor for name, tensor in state.items()}
        return state if bare else {"state_dict": state, "epoch": 3}

    component = open_model(write(whole=whole)).component("model")
    with torch.no_grad():
        assert torch.equal(component.reference(images(2)), network(images(2)))


@pytest.mark.parametrize("name", ["swin.pth", "pytorch_model.bin", "model.safetensors"])
def test_timms_names_in_each_of_its_files(tmp_path, as_timm, open_model, tiny, network, images, name):
    wide = replace(tiny, resolution=32, depths=(2, 1, 1), heads=(2, 4, 8), windows=(2, 2, 2))
    from torchlift.families.swin.network import Swin

    theirs = Swin(wide).eval()
    state = as_timm(theirs.state_dict())
    assert "layers.2.downsample.reduction.weight" in state
    if name.endswith("safetensors"):
        save_file(state, tmp_path / name)
    else:
        torch.save(state, tmp_path / name)
    model = open_model(tmp_path / name)
    assert model.shape == replace(wide, resolution=32)
    with torch.no_grad():
        assert torch.equal(model.component("model").reference(images(2, 32)), theirs(images(2, 32)))
    assert model.picture == ImageInput((32, 32), MEAN, STD, fit="crop", shorter_side=35, convert="first")


def test_the_stored_mask_tells_the_resolution(write, open_model, tiny):
    assert open_model(write(buffers=True)).shape == tiny
    assert open_model(write(buffers=False)).shape.resolution == 32  # the last stage has one window


def test_the_windows_of_the_last_stages_may_be_smaller(write, open_model, tiny, images):
    """Microsoft's network shrinks a window that is larger than its map."""
    small = replace(tiny, resolution=32, depths=(2, 2, 2), heads=(2, 4, 8), windows=(4, 4, 2))
    component = open_model(write(shape=small)).component("model")
    with torch.no_grad():
        expected = component.reference(images(2, 32))
        torch.testing.assert_close(component.exported(images(2, 32)), expected, atol=5e-5, rtol=1e-5)


def test_training_files_with_settings_are_read_as_data(write, open_model, network, images, monkeypatch):
    """Microsoft's training stores its settings, an object of the package yacs, which need not be installed."""
    module = types.ModuleType("yacs.config")

    class CfgNode(dict):
        def __init__(self, *given):
            super().__init__(*given)
            self.__dict__["__immutable__"] = True

        def __setattr__(self, name, value):
            raise AssertionError("no code of the file's classes runs")

    CfgNode.__module__, CfgNode.__qualname__ = "yacs.config", "CfgNode"
    module.CfgNode = CfgNode
    with monkeypatch.context() as patch:
        patch.setitem(sys.modules, "yacs", types.ModuleType("yacs"))
        patch.setitem(sys.modules, "yacs.config", module)
        settings = CfgNode({"DATA": CfgNode({"IMG_SIZE": 64}), "MODEL": CfgNode({"TYPE": "swin"})})
        optimizer = {"state": {0: {"step": torch.tensor(3.0)}}}
        file = write(whole=lambda state: {"model": state, "optimizer": optimizer, "config": settings, "epoch": 299})
    assert b"CfgNode" in file.read_bytes()
    component = open_model(file).component("model")
    with torch.no_grad():
        assert torch.equal(component.reference(images(2)), network(images(2)))


class TestPictures:
    @pytest.mark.parametrize(
        ("resolution", "window", "expected"),
        [
            (224, 7, ImageInput((224, 224), MEAN, STD, fit="crop", shorter_side=256, convert="first")),
            (384, 12, ImageInput((384, 384), MEAN, STD, convert="first")),
        ],
    )
    def test_microsofts(self, write, open_model, tiny, resolution, window, expected):
        shape = replace(
            tiny, resolution=resolution, width=8, depths=(1,) * 4, heads=(1, 2, 4, 8), windows=(window,) * 4
        )
        assert open_model(write(shape=shape)).picture == expected

    @pytest.mark.parametrize(("resolution", "window", "shorter"), [(224, 7, 248), (384, 12, 384)])
    def test_timms(self, write, as_timm, open_model, tiny, resolution, window, shorter):
        shape = replace(
            tiny, resolution=resolution, width=8, depths=(1,) * 4, heads=(1, 2, 4, 8), windows=(window,) * 4
        )
        picture = open_model(write(shape=shape, buffers=False, whole=as_timm)).picture
        size = (resolution, resolution)
        assert picture == ImageInput(size, MEAN, STD, fit="crop", shorter_side=shorter, convert="first")

    def test_a_file_beside_the_checkpoint_counts(self, write, open_model):
        file = write()
        said = {"image_processor_type": "ViTImageProcessor", "size": {"height": 64, "width": 64}, "resample": 2}
        (file.parent / "preprocessor_config.json").write_text(json.dumps(said))
        assert open_model(file).picture == ImageInput(
            (64, 64), (0.5,) * 3, (0.5,) * 3, resample="bilinear", convert="first"
        )

    def test_a_folder_of_transformers(self, transformers_folder, open_model):
        from transformers.models.vit.image_processing_pil_vit import ViTImageProcessorPil

        folder, _ = transformers_folder()
        pixels = np.random.default_rng(0).integers(0, 256, (100, 80, 3), np.uint8)
        theirs = ViTImageProcessorPil.from_pretrained(folder)(Image.fromarray(pixels), return_tensors="np")
        ours = prepared(open_model(folder).picture, pixels)
        np.testing.assert_allclose(ours, theirs["pixel_values"][0], atol=1e-6)

    def test_another_size_than_the_networks_is_refused(self, transformers_folder, open_model):
        said = {"image_processor_type": "ViTImageProcessor", "size": {"height": 48, "width": 48}}
        folder, _ = transformers_folder(said=said)
        with pytest.raises(CheckpointError, match="makes pictures of"):
            open_model(folder)

    def test_a_folder_that_does_not_say_gets_what_the_published_ones_say_and_a_note(
        self, transformers_folder, open_model
    ):
        model = open_model(transformers_folder(said=None)[0])
        assert model.picture == ImageInput((64, 64), MEAN, STD, convert="first")
        assert ["preprocessor_config.json" in note for note in model.notes] == [True]
        assert open_model(transformers_folder(name="said")[0]).notes == ()


class TestLabels:
    def test_numbers_where_nothing_names_them(self, write, open_model):
        assert labels_of(open_model(write())).names == tuple(f"class {n}" for n in range(7))

    def test_a_file_beside_the_checkpoint(self, write, open_model):
        file = write()
        (file.parent / "labels.txt").write_text("\n".join("abcdefg") + "\n")
        assert labels_of(open_model(file)).names == tuple("abcdefg")

    def test_those_of_a_config(self, transformers_folder, open_model):
        folder, _ = transformers_folder(id2label=dict(enumerate(["cat", "dog", "owl", "fox", "bat"])))
        assert labels_of(open_model(folder)).names == ("cat", "dog", "owl", "fox", "bat")

    def test_another_number_of_them_is_refused(self, write, transformers_folder, open_model):
        file = write()
        (file.parent / "labels.txt").write_text("a\nb\n")
        with pytest.raises(CheckpointError, match="names 2 classes; the checkpoint has 7"):
            open_model(file)
        folder, _ = transformers_folder()
        config = json.loads((folder / "config.json").read_text())
        (folder / "config.json").write_text(json.dumps({**config, "id2label": {"0": "cat"}}))
        with pytest.raises(CheckpointError, match=r"names 1 classes in id2label; the weights have 5"):
            open_model(folder)


class TestRefused:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            (without("layers.1.blocks.2.norm1.bias"), "missing layers.1.blocks.2.norm1.bias"),
            (without("layers.0.downsample.norm.weight"), "missing layers.0.downsample.norm.weight"),
            (without("head.weight"), "head.weight is missing"),
            (lambda s: s.update(extra=torch.zeros(1)), "unexpected extra"),
            (lambda s: s.update({"norm.weight": torch.zeros(9)}), r"norm.weight is \[9\], not \[32\]"),
            (lambda s: s.update({"patch_embed.proj.weight": torch.zeros(16)}), "it must have 4 dimensions"),
            (
                lambda s: s.update({"layers.0.blocks.0.attn.relative_position_bias_table": torch.zeros(48, 2)}),
                "has 48 rows: that is no window",
            ),
            (lambda s: s.update({"layers.999999999.blocks.0.norm1.weight": torch.zeros(1)}), "999,999,999"),
        ],
    )
    def test_weights_that_do_not_fit(self, write, open_model, change, message):
        with pytest.raises(CheckpointError, match=message):
            open_model(write(change=change))

    @pytest.mark.parametrize(
        ("names", "message"),
        [
            (["conv1.weight"], r"is not a Swin checkpoint .* it has conv1.weight"),
            (["features.0.0.weight"], "torchvision's Swin"),
            (["absolute_pos_embed"], "absolute position embeddings"),
            (["backbone.patch_embed.proj.weight"], "a detector or a segmenter"),
            (["layers.0.blocks.0.attn.logit_scale"], "Swin V2"),
        ],
    )
    def test_other_models_are_named(self, tmp_path, open_model, names, message):
        torch.save({"model": {name: torch.zeros(2) for name in names}}, tmp_path / "other.pth")
        with pytest.raises(CheckpointError, match=message):
            open_model(tmp_path / "other.pth")

    def test_transformers_weights_without_a_part(self, transformers_folder, open_model):
        folder, _ = transformers_folder()
        from safetensors.torch import load_file

        state = load_file(folder / "model.safetensors")
        del state["swin.encoder.layers.0.blocks.0.attention.self.key.weight"]
        save_file(state, folder / "model.safetensors")
        with pytest.raises(CheckpointError, match=r"layers.0.blocks.0.attn lacks the weight of key"):
            open_model(folder)

    def test_a_backbone_without_a_classifier(self, transformers_folder, open_model):
        folder, _ = transformers_folder()
        from safetensors.torch import load_file

        state = load_file(folder / "model.safetensors")
        save_file({n: t for n, t in state.items() if not n.startswith("classifier")}, folder / "model.safetensors")
        with pytest.raises(CheckpointError, match="is no classifier"):
            open_model(folder)

    def test_a_pickle_with_code(self, tmp_path, open_model):
        import subprocess

        torch.save({"model": {}, "call": subprocess.Popen}, tmp_path / "bad.pth")
        with pytest.raises(UnsafeCheckpointError, match=rf"^{tmp_path}/bad.pth is a pickle that calls \S+\.Popen"):
            open_model(tmp_path / "bad.pth")

    def test_weights_that_are_not_finite(self, write, open_model):
        model = open_model(write(change=lambda s: s | {"head.bias": torch.full((7,), torch.nan)}))
        with pytest.raises(CheckpointError, match=r"head.bias holds 7 values that are NaN"):
            model.component("model")

    def test_what_is_not_there(self, open_model, tmp_path):
        with pytest.raises(CheckpointError, match="does not exist"):
            open_model(tmp_path / "none.pth")

    def test_a_folder_without_config_names_the_file_in_it(self, write, open_model):
        file = write()
        with pytest.raises(CheckpointError, match=r"has no config\.json") as caught:
            open_model(file.parent)
        assert str(file) in caught.value.remedy

    def test_a_folder_of_timm_names_the_file_in_it(self, tmp_path, as_timm, network, open_model):
        save_file(as_timm(network.state_dict()), tmp_path / "model.safetensors")
        (tmp_path / "config.json").write_text(json.dumps({"architecture": "swin_tiny", "pretrained_cfg": {}}))
        with pytest.raises(CheckpointError, match="is a folder of timm") as caught:
            open_model(tmp_path)
        assert str(tmp_path / "model.safetensors") in caught.value.remedy
        assert open_model(tmp_path / "model.safetensors").shape.classes == 7

    def test_unknown_components_attention_and_axes(self, write, open_model):
        model = open_model(write())
        with pytest.raises(SourceError, match="no component 'image'"):
            model.component("image")
        with pytest.raises(SourceError, match="attention 'flash' is not known"):
            model.component("model", attention="flash")
        with pytest.raises(SignatureError, match="no axis 'height'"):
            open_model(write(), axes={"": {"height": Axis("height", 1, 2, 3)}})


def test_the_key_tells_models_apart(write, open_model):
    key = open_model(write()).key
    assert open_model(write()).key == key
    assert open_model(write(), resolution=128).key != key
    assert open_model(write(), axes={"": {"batch": Axis("batch", 1, 8, 16)}}).key != key
    changed = write(change=lambda state: state | {"head.bias": state["head.bias"] + 1})
    assert open_model(changed).key != key
