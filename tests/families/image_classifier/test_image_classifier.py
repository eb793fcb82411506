"""Every kind of classifier that transformers opens answers as in transformers, and is exported with a varying batch."""

from __future__ import annotations

from collections import Counter

import numpy as np
import onnx
import pytest
import torch
from safetensors.torch import load_file, save_file

from torchlift.bundle import Bundle
from torchlift.errors import CheckpointError, SignatureError, SourceError, UnsafeCheckpointError
from torchlift.exporter import ExportOptions, export_component
from torchlift.families import family
from torchlift.graph.fusion import fuse_file
from torchlift.manifest import Manifest
from torchlift.signature import Axis

ATTENTION = ("vit", "deit", "deit-teacher", "beit", "beit-shared", "dinov2")
OTHERS = ("convnext", "convnextv2", "resnet", "efficientnet", "swin", "mobilevit")


@pytest.fixture
def export(open_model, tmp_path):
    """Export a folder, which proves the file at every golden; returns the path of the graph."""

    def run(folder, **options):
        model = open_model(folder, axes={"": {"batch": Axis("batch", 1, 2, 3)}})
        bundle = Bundle.create(tmp_path / "bundle", Manifest(model.name, model.family, model.key, model.settings))
        return bundle.path / export_component(model, "model", bundle, ExportOptions(**options)).model

    return run


def operators(file):
    return Counter(node.op_type for node in onnx.load(file, load_external_data=False).graph.node)


