"""The networks answer as transformers' do, and published sizes have the published parameters."""

from __future__ import annotations

import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from torchlift.errors import CheckpointError, SourceError
from torchlift.families.attention import STYLES
from torchlift.families.swin.architecture import Architecture, architecture_of
from torchlift.families.swin.exported import exported_of
from torchlift.families.swin.geometry import apart, merge_order, places, window_order
from torchlift.families.swin.network import Swin


def published(width, depth, heads, resolution=224, window=7, classes=1000):
    count = tuple(heads * 2**stage for stage in range(4))
    return Architecture(resolution, 4, width, (2, 2, depth, 2), count, (window,) * 4, classes)


PARAMETERS = {
    "swin-tiny-224": (published(96, 6, 3), 28_288_354),
    "swin-small-224": (published(96, 18, 3), 49_606_258),
    "swin-base-224": (published(128, 18, 4), 87_768_224),
    "swin-base-384": (published(128, 18, 4, 384, 12), 87_903_584),
    "swin-large-224": (published(192, 18, 6), 196_532_476),
}


@pytest.mark.parametrize("name", PARAMETERS)
def test_published_sizes_have_the_published_parameters_and_names(name):
    shape, count = PARAMETERS[name]
    with torch.device("meta"):
        network = Swin(shape)
    assert sum(p.numel() for p in network.parameters()) == count
    assert shape.name == name
    assert architecture_of({n: tuple(t.shape) for n, t in network.state_dict().items()}) == shape


def test_the_heads_of_22k_classes_are_found():
    shape = published(96, 6, 3, classes=21_841)
    with torch.device("meta"):
        shapes = {n: tuple(t.shape) for n, t in Swin(shape).state_dict().items()}
    assert architecture_of(shapes).classes == 21_841


@pytest.mark.parametrize("rows", [1, 3, 8])
@pytest.mark.parametrize(
    ("version", "config"),
    [
        (1, {}),
        (1, {"qkv_bias": False, "mlp_ratio": 2.5, "layer_norm_eps": 1e-3}),
        (1, {"depths": [4], "num_heads": [2], "window_size": 8}),
        (2, {}),
        (2, {"pretrained_window_sizes": [0, 3, 2]}),
        (2, {"window_size": 8}),
    ],
)
def test_both_forms_answer_as_transformers_does(transformers_folder, open_model, images, version, config, rows):
    folder, theirs = transformers_folder(version, **config)
    component, pictures = open_model(folder).component("model"), images(rows)
    with torch.no_grad():
        expected = theirs(pictures).logits
        assert expected.std() > 0.1
        for ours in (component.reference, component.exported):
            torch.testing.assert_close(ours(pictures), expected, atol=5e-5, rtol=1e-5)


@pytest.mark.parametrize("style", STYLES)
@pytest.mark.parametrize("version", [1, 2])
def test_every_style_of_attention_answers_alike(transformers_folder, open_model, images, version, style):
    component = open_model(transformers_folder(version)[0]).component("model", attention=style)
    with torch.no_grad():
        expected = component.reference(images(2))
        torch.testing.assert_close(component.exported(images(2)), expected, atol=5e-5, rtol=1e-5)


@pytest.mark.parametrize("original", [True, False])
def test_the_names_in_memory_are_read_as_well_as_those_in_files(transformers_folder, open_model, images, original):
    folder, theirs = transformers_folder(original=original)
    component = open_model(folder).component("model")
    with torch.no_grad():
        torch.testing.assert_close(component.reference(images(2)), theirs(images(2)).logits, atol=5e-5, rtol=1e-5)


def test_shifted_windows_are_masked(network, tiny, images):
    """Without the mask answers differ: the comparison with transformers would tell."""
    bare = Swin(replace(tiny, masked=0.0)).eval()
    bare.load_state_dict(network.state_dict())
    with torch.no_grad():
        expected = network(images(1))
        assert (expected - bare(images(1))).abs().max() > 1e-3
        assert (expected - exported_of(bare, "sdpa")(images(1))).abs().max() > 1e-3
        assert (expected - exported_of(network, "sdpa")(images(1))).abs().max() < 1e-5