@pytest.mark.parametrize("kind", ATTENTION + OTHERS)
def test_every_kind_answers_as_in_transformers(folders, open_model, kind):
    folder, theirs = folders(kind)
    component = open_model(folder).component("model")
    (answer,) = component.signature.outputs
    assert answer.shape == ("batch", 5)
    for batch in (1, 4):
        feeds = component.sample({"batch": batch}, np.random.default_rng(batch))
        pictures = torch.from_numpy(feeds["image"])
        with torch.no_grad():
            expected = theirs(pixel_values=pictures).logits
            assert expected.std() > 1e-3
            torch.testing.assert_close(component.exported(pictures), expected, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize("kind", ATTENTION)
def test_attention_is_fused_or_one_operator(folders, export, kind):
    fused = fuse_file(export(folders(kind)[0], opset=20), "processor")
    assert fused is not None
    assert fused.counts["attention"] == 2


@pytest.mark.parametrize("kind", ["vit", "beit"])
def test_opset_23_has_one_attention_node_a_layer(folders, export, kind):
    assert operators(export(folders(kind)[0], opset=23))["Attention"] == 2


@pytest.mark.parametrize("kind", OTHERS)
def test_other_kinds_are_exported(folders, export, kind):
    count = operators(export(folders(kind)[0]))
    assert count["Conv"] >= 1
    assert not {"If", "Loop", "BatchNormalization", "Dropout"} & count.keys()


@pytest.mark.parametrize("kind", ["swin", "mobilevit"])
def test_a_kind_with_a_family_of_its_own_is_named(folders, open_model, kind):
    (note,) = open_model(folders(kind)[0]).notes
    assert f"the family {kind} " in note


def test_the_family_is_registered():
    assert family("image-classifier").name == "image-classifier"


def test_the_name_the_labels_and_the_key(folder, open_model, state):
    model = open_model(folder)
    assert (model.name, model.family, model.component_names) == ("vit-32", "image-classifier", ("model",))
    state(folder, "config.json", id2label={str(n): name for n, name in enumerate("abcde")})
    changed = open_model(folder)
    assert changed.component("model").answers["logits"].names == tuple("abcde")
    assert changed.key != model.key
    assert changed.labels.activation == "softmax"


def test_several_labels_at_once_are_scored_apart(folder, open_model, state):
    state(folder, "config.json", problem_type="multi_label_classification")
    assert open_model(folder).labels.activation == "sigmoid"


def test_weights_in_a_bin_are_read_as_data(folder, folders, open_model):
    tensors = load_file(folder / "model.safetensors")
    (folder / "model.safetensors").unlink()
    torch.save(tensors, folder / "pytorch_model.bin")
    pictures = torch.randn(2, 3, 32, 32)
    with torch.no_grad():
        expected = folders("vit")[1](pixel_values=pictures).logits
        torch.testing.assert_close(open_model(folder).component("model").reference(pictures), expected)


def test_a_convolutional_network_takes_other_resolutions(folders, open_model):
    model = open_model(folders("resnet")[0], resolution=48)
    assert model.signature.inputs[0].shape == ("batch", 3, 48, 48)
    assert model.settings == {"resolution": 48}


class TestRefused:
    @pytest.mark.parametrize(
        ("change", "message"),
        [
            ({"model_type": "no-such-model"}, "config.json cannot be used"),
            ({"model_type": "bert"}, "of type 'bert', which transformers has no image classifier for"),
            ({"hidden_size": 17}, r"wrong shapes: classifier.weight is \[5, 16\], not \[5, 17\]"),
            ({"intermediate_size": 64}, r"wrong shapes: \S+ is \[32"),
            ({"num_hidden_layers": 3}, "does not fit its config.json: missing"),
            ({"num_hidden_layers": 1}, "does not fit its config.json: unexpected"),
            ({"problem_type": "regression"}, "holds a regression"),
            ({"quantization_config": {"quant_method": "gptq", "bits": 4}}, "quantised weights"),
            ({"id2label": {str(n): "x" for n in range(4)}}, r"wrong shapes: classifier|names 4 classes"),
            ({"num_labels": 10**9}, "1000000000 labels"),
            ({"auto_map": {"AutoConfig": "code.Config"}, "model_type": "own"}, "cannot be used"),
        ],
    )  # fmt: skip
    def test_configs_that_do_not_fit(self, folder, open_model, state, change, message):
        (folder / "code.py").write_text("raise SystemExit('code of the folder ran')\n")
        state(folder, "config.json", **change)
        with pytest.raises(CheckpointError, match=message):
            open_model(folder)

    def test_missing_weights(self, folder, open_model):
        tensors = load_file(folder / "model.safetensors")
        save_file({n: w for n, w in tensors.items() if n != "classifier.bias"}, folder / "model.safetensors")
        with pytest.raises(CheckpointError, match=r"missing classifier.bias"):
            open_model(folder)

    def test_a_base_model_without_a_classifier(self, folder, folders, open_model):
        folders("vit")[1].vit.save_pretrained(folder)
        with pytest.raises(CheckpointError, match=r"missing classifier"):
            open_model(folder)

    def test_weights_that_are_not_finite(self, folder, open_model):
        tensors = load_file(folder / "model.safetensors")
        save_file({**tensors, "classifier.bias": torch.full((5,), torch.nan)}, folder / "model.safetensors")
        with pytest.raises(CheckpointError, match=r"classifier.bias holds 5 values that are NaN"):
            open_model(folder)

    def test_a_pickle_with_code(self, folder, open_model):
        import subprocess

        (folder / "model.safetensors").unlink()
        torch.save({"call": subprocess.Popen}, folder / "pytorch_model.bin")
        with pytest.raises(UnsafeCheckpointError, match="Popen"):
            open_model(folder)

    def test_pictures_of_another_size_than_the_network_takes(self, folder, open_model, state):
        state(folder, "preprocessor_config.json", size={"height": 48, "width": 48})
        with pytest.raises(CheckpointError, match="does not take pictures of 48 x 48"):
            open_model(folder)
        with pytest.raises(CheckpointError, match="does not take pictures of 64 x 64") as caught:
            open_model(folder, resolution=64)
        assert "resolution" in caught.value.remedy

    def test_a_file_and_what_is_not_there(self, tmp_path, open_model):
        torch.save({"x": torch.zeros(1)}, tmp_path / "net.pth")
        with pytest.raises(CheckpointError, match="is a file"):
            open_model(tmp_path / "net.pth")
        with pytest.raises(CheckpointError, match="does not exist"):
            open_model(tmp_path / "none" / "at" / "all")

    def test_a_folder_that_does_not_say_how_pictures_are_prepared(self, folder, open_model):
        (folder / "preprocessor_config.json").unlink()
        with pytest.raises(CheckpointError, match=r"has no preprocessor_config\.json"):
            open_model(folder)

    def test_components_axes_and_resolutions(self, folder, open_model):
        with pytest.raises(SourceError, match="no component 'text'"):
            open_model(folder).component("text")
        with pytest.raises(SignatureError, match="no axis 'height'"):
            open_model(folder, axes={"": {"height": Axis("height", 1, 2, 3)}})
        with pytest.raises(SourceError, match="is no size"):
            open_model(folder, resolution=0)