class TestGeometry:
    def test_windows_of_a_map_in_order(self):
        assert window_order(4, 2, 0)[:8].tolist() == [0, 1, 4, 5, 2, 3, 6, 7]
        assert window_order(4, 2, 1)[:4].tolist() == [5, 6, 9, 10]
        assert window_order(4, 2, 1)[-4:].tolist() == [15, 12, 3, 0]

    def test_the_last_window_has_four_regions(self):
        masked = apart(4, 2, 1)
        assert masked.shape == (4, 4, 4)
        assert not masked[0].any()
        assert masked[3].sum() == 12

    def test_four_neighbours_are_merged_column_by_column(self):
        assert merge_order(4, 2)[:8].tolist() == [0, 4, 1, 5, 2, 6, 3, 7]
        assert sorted(merge_order(8, 2)) == list(range(64))

    def test_places_undo_an_order(self):
        order = window_order(6, 3, 1)
        assert np.array_equal(places(order)[order], np.arange(36))


class TestResolution:
    def test_windows_grow_with_the_picture(self):
        shape = published(128, 18, 4)
        assert shape.at(384).windows == (12,) * 4
        assert shape.at(384).name == "swin-base-384"
        assert shape.at(224) is shape

    @pytest.mark.parametrize(("asked", "near"), [(230, 224), (250, 256), (0, 32), (-5, 32)])
    def test_others_are_refused_with_one_that_is_near(self, asked, near):
        with pytest.raises(SourceError, match="do not divide into windows") as caught:
            published(128, 18, 4).at(asked)
        assert f"`resolution={near}`" in caught.value.remedy

    @pytest.mark.parametrize("version", [1, 2])
    def test_answers_are_those_of_transformers_with_the_larger_window(
        self, transformers_folder, open_model, images, version
    ):
        """Swin V2 says the trained window in its config; the table of the first Swin is resized by hand here."""
        folder, theirs = transformers_folder(version)
        larger = {"image_size": 96, "window_size": 6}
        if version == 2:
            larger["pretrained_window_sizes"] = [4, 4, 4]
        _, expected = transformers_folder(version, name="larger", said=None, **larger)
        state = theirs.state_dict()
        for name, table in state.items():
            if name.endswith("bias_table"):
                square = table.T.reshape(1, -1, 7, 7)
                wide = torch.nn.functional.interpolate(square, size=(11, 11), mode="bicubic", align_corners=False)
                state[name] = wide.reshape(-1, 121).T
        state = {n: t for n, t in state.items() if n in expected.state_dict()}
        expected.load_state_dict(state)
        model = open_model(folder, resolution=96)
        assert model.picture.size == (96, 96)
        assert model.settings == {"resolution": 96}
        component = model.component("model")
        with torch.no_grad():
            torch.testing.assert_close(
                component.exported(images(2, 96)), expected(images(2, 96)).logits, atol=5e-5, rtol=1e-5
            )


@pytest.mark.parametrize(
    ("said", "message"),
    [
        ({"image_size": 80}, "does not divide into windows of 4"),
        ({"image_size": 66}, "do not divide into patches"),
        ({"use_absolute_embeddings": True}, "use_absolute_embeddings: True"),
        ({"hidden_act": "relu"}, "hidden_act: 'relu'"),
        ({"num_channels": 4}, "num_channels: 4"),
        ({"num_heads": [2, 3, 8]}, "do not divide into 3 heads"),
        ({"num_heads": [2, 4]}, "cannot have these sizes"),
        ({"depths": "many"}, "config.json cannot be used"),
        ({"embed_dim": 0}, "cannot have these sizes"),
        ({"embed_dim": 32}, "wrong shapes: patch_embed.proj.weight is"),
        ({"model_type": "vit"}, "of type 'vit', not 'swin' or 'swinv2'"),
    ],
)
def test_a_config_that_does_not_fit_is_refused(transformers_folder, open_model, said, message):
    folder, _ = transformers_folder()
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | said))
    with pytest.raises(CheckpointError, match=message):
        open_model(folder)
